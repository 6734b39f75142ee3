"""Policies: which samples are used for training, by the names that recipes give them. ``Replay``
follows the recorded plans of another training and is in no table: it needs their files."""

from frugalkd.policies.by_batch import ProgressiveDataDropout, RhoLoss, SelectiveBackprop, Unix
from frugalkd.policies.by_outcome import InfoBatch, InstanceExclusion, Kakurenbo, SwiftLearn
from frugalkd.policies.modes import Sampling
from frugalkd.policies.policy import EpochContext, Ids, Mask, Plan, Policy, Scoring, Ungated
from frugalkd.policies.replay import Replay
from frugalkd.policies.self_regulation import SelfRegulation
from frugalkd.policies.subsets import EL2N, All, Forgetting, RandomSubset

POLICIES: dict[str, type[Policy]] = {
    "all": All,
    "el2n": EL2N,
    "forgetting": Forgetting,
    "ies": InstanceExclusion,
    "infobatch": InfoBatch,
    "kakurenbo": Kakurenbo,
    "pdd": ProgressiveDataDropout,
    "random": RandomSubset,
    "rho-loss": RhoLoss,
    "selective-backprop": SelectiveBackprop,
    "self-regulation": SelfRegulation,
    "swiftlearn": SwiftLearn,
    "unix": Unix,
}

__all__ = [
    "EL2N", "POLICIES", "All", "EpochContext", "Forgetting", "Ids", "InfoBatch",
    "InstanceExclusion", "Kakurenbo", "Mask", "Plan", "Policy", "ProgressiveDataDropout",
    "RandomSubset", "Replay", "RhoLoss", "Sampling", "Scoring", "SelectiveBackprop",
    "SelfRegulation", "SwiftLearn", "Ungated", "Unix",
]  # fmt: skip
