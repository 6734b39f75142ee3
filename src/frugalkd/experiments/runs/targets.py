"""The teachers of a recipe's student: loaded, run, stored, metered."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.class_names import class_names
from frugalkd.data.images import Augmentation
from frugalkd.data.probe import digests_kept, streams_restored
from frugalkd.data.source import open_source
from frugalkd.distributed.launch import ranks_of
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import FrugalKDWarning, RankError, Stopped, TargetsError
from frugalkd.experiments.recipes.schema import OneOfSeveral, Recipe, TargetsRole
from frugalkd.experiments.runs.digest import digest_of
from frugalkd.experiments.runs.folder import head_alone, results_of, trained_in
from frugalkd.experiments.runs.from_recipe import (
    STORE_SEED,
    RunContext,
    RunData,
    ids_used,
    make_data,
    make_teacher,
    place_for,
    sampling_of,
)
from frugalkd.experiments.runs.progress import Eta, Progress
from frugalkd.experiments.runs.token_targets import (
    ONE,
    conclude_tokens,
    live_tokens,
    open_tokens,
    store_tokens,
    token_encoding_of,
)
from frugalkd.files.opening import named
from frugalkd.files.parsing import one_line
from frugalkd.language.corpus import Corpus
from frugalkd.language.targets import LiveTokens, StoredTokens
from frugalkd.models.identity import TORCH
from frugalkd.models.initial import head_of, take_classifier
from frugalkd.models.origin import Reordered
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import device_of, resolve_device, use_threads
from frugalkd.selection.checks import labels_of
from frugalkd.teachers import (
    EMATeacher,
    FirstVisitTargets,
    LiveTeacher,
    ModelTeacher,
    SeveralTeachers,
    StoredTargets,
    Targets,
)
from frugalkd.teachers.encodings import Dense, Encoding, Format, Int8, Values, encoding_for
from frugalkd.teachers.filling import FillOptions
from frugalkd.teachers.live import HeadTeacher
from frugalkd.teachers.several import mean_of
from frugalkd.teachers.store import FILE as STORE
from frugalkd.teachers.store import read_header
from frugalkd.training.api import teacher_flops
from frugalkd.training.evaluation import label_agreement, measure_embeddings, teacher_rmse
from frugalkd.training.frozen import features_of
from frugalkd.training.run import Run
from frugalkd.training.settings import Stop

_COMPARED, _FEWEST_COMPARED = 128, 32
_COARSE = 0.01
"""Of their spread, by which float16 may change values without a warning."""


@dataclass
class TeacherSource:
    """One teacher: the source of its soft targets, the folder of the run that made it, and, once
    they are loaded, its model (None for a store alone) and its soft targets."""

    one: OneOfSeveral
    targets: TargetsRole
    folder: Path | None
    live: ModelTeacher | LiveTokens | None = None
    opened: Targets | None = None


def sources_of(recipe: Recipe, own: Path | None) -> dict[str, TeacherSource]:
    """The student's teachers by name, a single one by :data:`ONE`; ``own`` is the folder of the
    run's own teacher."""
    targets, several = recipe.student.targets, recipe.student.teachers
    teachers = {ONE: OneOfSeveral.model_validate({})} if several is None else several.of
    sources = {}
    for name, one in teachers.items():
        kind, classes = one.kind or targets.kind, one.classes or targets.classes
        role = targets.model_copy(update={"kind": kind, "classes": classes})
        folder = Path(one.folder) if one.folder else None
        sources[name] = TeacherSource(one, role, own if one.is_own and kind != "ema" else folder)
    return sources


def encoding_of(recipe: Recipe) -> Encoding:
    """The student's encoding; its temperature is the objective's."""
    targets, objective = recipe.student.targets, recipe.student.objective.build()
    temperature = getattr(objective, "temperature", None) or 1.0
    return encoding_for(objective.learns, targets.encoding, targets.k, temperature)


def live_teacher(recipe: Recipe, model: nn.Module, folder: Path | None) -> LiveTeacher:
    """``model`` in the precision and memory format of its training: those of its ``folder``, or,
    for a pretrained one, of the recipe."""
    training = recipe.teacher.training
    precision, channels_last = trained_in(folder) or (training.precision, training.channels_last)
    return LiveTeacher(model, precision=precision, channels_last=channels_last)


def _compare_accuracy(live: ModelTeacher, held_out: Dataset | None, folder: Path | None) -> None:
    """Warn of a teacher that is right on less than half as many samples as in its own run."""
    evaluation = results_of(folder).get("evaluation")
    known = evaluation.get("accuracy") if isinstance(evaluation, dict) else None
    if held_out is None or not isinstance(known, float):
        return
    labels = labels_of(held_out)
    if labels is None or len(labels) < _FEWEST_COMPARED:
        return
    ids = np.unique(np.linspace(0, len(labels) - 1, _COMPARED).astype(np.int64))
    logits = _run_on(live, held_out, ids)
    found = float(np.mean(logits.argmax(1).cpu().numpy() == labels[ids]))
    if found < known / 2:
        warnings.warn(
            f"the teacher in {one_line(folder)} is right on {found:.0%} of {len(ids)} held-out "
            f"samples, and was on {known:.0%} in its own run: see whether its classes mean the "
            "same here (folders that were renamed, labels in another order)",
            FrugalKDWarning,
            stacklevel=2,
        )


def _run_on(live: ModelTeacher, data: Dataset, ids: Ids) -> torch.Tensor:
    """The teacher's outputs for view 0 of the samples ``ids``, which no meter counts."""
    with streams_restored(), open_source(data) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    return live.run(send_to_device(batch, device_of(live.teacher)))


def _encoding_error(source: TeacherSource, data: Dataset, output: str) -> dict[str, Any]:
    """What an encoding changes, of some of the samples: 1 - cosine of stored and computed
    embeddings in int8; of values in float16 the difference over their spread, with a warning."""
    store = getattr(source.opened, "store", None)
    kinds = {"embeddings": Int8, "regression": Values}
    if not isinstance(source.live, ModelTeacher) or store is None or output not in kinds:
        return {}
    if not isinstance(store.header.encoding, kinds[output]):
        return {}
    ids = np.arange(store.header.samples)
    ids = ids[store.present(ids, np.zeros_like(ids))]
    ids = ids[np.unique(np.linspace(0, len(ids) - 1, _COMPARED).astype(np.int64))]
    stored = torch.from_numpy(store.read(ids, np.zeros_like(ids)))
    computed = _run_on(source.live, data, ids).float().cpu()
    if output == "embeddings":
        apart = 1 - torch.cosine_similarity(stored, computed, dim=1)
    else:
        spread = computed.std(dim=0, correction=0).clamp(min=torch.finfo(torch.float32).tiny)
        apart = ((stored - computed).abs() / spread).mean(dim=1)
        if apart.max() > _COARSE:
            warnings.warn(
                f"float16 changes the teacher's values by up to {apart.max():.2g} of their spread: "
                "set student.targets.encoding to float32",
                FrugalKDWarning,
                stacklevel=2,
            )
    return {"encoding_error": {"mean": float(apart.mean()), "largest": float(apart.max())}}


def open_targets(
    recipe: Recipe,
    source: TeacherSource,
    data: Dataset,
    places: Sequence[Path | None],
    ids: Ids | None,
    *,
    visited: Path | None = None,
    on_durable: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Targets:
    """The soft targets of the teacher of ``source``, for the samples ``ids`` (None: all).

    Filled ahead, they are kept in the first of ``places`` that is complete or can be written; at
    first visits, in the folder ``visited``. Raises RankError where several ranks visit, and what
    :meth:`StoredTargets.fill` does, which calls ``on_durable``.
    """
    live, spec, ranks = source.live, source.targets, Ranks.here()
    assert live is not None, "callers pass sources whose teacher is loaded"
    if isinstance(live, LiveTokens):

        def place() -> Path | None:
            name = _store_name(live.about, spec.views, token_encoding_of(recipe))
            return place_for(name, places, lambda at: (at / STORE).is_file())

        report = Eta(progress).rows("storing tokens")
        filling = FillOptions(ranks, on_progress=report, on_durable=on_durable)
        return open_tokens(recipe, live, place, filling)
    if spec.kind != "stored":
        return live
    views = spec.views
    folder = None if spec.folder is None else named(spec.folder)
    encoding = encoding_of(recipe)
    if folder is not None:
        read_header(folder)  # a recipe names a store; it cannot make one anywhere on the disk
    if spec.fill == "first-visit":
        if not ranks.alone:
            raise RankError(
                "targets.fill: first-visit is for one process, since a sample's first visit is on "
                "one rank and the next one on another: set targets.fill to ahead"
            )
        where = folder or visited
        assert where is not None, "only a run fills at first visits, and it passes visited"
        return FirstVisitTargets(live, data, where, views=views, encoding=encoding)
    if folder is None:
        name = _store_name(live.describe(data), views, encoding)
        folder = place_for(name, places, lambda at: _serves(at, ids, views, spec.features))
    report = Eta(progress).rows("storing soft targets")
    return _fill(
        live, source.folder, data, folder, views=views, encoding=encoding, features=spec.features,
        ids=ids, device=resolve_device(recipe.device), progress=progress,
        options=FillOptions(ranks, on_progress=report, on_durable=on_durable),
    )  # fmt: skip


def _fill(
    live: ModelTeacher, trained: Path | None, data: Dataset, where: Path | None, *,
    views: int = 1, features: Sequence[str] = (), ids: Ids | None = None,
    should_stop: Stop | None = None, progress: Progress | None = None, **how: Any,
) -> StoredTargets:  # fmt: skip
    """:meth:`StoredTargets.fill` with ``how``, by the teacher's head alone where rows are missing
    and :func:`_by_head` can."""
    if views == 1 and not features and not _serves(where, ids, views):
        live, data = _by_head(live, trained, data, should_stop, progress)
    return StoredTargets.fill(live, data, where, views=views, features=features, ids=ids, **how)


def _by_head(
    live: ModelTeacher,
    trained: Path | None,
    data: Dataset,
    should_stop: Stop | None,
    progress: Progress | None,
) -> tuple[ModelTeacher, Dataset]:
    """``live`` and ``data``; or, where the run in the folder ``trained`` left all but the teacher's
    head as it was, that head and the features of ``data``, which other runs share. A store of one
    view that is filled by either is the same."""
    augmentation = getattr(data, "augmentation", None)
    reordered = any(isinstance(hook, Reordered) for hook in live.teacher._forward_hooks.values())
    plain = augmentation in (None, Augmentation()) and not reordered
    if not (isinstance(live, LiveTeacher) and plain and head_alone(trained)):
        return live, data
    started, report = time.perf_counter(), Eta(progress).rows("features of the teacher")
    made = features_of(
        live.teacher, data, precision=live.precision, should_stop=should_stop, on_progress=report
    )
    live.seconds += time.perf_counter() - started
    return HeadTeacher(live, head_of(live.teacher)[1], data), made


def held_out_logits(
    live: ModelTeacher,
    trained: Path | None,
    data: Dataset,
    places: Sequence[Path | None],
    should_stop: Stop | None = None,
) -> np.ndarray:
    """The logits float32 (samples, classes) on held-out data of the teacher that the run in the
    folder ``trained`` made, kept in the first of ``places`` that has them or can be written. Raises
    Stopped where ``should_stop``, called after each batch, returns True."""

    def check_stop(done: int, total: int) -> None:
        if should_stop is not None and should_stop():
            raise Stopped("stopped in an evaluation")

    encoding = Dense("float32")
    name = _store_name(live.describe(data), 1, encoding)
    where = place_for(name, places, lambda at: _serves(at, None, 1))
    return _fill(
        live, trained, data, where, encoding=encoding, device=device_of(live.teacher),
        options=FillOptions(Ranks.here(), on_progress=check_stop), should_stop=should_stop,
    ).all_logits()  # fmt: skip


def _store_name(about: Mapping[str, str], views: int, encoding: Format) -> str:
    """The name of the folder that keeps these targets, for all runs that read them."""
    decides = {**about, "views": views, "encoding": encoding.settings}
    del decides[TORCH]
    return f"targets-{digest_of(decides)[:16]}"


def _serves(where: Path | None, ids: Ids | None, views: int, features: Sequence[str] = ()) -> bool:
    """Whether there is a store at ``where`` that has all of these rows."""
    if where is None:
        return False
    try:
        targets = StoredTargets(where)
        paths = targets.feature_shapes(features, None) if features else {}
    except TargetsError:
        return False
    stores = [targets.store, *(targets.features[path] for path in paths)]
    ids = np.arange(targets.store.header.samples) if ids is None else ids
    rows = [(ids, np.full(len(ids), view)) for view in range(views)]
    return all(store.present(*each).all() for store in stores for each in rows)


def _loaded(
    recipe: Recipe,
    folder: Path | None,
    run_data: RunData,
    one: OneOfSeveral | None = None,
    *,
    placed: bool = True,
) -> LiveTeacher | LiveTokens:
    """The teacher of a folder, or pretrained; ``placed`` on its device, which it fits."""
    model = make_teacher(recipe, folder, run_data.train, one)
    if isinstance(run_data.train, Corpus):
        return live_tokens(recipe, model, folder, run_data.train)
    if placed:
        model.to(resolve_device(recipe.device))
    live = live_teacher(recipe, model, folder)
    if placed:
        _compare_accuracy(live, run_data.eval_dataset, folder)
    return live


class TeacherPool(ExitStack):
    """The teachers of one run: a context, in which their soft targets may be used.

    ``ids`` are the samples that may be used (None: all). Stored targets of a teacher without a
    folder that can be written are kept in the run's ``stores``, or in its own folder.

    Raises:
        FrugalKDError: a teacher is missing or cannot be loaded.
    """

    together: Targets
    """The soft targets of all teachers, as one; set by :meth:`open`."""

    def __init__(self, run: RunContext, student: nn.Module, ids: Ids | None):
        super().__init__()
        self._run, self._recipe, self._run_data = run, run.recipe, run.run_data
        self._student, self._ids, self._ranks = student, ids, Ranks.here()
        self.sources = sources_of(run.recipe, run.teacher)
        for source in self.sources.values():
            self._load(source)

    def _load(self, source: TeacherSource) -> None:
        training, one = self._recipe.student.training, source.one
        if one.store is not None:
            source.opened = stored = StoredTargets(one.store)  # refused before any teacher runs
            stored.match_classes(class_names(self._run_data.train), source.targets.classes)
        elif source.targets.kind == "ema":
            source.live = EMATeacher(
                self._student.to(resolve_device(self._recipe.device)), source.targets.decay,
                precision=training.precision, channels_last=training.channels_last,
            )  # fmt: skip
        else:  # a sharded teacher may be too large for the device, until it is
            sharded = training.fsdp and source.targets.kind == "live" and not self._ranks.alone
            source.live = live = _loaded(
                self._recipe, source.folder, self._run_data, one, placed=not sharded
            )
            if self._recipe.student.model.reuse_classifier_dim is not None:
                assert isinstance(live, LiveTeacher), "a language model has no projector"
                take_classifier(self._student, live.teacher)

    @property
    def _lives(self) -> dict[str, Any]:
        return {name: one.live for name, one in self.sources.items() if one.live is not None}

    def open(self) -> Targets:
        """The soft targets; stores are filled, where they are to be filled ahead."""
        started, before, folder = time.perf_counter(), self._run.folder.notes(), self._run.folder

        def note(ranks: Ranks = Ranks()) -> None:  # noqa: B008
            """Queries before a stop or a kill are not repeated, and count: of this process, or of
            all ``ranks``."""
            lives, known = self._lives, before.queries_of
            rows = ranks.sum([live.queries for live in lives.values()])
            if not rows.any():
                return
            spent = ranks.mean(sum(live.seconds for live in lives.values()))
            folder.note(
                queries_of={
                    name: known.get(name, 0) + int(count)
                    for name, count in zip(lives, rows, strict=True)
                },
                seconds=before.seconds + time.perf_counter() - started,
                teacher_seconds=before.teacher_seconds + spent,
            )

        finished = Ranks()
        try:
            for name, source in self.sources.items():
                if source.live is None:
                    continue
                places = [source.folder, self._run.stores, folder.path]
                source.opened = opened = open_targets(
                    self._recipe, source, self._run_data.train, places, self._ids, on_durable=note,
                    visited=folder.path / ("targets" if name == ONE else f"targets-{name}"),
                    progress=self._run.progress,
                )  # fmt: skip
                if isinstance(opened, FirstVisitTargets):
                    self.enter_context(opened)
            finished = self._ranks
        finally:
            note(finished)
        self.together = self._combined()
        return self.together

    def _combined(self) -> Targets:
        opened = {name: one.opened for name, one in self.sources.items() if one.opened is not None}
        several, temperature = self._recipe.student.teachers, None
        if several is None:
            return opened[ONE]
        if several.average == "softmax":
            objective = self._recipe.student.objective.build()
            temperature = getattr(objective, "temperature", None)
            if temperature is None:
                raise TargetsError(
                    f"teachers.average: softmax is at the objective's temperature, and "
                    f"{type(objective).__name__} has none: set it to logits"
                )
        return SeveralTeachers(
            opened, several.combine, weights=several.weights, temperature=temperature,
            seed=self._recipe.seed,
        )  # fmt: skip

    def conclude(self, run: Run) -> dict[str, Any]:
        """Add the queries before the training to ``run``'s meters, and the agreement to its
        evaluation; returns ``teacher`` and ``targets`` of the results. Raises Stopped where the
        run's ``should_stop`` returns True."""
        meters, noted = run.meters, self._run.folder.notes()
        queries = dict(meters.queries_of) or {ONE: meters.teacher_queries}
        teachers, targets, cost = {}, {}, {}
        for name, source in self.sources.items():
            queries[name] += noted.queries_of.get(name, 0)
            store = getattr(source.opened, "store", None)
            if run.output == "tokens":  # the rows of whose stores are not samples
                store = None
            if store is not None and store.folder.is_relative_to(self._run.folder.path):
                # Rows that a killed process stored after its last checkpoint or note.
                queries[name] = max(queries[name], store.count())
            made = results_of(source.folder)
            teachers[name] = {key: made.get(key) for key in ("digest", "evaluation")}
            targets[name] = {
                **_describe(source, queries[name]),
                **_encoding_error(source, self._run_data.train, run.output),
            }
        meters.teacher_queries = sum(queries.values())
        if meters.queries_of:
            meters.queries_of = queries
        if rows := sum(noted.queries_of.values()):
            meters.wall_seconds += noted.seconds
            meters.phases["store"] += noted.seconds
            meters.move(noted.teacher_seconds, out_of="store", into="teacher")
            spent = {"seconds": noted.seconds, "teacher_seconds": noted.teacher_seconds}
            cost = {"filling": {"rows": rows, **spent}}
        if run.output == "tokens":
            [source] = self.sources.values()
            conclude_tokens(self._run, run, source.live, source.opened)  # pyright: ignore
        else:
            flops = teacher_flops(self._lives, self._run_data.train, meters)
            meters.flops["teacher_forward"] = flops
            self._add_agreement(run)
        several = self._recipe.student.teachers
        if several is None:
            return {"teacher": teachers[ONE], "targets": {**targets[ONE], **cost}}
        together = {
            "kind": "several",
            "views": self.together.views,
            "filled_here": any(note["filled_here"] for note in targets.values()),
            **several.model_dump(include={"combine", "average"}),
            "weights": several.weights,
        }
        return {
            "teacher": {"digest": None, "evaluation": None, "of": teachers},
            "targets": {**together, **cost, "of": targets},
        }

    def _add_agreement(self, run: Run) -> None:
        """Compare the student's classes with those of its teachers' mean on held-out data, or its
        embeddings or values with the teacher's."""
        held_out = self._run_data.eval_dataset
        if held_out is None or run.evaluation is None or len(self._lives) < len(self.sources):
            return
        started, logits = time.perf_counter(), []
        for name, live in self._lives.items():
            if live.changes:  # the student's average, which is final now
                live = LiveTeacher(
                    live.teacher, precision=live.precision, channels_last=live.channels_last
                )
            trained = self.sources[name].folder
            places = [trained, self._run.stores]
            found = held_out_logits(live, trained, held_out, places, self._run.should_stop)
            logits.append(torch.from_numpy(found))
        mean, together = logits[0], self.together
        if isinstance(together, SeveralTeachers):
            mean = mean_of(logits, torch.tensor(together.shares), together.temperature)
        assert run.probabilities is not None, "it was evaluated"
        if run.output == "embeddings":
            measured = measure_embeddings(run.probabilities, mean.numpy(), run.projection)
            run.evaluation.update(measured)
        elif run.output == "regression":
            run.evaluation["teacher_rmse"] = teacher_rmse(run.probabilities, mean.numpy())
        elif run.output == "several-labels":
            theirs = torch.sigmoid(mean).numpy()
            run.evaluation["teacher_agreement"] = label_agreement(run.probabilities, theirs)
        else:
            agreement = np.mean(mean.numpy().argmax(1) == run.probabilities.argmax(1))
            run.evaluation["teacher_agreement"] = float(agreement)
        run.meters.eval_seconds += time.perf_counter() - started


def _describe(source: TeacherSource, queries: int) -> dict[str, Any]:
    """The source of soft targets, for the results, after ``queries`` in all processes."""
    opened = source.opened
    if isinstance(opened, ModelTeacher | LiveTokens):
        return {"kind": source.targets.kind, "views": None, "filled_here": False}
    assert isinstance(opened, StoredTargets | FirstVisitTargets | StoredTokens), "not live"
    note = {"kind": "stored", "views": opened.views, "filled_here": queries > 0}
    if opened.store is not None:
        fill = None if source.live is None else source.targets.fill
        note |= {"fill": fill, **_describe_store(opened)}
    if isinstance(opened, StoredTargets) and opened.features:
        note["features"] = list(opened.features)
    return note


def _describe_store(targets: StoredTargets | FirstVisitTargets | StoredTokens) -> dict[str, Any]:
    store = targets.store
    assert store is not None, "callers check that there is one"
    stores = [store, *getattr(targets, "features", {}).values()]
    return {
        "encoding": store.header.encoding.settings,
        "rows": store.count(),
        "bytes": sum(each.header.disk_bytes for each in stores),
    }


@digests_kept()
def ensure_targets(
    recipe: Recipe,
    teacher: Path | None,
    stores: Path | None = None,
    *,
    note: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Fill all stored targets that ``distill`` would fill ahead, before several runs share them.
    Returns ``rows`` through the teachers and ``seconds``, zeros where nothing was missing; ``note``
    receives the same whenever stored rows are durable."""
    use_threads(recipe.threads)
    run_data = make_data(recipe, recipe.student.augment, STORE_SEED)
    sources = [
        source
        for source in sources_of(recipe, teacher).values()
        if source.targets.kind == "stored" and source.one.store is None
    ]
    lives = []
    for source in sources:
        source.live = _loaded(recipe, source.folder, run_data, source.one)
        lives.append(source.live)
    ids = ids_used(sampling_of(recipe, teacher, run_data), run_data)
    started, spent = time.perf_counter(), {"rows": 0, "seconds": 0.0}

    def count() -> None:
        if rows := sum(live.queries for live in lives):
            spent.update(rows=rows, seconds=time.perf_counter() - started)
        if note is not None:
            note(dict(spent))

    try:
        for source in sources:
            if source.targets.fill == "ahead":
                places = [source.folder, stores]
                open_targets(
                    recipe,
                    source,
                    run_data.train,
                    places,
                    ids,
                    on_durable=count,
                    progress=progress,
                )
    finally:  # rows that were stored before a stop count
        count()
    if run_data.eval_dataset is not None and not isinstance(run_data.train, Corpus):
        for source, live in zip(sources, lives, strict=True):
            places = [source.folder, stores]
            held_out_logits(live, source.folder, run_data.eval_dataset, places)
    return spent


@digests_kept()
def store(
    recipe: Recipe,
    out: Path,
    *,
    teacher: Path | None = None,
    options: FillOptions = FillOptions(shard=(0, 1)),  # noqa: B008
) -> dict[str, Any]:
    """Fill a store in the folder ``out`` as the recipe's student needs it: its views, its encoding,
    and the samples that may be used in its training. An unfinished one is continued.

    Args:
        teacher: a folder made by ``teach``; without one the recipe's pretrained teacher.
        options: the shard to fill, and functions to call. Processes that torchrun or accelerate
            launch started share the work, and have no shards of their own.

    Returns:
        ``queries`` (rows through the teacher), ``rows`` of ``of`` rows, ``bytes``, ``encoding``,
        ``features`` (the teacher's modules), ``seconds``.

    Raises:
        TargetsError: ``out`` holds other targets, another process fills this shard, the disk is
            full.
        FrugalKDError: with one line; see the subclasses.
    """
    with ranks_of(recipe.device, recipe.threads) as ranks:
        shard = options.shard or (0, 1)
        if shard[1] > 1 and not ranks.alone:
            raise RankError(
                f"--shard {shard[0]}/{shard[1]} is for processes that were started separately: "
                f"leave it out, and the {ranks.world} of this launch share the work"
            )
        spec = recipe.student.targets
        run_data = make_data(recipe, recipe.student.augment, STORE_SEED)
        live = _loaded(recipe, teacher, run_data)
        ids = ids_used(sampling_of(recipe, teacher, run_data), run_data)
        started = time.perf_counter()
        filling = replace(options, ranks=ranks, shard=shard if ranks.alone else None)
        if isinstance(live, LiveTokens):
            stored = store_tokens(recipe, live, named(out), filling)
            return _filled(stored, started)
        targets = _fill(
            live, teacher, run_data.train, named(out), views=spec.views, features=spec.features,
            encoding=encoding_of(recipe), ids=ids, device=resolve_device(recipe.device),
            options=filling,
        )  # fmt: skip
        return _filled(targets, started)


def _filled(targets: StoredTargets | StoredTokens, started: float) -> dict[str, Any]:
    header = targets.store.header
    return {
        "queries": targets.queries,
        "of": header.samples * header.views,
        "features": list(getattr(targets, "features", ())),
        **_describe_store(targets),
        "seconds": time.perf_counter() - started,
    }
