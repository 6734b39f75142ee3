"""``reading_back.py TRACKER FOLDER``: train into FOLDER, stop, resume; then print as JSON what the
tracker holds: its runs, the losses and the accuracy by step, the settings."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from frugalkd.errors import Stopped
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach

Read = tuple[int, dict[str, dict[int, float]], dict[str, Any]]
"""The number of runs; values by name and step; settings."""


def tensorboard(folder: Path) -> Read:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    values = {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }
    import yaml

    (settings,) = (folder / "tensorboard").glob("*/hparams.yml")
    return 1, values, yaml.safe_load(settings.read_text())


def records_of(file: Path) -> Iterator[bytes]:
    """The records of an offline run's file: LevelDB's log, behind seven bytes that say W&B."""
    content, block, record = file.read_bytes(), 1 << 15, b""
    assert content[:4] == b":W&B"
    at = 7
    while at + 7 <= len(content):
        if block - at % block < 7:  # no room for a head: the block ends in padding
            at += block - at % block
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def wandb(folder: Path) -> Read:
    """Offline runs are what ``wandb sync`` sends: a file each, of records; one id is one run."""
    from wandb.proto import wandb_internal_pb2

    records: Any = wandb_internal_pb2  # made at run time: a checker sees nothing in it

    ids, values, settings = set(), {}, {}
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in records_of(file):
            record = records.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            for update in (record.run.config, record.config):
                settings |= {item.key: json.loads(item.value_json) for item in update.update}
            row = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in row.items():
                values.setdefault(name, {})[int(row["_step"])] = value
    return len(ids), values, settings


def mlflow(folder: Path) -> Read:
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    runs = client.search_runs([experiment.experiment_id])
    id = runs[0].info.run_id
    values = {
        name: {point.step: point.value for point in client.get_metric_history(id, name)}
        for name in runs[0].data.metrics
    }
    return len(runs), values, runs[0].data.params


def trackio(folder: Path) -> Read:
    database = sqlite3.connect(folder.parent / "trackio" / "digits.db")
    runs = database.execute("SELECT DISTINCT run_id FROM metrics").fetchall()
    values: dict[str, dict[int, float]] = {}
    for step, row in database.execute("SELECT step, metrics FROM metrics"):
        for name, value in json.loads(row).items():
            values.setdefault(name, {})[step] = value
    ((settings,),) = database.execute("SELECT config FROM configs").fetchall()
    return len(runs), values, json.loads(settings)


READERS: dict[str, Callable[[Path], Read]] = {
    "mlflow": mlflow,
    "tensorboard": tensorboard,
    "trackio": trackio,
    "wandb": wandb,
}

if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    small = {"data.train_size": 120, "teacher.training.epochs": 3, "trackers": [name]}
    recipe, seen = override(load_recipe("digits"), small), []
    try:
        teach(recipe, folder, on_epoch_end=seen.append, should_stop=lambda: len(seen) == 2)
        sys.exit("it did not stop")
    except Stopped:
        pass
    teach(recipe, folder, resume=True)
    runs, values, settings = READERS[name](folder)
    found = {
        "runs": runs,
        "losses": values["train/loss"],
        "accuracy": values["evaluation/accuracy"],
        "settings": settings,
    }
    print(json.dumps(found, default=str))
