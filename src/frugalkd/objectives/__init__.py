"""Objectives: one loss per sample. One file an objective, one line in the registry."""

from frugalkd.objectives.attention_transfer import AttentionTransfer
from frugalkd.objectives.correlation_congruence import CorrelationCongruence
from frugalkd.objectives.crd import CRD
from frugalkd.objectives.cross_entropy import CrossEntropy
from frugalkd.objectives.dist import DIST
from frugalkd.objectives.dkd import DKD
from frugalkd.objectives.features import FeatureObjective
from frugalkd.objectives.fitnets import FitNets
from frugalkd.objectives.fsp import FSP
from frugalkd.objectives.jensen_shannon import JensenShannon
from frugalkd.objectives.kd import KD
from frugalkd.objectives.logit_mse import LogitMSE
from frugalkd.objectives.logit_standardisation import LogitStandardisation
from frugalkd.objectives.mlkd import MLKD
from frugalkd.objectives.nkd import NKD
from frugalkd.objectives.nst import NST
from frugalkd.objectives.objective import BatchObjective, Objective
from frugalkd.objectives.pkt import PKT
from frugalkd.objectives.review_kd import ReviewKD
from frugalkd.objectives.rkd import RKD
from frugalkd.objectives.scheduled import Ramp, Scheduled, scheduled
from frugalkd.objectives.similarity_preserving import SimilarityPreserving
from frugalkd.objectives.simkd import SimKD
from frugalkd.objectives.top_k_kd import TopKKD
from frugalkd.objectives.vid import VID
from frugalkd.objectives.weighted_sum import WeightedSum
from frugalkd.objectives.wttm import WTTM

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
}

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "FSP",
    "KD",
    "MLKD",
    "NKD",
    "NST",
    "OBJECTIVES",
    "PKT",
    "RKD",
    "VID",
    "WTTM",
    "AttentionTransfer",
    "BatchObjective",
    "CorrelationCongruence",
    "CrossEntropy",
    "FeatureObjective",
    "FitNets",
    "JensenShannon",
    "LogitMSE",
    "LogitStandardisation",
    "Objective",
    "Ramp",
    "ReviewKD",
    "Scheduled",
    "SimKD",
    "SimilarityPreserving",
    "TopKKD",
    "WeightedSum",
    "scheduled",
]
