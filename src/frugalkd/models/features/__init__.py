"""Features by module path: which there are, how they are kept, what makes their shapes one."""

from frugalkd.models.features.adapters import Adapter
from frugalkd.models.features.paths import feature_paths, find_paths
from frugalkd.models.features.probe import Shape, probe_features
from frugalkd.models.features.taps import Features, Taps

__all__ = ["Adapter", "Features", "Shape", "Taps", "feature_paths", "find_paths", "probe_features"]
