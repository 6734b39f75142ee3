"""Policies: which samples take part. One file a policy, one line in the registry."""

from frugalkd.policies._policy import Moment, Plan, Policy, Ungated
from frugalkd.policies.all import All
from frugalkd.policies.random_subset import RandomSubset
from frugalkd.policies.self_regulation import SelfRegulation

POLICIES: dict[str, type[Policy]] = {
    "all": All,
    "random": RandomSubset,
    "self-regulation": SelfRegulation,
}

__all__ = [
    "POLICIES",
    "All",
    "Moment",
    "Plan",
    "Policy",
    "RandomSubset",
    "SelfRegulation",
    "Ungated",
]
