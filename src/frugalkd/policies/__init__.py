"""Policies: which samples take part. One file a policy, one line in the registry."""

from frugalkd.policies.all import All
from frugalkd.policies.el2n import EL2N
from frugalkd.policies.forgetting import Forgetting
from frugalkd.policies.ies import InstanceExclusion
from frugalkd.policies.info_batch import InfoBatch
from frugalkd.policies.kakurenbo import Kakurenbo
from frugalkd.policies.modes import Sampling
from frugalkd.policies.pdd import ProgressiveDataDropout
from frugalkd.policies.policy import EpochContext, Ids, Mask, Plan, Policy, Scoring, Ungated
from frugalkd.policies.random_subset import RandomSubset
from frugalkd.policies.rho_loss import RhoLoss
from frugalkd.policies.selective_backprop import SelectiveBackprop
from frugalkd.policies.self_regulation import SelfRegulation
from frugalkd.policies.swiftlearn import SwiftLearn
from frugalkd.policies.unix import Unix

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

OURS = frozenset(POLICIES.values())
"""Policies whose plans are tested, and not checked as they run."""

__all__ = [
    "EL2N",
    "POLICIES",
    "All",
    "EpochContext",
    "Forgetting",
    "Ids",
    "InfoBatch",
    "InstanceExclusion",
    "Kakurenbo",
    "Mask",
    "Plan",
    "Policy",
    "ProgressiveDataDropout",
    "RandomSubset",
    "RhoLoss",
    "Sampling",
    "Scoring",
    "SelectiveBackprop",
    "SelfRegulation",
    "SwiftLearn",
    "Ungated",
    "Unix",
]
