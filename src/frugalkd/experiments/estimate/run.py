"""The pilot from end to end, and the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from frugalkd.data import Pictures, randomness
from frugalkd.errors import RecipeError, RunFolderError, SettingError
from frugalkd.experiments.estimate import model
from frugalkd.experiments.estimate.model import NO_INFORMATION, Share, exactly, mode_row
from frugalkd.experiments.estimate.pilot import FORWARD, Part, Trainee, fill, part_of, time_queries
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.folder import results_of
from frugalkd.experiments.runs.from_recipe import STORE_SEED, make_data, make_model, make_teacher
from frugalkd.experiments.runs.targets import live_teacher
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.flops import flops_of_data
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling, SelfRegulation
from frugalkd.policies.modes import CEILING, MODES, PROBE
from frugalkd.policies.self_regulation import MOST_FAIL, largest_gap
from frugalkd.runtime.devices import resolve_device, use_threads
from frugalkd.selection.inputs import weights_of

PAYS_BELOW = 0.95  # of vanilla's time
NOISY = 0.15  # spread of the seconds of equal work
MOST_VIEWS = 4  # stored, of a sample in a pilot


def estimate(
    recipe: Recipe,
    *,
    teacher: Path | None = None,
    seconds: float = 20.0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What selection will pay on the recipe's model pair, from a pilot of about ``seconds``.

    Args:
        teacher: a folder made by ``teach``: its ledger and its counts are used. Without one (and
            without ``teacher.weights``) the student's miniatures learn from the labels alone.
        seconds: of the pilot, without reading the data; slow steps take what a few of them take.
        say: receives what is being measured.

    Returns:
        Plain values for JSON, described in docs/estimate.md. A forecast is a :class:`Range`.

    Raises:
        SettingError: ``seconds`` is not positive and finite.
        RecipeError: there are several teachers, or the student is its own; a gate has a cost of its
            own; or the student learns embeddings, mixed
            views or a corpus.
        LedgerError, ModelError, DataError, RunFolderError: as a distillation would.
        UnsupportedData: the data have views, and no ``subset(ids)``.
    """
    if not 0 < seconds < math.inf:
        raise SettingError(f"seconds must be positive and finite, not {seconds}")
    if recipe.student.teachers is not None or recipe.student.targets.kind == "ema":
        raise RecipeError(
            "an estimate needs one teacher that is trained before: set student.teachers to null, "
            "and student.targets.kind to stored or live"
        )
    if recipe.reads_corpus:
        raise RecipeError(
            "an estimate trains miniatures on single samples, and these are blocks of a corpus: "
            "run a short 'frugalkd compare' in its place"
        )
    student = recipe.student
    if not (output := OUTPUTS[student.objective.build().learns]).labelled:
        raise RecipeError(
            f"an estimate trains miniatures of the teacher from labels, and {output.plural} have "
            "none: run a short 'frugalkd compare' in its place"
        )
    if student.augment.mix is not None:
        raise RecipeError(
            "an estimate is of plain views: set student.augment.mix to null, or run a short "
            "'frugalkd compare' in its place"
        )
    policies = [spec.build() for spec in (student.policy, recipe.teacher.policy) if spec]
    if any(getattr(each, "cost", None) is not None for each in (student.regulation, *policies)):
        raise RecipeError(
            "an estimate forecasts what a gate costs without a limit of its own: set its cost to "
            "null (student.cost may be given)"
        )
    use_threads(recipe.threads)
    return _Estimate(recipe, teacher).run(seconds, say)


class _Estimate:
    """The data, the models, and what the teacher's folder says."""

    def __init__(self, recipe: Recipe, teacher: Path | None):
        role = recipe.student
        self.recipe, self.training, self.warnings = recipe, role.training, list[str]()
        self.device = resolve_device(recipe.device)
        self.data: Any = make_data(recipe, role.augment, STORE_SEED).train
        self.queries = role.objective.build().needs_targets
        trained = bool(teacher or recipe.teacher.weights)
        self.learns = self.queries and trained
        if trained:
            made = make_teacher(recipe, teacher, self.data)
        else:
            made = make_model(recipe.teacher.model, self.data, recipe.seed).eval()
        self.live = live_teacher(recipe, made.to(self.device), teacher)
        self.weights, self.recorded = None, None
        if role.class_weights is not None:
            self.warnings.append(
                "class_weights are not estimated: in the miniatures every sample weighs the same"
            )
        if teacher is not None and (teacher / "ledger.safetensors").is_file():
            self._read(teacher)
        self.student = Trainee(recipe, role, self.data, self._gate())
        # One that the gate has not, where the teacher's probabilities are known.
        self.ceiling = CEILING if self.truth and self.student.gate.ceiling is None else None

    def _read(self, folder: Path) -> None:
        """The weights by the teacher's ledger, and what its own training took and kept."""
        ledger, content = Ledger.load(folder), results_of(folder)
        if (ledger.significance == 1).all():
            self.warnings.append(
                "this teacher was trained conventionally: all significances in its ledger are "
                "equal, so significance and hybrid are only bounded"
            )
            return
        gamma = self.recipe.student.gamma
        by_ledger = Sampling(mode="significance", ledger=ledger, gamma=gamma)
        self.weights = weights_of(by_ledger, self.data)
        if content.get("kind") != "teach":
            return
        try:
            kept, meters = content["budget"], content["meters"]
            forwards = meters["student_forwards"] / meters["samples_backpropagated"]
            seconds = float(meters["wall_seconds"])
            conventional = seconds / (kept * (1 + FORWARD * (forwards - 1)))
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            raise RunFolderError(
                "the teacher's results.json is damaged: it does not say what its training cost"
            ) from None
        self.recorded = {
            "conventional": conventional,
            "self_regulated": exactly(seconds),
            "kept": exactly(kept),
            "recorded": True,
        }

    def _gate(self) -> SelfRegulation:
        """The student's gate, which may be its policy in place of a mode."""
        role = self.recipe.student
        gate: Any = role.regulation if role.policy is None else role.policy.build()
        if not isinstance(gate, SelfRegulation):
            self.warnings.append(
                f"the recipe's own policy ({role.policy.called}) is not "  # pyright: ignore
                "estimated: the rows are the modes"
            )
            gate = role.regulation
        # A ceiling reads the probabilities of a teacher's classes, at temperature 1.
        self.classes = OUTPUTS[role.objective.build().learns].by_top_class
        exact = role.targets.encoding in ("float16", "float32")
        self.truth = self.learns and self.classes and exact
        return gate if self.truth else replace(gate, ceiling=None)

    def run(self, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
        """The pilot, and what it comes to."""
        role, training, began = self.recipe.student, self.training, time.perf_counter()
        probe = part_of(self.data, max(4 * training.batch_size, 1024))
        say("the teacher's queries")
        query, spread = time_queries(self.live, self.data, training.batch_size, 0.05 * seconds)
        filling = disk = 0
        if self.queries:
            probe, filling = fill(self.recipe, self.live, probe, 1)
            disk = self._disk_bytes(probe)
        say("the teacher's own training")
        teaching, share, ever = self.recorded, Share(exactly(1.0)), 1.0
        if teaching is None:
            teaching, share, ever = self._teach(0.28 * seconds)
        say("the student in miniature")
        left = max(0.3 * seconds, 0.9 * seconds - (time.perf_counter() - began))
        scale, views = self._scale(probe, left, filling)

        @cache
        def part(rows: int) -> Part:
            part = part_of(self.data, rows)
            return fill(self.recipe, self.live, part, views)[0] if self.learns else part

        found = self.student.miniatures(part, scale, self.ceiling, self.weights)
        shares, curves, (step, screen), _ = found
        if self.queries and not self.learns:
            shares["regulated"] = model.labels_alone(shares["regulated"])
        shares = model.bounded(shares["regulated"], share, ever) | shares
        costs = {"step": step, "screen": screen, "query": query * self.queries, "fill": filling}
        pilot = {
            "seconds": time.perf_counter() - began,
            "rows": scale[0],
            "epochs": scale[1],
            "small_rows": sum(curve.rows for curve in curves[1:]),
            "kept": curves[0].mean,
            "spread": spread,
        }
        storable = self.queries and not randomness(self.data)
        visits = len(self.data) * training.epochs
        kind = role.targets.kind if self.queries else "none"
        store = len(self.data) * role.targets.views * filling, disk
        ratio = self._flops_ratio()
        row_of = partial(
            mode_row, costs=costs, visits=visits, store=store, epochs=training.epochs, ratio=ratio
        )
        kinds = ("live", "stored") if storable else (kind,)
        rows = [row_of("vanilla", model.EVERYTHING, each) for each in kinds]
        rows += [row_of(name, shares[name], kind) for name in MODES if name != "vanilla"]
        if storable and self.classes:
            rows.append(row_of(f"ceiling {CEILING:g}", shares["ceiling"], "stored"))
        mode = "regulated" if role.mode in (None, "vanilla") else role.mode
        longer = f"give it more time, such as --seconds {3 * seconds:g}"
        silent = pilot["small_rows"] > 0 and pilot["kept"] > NO_INFORMATION
        pays, verdict = _verdict(next(row for row in rows if row["mode"] == mode), silent)
        at_cost = None
        if role.cost is not None and MODES[mode].gated:
            say("the student in miniature, at the cost")
            at_cost, silent = self._at_cost(part, scale, role.cost)
            pays, verdict = _verdict_at_cost(at_cost, silent, longer)
        return {
            "schema": 2,
            "recipe": self.recipe.name,
            "samples": len(self.data),
            "epochs": training.epochs,
            "batch_size": training.batch_size,
            "device": self.device.type,
            "threads": self.recipe.threads,
            "costs": costs,
            "r": {"time": costs["query"] / screen, "flops": ratio},
            "modes": rows,
            "teacher": teaching,
            "break_even": {
                **_ledger_paid([row for row in rows if row["targets"] == kind], teaching),
                "store": _store_paid(row_of, model.EVERYTHING) if storable else None,
                "store_mode": _store_paid(row_of, shares[mode]) if storable else None,
            },
            "at_cost": at_cost,
            "verdict_mode": mode,
            "pays": pays,
            "verdict": verdict,
            "pilot": pilot,
            "warnings": self.warnings + self._doubts(pilot, silent, storable, longer),
        }

    def _at_cost(
        self, part: Callable[[int], Part], scale: tuple[int, int], cost: float
    ) -> tuple[dict[str, float], bool]:
        """What the epochs of everything that ``cost`` pays for come to, and whether the miniature
        is too small to say."""
        rows, epochs = scale[0], cost * self.training.epochs
        gate = self.student.gate
        gate = gate if self.ceiling is None else replace(gate, ceiling=self.ceiling)
        sizes = [rows] if rows == len(self.data) else [rows, max(4, rows // 4)]
        large, *small = (self.student.fit(part(each), epochs, gate) for each in sizes)
        whole = model.fit_of_all(large, small[0] if small else None, len(self.data))
        probe = (gate.probe or PROBE) * len(self.data)
        limit = largest_gap(whole.unseen, probe)
        found = {"epochs": epochs, "failing": whole.failing, "gap": whole.gap, "limit": limit}
        return found, rows < len(self.data) and large.failing > NO_INFORMATION

    def _teach(self, seconds: float) -> tuple[dict[str, Any], Share, float]:
        """What training the recipe's teacher takes and keeps, its share, and the fraction of the
        samples that it used at least once, from miniatures for ``seconds``."""
        role, data = self.recipe.teacher, self.data
        if isinstance(data, Pictures):
            data = data.with_augmentation(role.augment, 0)
        gate: Any = role.policy.build()
        gate = gate if isinstance(gate, SelfRegulation) else SelfRegulation()
        trainee = Trainee(self.recipe, role, data, gate)
        scale = trainee.scale(part_of(data, 4 * role.training.batch_size), seconds, 1.35, 0.0)
        found, _, (step, screen), ledger = trainee.miniatures(partial(part_of, data), scale)
        visits, share = len(data) * role.training.epochs, found["regulated"]
        teaching = {
            "conventional": visits * step,
            "self_regulated": share.cost(visits, step, screen),
            "kept": share.kept,
            "recorded": False,
        }
        return teaching, share, float((ledger.significance > 0).mean())

    def _scale(self, probe: Part, seconds: float, filling: float) -> tuple[tuple[int, int], int]:
        """The size of the student's miniatures, and the stored views of a sample in them."""
        role, epochs = self.recipe.student, max(1, int(self.training.epochs))
        views = MOST_VIEWS if role.targets.kind == "live" else min(MOST_VIEWS, role.targets.views)
        views = min(views, epochs) if role.augment.crop or role.augment.flip else 1
        trainings = 1.35 + 1.1 * self.truth + 0.9 * (self.weights is not None)
        trainings += 1.35 * (role.cost is not None)
        fills = self.learns * 1.25 * views * filling / min(epochs, 10)
        scale = self.student.scale(probe, seconds, trainings, fills)
        return scale, min(views, scale[1])

    def _disk_bytes(self, part: Part) -> int:
        """Of a store of all samples, by that of a part."""
        assert part.targets is not None
        whole = {"samples": len(self.data), "views": self.recipe.student.targets.views, "shards": 1}
        stores = part.targets.store, *part.targets.features.values()
        return sum(replace(each.header, **whole).disk_bytes for each in stores)

    def _flops_ratio(self) -> float:
        """Teacher forward over student forward."""
        teacher, student = (
            flops_of_data(each, self.data, self.device, backward=False)["forward"]
            for each in (self.live.teacher, self.student.model().to(self.device))
        )
        return teacher / student if student else 0.0

    def _doubts(
        self, pilot: dict[str, float], silent: bool, storable: bool, longer: str
    ) -> list[str]:
        """Why the figures may be wrong."""
        doubts = {
            "these data differ at each reading: soft targets cannot be stored": self.queries
            and not storable,
            f"the machine was noisy: the seconds of equal work spread by {pilot['spread']:.0%} "
            "(interquartile range over median); times are rough, run it again on an idle machine":
            pilot["spread"] > NOISY,
            f"hardly a sample passed the gate in the miniature ({pilot['rows']:,} samples, "
            f"{pilot['epochs']} epochs): it cannot say how many will in the whole training; "
            f"{longer}": silent,
            "no teacher: the kept fractions are those of a student that learns from the labels "
            "alone; rows marked ~ are only bounded; --teacher DIR gives better ones": self.queries
            and not self.learns,
        }  # fmt: skip
        return [line for line, holds in doubts.items() if holds]


def _store_paid(row_of: Callable[..., dict[str, Any]], share: Share) -> int | None:
    """Students after which a store has paid for itself, against a live teacher."""
    live, stored = row_of("", share, "live"), row_of("", share, "stored")
    before, after = live["seconds"].point, stored["seconds"].point
    return model.students_until_paid(stored["fill_seconds"], before, after)


def _ledger_paid(rows: list[dict[str, Any]], teaching: dict[str, Any]) -> dict[str, int | None]:
    """Students after which a ledger has paid for itself, in the better of two modes."""
    seconds = {row["mode"]: row["seconds"].point for row in rows}
    best = min(seconds["hybrid"], seconds["significance"])
    whole, vanilla = teaching["self_regulated"].point, seconds["vanilla"]
    extra = whole - teaching["conventional"]
    return {
        "ledger": model.students_until_paid(whole, vanilla, best),
        "ledger_trained_anyway": model.students_until_paid(extra, vanilla, best),
        "ledger_over_regulated": model.students_until_paid(whole, seconds["regulated"], best),
    }


def _verdict(row: dict[str, Any], silent: bool) -> tuple[bool | None, str]:
    """Whether selection pays (None: no sample passed, so that it is unknown), and the sentence."""
    point, low, high = row["of_vanilla"]
    pays = point < PAYS_BELOW
    said = "selection will not pay here"
    if silent and low < PAYS_BELOW:
        pays = None
        said = "this pilot is too short to say if selection pays (no sample passed the gate in it)"
    elif pays:
        said = f"selection {'may pay' if high >= PAYS_BELOW else 'pays'} here"
    return pays, (
        f"{said}: {row['mode']} is expected to take {point:.2f} ({low:.2f} to {high:.2f}) of the "
        "time of vanilla with the same targets"
    )


def _verdict_at_cost(found: dict[str, float], silent: bool, longer: str) -> tuple[bool | None, str]:
    """Whether selection pays at a cost (None: the pilot cannot say), and the sentence."""
    epochs, failing, gap = found["epochs"], found["failing"], found["gap"]
    if silent:
        return None, (
            "this pilot is too short to say if selection pays at this cost (no sample passed the "
            f"gate in it): {longer}"
        )
    after = f"after {epochs:.3g} epochs of everything {failing:.0%} of the samples fail the gate"
    instead = (
        "choose a larger cost, or mode vanilla at this one: fewer epochs on all samples, which is "
        "what the gate would come to"
    )
    if gap > found["limit"]:
        return False, (
            f"selection will not pay at this cost: {after}, and the model is right on unseen "
            f"samples {100 * gap:.1f} points less often than on its own, over the limit of "
            f"{100 * found['limit']:.1f}: it remembers them; {instead}"
        )
    if failing > MOST_FAIL:
        return False, (
            f"selection will not pay at this cost: {after}, over the limit of {MOST_FAIL:.0%}; "
            f"{instead}"
        )
    return True, (
        f"selection pays at this cost: {after}, and the model is right on unseen samples nearly as "
        f"often ({100 * gap:.1f} points less)"
    )
