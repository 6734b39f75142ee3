"""Features by module path: which there are, how they are kept, what makes their shapes one."""

from frugalkd.features.adapters import Adapter
from frugalkd.features.paths import feature_paths, find_paths
from frugalkd.features.probe import Shape, probe_features
from frugalkd.features.taps import Features, Taps

__all__ = ["Adapter", "Features", "Shape", "Taps", "feature_paths", "find_paths", "probe_features"]
