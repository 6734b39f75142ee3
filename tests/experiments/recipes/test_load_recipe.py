from pathlib import Path

import pytest

from frugalkd.errors import ImportRefused, ModelError, RecipeError, SettingError, UnknownName
from frugalkd.experiments.recipes.load import (
    check_names,
    check_variants,
    fetched_names,
    import_paths,
    load_recipe,
    override,
    recipe_names,
    recipe_text,
    refuse_imports,
)
from frugalkd.models import build_model
from frugalkd.policies import All, Sampling

MINIMAL = """\
name: mine
data: {name: digits}
teacher: {model: {name: mlp}}
student: {model: {name: mlp}}
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_valid_and_names_what_exists(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    check_names(recipe)
    check_variants(recipe, recipe.arms)


def test_the_ready_recipes_are_there():
    assert {"digits", "fashion-mnist", "cifar10"} <= set(recipe_names())


def test_a_resolved_recipe_is_the_same(write):
    recipe = load_recipe(write(MINIMAL))
    assert override(recipe, {}) == recipe


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UnknownName, match="unknown recipe 'digit': did you mean digits"):
        recipe_text("digit")


def test_a_missing_file():
    with pytest.raises(RecipeError, match=r"cannot read recipe no/such\.yaml: No such file"):
        load_recipe("no/such.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "seed: 1\nseed: 2\n", "line 6: 'seed' is given twice"),
        (MINIMAL + "seed: [1\n", "not YAML"),
        (MINIMAL + "yes: 1\n", "line 5: key 'yes' is not text"),
        ("- a\n- b\n", "is not a recipe"),
        ("", "is not a recipe"),
        (MINIMAL + "sed: 1\n", "no such setting sed: did you mean seed?"),
        (MINIMAL.replace("name: mine\n", ""), "name is missing"),
        ("name: !!python/object:os.system x\n", "line 1: not YAML: could not determine"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_file(write, text, says):
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert says in message
    assert path in message
    assert "\n" not in message


def test_every_error_of_a_recipe_is_listed(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("name: mine\ndata: {name: digits, train_size: 0}\n"))
    message = str(caught.value)
    for said in ("teacher is missing", "student is missing", "data.train_size is 0: it should be"):
        assert said in message
    assert "more" not in message
    many = "".join(f"wrong{n}: 1\n" for n in range(30))
    with pytest.raises(RecipeError, match=r"no such setting wrong9.*; and 20 more$"):
        load_recipe(write(MINIMAL + many))


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("teacher.policy.confidnce=1", "no such setting teacher.policy.confidnce: did you mean co"),
        ("teacher.policy.confidence=-1", "teacher.policy.confidence must be in (0, 1], not -1"),
        ("teacher.policy.confidence=x", "teacher.policy.confidence is 'x': it should be a valid"),
        ("teacher.policy.name=rando", "teacher.policy.name is 'rando': did you mean random?"),
        (
            "teacher.policy={}",
            "teacher.policy.name is missing: known are all, ",
        ),
        ("teacher.policy=3", "teacher.policy is 3: it is a section, write"),
        (
            "student.objective=dkd",
            "student.objective is 'dkd': it is a section, set student.objective.name",
        ),
        ("student.training.optimizer=sgd", "a section, set student.training.optimizer.name to"),
        ("teacher.policy.when=nw", "teacher.policy.when is 'nw': did you mean now?"),
        ("student.mode=hybird", "student.mode is 'hybird': did you mean hybrid?"),
        ("student.training.epoch=1", "no such setting student.training.epoch: did you mean epochs"),
        ("student.training.epochs=-1", "student.training.epochs must be positive, not -1"),
        ("student.training.optimizer.lrr=1", "student.training.optimizer.lrr: did you mean lr?"),
        (
            "student.training.max_grad_norm=-1",
            "student.training.max_grad_norm must be positive, not -1",
        ),
        ("student.training.num_workers=-1", "student.training.num_workers must be 0 or more"),
        ("student.training.recalibrate_bn=-1", "student.training.recalibrate_bn must be 0 or more"),
        ("student.training.optimizer.lr=-1", "student.training.optimizer.lr must be 0 or more"),
        (
            "student.training.optimizer.lr=.nan",
            "student.training.optimizer.lr is nan: it should be",
        ),
        ("student.training.optimizer.weight_decay=-1", "optimizer.weight_decay must be 0 or more"),
        ("student.training.optimizer.momentum=1", "optimizer.momentum must be in [0, 1), not 1.0"),
        ("student.training.optimizer.betas=[2, 3]", "optimizer.betas must be in [0, 1), not [2.0"),
        ("student.training.schedule.warmup=400", "schedule.warmup must be in [0, 1), not 400"),
        ("student.training.schedule.warmup_steps=400", "schedule.warmup"),
        ("student.training.schedule.final=-1", "schedule.final must be 0 or more, not"),
        (
            "student.objective.temperature=.inf",
            "student.objective.temperature is inf: it should be",
        ),
        ("student.regulation.whn=now", "student.regulation.whn: did you mean when?"),
        ("student.policy={name: all}", "student: mode stands for policy and weighting"),
        ("device=gpu", "device is 'gpu': did you mean cuda?"),
        ("techer.seed=1", "no such setting techer: did you mean teacher"),
        ("seed.x=1", "seed.x: seed is a value (0), not a section"),
        ("seed", "--set 'seed' is not section.key=value"),
        ("a..b=1", "--set 'a..b=1' is not section.key=value"),
        ("seed=[", "--set seed, line 1: not YAML"),
        ("data={path: null}", "data: give either name or path"),
    ],
)
def test_a_bad_override_names_the_field_in_one_line(setting, says):
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [setting])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("student.model.name=resnet88", "student.model.name: unknown model 'resnet88': did you"),
        ("student.model.options.hiden=[3]", "model 'mlp' takes no option 'hiden': did you mean hi"),
        ("data.name=mnits", "data.name: unknown data set 'mnits': did you mean mnist"),
        ("data.name=" + "m" * 5000, f"data.name: unknown data set '{'m' * 100}': known are"),
        ("teacher.model.path=foo", "teacher.model.path is 'foo': write package.module:Name"),
    ],
)
def test_unknown_names_are_found_before_training(setting, says):
    with pytest.raises(RecipeError) as caught:
        check_names(load_recipe("digits", [setting]))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("arms.new.set.student.mode=hybird", "arms.new.set: student.mode is 'hybird'"),
        ("teachers.t.teacher.model.name=mpl", "teachers.t: teacher.model.name: unknown model"),
    ],
)
def test_unknown_names_in_arms_and_teachers(setting, says):
    recipe = load_recipe("digits", [setting])
    check_names(recipe)
    with pytest.raises(RecipeError) as caught:
        check_variants(recipe, recipe.arms)
    assert says in str(caught.value)


def test_an_arm_that_is_not_run_is_not_checked():
    check_variants(load_recipe("digits", ["arms.new.set.student.mode=hybird"]), ["vanilla"])


def test_values_are_yaml():
    recipe = load_recipe("digits", ["student.training.optimizer.lr=1e-3", "teacher.augment.flip=y"])
    assert recipe.student.training.optimizer.lr == 1e-3
    assert recipe.teacher.augment.flip is True
    options = load_recipe("digits", ["student.model.options.dropout=1e-1"]).student.model.options
    assert options == {"hidden": [24], "dropout": 0.1}


def test_a_new_policy_starts_from_its_defaults():
    recipe = load_recipe("digits", ["teacher.policy.name=all"])
    assert recipe.teacher.policy.build() == All()
    recipe = load_recipe("digits", ["teacher.policy.fraction=0.5", "teacher.policy.name=random"])
    assert recipe.teacher.policy.build().fraction == 0.5


def test_the_same_name_again_keeps_its_settings():
    recipe = load_recipe("digits", ["teacher.policy.name=self-regulation"])
    assert recipe == load_recipe("digits")


def test_a_new_model_drops_the_options_of_the_old_one():
    model = load_recipe("digits", ["student.model.path=my.models:Net"]).student.model
    assert (model.name, model.path, model.options) == (None, "my.models:Net", {})


def test_what_an_arm_sets_is_a_dotted_key():
    recipe = load_recipe("digits", ["arms.mine.set.student.mode=hybrid"])
    assert recipe.arms["mine"].set == {"student.mode": "hybrid"}


def test_an_override_leaves_the_recipe_as_it_was():
    recipe = load_recipe("digits")
    before = recipe.model_dump()
    changed = override(recipe, {"student.training.epochs": 3, "student.model.options.hidden": [2]})
    assert changed.student.training.epochs == 3
    assert recipe.model_dump() == before


def test_a_mapping_replaces_a_section():
    recipe = override(load_recipe("digits"), {"teacher.training": {"epochs": 2}})
    assert recipe.teacher.training.batch_size == 128


def test_import_paths_are_listed_and_not_imported():
    recipe = load_recipe("digits", ["student.model.path=no.such.module:Net"])
    check_names(recipe)
    assert import_paths(recipe) == ["no.such.module:Net"]


def test_what_would_be_fetched_is_listed(tmp_path):
    recipe = load_recipe("digits", ["teacher.model.name=timm/resnet10t"])
    assert fetched_names(recipe) == []
    (tmp_path / "here").mkdir()
    texts = {"name": "text-encoder", "options": {"path": "a/b"}}
    recipe = override(
        recipe,
        {
            "teacher.model.init_weights": "pretrained",
            "data": {"name": "hugging-face", "options": {"path": "x/y", "tokenizer": "words"}},
            "arms.hub": {"set": {"student.model": texts}},
            "arms.here": {"set": {"student.model.options.path": str(tmp_path / "here")}},
        },
    )
    assert fetched_names(recipe) == [
        "the data set x/y",
        "the pretrained weights of timm/resnet10t",
        "the model a/b",
    ]
    own = {"path": "mine:make", "options": {"tokenizer": "my-bpe", "path": "a/b"}}
    assert "my-bpe" not in " ".join(fetched_names(override(recipe, {"data": own})))
    tiny = override(load_recipe("tiny-lm"), {"data.options.tokenizer": ""})
    assert fetched_names(tiny) == []
    here = {"name": "hugging-face", "options": {"path": str(tmp_path / "here")}}
    assert "the data set" not in " ".join(fetched_names(override(recipe, {"data": here})))
    for odd in ("\0", "a" * 5000, "__main__/x", "/no/such/file.parquet"):
        odd_data = {"name": "hugging-face", "options": {"path": odd, "tokenizer": odd}}
        fetched_names(override(recipe, {"data": odd_data}))


def test_import_paths_are_those_of_teachers_and_arms_too():
    recipe = load_recipe("digits", ["data.path=mine:data"])
    recipe = override(
        recipe,
        {
            "teachers.big.teacher.model": {"path": "mine:Big"},
            "arms.small": {"set": {"student.model.path": "mine:Small"}},
            "arms.broken": {"set": {"student.nothing": 1, "student.model.path": "mine:Never"}},
        },
    )
    assert import_paths(recipe) == ["mine:data", "mine:Big", "mine:Small"]
    with pytest.raises(ImportRefused, match=r"^recipe digits would import mine:data, mine:Big, m"):
        refuse_imports(recipe)
    refuse_imports(load_recipe("digits"))


@pytest.mark.parametrize("section", ["arms", "teachers"])
@pytest.mark.parametrize(
    "name", ["../../x", "..", ".", "", "a/b", "/etc", "a\\b", "a\x00", "-a", "a" * 101, "a\n"]
)
def test_a_name_that_leaves_the_folder_is_refused(section, name):
    raw = load_recipe("digits").model_dump()
    with pytest.raises(RecipeError) as caught:
        override(load_recipe("digits"), {section: {**raw[section], name: {}}})
    assert str(caught.value).startswith(f"{section}: {name[:100]!r} cannot be a name here")


@pytest.mark.parametrize("name", ["short", "short:hybrid", "τ 0.9", "k=v".replace("=", "+"), "9.x"])
def test_other_names_are_not(name):
    assert name in override(load_recipe("digits"), {"arms": {name: {}}}).arms


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (".nan", "student.model.options: holds nan, which is not finite"),
        ("-.inf", "holds -inf"),
        ("2020-01-01", "holds a date"),
        ("!!binary aGVsbG8=", "holds a bytes"),
        ("!!set {a, b}", "holds a set"),
        ("0x" + "f" * 40, "more than 64 bits"),
        ("[" * 20 + "]" * 20, "is nested too deeply"),
    ],
)
@pytest.mark.parametrize("key", ["student.model.options.x", "arms.mine.set.x"])
def test_values_that_json_cannot_hold_are_refused(key, value, says):
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [f"{key}={value}"])
    assert says.replace("student.model.options", key.removesuffix(".x")) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_very_long_number_is_shortened():
    with pytest.raises(RecipeError, match=r"student\.mode is a int: known are hybrid"):
        load_recipe("digits", ["student.mode=0x" + "f" * 20_000])


def test_gpu_means_cuda():
    with pytest.raises(RecipeError, match=r"device is 'gpu': did you mean cuda\?"):
        load_recipe("digits", ["device=gpu"])


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("2", "is of schema 2, from a newer frugalkd; this one reads schema 1: install a newer"),
        ("0", "is of schema 0, from an older frugalkd; this one reads schema 1: write it again"),
        ("[1]", "does not say its schema"),
    ],
)
def test_another_schema_is_refused_with_advice(write, schema, says):
    path = write(f"{MINIMAL}schema: {schema}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"recipe {path} {says}")


def test_a_recipe_may_say_its_schema(write):
    assert load_recipe(write(f"{MINIMAL}schema: 1\n")) == load_recipe(write(MINIMAL))


def test_a_large_file_is_refused_unread(write):
    path = write(MINIMAL + "#" * (1 << 17))
    with pytest.raises(RecipeError, match="it is larger than 131072 bytes"):
        load_recipe(path)


ALIASES = "a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGES = "a0: &a0 {x: 0}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], y{n}: 0}}\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ALIASES, "more than 100000 values"),
        (MERGES, "more than 100000 values"),
        ("a: &a [*a]", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("!!python/name:os.system", "not YAML"),
        ("[" * 10_000, "not YAML"),
    ],
)
@pytest.mark.heavy
def test_harmful_yaml_is_refused_in_one_line(write, text, says):
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipe(write(text))
    assert "\n" not in str(caught.value)


def test_control_characters_are_escaped(write):
    with pytest.raises(RecipeError, match=r"no such setting a\?\[31mb"):
        load_recipe(write(MINIMAL + '"a\\e[31mb": 1\n'))


def test_settings_are_not_written_to():
    section = {"name": "kd"}
    settings = {"student.objective": section, "student.objective.alpha": 0.5}
    recipe = override(load_recipe("digits"), settings)
    assert recipe.model_dump()["student"]["objective"]["alpha"] == 0.5
    assert section == {"name": "kd"}


@pytest.mark.parametrize(
    "model",
    [
        "{name: torchvision/squeezenet1_1}",
        "{name: timm/resnet10t, options: {drop_rate: 0.1}}",
        "{name: timm/resnet18.a1_in1k}",
    ],
)
def test_models_of_libraries_are_known_to_recipes(model):
    pytest.importorskip(model.partition("/")[0].removeprefix("{name: "))
    recipe = load_recipe("digits", [f"{role}.model={model}" for role in ("teacher", "student")])
    check_names(recipe)
    check_variants(load_recipe("digits", [f"teachers.big.teacher.model={model}"]), [])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("teacher.model={name: tim/resnet18}", "teacher.model.name: unknown library of models"),
        ("student.model={name: timm/resnet118}", "student.model.name: unknown model 'timm/resnet1"),
        ("student.model={name: torchvision/resnet17}", "did you mean torchvision/resnet1"),
        ("teacher.model={name: timm/resnet18, options: {pretrained: true}}", "teacher.model: mode"),
        ("student.model={name: rsnt}", "did you mean resnet8"),
    ],
)
def test_recipes_and_build_model_refuse_the_same(setting, says):
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    with pytest.raises(RecipeError) as caught:
        check_names(load_recipe("digits", [setting]))
    assert says in str(caught.value)
    spec = load_recipe("digits", [setting])
    model = spec.teacher.model if setting.startswith("teacher") else spec.student.model
    with pytest.raises((UnknownName, ModelError)) as refused:
        build_model(model.name or "", num_classes=2, in_channels=3, image_size=8, **model.options)
    assert str(caught.value).endswith(str(refused.value))


def leaves(section, keys=()):
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, (*keys, key))
        else:
            yield ".".join((*keys, key)), value


NUMBERS = [
    key
    for key, value in leaves(load_recipe("digits").model_dump(mode="json"))
    if type(value) in (int, float) and not key.startswith("arms.")  # whose settings come later
]


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_of_a_recipe_is_true_or_text(key):
    for value, shown in (("true", "True"), ("'1'", "'1'")):
        with pytest.raises(RecipeError, match=rf"{key} (is {shown}: it should be|must be) "):
            load_recipe("digits", [f"{key}={value}"])


def test_numbers_in_lists_and_schedules():
    assert len(NUMBERS) > 40
    for setting, key in {
        "student.training.optimizer.betas=[false, 0.9]": "student.training.optimizer.betas.0",
        "student.objective={name: sum, terms: [{of: {name: kd}}, {weight: true, of: {name: kd}}]}":
            "student.objective.terms.1.weight",
        "student.objective.temperature={start: true, end: 2}":
            "student.objective.temperature.start",
        "student.training.max_grad_norm=true": "student.training.max_grad_norm",
        "student.regulation.budget='0.5'": "student.regulation.budget",
    }.items():  # fmt: skip
        with pytest.raises(RecipeError, match=rf"{key} is .*: it should be a number"):
            load_recipe("digits", [setting])
    both = ["seed=true", "student.training.epochs=true"]
    with pytest.raises(RecipeError, match=r"seed is True: .*; student.training.epochs is True: "):
        load_recipe("digits", both)


def test_a_confidence_above_1_is_refused():
    for value in (1.1, 0, -1):
        with pytest.raises(RecipeError, match=r"regulation.*confidence must be in \(0, 1\]"):
            load_recipe("digits", [f"student.regulation.confidence={value}"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("student.training.clip=1", "student.training.max_grad_norm"),
        ("student.training.schedule.warmup_steps=9", "student.training.schedule.warmup"),
        ("student.regulation.pace=early", "student.regulation.budget_schedule"),
        ("teacher.policy.max_sleep=4", "teacher.policy.max_skip"),
        ("student.model.sees={size: 8}", "student.model.input_transform"),
        ("student.regulation.when_all_skipped=wake", "all"),
        ("arms.own={control: random-counts, match: vanilla}", "permuted"),
    ],
)
def test_a_renamed_key_or_value_is_refused_with_the_new_one(old, new):
    with pytest.raises(RecipeError, match=f"it is now {new}"):
        load_recipe("digits", [old])


@pytest.mark.parametrize("cost", [30, 50.0])
def test_a_cost_in_percent_is_refused(cost):
    with pytest.raises(SettingError, match="times full training: give a fraction"):
        Sampling(cost=cost)
    with pytest.raises(RecipeError, match="give a fraction"):
        load_recipe("digits", [f"student.cost={cost}"])
