"""Policies: which samples take part. One file a policy, one line in the registry."""

from frugalkd.policies._policy import Moment, Plan, Policy, Scoring, Ungated
from frugalkd.policies.all import All
from frugalkd.policies.info_batch import InfoBatch
from frugalkd.policies.random_subset import RandomSubset
from frugalkd.policies.self_regulation import SelfRegulation

POLICIES: dict[str, type[Policy]] = {
    "all": All,
    "infobatch": InfoBatch,
    "random": RandomSubset,
    "self-regulation": SelfRegulation,
}

__all__ = [
    "POLICIES",
    "All",
    "InfoBatch",
    "Moment",
    "Plan",
    "Policy",
    "RandomSubset",
    "Scoring",
    "SelfRegulation",
    "Ungated",
]
