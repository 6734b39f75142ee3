"""Trackers that a run can report to, through Accelerate. One file a tracker, one line here."""

from frugalkd.experiments.tracking._tracker import Tracked, Tracker
from frugalkd.experiments.tracking._tracking import Tracking, check_installed, settings_of
from frugalkd.experiments.tracking.mlflow import MLflow
from frugalkd.experiments.tracking.tensorboard import TensorBoard
from frugalkd.experiments.tracking.trackio import Trackio
from frugalkd.experiments.tracking.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
"""By the names that Accelerate has for them."""

__all__ = [
    "TRACKERS",
    "MLflow",
    "TensorBoard",
    "Tracked",
    "Tracker",
    "Tracking",
    "Trackio",
    "WandB",
    "check_installed",
    "settings_of",
]
