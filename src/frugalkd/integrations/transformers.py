"""frugalkd inside transformers' Trainer: a teacher, and training on the samples that still matter.

Needs the extra ``transformers``. :class:`FrugalTrainer` replaces ``Trainer``, and
:class:`FrugalMixin` goes before your own Trainer subclass.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

try:
    import transformers
except ImportError as error:
    raise ImportError(
        "this integration needs transformers: pip install 'frugalkd[transformers]'"
    ) from error

from frugalkd.data.batches import call, join_padded
from frugalkd.data.source import check_map_style
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import (
    FrugalKDWarning,
    ModelError,
    RunFolderError,
    SelectionMisuse,
    SettingError,
    UnsupportedData,
    few,
)
from frugalkd.files import StrPath, path_of
from frugalkd.files.opening import named
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.integrations._frugal import (
    IDLE_STORE,
    Frugal,
    PlannedEpochs,
    default_objective,
    full_epoch,
    torchs_start_method,
)
from frugalkd.integrations._hugging_face import (
    as_dict,
    check_devices,
    columns_of,
    forward_of,
    inputs_named,
    label_column_of,
    labels_in,
    lengths_in,
    logits_of,
    set_rates,
    teacher_from,
    warn_of_schedule,
    without,
)
from frugalkd.language.corpus import Corpus, tokenize_corpus
from frugalkd.language.criterion import TokenCriterion, check_held_out_corpus, token_targets
from frugalkd.language.encodings import HeadAndTail
from frugalkd.language.loss import check_token_objective
from frugalkd.language.models import CausalModel, load_causal
from frugalkd.language.targets import LiveTokens, StoredTokens
from frugalkd.models.identity import inference_mode
from frugalkd.objectives import Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling
from frugalkd.policies.modes import OutputName
from frugalkd.selection import Batch, DataLoading, Selection
from frugalkd.selection.checks import CAUSAL, check_task, read_first, task_of
from frugalkd.selection.finite import bad_gradients
from frugalkd.selection.inputs import weights_of
from frugalkd.selection.rows import batches_of
from frugalkd.teachers import Targets
from frugalkd.teachers.filling import FillOptions
from frugalkd.training.api import new_selection

if TYPE_CHECKING:
    _Trainer = transformers.Trainer
else:
    _Trainer = object

_LOGGER = logging.getLogger("transformers.trainer")

STATE = "frugalkd.safetensors"
"""In a checkpoint's folder: the selection's state, no pickle."""
LEDGER = "ledger.safetensors"
"""Beside it: the ledger so far."""

_OUTPUT_OF: dict[str | None, OutputName] = {
    "regression": "regression",
    "multi_label_classification": "several-labels",
}
"""By transformers' ``problem_type``."""


_LOADING_IS_REPLACED = ("transformers", "sentence_transformers")
"""Packages whose trainers read the data in a way that a selection does as well."""


class FrugalMixin(Frugal, _Trainer):
    """Put before a Trainer: ``class Mine(FrugalMixin, MyTrainer)``. Training then runs through the
    epochs of a :class:`~frugalkd.Selection`; evaluation, saving and the hub stay the trainer's.

    Without an ``objective`` and a ``teacher`` the loss is that of the trainer's own
    ``compute_loss``; if it returns one loss a row, rows can be weighted. Otherwise the loss is the
    objective of the model's logits. The schedule is made for the steps of full training, and the
    learning rate follows progress: with fewer steps it decays just as fully, and the warm-up takes
    the same part of them.

    ``resume_from_checkpoint`` resumes from each checkpoint; at the end the ledger is in
    ``output_dir/ledger.safetensors``, and ``train()`` adds the meters to its metrics.

    With several processes (torchrun, accelerate launch) each of them reads its own rows of the
    plan, and all take as many steps; the ledger is that of all of them, and the first one writes
    it. DDP and FSDP2 are Accelerate's.

    A :class:`~frugalkd.language.Corpus` as ``train_dataset`` is for causal language models
    (docs/language.md): blocks are the samples, all of them are used by default, and the loss is
    that of the learned tokens of a step, always by an objective (default ``KD(temperature=1.0)``,
    or cross-entropy). ``teacher`` is then a causal language model, its name, or targets of the
    corpus, and ``store`` is filled before the first step.

    Args:
        teacher: a model, a folder or hub name of a classifier, a folder that ``frugalkd teach``
            made, or targets; None: no distillation. A model also gets the columns that its forward
            names and the student's does not.
        store: a folder that keeps the teacher's outputs at their first use, of one view of each
            sample; None: the teacher runs each time.
        cost: what the training may cost, as a fraction of full training over ``num_train_epochs``
            (or ``max_steps``), as for :func:`frugalkd.distill`: there are then up to four times as
            many epochs as it pays for, and the schedule decays with what is spent. Fractions of
            steps, such as ``eval_steps=0.1``, are of full training.
        sampling: which samples are used and what they weigh; default: mode *regulated*.
        objective: as for :func:`frugalkd.distill`; labels are smoothed in it, if at all.
        imports: import paths that a ``teacher`` of ``frugalkd teach`` may name, as of
            :func:`frugalkd.load`.

    Everything else goes to the trainer. Labels are those that the data collator gives, as
    ``labels`` or by the first name of ``args.label_names``. The kind of output is that of the
    objective, else that of the model's ``config.problem_type`` (docs/outputs.md). ``args.seed`` (or
    ``data_seed``) is the seed of the order, the evaluation's batch size that of screenings,
    ``max_steps`` what full training would take.

    Raises:
        UnsupportedData: iterable data, labels of another kind than the model's, no labels and no
            teacher.
        SelectionMisuse: a policy with ``when: now``; DataParallel, DeepSpeed, FSDP on CPUs, and
            what else :func:`check_devices` refuses; or the trainer's own sampler, loader or
            ``get_batch_samples``.
        LedgerError, TargetsError, ModelError, UnknownName: as :func:`frugalkd.distill`.
        SettingError: ``label_smoothing_factor`` together with an objective of your own, or an
            objective that is not of single tokens, with a corpus.
        RankError: several processes that differ in data, settings, weights or checkpoint, or that
            have too few samples for a step; or ``store`` with several processes.
        RunFolderError: the checkpoint to resume from is of another training, or of a plain one.
    """

    own_loss = True
    """Whether the loss is the trainer's own without a teacher and an objective. Its step may be its
    own too, and ``when: now`` is refused."""

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module | Targets | StrPath | None = None,
        store: StrPath | None = None,
        cost: float | None = None,
        sampling: Sampling | None = None,
        objective: Objective | None = None,
        imports: Collection[str] = (),
        **kwargs: Any,
    ):
        if kwargs.get("train_dataset") is not None:
            check_map_style(kwargs["train_dataset"])
        super().__init__(*args, **kwargs)
        self._make_corpora()
        if self.train_dataset is not None:  # as a positional argument, too
            check_map_style(self.train_dataset)
        if self._corpus is not None and not self._collates_by_default(kwargs.get("data_collator")):
            raise SelectionMisuse("a Corpus makes its batches itself: leave data_collator out")
        self._take_settings(store, sampling, objective, cost, self.train_dataset)
        if self.policy.when == "now" and self.own_loss:
            raise SelectionMisuse(
                "when: now decides between reading a batch and training on it, within a step that "
                "your own Trainer may have changed: use when: last-visit, or FrugalTrainer"
            )
        self._check_arguments()
        names = self.args.label_names or ["labels"]
        self._label = "labels" if "labels" in names else names[0]
        output = OUTPUTS[self.sampling.output]
        self._read_labels = (
            None if self._label == "labels" else partial(labels_in, name=self._label, output=output)
        )
        model: Any = self.model
        corpus, tokenizer = self._corpus, None
        known: Any = teacher
        if isinstance(teacher, str | PathLike):
            reads = self.processing_class or getattr(self.data_collator, "tokenizer", None)
            if corpus is None:
                known = teacher_from(teacher, model, reads, output, imports)
            else:
                known, tokenizer = load_causal(str(path_of(teacher)))
        if isinstance(known, nn.Module):
            known.to(self.args.device)
        if objective is None and not (known is None and self.own_loss and corpus is None):
            smoothing = self.args.label_smoothing_factor
            self.objective = default_objective(known, self.sampling.output, smoothing)
        if corpus is None:
            self._take_teacher(known, model)
        else:
            self._take_token_teacher(known, tokenizer, corpus)
        self._check_loss(objective)
        self.criterion = self._criterion()
        self._is_in_place = (
            self.criterion is not None and objective is None and known is None and corpus is None
        )
        self._teacher_columns: frozenset[str] = frozenset()  # columns that the teacher alone reads
        self._batch: Batch | None = None
        self._state: dict[str, Any] | None = None  # to resume from
        self._steps = 0, 0  # of full training as given, and at most
        self.callback_handler.callbacks.insert(0, _Limits(self))  # before those that read them
        self.add_callback(_Progress(self))

    @property
    def _corpus(self) -> Corpus | None:
        """What a language model is trained on."""
        data: Any = self.train_dataset
        return data if isinstance(data, Corpus) else None

    def _make_corpora(self) -> None:
        """Of tables with a column ``input_ids``, as TRL's SFTTrainer makes them, for a language
        model: corpora beside the checkpoints."""
        model: Any = self.model
        if model is not None and task_of(model) == CAUSAL:
            self.train_dataset = self._as_corpus(self.train_dataset, "train")
            self.eval_dataset = self._as_corpus(self.eval_dataset, "eval")

    def _collates_by_default(self, given: Any) -> bool:
        """Whether the collator is the corpus's, or a trainer's default: transformers' or TRL's."""
        corpus, found = self._corpus, self.data_collator
        own = None if corpus is None else corpus.collate
        by_trainer = type(found) is transformers.DataCollatorWithPadding
        by_trainer |= type(found).__module__.split(".")[0] == "trl"
        return given in (None, own) and (
            found in (own, transformers.default_data_collator) or by_trainer
        )

    def _as_corpus(self, data: Any, name: str | None) -> Any:
        """``data``, of which tables of tokens become corpora beside the checkpoints; without a
        ``name``, in this machine's cache."""
        if isinstance(data, dict):
            return {each: self._as_corpus(own, name and each) for each, own in data.items()}
        columns = getattr(data, "column_names", None)
        if not isinstance(columns, list) or "input_ids" not in columns or "label" in columns:
            return data  # as it is: rows of tokens with a class are for classifiers
        packing = getattr(self.args, "packing", False)
        if name != "train" and getattr(self.args, "eval_packing", None) is not None:
            packing = self.args.eval_packing  # pyright: ignore[reportAttributeAccessIssue]
        if "seq_lengths" in columns or packing:
            raise UnsupportedData(
                "rows of this data set hold several documents each: leave packing out, or pack "
                "them by frugalkd.language.tokenize_corpus, and give the Corpus"
            )
        if self.processing_class is None:
            raise UnsupportedData("the tokenizer of input_ids is not known: pass processing_class=")
        config = getattr(self.model, "config", None)
        longest = getattr(config, "max_position_embeddings", None) or 1 << 20
        folder = name and Path(self.args.output_dir or ".") / f"corpus-{name}"
        return tokenize_corpus(
            data, self.processing_class, folder, length=longest, packing="padded"
        )

    def _take_token_teacher(self, teacher: Any, tokenizer: Any, corpus: Corpus) -> None:
        """As :meth:`_take_teacher`, for a language model."""
        model: Any = self.model
        objective, kept = self.objective, None
        assert objective is not None, "the default one"
        precision = "bf16" if self.args.bf16 else "fp32"
        self.teacher = token_targets(teacher, corpus, tokenizer, student=model, precision=precision)
        if self._store is not None:
            if not isinstance(self.teacher, LiveTokens):
                raise SettingError(IDLE_STORE)
            kept = HeadAndTail()
        check_token_objective(objective, kept or self.teacher)
        # The student's tokenizer, where the trainer knows it.
        self._causal = CausalModel(model, corpus.vocabulary)
        self._causal.check(corpus, self.processing_class)
        self._check_held_out(self.eval_dataset, corpus)

    def _check_held_out(self, data: Any, corpus: Corpus) -> None:
        for each in data.values() if isinstance(data, dict) else (data,):
            check_held_out_corpus(each, corpus)
            if each is not None:
                self._causal.check(each, self.processing_class)

    def _joined(self, batches: list[dict[str, Any]]) -> dict[str, Any]:
        """Padded as the tokenizer pads."""
        side = getattr(self.processing_class, "padding_side", "right")
        token = getattr(self.processing_class, "pad_token_id", None) or 0
        return join_padded(batches, token, side)

    def _criterion(self) -> Criterion | None:
        if self.objective is None:
            return None
        model: Any = self.model
        if self._corpus is not None:
            return TokenCriterion(self.objective, model, self._corpus, self.processing_class)
        return Criterion(self.objective)

    def _forward_of(self, model: nn.Module) -> Callable[[Any], Tensor]:
        """How to get a model's outputs for a batch, as the teacher's and in screening."""
        if isinstance(self.criterion, TokenCriterion):
            return partial(self.criterion.outcomes, partial(self._outputs, model))
        return forward_of(
            model, self._label, () if model is self.teacher else self._teacher_columns
        )

    def _outputs(self, model: nn.Module, inputs: Any) -> Tensor:
        """The outputs of the model that is trained, for a batch."""
        return call(model, without(inputs, self._label))

    def _collator(self) -> Callable[[list[Any]], Any]:
        """The trainer's own, which removes the columns that the student's forward does not name,
        but those of a teacher's: these are removed from the student's inputs."""
        collator = self._get_collator_with_removed_columns(self.data_collator, "training")
        if not isinstance(collator, transformers.trainer_utils.RemoveColumnsCollator):
            return collator
        if isinstance(self.teacher, nn.Module):
            self._teacher_columns = self._lost(self.teacher, collator.signature_columns)
        given = self.teacher.live_teachers if isinstance(self.teacher, Targets) else {}
        for each in given.values():
            lost = self._lost(each.teacher, collator.signature_columns)
            if lost and not each.own_forward:
                raise SelectionMisuse(
                    f"the student does not take {few(sorted(lost))}, which the teacher reads and "
                    "remove_unused_columns removes: pass the model as teacher=, or set "
                    "remove_unused_columns=False"
                )
        collator.signature_columns = [*collator.signature_columns, *sorted(self._teacher_columns)]
        return collator

    def _lost(self, teacher: nn.Module, kept: Collection[str]) -> frozenset[str]:
        """The columns that the teacher's forward names and that are not kept."""
        lost = (inputs_named(teacher) or set()) - set(kept)
        return frozenset(lost.intersection(columns_of(self.train_dataset))) if lost else frozenset()

    def _check_arguments(self) -> None:
        model: Any = self.model
        if self._corpus is not None:
            self._check_corpus(self._corpus)
        else:
            check_task(model)
        args, config = self.args, getattr(model, "config", None)
        kind = getattr(config, "problem_type", None)
        if kind is None and getattr(config, "num_labels", None) == 1:
            kind = "regression"
        output = None if self._corpus is not None else _OUTPUT_OF.get(kind)
        if output is not None:
            if self.objective is not None and self.objective.learns != output:
                raise UnsupportedData(
                    f"the model is for {str(kind).replace('_', ' ')} (config.problem_type, "
                    f"config.num_labels), and {type(self.objective).__name__} learns "
                    f"{OUTPUTS[self.objective.learns].plural}: leave the objective out, or give "
                    f"one that learns {OUTPUTS[output].plural}"
                )
            self.sampling = replace(self.sampling, output=output)
        check_devices(args, self.accelerator, model)
        sampling = getattr(args, "train_sampling_strategy", "random")
        self._grouped = sampling == "group_by_length"
        self._grouped |= getattr(args, "group_by_length", False)  # its name in transformers 5.0
        own = type(self)._get_train_sampler is not transformers.Trainer._get_train_sampler
        if own or (sampling != "random" and not self._grouped):
            what = "_get_train_sampler" if own else f"train_sampling_strategy={sampling!r}"
            raise SelectionMisuse(f"the selection decides the order of samples: remove {what}")
        self._check_loading()

    def _check_loading(self) -> None:
        """Raises SelectionMisuse where a Trainer of one's own reads the data."""
        order = type(self).__mro__
        for name in ("get_train_dataloader", "get_batch_samples"):
            homes = [cls for cls in order[order.index(FrugalMixin) + 1 :] if name in vars(cls)]
            if homes and homes[0].__module__.split(".")[0] not in _LOADING_IS_REPLACED:
                raise SelectionMisuse(
                    f"the selection reads the data, and {homes[0].__name__}.{name} would not be "
                    "called: change samples in the data set or data_collator, weigh them by "
                    "Sampling(weights=), and remove it"
                )

    def _check_corpus(self, corpus: Corpus) -> None:
        """What a corpus does not go with is refused; its own batches are also the evaluation's."""
        if self.args.torch_compile or self.is_fsdp_enabled:
            raise SelectionMisuse(
                "torch_compile and FSDP are not supported for language models: leave them out, and "
                "start with torchrun (DDP) on several devices"
            )
        collate: Any = corpus.collate
        self.data_collator = collate

    def _check_loss(self, given: Objective | None) -> None:
        """Refuse settings of the trainer's own loss that an objective would ignore."""
        if self.objective is None:
            return
        if self.compute_loss_func is not None:
            raise ModelError(
                "compute_loss_func reduces its losses, and here an objective gives one a sample: "
                "write it as an objective, or use FrugalMixin without a teacher and an objective"
            )
        smoothing = self.args.label_smoothing_factor
        if given is not None and smoothing:
            raise SettingError(
                f"label_smoothing_factor={smoothing:g} has no effect on an objective of your own: "
                f"put CrossEntropy({smoothing:g}) into it, as in WeightedSum((KD(alpha=1.0), "
                f"CrossEntropy({smoothing:g})), (0.9, 0.1)), and set the factor to 0"
            )

    def _compare_loss(self) -> None:
        """Warn where the model's own loss of the first rows is another one than the objective that
        takes its place."""
        args, objective, selection = self.args, self.objective, self._made()
        model: Any = self.model
        if not self._is_in_place or args.label_smoothing_factor or objective is None:
            return
        collate_fn = partial(as_dict, self._collator())
        rows = args.eval_batch_size
        batch = read_first(self.train_dataset, selection.pool, args.device, collate_fn, rows)
        labels = labels_in(batch, self._label, OUTPUTS[self.sampling.output])
        names = inputs_named(model)
        if labels is None or (names is not None and self._label not in names):
            return
        with inference_mode(model), self.autocast_smart_context_manager():
            try:
                outputs = model(**batch)
            except Exception:  # this only warns, and training does not give labels to the model
                return
        own = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if not isinstance(own, Tensor) or own.ndim:
            return
        loss = float(objective(outputs["logits"], None, labels).mean())
        if not math.isclose(float(own), loss, rel_tol=1e-5 if own.dtype == torch.float32 else 0.01):
            name = type(objective).__name__
            warnings.warn(
                f"the model's own loss is {float(own):.4g} on the first rows, and {name} in its "
                f"place {loss:.4g}: put FrugalMixin before Trainer to keep it, or pass objective=",
                FrugalKDWarning,
                stacklevel=2,
            )

    # The epochs.

    def get_train_dataloader(self) -> Any:
        """The epochs of a new selection."""
        if self.train_dataset is None:
            return super().get_train_dataloader()  # which says so
        selection = self.selection = self._select()
        kept, accumulation = self._state, self.args.gradient_accumulation_steps
        batches = self._full_epoch(len(selection.pool), selection.batch_size)
        full_steps = math.ceil(batches / accumulation)
        by_steps = self.args.max_steps > 0
        self._restore(kept, self.train_dataset, full_steps=full_steps, by_steps=by_steps)
        self.planned = PlannedEpochs(
            selection, self.train_dataset, accumulation, epochs=self._given_epochs,
            batches=batches, full_steps=0 if kept is None else kept["full_steps"],
        )  # fmt: skip
        return self.planned

    def set_initial_training_values(
        self, args: Any, dataloader: Any, *more: Any
    ) -> tuple[Any, ...]:
        """The trainer's own, with the epochs that a plan may take at a cost. Its last number stays
        the steps as given, of which it makes the schedule."""
        given: Any = super().set_initial_training_values(args, dataloader, *more)
        epochs, steps = args.num_train_epochs, args.max_steps
        args.num_train_epochs = self.sampling.epochs_of(epochs)
        args.max_steps = math.ceil(self.sampling.epochs_of(steps)) if steps > 0 else steps
        try:
            found: Any = super().set_initial_training_values(args, dataloader, *more)
        finally:
            args.num_train_epochs, args.max_steps = epochs, steps
        self._steps = given[-1], found[-1]
        return *found[:-1], given[-1]

    def _targets(
        self, dataset: Any, forward: Callable[[Any], Tensor] | None = None
    ) -> Targets | None:
        """A store of tokens is filled before the first step: every block is used."""
        self._filled = 0, 0
        if self._store is None or not isinstance(self.teacher, LiveTokens):
            return super()._targets(dataset, forward)
        targets = self.teacher = StoredTokens.fill(
            self.teacher, dataset, self._store, batch_size=self.args.eval_batch_size,
            device=self.args.device, options=FillOptions(ranks=Ranks.here()),
        )  # fmt: skip
        self._filled, self._store = (targets.queries, targets.tokens), None
        return targets

    def _full_epoch(self, rows: int, batch: int) -> int:
        args = self.args
        return full_epoch(
            rows, batch, world=args.world_size, drop_last=args.dataloader_drop_last,
            accumulation=args.gradient_accumulation_steps,
        )  # fmt: skip

    def _select(self) -> Selection:
        dataset: Any = self.train_dataset
        model: Any = self.model
        args, teacher = self.args, self.teacher
        check_map_style(dataset)
        forward = self._forward_of(teacher) if isinstance(teacher, nn.Module) else None
        targets = self._targets(dataset, forward)
        if self._corpus is not None:  # of this model: model_init makes one for each training
            self.criterion = self._criterion()
        collate_fn = None if self._corpus is not None else partial(as_dict, self._collator())
        if targets is None and len(dataset) and collate_fn is not None:
            first = read_first(dataset, np.arange(len(dataset)), torch.device("cpu"), collate_fn)
            if labels_in(first, self._label, OUTPUTS[self.sampling.output]) is None:
                raise UnsupportedData(
                    f"the data collator gives no {self._label!r} ({few(list(first))}), and "
                    "there is no teacher to stand in: rename the column that holds it to 'label', "
                    "or name it in label_names"
                )
        epochs, steps = args.num_train_epochs, args.max_steps
        if steps > 0:  # of training on all samples that have a weight
            weights = weights_of(self.sampling, dataset)
            used = len(dataset) if weights is None else int(np.count_nonzero(weights))
            batches = self._full_epoch(used, self._train_batch_size)
            epochs = steps / max(1, -(-batches // args.gradient_accumulation_steps))
        self._given_epochs = float(epochs)
        start = getattr(args, "dataloader_multiprocessing_context", None)
        loading = DataLoading(
            collate_fn=collate_fn, labels=self._read_labels,
            join=None if collate_fn is None else self._joined,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
            multiprocessing_context=start or torchs_start_method(),
            drop_last=args.dataloader_drop_last, screen_batch=args.eval_batch_size,
            length_bucket_batches=self._window(len(dataset)),
            lengths=partial(lengths_in, column=args.length_column_name),
            gradient_accumulation_steps=args.gradient_accumulation_steps, device=args.device,
        )  # fmt: skip
        selection = new_selection(
            dataset, sampling=self.sampling, epochs=epochs,
            batch_size=self._train_batch_size, model=model, forward=self._forward_of(model),
            targets=targets, seed=args.seed if args.data_seed is None else args.data_seed,
            loading=loading,
            labels=label_column_of(dataset, self._label)
            if self.sampling.output == "one-class" else None,
        )  # fmt: skip
        if self.criterion is not None:
            selection.attach(project=self.criterion.project)
        selection.meters.teacher_queries += self._filled[0]
        selection.meters.token_queries += self._filled[1]
        return selection

    def _window(self, rows: int) -> int:
        """The batches among which ``group_by_length`` sorts, as transformers' own sampler: those of
        50 steps, or of so many that there are four windows, but two; 0 without it."""
        accumulation = self.args.gradient_accumulation_steps
        step = self._train_batch_size * self.args.world_size * accumulation
        return min(max(rows // (4 * step), 2), 50) * accumulation if self._grouped else 0

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Held-out rows in their order: ``group_by_length`` is of training. transformers' own needs
        tokens to sort by, and returns predictions in that order."""
        if not self._grouped:
            return super()._get_eval_sampler(eval_dataset)
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[Any, Tensor | None]:
        """The batches of one optimiser step, each read once the one before was trained on, and
        what their loss is divided by."""
        first = next(epoch_iterator, None)
        if first is None:
            return [], None
        planned = self.planned
        at = planned.position(first, self._steps[0], planned.accumulation)
        set_rates(self.lr_scheduler, at, planned.current[0].lr_factor)
        items = self._items(first)
        if items is not None:
            items = torch.tensor(float(items), device=device)
        return StepBatches(first, epoch_iterator, num_batches, self._teacher_columns), items

    def _items(self, first: Batch) -> float | None:
        """What a loss of a step is divided by: its rows or learned tokens. Of the trainer's own
        loss: its labels, or None where neither the model nor compute_loss_func takes their
        number."""
        items = first.step_tokens or first.step_rows
        if self.criterion is None:
            labels = first.data.get("labels")
            takes = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
            if not takes or not isinstance(labels, Tensor):
                return None
            items *= labels[0].numel()
        return items * (self.args.world_size if self._over_devices else 1)

    @property
    def _over_devices(self) -> bool:
        """Whether the trainer's own loss is divided by the rows of all ranks, and multiplied by
        their number."""
        return self.args.world_size > 1 and self.args.average_tokens_across_devices

    # The step.

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """The trainer's own; nothing where an epoch ends before a step has all its batches."""
        if not inputs:
            return torch.zeros((), device=self.args.device)
        self._batch = self.planned.batch
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._batch = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective's loss, or the trainer's own, of the batch, which is observed here; in
        evaluation the trainer's own."""
        batch = self._batch
        if batch is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        labels, losses = batch.labels, None
        if self.criterion is None:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            logits = logits_of(outputs)
            losses = loss if loss.ndim else None
            if loss.ndim and self._over_devices:
                raise SelectionMisuse(
                    "compute_loss returns one loss a row, which average_tokens_across_devices may "
                    f"have multiplied by {self.args.world_size} processes: set it to False (each "
                    "process has as many rows)"
                )
        else:
            forward = partial(self._outputs, model)
            loss, logits, losses = self.criterion.learn(forward, inputs, labels, batch)
            outputs = {"logits": logits}
        # The trainer divides by this a loss that does not know the step's other batches.
        batches = batches_of(batch.step_rows, self.planned.selection.batch_size)
        self.current_gradient_accumulation_steps = batches if losses is None else 1
        if self.criterion is None and losses is not None:
            loss = batch.reduce(losses)
        elif losses is None and batch.weighted:
            raise SelectionMisuse(
                "compute_loss returns one number, and rows have weights: return one loss a row, or "
                "pass objective="
            )
        batch.observe(logits, labels, None if losses is None else losses.detach(), later=True)
        return (loss, outputs) if return_outputs else loss

    # The run.

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, with the meters among the metrics that it returns.

        Raises:
            RunFolderError: the checkpoint is of another training, or holds no selection.
            NonFiniteLoss: logits, losses, gradients or weights stopped being finite; no checkpoint
                is written of them.
        """
        folder = resume_from_checkpoint
        if folder is True:
            folder = transformers.trainer_utils.get_last_checkpoint(self.args.output_dir)
        state = Path(folder or "") / STATE
        if folder and not state.is_file():
            raise RunFolderError(
                f"{folder} has no {STATE}: a plain Trainer wrote it, or it was cut off: name "
                "another checkpoint"
            )
        self._state = load_tree(state) if folder else None
        args_ = self.args
        self._ignore_data_skip, args_.ignore_data_skip = args_.ignore_data_skip, True
        self._started = time.perf_counter()
        _LOGGER.addFilter(_no_empty_epoch)
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
            selection, counted = self._made(), self.meters
            selection.state_dict()  # what a stopped training has left on the device
            self._read_clock()
            if self.args.should_save:
                selection.ledger.save(Path(self.args.output_dir or ".") / LEDGER)
            output.metrics.update(
                samples_backpropagated=counted.samples_backpropagated,
                student_forwards=counted.student_forwards,
                teacher_queries=counted.teacher_queries,
                budget=selection.budget,
                cost=selection.cost,
            )
            if self._corpus is not None:
                output.metrics.update(
                    tokens_backpropagated=counted.tokens_backpropagated,
                    token_queries=counted.token_queries,
                )
            return output
        finally:
            _LOGGER.removeFilter(_no_empty_epoch)
            args_.ignore_data_skip = self._ignore_data_skip
            self._state = None
            self._close_data()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The trainer's own, with the arguments as they were given, and the selection's state."""
        state = self._made().state_dict()  # everything is finite, or this raises
        self.args.ignore_data_skip = self._ignore_data_skip
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.ignore_data_skip = True
        if self.args.save_only_model:
            return
        kept = self._kept(state, self.train_dataset)
        folder = named(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            save_tree(folder / STATE, kept)
            self.ledger.save(folder / LEDGER)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, on its own clock."""
        started, own = time.perf_counter(), self.eval_dataset
        if isinstance(eval_dataset, Corpus):  # which SFTTrainer would prepare
            self.eval_dataset, eval_dataset = eval_dataset, None
        try:
            return super().evaluate(eval_dataset, *args, **kwargs)
        finally:
            self.eval_dataset = own
            if self.selection is not None and self.is_in_train:
                self._leave_out(time.perf_counter() - started)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The trainer's own, of corpora where the model learns one."""
        return super().get_eval_dataloader(self._held_out(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """The same."""
        return super().get_test_dataloader(self._held_out(test_dataset))

    def _held_out(self, data: Any) -> Any:
        """``data``, to evaluate on, as what the model learns: of a corpus, one. A text names some
        of ``eval_dataset``."""
        if self._corpus is None or isinstance(data, str | None):
            return data
        data = self._as_corpus(data, None)
        self._check_held_out(data, self._corpus)
        return data


class FrugalTrainer(FrugalMixin, transformers.Trainer):
    """transformers' Trainer, distilling with a fraction of the samples.

    ```python
    trainer = FrugalTrainer(
        model, args, train_dataset=train, eval_dataset=test, processing_class=tokenizer,
        teacher="a/hub-name",
    )
    print(trainer.train().metrics["budget"])
    ```

    The objective is ``KD()`` with a teacher and cross-entropy without one, in place of the model's
    own loss (a warning says where this differs; :class:`FrugalMixin` keeps it); the arguments'
    ``label_smoothing_factor`` applies to the cross-entropy of both. Causal language models learn
    from a corpus. Everything else is as in
    :class:`FrugalMixin`.
    """

    own_loss = False


def _no_empty_epoch(record: logging.LogRecord) -> bool:
    """Leaves out the trainer's warning of an epoch without batches: there the plan ends."""
    return "single sample in your epoch_iterator" not in record.getMessage()


class _Limits(transformers.TrainerCallback):
    """Sets the steps at which the trainer ends at the latest, once the schedule is made of those as
    given, and at each step the epoch."""

    def __init__(self, trainer: FrugalMixin):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fractions, such as ``eval_steps=0.1``, are of the steps as given, or of fewer."""
        given, state.max_steps = self._trainer._steps
        state.compute_steps(args, min(given, state.max_steps))
        warn_of_schedule(self._trainer.lr_scheduler, self._trainer.sampling)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = self._trainer.planned.epochs_done


class _Progress(transformers.TrainerCallback):
    """Checks the steps of a frugal trainer, and ends it with the plan."""

    def __init__(self, trainer: FrugalMixin):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is prepared: on its device, and sharded if it is to be. What is trained beside
        it begins with the first rank's weights, as DDP's model does."""
        selection = self._trainer._made()
        for parameter in self._trained_beside().parameters():
            first = parameter.detach().cpu()
            selection.ranks.take_first(first)
            parameter.data.copy_(first)
        selection.check_first_batch()
        self._trainer._compare_loss()
        self._saved = self._evaluated = -1  # the last steps at which that was done

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluated = state.global_step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = state.global_step

    def _trained_beside(self) -> nn.Module:
        criterion = self._trainer.criterion
        return nn.Module() if criterion is None else criterion.parts

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """With clipped gradients. A loss scaler skips steps whose gradients are not finite, which
        is not an error."""
        batch = self._trainer.planned.batch
        # DDP has those of the model.
        self._trainer._made().ranks.average_gradients(self._trained_beside())
        if batch is not None and self._trainer.accelerator.scaler is None:
            batch.stepped(bad_gradients(kwargs["optimizer"]))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The plan's epoch ends too, and with its last one the training, as after max_steps."""
        planned = self._trainer.planned
        planned.finish()
        if planned.ended:  # in an epoch without batches: what each epoch saves was saved before
            control.should_save = control.should_evaluate = False
        if planned.ended or (planned.done and not control.should_training_stop):
            control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"
            late = args.eval_delay <= state.global_step
            control.should_evaluate |= args.eval_strategy == "steps" and late
            control.should_save &= self._saved != state.global_step
            control.should_evaluate &= self._evaluated != state.global_step
        state.epoch = planned.epochs_done


class StepBatches:
    """The inputs of one optimiser step's batches, ``without`` some of them, read one by one; where
    the epoch ends before, the rest of ``size`` are empty, for a trainer that steps after so
    many."""

    def __init__(
        self, first: Batch, rest: Iterator[Batch], size: int, without: Collection[str] = ()
    ):
        self._first, self._rest, self._size, self._without = first, rest, size, without

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield self._inputs(self._first)
        for _ in range(self._size - 1):
            batch = next(self._rest, None)
            yield {} if batch is None else self._inputs(batch)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        return {name: batch.data[name] for name in batch.data if name not in self._without}
