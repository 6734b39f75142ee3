"""Comparisons on Ray: what they request of it, and a cluster that loses a node."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from frugalkd.errors import ClusterError, FolderBusy
from frugalkd.experiments.comparison import compare, pool
from frugalkd.experiments.comparison.plan import Key
from frugalkd.experiments.comparison.pool import RayWorkers
from frugalkd.experiments.recipes.load import override

KEY = Key("distill", "vanilla", 0)


class Reference:
    def __init__(self, function, given):
        self.function, self.given = function, given


class FakeRay:
    """As much of ray as is used; tasks run when their results are fetched."""

    def __init__(self, **resources):
        self.resources, self.calls, self.inside = resources, [], False
        self.exceptions = SimpleNamespace(RayError=LookupError)

    def is_initialized(self):
        return self.inside

    def init(self, address, **more):
        if address == "nowhere:1":
            raise ConnectionError("none\nthere")
        self.inside = True

    def shutdown(self):
        self.inside = False

    def cluster_resources(self):
        return self.resources

    def remote(self, function):
        def options(**needs):
            self.calls.append(needs)
            return SimpleNamespace(remote=lambda *given: Reference(function, given))

        return SimpleNamespace(options=options)

    def wait(self, references, num_returns, timeout=None):
        return (references[:1], references[1:]) if timeout != 0.0 else ([], references)

    def get(self, reference):
        task, folder = reference.given
        if task == "lost":
            raise LookupError("the node\ndied")
        return reference.function(task, folder)

    def cancel(self, reference, force):
        self.calls.append("cancelled")


@pytest.fixture
def ray(monkeypatch):
    def use(**resources):
        fake = FakeRay(**resources)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(pool, "execute", lambda task: {"results": task})
    return use


def test_a_run_requests_its_threads_and_a_gpu(ray):
    for resources, device, needs in (
        ({"CPU": 8.0}, "auto", (2, 0)),
        ({"CPU": 8.0, "GPU": 4.0}, "auto", (2, 1)),
        ({"CPU": 8.0, "GPU": 4.0}, "cpu", (2, 0)),
    ):
        fake = ray(**resources)
        with RayWorkers(2, device) as workers:
            assert workers.free == 4
            options = fake.calls[0]
            assert (options["num_cpus"], options["num_gpus"]) == needs
            assert options["max_retries"] == pool.RETRIES
            assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"
        assert not fake.inside


def test_answers_by_key_a_lost_run_too(ray, monkeypatch):
    fake = ray(CPU=1.0)
    with RayWorkers(1) as workers:
        workers.submit(KEY, {"kind": "here"})
        assert (workers.free, workers.busy) == (0, 1)
        assert workers.next(0.0) is None
        assert workers.next() == (KEY, {"results": {"kind": "here"}})
        workers.submit(KEY, "lost")  # pyright: ignore[reportArgumentType]
        ended = workers.next()
        assert ended is not None
        reply = ended[1]
        assert reply["error"] == "its Ray task was lost 4 times: the node died"
        workers.submit(KEY, {})
    assert fake.calls[-1] == "cancelled"


def test_waits_for_the_folder_of_a_lost_node(ray, monkeypatch):
    replies = [{"error": "busy", "type": FolderBusy.__name__}, {"results": {}}]
    monkeypatch.setattr(pool, "execute", lambda task: replies.pop(0))
    monkeypatch.setattr(pool.time, "sleep", lambda seconds: None)
    assert pool._execute_on_node({}, ".") == {"results": {}}


def test_refusals(ray, cli, tmp_path, monkeypatch):
    ray(CPU=1.0)
    with pytest.raises(ClusterError, match=r"no Ray cluster at nowhere:1 \(none there\)"):
        RayWorkers(1, address="nowhere:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match="pip install 'frugalkd\\[ray\\]'"):
        RayWorkers(1)
    for arguments, says in (
        (["--on", "rey"], "'rey' is not one of 'here', 'ray'"),
        (["--ray-address", "auto"], "add --on ray"),
    ):
        _, _, err = cli("compare", "digits", "--arms", "ce", "--out", str(tmp_path), *arguments)
        assert says in err


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Ray's sockets are below it, and a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # ray's own
def test_a_cluster_of_three_nodes_loses_one(tiny, tmp_path, monkeypatch, short_folder):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which waits for all others
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TMPDIR", short_folder)
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")  # otherwise ray sets it, and leaves it set
    from ray.cluster_utils import Cluster

    recipe = override(tiny, {"student.training.epochs": 400, "device": "cpu"})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost: list[bool] = []
    events: list[tuple[str, str, int]] = []

    def lose(node) -> None:
        """Once each node has a run in its middle."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            begun = {path.parts[-3] for path in tmp_path.glob("runs/*/checkpoints/epoch-*")}
            if len(begun) == 3:
                lost.append(not list(tmp_path.glob("runs/*/results.json")))
                cluster.remove_node(node, allow_graceful=False)
                return
            time.sleep(0.1)

    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        thread = threading.Thread(target=lose, args=(nodes[0],))
        thread.start()
        content = compare(
            recipe, arms=["vanilla"], seeds=3, out=tmp_path, ray=cluster.address,
            on_event=lambda event: events.append((event["event"], event["kind"], event["seed"])),
        )  # fmt: skip
        thread.join()
    finally:
        cluster.shutdown()
    assert lost == [True]
    assert content["failed"] == []
    assert sorted(seed for event, kind, seed in events if (event, kind) == ("done", "distill")) == [
        0, 1, 2,
    ]  # fmt: skip
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 3
    assert all(len(list(run.glob("metrics.jsonl"))) == 1 for run in tmp_path.glob("runs/*"))
