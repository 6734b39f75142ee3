"""FrugalSentenceTransformerTrainer against sentence-transformers' own trainer."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import All, Sampling, SelfRegulation
from frugalkd.data.source import bucketed
from frugalkd.errors import (
    ModelError,
    RunFolderError,
    SelectionMisuse,
    TargetsError,
    UnsupportedData,
)
from frugalkd.ledger.ledger import Ledger
from ranking import as_launched, on_ranks
from toys import same_columns, same_state

transformers: Any = pytest.importorskip("transformers", reason="needs transformers")
datasets: Any = pytest.importorskip("datasets", reason="needs datasets")
st: Any = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
tokenizers: Any = pytest.importorskip("tokenizers")

from sentence_transformers.sentence_transformer import losses  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer  # noqa: E402

from frugalkd.integrations.sentence_transformers import (  # noqa: E402
    FrugalSentenceTransformerTrainer,
)

WORDS = ["card", "money", "late", "fee", "limit", "pin", "rate", "app"]
ROWS, BATCH = 20, 4


def bert(folder, width, seed, words=WORDS):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words) + 2, hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertModel(config)
    nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(folder)
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *words])}
    level = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    raw = tokenizers.Tokenizer(level)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]"
    )
    made.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    bert(made / "teacher", 8, 0)
    bert(made / "student", 8, 1)
    bert(made / "narrow", 4, 1)
    bert(made / "other", 8, 2, WORDS[::-1])
    return made


def encoder(folder):
    word = Transformer(str(folder))
    return st.SentenceTransformer(
        modules=[word, Pooling(word.get_embedding_dimension())], device="cpu"
    )


def texts(teacher=None):
    stream = np.random.default_rng(0)
    lines = [" ".join(stream.choice(WORDS, 1 + row % 4)) for row in range(ROWS)]
    columns = {"sentence": lines}
    if teacher is not None:
        columns["label"] = teacher.encode(lines).tolist()
    return datasets.Dataset.from_dict(columns)


def arguments(folder, **more):
    given = {
        "num_train_epochs": 3, "per_device_train_batch_size": BATCH, "learning_rate": 0.02,
        "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "seed": 3,
        **more,
    }  # fmt: skip
    return st.SentenceTransformerTrainingArguments(str(folder), **given)


def trained(
    folders,
    folder,
    *,
    model="student",
    loss: Any = losses.EmbedDistillLoss,
    data=None,
    resume=None,
    **more,
):
    student = encoder(folders / model)
    own = {key: more.pop(key) for key in ("teacher", "sampling", "store") if key in more}
    trainer = FrugalSentenceTransformerTrainer(
        student, arguments(folder, **more), loss=loss and loss(student), **own,
        train_dataset=texts(encoder(folders / "teacher")) if data is None else data,
    )  # fmt: skip
    output = trainer.train(resume_from_checkpoint=resume)
    return student, trainer, output


def test_group_by_length_goes_by_the_characters_of_texts(folders, tmp_path, monkeypatch):
    seen = []
    step = FrugalSentenceTransformerTrainer.training_step
    monkeypatch.setattr(
        FrugalSentenceTransformerTrainer, "training_step",
        lambda self, *given: seen.append(self.planned.batch.ids) or step(self, *given),
    )  # fmt: skip
    data, window = texts(encoder(folders / "teacher")), 2
    lengths = np.array([len(line) for line in data["sentence"]])
    settings: Any = {"num_train_epochs": 1, "per_device_train_batch_size": 2}
    for strategy in ("random", "group_by_length"):
        trained(folders, tmp_path / strategy, **settings, train_sampling_strategy=strategy)
    plain, regrouped = np.concatenate(seen).reshape(2, ROWS)
    assert regrouped.tolist() == bucketed(plain, lengths, 2, window, 3, 0).tolist()
    assert regrouped.tolist() != plain.tolist()


SOME = Sampling(regulation=SelfRegulation(confidence=0.6, max_skip=1))


@pytest.mark.heavy
def test_a_column_of_embeddings_and_a_live_teacher_are_the_same(folders, tmp_path):
    teacher = encoder(folders / "teacher")
    one, first, output = trained(folders, tmp_path / "1", sampling=SOME)
    other, second, _ = trained(
        folders, tmp_path / "2", sampling=SOME, teacher=teacher, data=texts()
    )
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(first.ledger["participations"], second.ledger["participations"])
    assert 0 < output.metrics["budget"] < 1
    assert output.metrics["teacher_queries"] == 0
    assert second.meters.teacher_queries > ROWS
    assert Ledger.load(tmp_path / "1").reference["mean"].shape == (8,)


@pytest.mark.heavy
def test_without_a_loss_it_is_that_of_the_cosine(folders, tmp_path):
    one, _, _ = trained(folders, tmp_path / "1", sampling=SOME)
    other, _, _ = trained(folders, tmp_path / "2", sampling=SOME, loss=None)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("loss", [losses.EmbedDistillLoss, losses.MSELoss])
@pytest.mark.heavy
def test_it_learns_as_the_plain_trainer_does(folders, tmp_path, loss):
    """On all samples in every epoch, as far as another order of them allows."""
    data = texts(encoder(folders / "teacher"))
    plain = encoder(folders / "student")
    args = arguments(tmp_path / "plain", num_train_epochs=20)
    st.SentenceTransformerTrainer(plain, args, train_dataset=data, loss=loss(plain)).train()
    frugal, _, output = trained(
        folders, tmp_path / "f", loss=loss, data=data, num_train_epochs=20,
        sampling=Sampling(policy=All()),
    )  # fmt: skip
    assert output.metrics["budget"] == 1
    wanted = torch.tensor(data["label"][:])

    def apart(model):
        found = torch.from_numpy(model.encode(data["sentence"][:]))
        return (1 - torch.cosine_similarity(found, wanted)).mean().item()

    assert apart(frugal) < 0.5 * apart(encoder(folders / "student"))
    assert apart(frugal) == pytest.approx(apart(plain), rel=0.5)


@pytest.mark.heavy
def test_a_projection_of_the_loss_is_trained(folders, tmp_path):
    def loss(student):
        return losses.EmbedDistillLoss(student, projection_dim=8)

    torch.manual_seed(7)
    made: Any = loss(encoder(folders / "narrow"))
    begun = made.projection.weight.clone()
    trainer: Any = trained(
        folders, tmp_path, model="narrow", loss=lambda student: made, sampling=SOME
    )[1]
    assert trainer.criterion.projection is made.projection
    assert made.projection.weight.shape == (8, 4)
    assert not torch.equal(made.projection.weight, begun)
    with pytest.raises(ModelError, match="of 4 numbers and the teacher of 8"):
        trained(folders, tmp_path, model="narrow")


@pytest.mark.heavy
def test_it_resumes_bit_for_bit(folders, tmp_path):
    """Within an epoch, with what scores refer to."""
    more = {"sampling": SOME, "save_strategy": "steps", "save_steps": 3}
    whole, first, _ = trained(folders, tmp_path / "whole", **more)
    steps = sorted(
        int(name[11:]) for name in os.listdir(tmp_path / "whole") if "checkpoint" in name
    )
    again, second, _ = trained(
        folders,
        tmp_path / "again",
        resume=str(tmp_path / "whole" / f"checkpoint-{steps[1]}"),
        **more,
    )
    assert same_state(whole, again)
    assert same_columns(first.ledger, second.ledger)
    reference = [trainer.ledger.reference["mean"] for trainer in (first, second)]
    assert np.array_equal(reference[0], reference[1])
    plain = tmp_path / "plain" / "checkpoint-1"
    plain.mkdir(parents=True)
    with pytest.raises(RunFolderError, match="a plain Trainer wrote it"):
        trained(folders, tmp_path / "x", resume=str(plain))


@pytest.mark.heavy
def test_a_teachers_outputs_are_stored_at_first_visits(folders, tmp_path):
    kept = {"teacher": encoder(folders / "teacher"), "data": texts(), "store": tmp_path / "kept"}
    _, first, _ = trained(folders, tmp_path / "1", sampling=SOME, **kept)
    assert first.meters.teacher_queries == ROWS
    kept["teacher"] = encoder(folders / "teacher")
    _, second, _ = trained(folders, tmp_path / "2", sampling=SOME, **kept)
    assert second.meters.teacher_queries == 0
    assert np.array_equal(first.ledger["confidence"], second.ledger["confidence"])


def test_the_gate_that_judges_a_batch_before_it(folders, tmp_path):
    gate = SelfRegulation(confidence=0.6, when="now")
    _, trainer, output = trained(folders, tmp_path, sampling=Sampling(regulation=gate))
    assert 0 < output.metrics["budget"] < 1
    assert trainer.meters.student_forwards > trainer.meters.samples_backpropagated


class Tenfold(losses.EmbedDistillLoss):
    def compute_loss_from_embeddings(self, embeddings, teacher_embeddings):
        return 10 * super().compute_loss_from_embeddings(embeddings, teacher_embeddings)


REFUSED = {
    "a loss of one's own": ({"loss": Tenfold}, ModelError, "Tenfold.compute_loss_from_embeddings"),
    "a loss of pairs": (
        {"loss": losses.MultipleNegativesRankingLoss}, ModelError, "MultipleNegativesRankingLoss"
    ),
    "a sampler": ({"batch_sampler": "no_duplicates"}, SelectionMisuse, "remove batch_sampler"),
    "no embeddings": ({"data": texts()}, UnsupportedData, "no column 'label'"),
    "two columns": (
        {"data": texts().add_column("other", ["card"] * ROWS), "teacher": "teacher"},
        UnsupportedData, "2 columns of texts",
    ),
    "other tokens": ({"data": texts(), "teacher": "other"}, TargetsError, "another vocabulary"),
    "what needs classes": (
        {"sampling": Sampling(regulation=SelfRegulation(ceiling=0.9))}, SelectionMisuse, "ceiling"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_why(folders, tmp_path, given, kind, says):
    given = dict(given)
    if "teacher" in given:
        given["teacher"] = encoder(folders / given["teacher"])
    with pytest.raises(kind, match=says):
        trained(folders, tmp_path, **given)


def on_rank(folders, folder, world):
    """The weights that are trained, with global batches of four texts."""
    as_launched()
    torch.manual_seed(7 * int(os.environ.get("RANK", "0")))  # of the projection
    _, trainer, _ = trained(
        folders, folder, model="narrow", per_device_train_batch_size=4 // world,
        sampling=Sampling(policy=All()), optim="sgd", learning_rate=0.5,
        loss=lambda student: losses.EmbedDistillLoss(student, projection_dim=8),
    )  # fmt: skip
    loss: Any = trainer.loss
    parts: Any = (trainer.model, loss.projection)
    return [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]


@pytest.mark.heavy
def test_two_ranks_train_one_projection(folders, tmp_path):
    first, second = on_ranks(2, on_rank, folders, tmp_path, 2)
    alone = on_rank(folders, tmp_path / "alone", 1)
    for mine, its, expected in zip(first, second, alone, strict=True):
        assert torch.equal(mine, its)
        torch.testing.assert_close(mine, expected, rtol=0, atol=2e-6)
