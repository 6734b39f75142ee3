"""Objectives: one loss per sample. One class an objective, one line in the registry."""

from frugalkd.objectives.combined import Ramp, Scheduled, WeightedSum, scheduled
from frugalkd.objectives.features import (
    CRD,
    FSP,
    NST,
    RKD,
    VID,
    AttentionTransfer,
    FitNets,
    ReviewKD,
    SimilarityPreserving,
    SimKD,
)
from frugalkd.objectives.logits import (
    DIST,
    DKD,
    KD,
    MLKD,
    NKD,
    PKT,
    WTTM,
    CorrelationCongruence,
    CrossEntropy,
    JensenShannon,
    LogitMSE,
    LogitStandardisation,
    TopKKD,
)
from frugalkd.objectives.objective import (
    BatchObjective,
    FeatureObjective,
    Objective,
    Shapes,
    Step,
    StepFeatures,
)
from frugalkd.objectives.other_outputs import (
    BinaryCrossEntropy,
    EmbedDistill,
    MultiLabelKD,
    RegressionKD,
    SquaredError,
)

OBJECTIVES: dict[str, type[Objective]] = {
    "cross-entropy": CrossEntropy,
    "kd": KD,
    "logit-standardisation": LogitStandardisation,
    "dkd": DKD,
    "dist": DIST,
    "logit-mse": LogitMSE,
    "jensen-shannon": JensenShannon,
    "nkd": NKD,
    "mlkd": MLKD,
    "wttm": WTTM,
    "top-k-kd": TopKKD,
    "correlation-congruence": CorrelationCongruence,
    "pkt": PKT,
    "fitnets": FitNets,
    "attention-transfer": AttentionTransfer,
    "similarity-preserving": SimilarityPreserving,
    "rkd": RKD,
    "vid": VID,
    "crd": CRD,
    "nst": NST,
    "fsp": FSP,
    "review-kd": ReviewKD,
    "simkd": SimKD,
    "embed-distill": EmbedDistill,
    "squared-error": SquaredError,
    "regression-kd": RegressionKD,
    "binary-cross-entropy": BinaryCrossEntropy,
    "multi-label-kd": MultiLabelKD,
}

__all__ = [
    "CRD", "DIST", "DKD", "FSP", "KD", "MLKD", "NKD", "NST", "OBJECTIVES", "PKT", "RKD", "VID",
    "WTTM", "AttentionTransfer", "BatchObjective", "BinaryCrossEntropy", "CorrelationCongruence",
    "CrossEntropy", "EmbedDistill", "FeatureObjective", "FitNets", "JensenShannon", "LogitMSE",
    "LogitStandardisation", "MultiLabelKD", "Objective", "Ramp", "RegressionKD", "ReviewKD",
    "Scheduled", "Shapes", "SimKD", "SimilarityPreserving", "SquaredError", "Step", "StepFeatures",
    "TopKKD", "WeightedSum", "scheduled",
]  # fmt: skip
