"""The command line without training: help, mistakes, lists, schemas. Runs are in test_cli_runs."""

import json
import subprocess
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from frugalkd.data import DATA
from frugalkd.errors import FrugalKDWarning, UnknownName
from frugalkd.experiments.recipes.load import recipe_text
from frugalkd.ledger.ledger import Ledger
from frugalkd.models import MODELS

COMMANDS = (
    "demo",
    "teach",
    "store",
    "distill",
    "chain",
    "compare",
    "recipes",
    "recipes show",
    "schema",
    "ledger show",
    "ledger export",
    "ledger make",
    "evaluate",
    "predict",
    "push",
)


def test_no_torch_before_a_command_needs_it():
    script = """
import sys
from frugalkd.cli import main
for words in ("--version", "--help", "recipes", "recipes show digits", "teach --help"):
    assert main(words.split()) == 0, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("frugalkd ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_with_an_example(cli, command):
    code, out, err = cli(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert "Example" in out
    assert f"frugalkd {command}" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out  # no example is cut


def test_help_fits_and_names_all_commands(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert all(command.split()[0] in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("teech", "did you mean 'teach'"),
        ("teach", "missing argument 'RECIPE'"),
        ("teach digits", "missing option '--out'"),
        ("teach digits --out x --sed 3", "no such option"),
        (
            "teach digits --out x --seed x",
            "invalid value for '--seed': it should be a valid integer, not 'x'",
        ),
        ("distill digits --out x --cost 30%", "it should be a valid number, not '30%'"),
        ("export x --out x --to onxx", "invalid value for '--to': 'onxx' is not one of 'onnx'"),
        ("teach digts --out x", "unknown recipe 'digts': did you mean digits?"),
        ("teach digits --out x --seed -1", "seed is -1"),
        ("teach digits --out x --set teacher.polcy=1", "teacher.polcy: did you mean policy?"),
        ("teach digits --out x --set data.name=digit", "unknown data set 'digit'"),
        ("distill digits --out x --mode hybird", "student.mode is 'hybird': did you mean hybrid"),
        ("compare digits --out x --arms vanila", "unknown arm 'vanila': did you mean vanilla"),
        ("recipes show digit", "unknown recipe 'digit'"),
        ("recipes shw", "did you mean 'show'"),
        ("schema recip", "'recip' is not one of 'recipe', 'results', 'comparison'"),
        ("ledger show nowhere", "no ledger at nowhere"),
        ("ledger show nowhere --top 0", "invalid value for '--top'"),
        ("evaluate nowhere", "no folder nowhere"),
        ("predict nowhere --data digits --out x.csv", "no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cli, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says.lower() in err.lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("distil digits", "Did you mean 'distill'? (see 'frugalkd --help')"),
        (
            "distill digits --mod regulated --out x",
            "no such option: --mod (Possible options: --mod",
        ),
        ("--mode regulated distill digits", "no such option: --mode"),
        ("distill digits --mode Regulated --out x", "'Regulated': did you mean regulated?"),
        ("compare digits --budgets 25% --out x", "--budgets 25%: write parts of 1, as in 0.1,0.25"),
        ("compare digits --budgets 25 --out x", "in (0, 1], not 25 (25 % is 0.25)"),
        ("compare digits --budgets 0 --out x", "in (0, 1], not 0\n"),
        ("compare digits --seeds three --out x", "should be a valid integer, not 'three' ("),
        ("compare digits --jobs 0 --out x", "'--jobs': it should be greater than or equal to 1"),
        ("compare digits --arms vanilla regulated --out x", "(regulated): quote values that"),
        ("compare digits --arms vanilla;regulated --out x", "did you mean regulated or vanilla?"),
        ("compare digits --claim regulated@0.25 --out x", "write 'A > B' (better) or 'A >= B'"),
        ("compare digits --only deadbeef --out x", "no run has that digest; --list shows them"),
        ("store digits --teacher folder --out x --shard 1", "give I/N, such as 0/2 and 1/2"),
        ("store digits --out x", "no teacher: name a folder with --teacher DIR"),
        ("store digits --teacher nowhere --out x", "no folder nowhere: make one with 'frugalkd te"),
        ("estimate digits --teacher file.txt", "no folder file.txt: make one with 'frugalkd teac"),
        ("teach mine --out x", "unknown recipe 'mine': did you mean mine.yaml?"),
        ("teach mine.yml --out x", "mine.yml: No such file or directory; did you mean mine.yaml?"),
        ("teach folder --out x", "folder is a folder: a recipe is a YAML file"),
        ("teach file.txt --out x", "file.txt is not a recipe: it holds no 'key: value' lines"),
        ("teach mine.yaml --out x", "recipe mine.yaml: no such setting teacher.traning: did you "),
        ("teach digits --out x --set epochs=3", "did you mean teacher.training.epochs or student."),
        ("teach digits --out x --set training.epochs=3", "teacher.training or student.training?"),
        ("teach digits --out x --set teacher.training.lr=1", "teacher.training.optimizer.lr?"),
        ("teach digits --out x --set teacher.epochs=3", "did you mean teacher.training.epochs?"),
        ("teach digits --out x --set teacher.training.epochs 3", "(3): quote values that"),
        ("teach digits --out x --dryrun", "no such option: --dryrun (Possible options: --dry-run)"),
        (
            "evaluate folder",
            "no finished model (no model.json): name a folder that 'frugalkd teach'",
        ),
        ("predict folder --data digits", "missing option '--out' (see 'frugalkd predict --help')"),
        (
            "evaluate --data folder",
            "missing argument 'DIR': if --data took it for its value, write --data own",
        ),
        ("evaluate folder --data", "no finished model (no model.json)"),
        (
            "ledger show folder",
            "no ledger at folder/ledger.safetensors: make one with 'frugalkd te",
        ),
        ("report folder", "holds neither comparison.json nor results.json: name the folder of a"),
        ("plot nowhere --to x.pdf", "there is no nowhere: name the folder of a comparison or of a"),
    ],
)
def test_a_mistyped_command_says_what_to_do(cli, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    recipe = recipe_text("digits").replace("training:", "traning:", 1)
    (tmp_path / "mine.yaml").write_text(recipe)
    code, out, err = cli(*arguments.split(" "))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


def test_debug_shows_the_traceback(cli):
    with pytest.raises(UnknownName):
        cli("recipes", "show", "digit", "--debug")


def test_recipes_lists_and_shows(cli):
    _, out, _ = cli("recipes")
    assert all(name in out for name in ("digits", "fashion-mnist", "cifar10"))
    assert "digits" in json.loads(cli("recipes", "--json")[1])
    assert yaml.safe_load(cli("recipes", "show", "digits")[1])["name"] == "digits"


@pytest.mark.parametrize("kind", ["recipe", "results", "comparison"])
def test_schemas_are_json(cli, kind):
    code, out, _ = cli("schema", kind)
    schema = json.loads(out)
    assert code == 0
    assert schema["type"] == "object"
    assert "schema" in schema["properties"]


def test_a_dry_run_prints_a_recipe_that_can_be_run_again(cli, tmp_path):
    arguments = ["--out", str(tmp_path / "x"), "--seed", "7"]
    setting = ["--set", "student.model.path=my.models:Net"]
    code, out, _ = cli("teach", "digits", *arguments, *setting, "--dry-run")
    assert code == 0
    assert out.startswith("# would import: my.models:Net\n")
    path = tmp_path / "again.yaml"
    path.write_text(out)
    again = cli("teach", str(path), "--out", "x", "--dry-run")[1]
    assert again == out
    assert not (tmp_path / "x").exists()
    found = json.loads(cli("teach", str(path), "--out", "x", "--dry-run", "--json")[1])
    assert found["recipe"]["seed"] == 7
    assert found["imports"] == ["my.models:Net"]


def test_mode_takes_the_place_of_a_policy(cli):
    settings = ["--set", "student.mode=null", "--set", "student.policy.name=random"]
    arguments = ["digits", "--out", "x", "--dry-run", "--json", *settings]
    student = json.loads(cli("distill", *arguments)[1])["recipe"]["student"]
    assert (student["mode"], student["policy"]["name"]) == (None, "random")
    student = json.loads(cli("distill", *arguments, "--mode", "hybrid")[1])["recipe"]["student"]
    assert (student["mode"], student["policy"]) == ("hybrid", None)


def test_ledger_show_fits_80_columns(cli, tmp_path):
    ledger = Ledger.new(5000, labels=np.arange(5000) % 100)
    ledger["participations"][:] = np.arange(5000) % 31
    ledger.epochs = 30
    ledger.about = {"classes": "\n".join(f"a class with a [long] name {i}" for i in range(100))}
    ledger.save(tmp_path / "ledger.safetensors")
    code, out, _ = cli("ledger", "show", str(tmp_path))
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "80 more" in out
    assert "[long]" in out
    summary = json.loads(cli("ledger", "show", str(tmp_path), "--top", "3", "--json")[1])
    assert len(summary["most"]) == 3
    code, out, _ = cli("ledger", "export", str(tmp_path), "--to", str(tmp_path / "new/l.csv"))
    assert code == 0
    assert len((tmp_path / "new/l.csv").read_text().splitlines()) == 5001


def test_the_recipes_schema_names_the_models_and_the_data(cli):
    described = cli("schema", "recipe")[1]
    for known in (*MODELS, *DATA):
        assert known in described


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("teach", "student.model"),
        ("teach", "data"),
        ("teach", "teachers.big.teacher.model"),
        *((command, "data") for command in ("distill", "store", "compare", "estimate")),
    ],
)
@pytest.mark.heavy
def test_no_import_lists_what_it_refuses(cli, tmp_path, monkeypatch, command, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    out = [] if command == "estimate" else ["--out", "x"]
    setting = ["--set", f"{where}.path=mine:Net"]
    code, said, err = cli(command, "digits", *out, *setting, "--no-import")
    assert (code, said) == (2, "")
    assert err == "error: recipe digits would import mine:Net, and --no-import refuses that\n"
    assert not (tmp_path / "x").exists()
    code, said, _ = cli(command, "digits", *out, *setting, "--dry-run")
    assert said.startswith("# would import: mine:Net\n")
    code, said, _ = cli(command, "digits", *out, "--no-import", "--dry-run")
    assert code == 0


@pytest.mark.parametrize("command", ["distill", "compare", "estimate"])
def test_a_cost_is_an_option_where_a_student_is_trained(cli, tmp_path, command):
    out = [] if command == "estimate" else ["--out", str(tmp_path / "x")]
    code, said, _ = cli(command, "digits", *out, "--cost", "0.25", "--dry-run")
    assert code == 0
    assert "cost: 0.25" in said


HUB = "data={name: hugging-face, options: {path: a/pictures, image: image, tokenizer: a/b}}"


@pytest.mark.parametrize("command", ["teach", "distill", "store", "compare", "estimate"])
def test_a_recipe_from_elsewhere_fetches_nothing(cli, tmp_path, contacted, command):
    """Under --no-import names on the hub are refused, and a dry run lists them."""
    out = [] if command == "estimate" else ["--out", str(tmp_path / "x")]
    code, said, err = cli(command, "digits", *out, "--set", HUB, "--no-import")
    assert (code, said, err.count("\n")) == (2, "", 1)
    names = "the data set a/pictures, the tokenizer a/b"
    assert f"would fetch {names}, and --no-import refuses that: allow it with --download" in err
    for more in ([], ["--no-import", "--download"]):
        code, said, err = cli(command, "digits", *out, "--set", HUB, *more, "--dry-run")
        assert code == 0, err
        assert said.splitlines()[1] == f"# would fetch: {names}"
    assert not (tmp_path / "x").exists()
    assert contacted == []


@pytest.mark.parametrize("more", [[], ["--no-import"]])
def test_data_are_downloaded_only_with_the_flag(cli, tmp_path, monkeypatch, contacted, more):
    monkeypatch.setattr("frugalkd.cli.options.rank_and_world", lambda: (0, 1))
    downloads = []

    def fail(root, download):
        downloads.append(root)
        raise RuntimeError("no network")

    torchvision: Any = ModuleType("torchvision")  # the real one takes seconds to import
    torchvision.datasets = SimpleNamespace(MNIST=fail)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setattr("frugalkd.data.named.require_extra", lambda *_: None)
    root, out = str(tmp_path / "new"), str(tmp_path / "x")
    arguments = ["teach", "digits", "--out", out, "--set", f"data={{name: mnist, root: {root}}}"]
    code, _, err = cli(*arguments, *more)
    assert (code, downloads, contacted) == (2, [], [])
    assert "--download" in err
    assert not (tmp_path / "new").exists()
    assert cli(*arguments, *more, "--download", "--dry-run")[0] == 0
    assert downloads == []
    assert "failed (no network)" in cli(*arguments, *more, "--download")[2]
    assert downloads == [root]
    monkeypatch.setattr("frugalkd.cli.options.rank_and_world", lambda: (1, 2))
    assert "--download is for one process" in cli(*arguments, *more, "--download")[2]


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_that_was_downloaded_runs_nothing(cli, tmp_path, command):
    card = {"schema": 1, "weights": "w.safetensors", "model": {"path": "os:system", "options": {}}}
    card["model"]["options"] = {"command": f"touch {tmp_path / 'proof'}"}
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "w.safetensors").touch()
    more = ["--data", "digits", "--out", str(tmp_path / "x.csv")] if command == "predict" else []
    code, out, err = cli(command, str(tmp_path), *more)
    assert (code, out) == (2, "")
    assert "names the import path 'os:system'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "proof").exists()


def test_a_table_that_cannot_be_written_is_one_line(cli, tmp_path):
    Ledger.new(3).save(tmp_path / "ledger.safetensors")
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for to, says in (
        ("file/x.csv", "/file is a file, not a folder: name another folder"),
        ("folder.csv", "folder.csv is a folder"),
    ):
        code, out, err = cli("ledger", "export", str(tmp_path), "--to", str(tmp_path / to))
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert says in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device; free some"),
        (OSError(2, "No such file or directory", "a/b"), "a/b: No such file or directory\n"),
        (MemoryError(), "out of memory: give the machine less"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory: give the machine"),
    ],
)
def test_what_the_machine_lacks_is_one_line(cli, monkeypatch, error, says):
    def fail(*_):
        raise error

    monkeypatch.setattr(Ledger, "load", fail)
    code, _, err = cli("ledger", "show", "x")
    assert code == 2
    assert err.startswith(f"error: {says}")
    with pytest.raises(type(error)):
        cli("ledger", "show", "x", "--debug")


def test_an_unexpected_error_keeps_its_traceback(cli, monkeypatch):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Ledger, "load", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        cli("ledger", "show", "x")


def test_our_warnings_are_one_line(cli, monkeypatch):
    def warn(*_):
        warnings.warn("no sample of\nclass c", FrugalKDWarning, stacklevel=1)
        return Ledger.new(3)

    monkeypatch.setattr(Ledger, "load", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        _, _, err = cli("ledger", "export", "x", "--to", "/dev/null/x.csv")
        assert warnings.showwarning is before
    assert err.startswith("warning: no sample of class c\nerror: /dev/null is a file, ")


def test_the_command_line_keeps_freed_memory(cli, monkeypatch):
    calls = []
    monkeypatch.setattr("frugalkd.cli.keep_freed_memory", lambda: calls.append(1))
    assert cli("recipes")[0] == 0
    assert calls == [1]
