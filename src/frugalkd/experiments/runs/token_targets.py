"""The teacher of a run's language model: loaded, its tokens stored, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from frugalkd.errors import TargetsError
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.folder import trained_in
from frugalkd.experiments.runs.from_recipe import RunContext
from frugalkd.files.opening import named
from frugalkd.language.corpus import Corpus
from frugalkd.language.encodings import TokenEncoding, make_token_encoding
from frugalkd.language.evaluation import measure_tokens
from frugalkd.language.models import tokenizer_at
from frugalkd.language.targets import LiveTokens, StoredTokens
from frugalkd.models.flops import flops_of_data
from frugalkd.runtime.devices import autocast, device_of, resolve_device
from frugalkd.teachers import Targets
from frugalkd.teachers.filling import FillOptions
from frugalkd.training.run import Run

ONE = "teacher"
"""The name of a single teacher."""


def token_encoding_of(recipe: Recipe) -> TokenEncoding:
    """The student's encoding of tokens."""
    targets = recipe.student.targets
    return make_token_encoding(targets.encoding, targets.record_bytes)


def live_tokens(
    recipe: Recipe, model: nn.Module, folder: Path | None, corpus: Corpus
) -> LiveTokens:
    """``model`` on its device, in the precision of its training: that in its ``folder``, or, for a
    pretrained one, the recipe's."""
    precision, _ = trained_in(folder) or (recipe.teacher.training.precision, False)
    # Of a pretrained one it was compared as the model was made.
    tokenizer = None if folder is None else tokenizer_at(str(folder))
    model.to(resolve_device(recipe.device))
    return LiveTokens(model, corpus, tokenizer, precision=precision)


def store_tokens(
    recipe: Recipe, live: LiveTokens, folder: Path | None, options: FillOptions
) -> StoredTokens:
    """A store of the teacher's tokens, filled where it is not. Raises TargetsError: there is no
    folder for it, and what :meth:`StoredTokens.fill` does."""
    if folder is None:
        raise TargetsError(
            "no folder for the store can be written: name one that 'frugalkd store' filled "
            "(student.targets.folder), or set student.targets.kind to live"
        )
    return StoredTokens.fill(
        live, live.corpus, folder,
        views=recipe.student.targets.views, encoding=token_encoding_of(recipe),
        device=resolve_device(recipe.device), options=options,
    )  # fmt: skip


def open_tokens(
    recipe: Recipe,
    live: LiveTokens,
    place: Callable[[], Path | None],
    options: FillOptions,
) -> Targets:
    """The targets of a run: ``live`` itself, or a store in the folder that the recipe names, which
    has to be one, or in the ``place``."""
    spec = recipe.student.targets
    if spec.kind != "stored":
        return live
    folder = None if spec.folder is None else named(spec.folder)
    if folder is not None:
        StoredTokens(folder, live.corpus)  # a recipe cannot make one anywhere on the disk
    return store_tokens(recipe, live, folder or place(), options)


def conclude_tokens(
    context: RunContext, run: Run, live: LiveTokens, opened: Targets | None
) -> None:
    """Add to ``run`` what its teacher cost, and how near the student is to it on held-out text."""
    model, meters, held_out = live.model.model, run.meters, context.run_data.eval_dataset
    if isinstance(opened, StoredTokens):  # those of stopped processes too, by the mean block
        filled = context.folder.notes().queries_of.get(ONE, 0)
        meters.token_queries += round(filled * live.corpus.whole.rows / len(live.corpus))
    if not isinstance(opened, LiveTokens):  # which the training has counted
        precision = partial(autocast, model, live.precision)
        row = flops_of_data(model, live.corpus, device_of(model), None, precision, backward=False)
        meters.flops["teacher_forward"] = row["forward"] * meters.teacher_queries
    if not isinstance(held_out, Corpus):
        return
    started = time.perf_counter()
    run.evaluation = measure_tokens(
        run.model, held_out, LiveTokens(model, held_out, precision=live.precision),
        precision=context.recipe.student.training.precision, should_stop=context.should_stop,
    )  # fmt: skip
    meters.eval_seconds += time.perf_counter() - started
