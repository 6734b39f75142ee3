"""Language models from the command line: teach, store, distill, evaluate, predict, compare."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from frugalkd import KD, Ledger, Sampling, distill, load, significance_weights
from frugalkd.errors import DataError, FrugalKDError, ModelError, RecipeError, TargetsError
from frugalkd.experiments.recipes.load import check_names, fetched_names, load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill as distill_run
from frugalkd.experiments.runs.execute import teach as teach_run
from frugalkd.experiments.runs.from_recipe import make_data, make_model, with_path
from frugalkd.language import LiveTokens, load_causal, measure_tokens, tiny_splits, tiny_tokenizer
from frugalkd.policies import All

RECIPE = """
name: verses
data:
  name: corpus
  options: {{path: {folder}/text.jsonl, tokenizer: {folder}/tokenizer, length: 32, test: 0.25}}
teacher:
  model: {{name: llama, options: {{layers: 3, width: 32, positions: 64}}}}
  policy: {{name: all}}
  training: {{epochs: 2, batch_size: 4, optimizer: {{name: adamw, lr: 0.003}}}}
student:
  model: {{name: causal-lm, options: {{layers: [0, 2]}}}}
  mode: vanilla
  objective: {{name: kd, temperature: 1.0, alpha: 0.9}}
  targets: {{encoding: head+tail, record_bytes: 32}}
  training: {{epochs: 1, batch_size: 4, optimizer: {{name: adamw, lr: 0.003}}}}
teachers: {{plain: {{}}}}
arms:
  vanilla: {{set: {{student.mode: vanilla}}}}
  half: {{set: {{student.cost: 0.5}}}}
"""


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Where tokens are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRUGALKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("verses")
    verses = tiny_splits()[1].split("\n\n")[:40]
    lines = [json.dumps({"text": verse}) for verse in verses]
    (made / "text.jsonl").write_text("\n".join(lines) + "\n")
    tiny_tokenizer(tiny_splits()[1][:4000], 300).save_pretrained(made / "tokenizer")
    (made / "verses.yaml").write_text(RECIPE.format(folder=made))
    return made


@pytest.fixture(scope="module")
def recipe(folder):
    return load_recipe(str(folder / "verses.yaml"))


def blocks_of(recipe) -> Any:
    """The two corpora."""
    return make_data(recipe, recipe.student.augment, 0)


@pytest.fixture
def path(folder):
    return str(folder / "verses.yaml")


@pytest.mark.heavy
def test_from_a_text_to_a_student(cli, path, folder, teacher, recipe, tmp_path):
    run = tmp_path / "s"
    code, text, err = cli("distill", path, "--teacher", str(teacher), "--out", str(run))
    assert code == 0, err
    assert "perplexity" in text
    assert re.search(r"tokens backpropagated +[\d,]+ = 100.0 % of full training's", text)
    assert f"frugalkd evaluate {run} --data own" in text
    results = json.loads((run / "results.json").read_text())
    data, measured = blocks_of(recipe), results["evaluation"]
    model, tokenizer = load_causal(str(run))
    again = measure_tokens(model, data.eval_dataset, load_causal(str(teacher))[0])
    assert measured == pytest.approx(again, rel=1e-6)
    assert tokenizer.get_vocab() == load_causal(str(teacher))[1].get_vocab()
    meters = results["meters"]
    assert meters["teacher_queries"] == len(data.train)
    assert meters["token_queries"] == data.train.rows
    assert meters["flops"]["teacher_forward"] > meters["flops"]["student_forward"] > 0
    encoding = {"name": "head+tail", "record_bytes": 32}
    assert results["targets"]["encoding"] == encoding
    assert results["targets"]["rows"] == data.train.rows
    assert load(run).output.name == "tokens"

    code, text, err = cli("evaluate", str(run), "--data", "own", "--json")
    assert code == 0, err
    assert json.loads(text)["cross_entropy"] == pytest.approx(measured["cross_entropy"])
    assert "teacher_kl" not in json.loads(text)
    beside = ("--teacher", str(teacher), "--json")
    code, text, err = cli("evaluate", str(run), "--data", "own", *beside)
    assert code == 0, err
    for name in ("teacher_kl", "teacher_agreement"):
        assert json.loads(text)[name] == pytest.approx(measured[name], rel=1e-6)
    code, text, err = cli("evaluate", str(run), "--data", str(folder / "text.jsonl"), "--json")
    assert code == 0, err
    both = data.train.rows + data.eval_dataset.rows
    assert json.loads(text)["tokens"] == pytest.approx(both, abs=5)  # the first of a block is none
    code, _, err = cli("report", str(run))
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "KL to the teacher" in page
    assert "tokens backpropagated, of full training" in page
    assert re.search("backpropagated 100.% as many tokens as full training", page)


@pytest.mark.heavy
def test_a_second_student_runs_the_teacher_no_more(recipe, teacher, tmp_path, monkeypatch):
    twice = "frugalkd.training.api.measure_tokens"  # held-out text is measured beside the teacher
    monkeypatch.delattr(twice)
    first = distill_run(recipe, tmp_path / "a", teacher=teacher)
    again = distill_run(recipe, tmp_path / "b", teacher=teacher)
    assert first["meters"]["teacher_queries"] > 0
    assert again["meters"]["teacher_queries"] == 0
    one, other = (load_causal(str(tmp_path / name))[0].state_dict() for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["stored", "live"])
@pytest.mark.heavy
def test_a_recipe_learns_a_part_of_the_positions(recipe, teacher, tmp_path, kind):
    half = override(recipe, {"student.positions": 0.5, "student.targets.kind": kind})
    results, data = distill_run(half, tmp_path / "s", teacher=teacher), blocks_of(recipe)
    assert results["meters"]["samples_backpropagated"] == len(data.train)
    assert results["meters"]["tokens_backpropagated"] == data.train.drawn(0.5).rows
    assert results["budget"] == 1
    assert results["token_budget"] == data.train.drawn(0.5).rows / data.train.rows
    assert results["evaluation"]["tokens"] == data.eval_dataset.rows
    if kind == "stored":
        assert results["targets"]["rows"] == data.train.rows
    one = override(recipe, {"student.positions": 1.0})
    digests = [run_digest("distill", each, teacher) for each in (recipe, one, half)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.heavy
def test_a_hybrid_student_of_a_self_regulated_teacher(recipe, tmp_path, cli):
    """Blocks that pass are left out, and weighed by how often the teacher trained on them."""
    settings = {
        "teacher.policy": {"name": "self-regulation", "budget": 0.6},
        "student.mode": "hybrid",
        "student.regulation": {"budget": 0.5, "max_skip": 2},
        "student.training.epochs": 4,
        "teacher.training.epochs": 3,
    }
    gated = override(recipe, settings)
    taught = teach_run(gated, tmp_path / "t")
    assert taught["budget"] == pytest.approx(0.6, abs=0.1)
    results = distill_run(gated, tmp_path / "s", teacher=tmp_path / "t")
    assert results["budget"] == pytest.approx(0.5, abs=0.1)
    ledger = Ledger.load(tmp_path / "s")
    data = blocks_of(gated).train
    weighed = significance_weights(Ledger.load(tmp_path / "t")) > 0
    assert not ledger["participations"][~weighed].any()
    learned = data.row_counts(np.arange(len(data))) @ (
        ledger["participations"].astype(int) + ledger["forced"]
    )
    assert results["meters"]["tokens_backpropagated"] == learned
    assert results["token_budget"] == pytest.approx(learned / (4 * data.rows))
    for command in (("report",), ("ledger", "show")):
        code, _, err = cli(*command, str(tmp_path / "s"))
        assert code == 0, err


@pytest.mark.heavy
def test_a_run_is_distill_from_python(recipe, teacher, tmp_path):
    live = override(recipe, {"student.targets.kind": "live"})
    distill_run(live, tmp_path / "s", teacher=teacher)
    data = blocks_of(recipe)
    student = make_model(with_path(recipe, teacher), data.train, recipe.seed)
    model, tokenizer = load_causal(str(teacher))
    done = distill(
        student, data.train, teacher=LiveTokens(model, data.train, tokenizer),
        objective=KD(temperature=1.0, alpha=0.9), sampling=Sampling(policy=All()),
        training=recipe.student.training, seed=recipe.seed,
    )  # fmt: skip
    ours = load_causal(str(tmp_path / "s"))[0].state_dict()
    for name, tensor in done.model.state_dict().items():
        assert torch.equal(ours[name], tensor), name


def test_a_student_begins_as_layers_of_its_teacher(recipe, teacher):
    data = blocks_of(recipe).train
    student = make_model(with_path(recipe, teacher), data, 0).state_dict()
    whole = load_causal(str(teacher))[0].state_dict()
    last = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(student[last.format(1)], whole[last.format(2)])
    assert torch.equal(student["model.embed_tokens.weight"], whole["model.embed_tokens.weight"])


def test_a_model_by_a_changed_configuration_is_new(recipe, teacher):
    data = blocks_of(recipe).train
    spec = with_path(recipe, teacher)
    options = {"path": spec.options["path"], "config": {"num_hidden_layers": 1}}
    made: Any = make_model(spec.model_copy(update={"options": options}), data, 0)
    assert made.config.num_hidden_layers == 1
    assert made.config.hidden_size == 32
    options = {"path": spec.options["path"], "embeddings": "frozen"}
    frozen: Any = make_model(spec.model_copy(update={"options": options}), data, 0)
    assert not frozen.get_input_embeddings().weight.requires_grad
    assert frozen.model.layers[0].mlp.up_proj.weight.requires_grad


def test_prompts_are_continued(cli, teacher, tmp_path):
    (tmp_path / "p.txt").write_text("ROMEO:\n\nWhat is\n")
    out = tmp_path / "said.csv"
    code, text, err = cli(
        "predict", str(teacher), "--data", str(tmp_path / "p.txt"), "--out", str(out)
    )
    assert code == 0, err
    assert "prompts" in text
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == ["ROMEO:", "What is"]
    model, tokenizer = load_causal(str(teacher))
    ids = tokenizer("What is", return_tensors="pt")["input_ids"]
    for _ in range(5):  # by hand: the likeliest token after all before
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(1)[:, None]], dim=1)
    wanted = tokenizer.decode(ids[0, -5:]).replace("\n", "\\n")
    assert rows[1]["completion"].startswith(wanted)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "a", "give a .txt file with a prompt a line"),
        ("p.jsonl", '{"other": 1}', "row 0 has no prompt, messages or text"),
        ("p.jsonl", "[1]", "row 0 has no prompt, messages or text"),
        ("p.jsonl", '{"prompt": ["a"]}', "row 0 has no prompt, messages or text"),
        ("p.jsonl", '{"messages": [{"role": "user", "content": "a"}]}', "cannot be tokenised"),
        ("p.txt", "word " * 200, "tokens, and the model 64 positions"),
    ],
)
def test_prompts_that_cannot_be_continued(cli, teacher, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    code, _, err = cli(
        "predict", str(teacher), "--data", str(tmp_path / name), "--out", str(tmp_path / "o.csv")
    )
    assert code != 0
    assert message in err
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.heavy
def test_a_store_is_filled_ahead(cli, path, recipe, teacher, tmp_path):
    out = tmp_path / "targets"
    code, text, err = cli("store", path, "--teacher", str(teacher), "--out", str(out), "--json")
    assert code == 0, err
    done, rows = json.loads(text), blocks_of(recipe).train.rows
    assert (done["rows"], done["of"]) == (rows, rows)
    code, text, err = cli(
        "distill", path, "--teacher", str(teacher), "--out", str(tmp_path / "s"),
        "--set", f"student.targets.folder={out}", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(text)["meters"]["teacher_queries"] == 0


def test_a_recipe_makes_no_store_where_it_likes(cli, path, teacher, tmp_path):
    code, _, err = cli(
        "distill", path, "--teacher", str(teacher), "--out", str(tmp_path / "s"),
        "--set", f"student.targets.folder={tmp_path / 'x'}",
    )  # fmt: skip
    assert code != 0
    assert f"{tmp_path / 'x'}" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.heavy
def test_arms_are_compared(cli, path, tmp_path):
    out = tmp_path / "c"
    code, text, err = cli("compare", path, "--out", str(out), "--seeds", "2", "--jobs", "1")
    assert code == 0, err
    assert "entropy saved" in text
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["measure"] == "entropy saved"
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert rows["half"]["budget"]["mean"] == pytest.approx(0.5, abs=0.1)
    code, _, err = cli("report", str(out))
    assert code == 0, err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["student.mode=regulated", "student.regulation={ceiling: 0.9}"],
            "student: tokens are not one class a sample, and SelfRegulation has a ceiling",
        ),
        (
            ["teacher.policy={name: self-regulation, label_source: teacher}"],
            "teacher: tokens are not one class a sample",
        ),
        (["student.targets.encoding=float16"], "keeps all classes, and tokens are too many"),
        (["student.targets.kind=ema"], "not supported for the tokens of a corpus"),
        (["teacher.trains=head"], "teacher.trains: head"),
        (["student.targets.k=8"], "targets.k (see record_bytes)"),
        (["student.model.reuse_classifier_dim=8"], "reuse_classifier_dim"),
        (
            [
                "teacher.model={name: causal-lm, options: {path: x, config: {a: 1}}}",
                "teacher.weights=pretrained",
            ],
            "options.config is for new weights",
        ),
        (["data.name=digits", "data.options={}"], "head+tail is for the tokens of a corpus"),
        (
            [
                "data.name=digits",
                "data.options={}",
                "student.targets.encoding=float16",
                "student.positions=0.5",
            ],
            "student.positions is for the tokens of a corpus",
        ),
    ],
)
def test_a_recipe_that_cannot_be(path, settings, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(path, settings)


def test_names_and_options_are_checked(path):
    with pytest.raises(RecipeError, match="data set 'corpus' takes no option 'lenght'"):
        check_names(load_recipe(path, ["data.options.lenght=5"]))
    with pytest.raises(RecipeError, match="model 'llama' needs the option width"):
        check_names(load_recipe(path, ["teacher.model.options={layers: 2}"]))
    with pytest.raises(RecipeError, match="unknown data set 'corpos': did you mean corpus"):
        check_names(load_recipe(path, ["data.name=corpos", "student.targets.encoding=float16"]))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["student.model.name=lenet5"], FrugalKDError, "set model.name to causal-lm or llama"),
        (["student.objective.temperature=2"], FrugalKDError, "KD has 2.0: set its temperature"),
        (["student.model.options={layers: [7]}"], FrugalKDError, "layers are"),
        (["data.train_size=5"], DataError, "no labels that are known ahead"),
        (["student.training.compile=true"], FrugalKDError, "compile is not supported"),
        (
            ["student.model.options={embeddings: train}"],
            FrugalKDError,
            "embeddings must be trained",
        ),
        (["student.model.options={config: {num_hiden_layers: 2}}"], FrugalKDError, "did you mean"),
        (["data.options.test=validation"], DataError, "text files, which have no split 'validat"),
        (["data.options.tokenizer=5"], FrugalKDError, "tokenizer must be text"),
    ],
)
def test_a_run_that_cannot_be(path, teacher, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        distill_run(load_recipe(path, settings), tmp_path / "s", teacher=teacher)


def test_a_model_of_another_vocabulary_is_refused(path, teacher, folder, tmp_path):
    other = tmp_path / "other"
    load_causal(str(teacher))[0].save_pretrained(other)
    model = f"model={{name: causal-lm, options: {{path: {other}}}}}"
    assert make_model(
        load_recipe(path, [f"teacher.{model}"]).teacher.model, blocks_of(load_recipe(path)).train, 0
    )  # it has no tokenizer of its own
    tiny_tokenizer("other words, other words", 300).save_pretrained(other)
    with pytest.raises(TargetsError, match="has other numbers for tokens than the one of the data"):
        teach_run(load_recipe(path, [f"teacher.{model}"]), tmp_path / "t")
    with pytest.raises(TargetsError, match="has other numbers for tokens than the one of the data"):
        distill_run(load_recipe(path, [f"student.{model}"]), tmp_path / "s", teacher=teacher)
    weights = ["teacher.weights=pretrained", f"teacher.{model}", "teachers={}"]
    with pytest.raises(TargetsError, match="has other numbers for tokens than the one of the data"):
        distill_run(load_recipe(path, weights), tmp_path / "p")


def test_what_is_refused_is_refused_before_the_teacher_runs(path, teacher, tmp_path):
    for setting in ("student.objective.temperature=2", "student.training.compile=true"):
        with pytest.raises(FrugalKDError):
            distill_run(load_recipe(path, [setting]), tmp_path / "s", teacher=teacher)
    assert not list(teacher.glob("targets-*"))


@pytest.mark.parametrize("positions", [1, 0.5])
def test_text_to_train_on_is_not_held_out(path, folder, positions):
    settings = [
        f"data.options.{each}" for each in (f"test={folder}/text.jsonl", f"positions={positions}")
    ]
    recipe = load_recipe(path, settings)
    with pytest.raises(DataError, match="is both to train on and held out"):
        blocks_of(recipe)


def test_of_what_is_held_out_every_position_is_measured(path):
    whole, half = (
        blocks_of(load_recipe(path, [f"data.options.positions={part}"])) for part in (1, 0.5)
    )
    assert half.train.rows < 0.7 * whole.train.rows
    assert half.eval_dataset.digest() == whole.eval_dataset.digest()


def test_other_weights_at_a_path_are_another_run(path, teacher, tmp_path):
    settings = [f"student.model.options={{path: {teacher}, layers: [0]}}"]
    before = run_digest("distill", load_recipe(path, settings), None)
    assert before == run_digest("distill", load_recipe(path, settings), None)
    weights = load_file(teacher / "model.safetensors")
    save_file({name: part * 2 for name, part in weights.items()}, teacher / "model.safetensors")
    assert before != run_digest("distill", load_recipe(path, settings), None)


def test_weights_that_are_missing_are_not_drawn(teacher):
    weights = load_file(teacher / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    for read in (load, lambda folder: load_causal(str(folder))):
        with pytest.raises(ModelError, match=r"lacks weights of .*: model\.layers\.1"):
            read(teacher)


def test_a_model_that_claims_more_than_its_weights(teacher):
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"intermediate_size": 10**8}))
    with pytest.raises(ModelError, match="does not fit the model"):
        load(teacher)
    (teacher / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**6}))
    with pytest.raises(ModelError, match="does not fit the model"):
        load(teacher)


def test_a_folder_alone_can_be_evaluated(cli, teacher, folder, tmp_path):
    code, _, err = cli("push", str(teacher), "me/verses", "--out", str(tmp_path / "card"))
    assert code == 0, err
    assert str(tmp_path) not in (tmp_path / "card" / "model.json").read_text()
    code, text, err = cli(
        "evaluate", str(tmp_path / "card"), "--data", str(folder / "text.jsonl"), "--json"
    )
    assert code == 0, err
    assert json.loads(text)["perplexity"] > 1
    code, _, err = cli("evaluate", str(teacher), "--data", "some/texts")
    assert code != 0
    assert "fetched only with --download" in err


def test_what_a_recipe_would_fetch(path):
    assert fetched_names(load_recipe(path)) == []
    settings = ["data.options={path: a/b, tokenizer: c/d}", "teacher.model.name=causal-lm"]
    found = fetched_names(load_recipe(path, [*settings, "teacher.model.options={path: e/f}"]))
    assert found == ["the data set a/b", "the tokenizer c/d", "the model e/f"]


def test_tokens_need_a_place(path, monkeypatch):
    monkeypatch.setenv("FRUGALKD_CACHE", "")
    recipe = load_recipe(path)
    with pytest.raises(DataError, match="no cache to keep tokens in: name a folder, or set FRUG"):
        blocks_of(recipe)


def test_other_commands_say_why_not(cli, path, teacher, tmp_path):
    for words, message in (
        (("estimate", path), "these are blocks of a corpus"),
        (("export", str(teacher), "--to", "onnx", "--out", str(tmp_path)), "is a model of transf"),
    ):
        code, _, err = cli(*words)
        assert code != 0
        assert message in err


def test_a_folder_to_push_is_complete(cli, teacher, tmp_path):
    out = tmp_path / "card"
    code, _, err = cli("push", str(teacher), "me/verses", "--out", str(out))
    assert code == 0, err
    assert "pipeline_tag: text-generation" in (out / "README.md").read_text()
    model, tokenizer = load_causal(str(out))
    own = load_causal(str(teacher))[0].state_dict()
    assert all(torch.equal(own[name], each) for name, each in model.state_dict().items())
    assert len(tokenizer) == 300
