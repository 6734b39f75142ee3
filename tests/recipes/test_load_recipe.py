from pathlib import Path

import pytest

from frugalkd.errors import RecipeError, UnknownName
from frugalkd.policies import All
from frugalkd.recipes.load import (
    check_names,
    check_variants,
    import_paths,
    load_recipe,
    override,
    recipe_names,
    recipe_text,
)

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


def test_a_file_and_its_resolved_form_are_the_same_recipe(write):
    recipe = load_recipe(write(MINIMAL))
    assert override(recipe, {}) == recipe


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UnknownName, match="unknown recipe 'digit': did you mean digits"):
        recipe_text("digit")


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(RecipeError, match=r"cannot read recipe no/such\.yaml: No such file"):
        load_recipe("no/such.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "seed: 1\nseed: 2\n", "line 6: 'seed' stands twice"),
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


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("teacher.policy.confidnce=1", "no such setting teacher.policy.confidnce: did you mean co"),
        ("teacher.policy.confidence=-1", "teacher.policy.confidence must be positive, not -1"),
        ("teacher.policy.confidence=x", "teacher.policy.confidence is 'x': it should be a valid"),
        ("teacher.policy.name=rando", "teacher.policy.name is 'rando': did you mean random?"),
        ("teacher.policy={}", "teacher.policy.name is missing: known are all, random, self-reg"),
        ("teacher.policy=3", "teacher.policy is 3: it is a section"),
        ("teacher.policy.when=nw", "teacher.policy.when is 'nw': did you mean now?"),
        ("student.mode=hybird", "student.mode is 'hybird': did you mean hybrid?"),
        ("student.training.epoch=1", "no such setting student.training.epoch: did you mean epochs"),
        ("student.training.epochs=-1", "student.training.epochs must be positive, not -1"),
        ("student.training.optimizer.lrr=1", "student.training.optimizer.lrr: did you mean lr?"),
        ("student.training.clip=-1", "student.training.clip must be positive, not -1"),
        ("student.training.num_workers=-1", "student.training.num_workers must be a finite number"),
        ("student.training.recalibrate_bn=-1", "student.training.recalibrate_bn must be a finite"),
        ("student.training.optimizer.lr=-1", "student.training.optimizer.lr must be a finite num"),
        (
            "student.training.optimizer.lr=.nan",
            "student.training.optimizer.lr is nan: it should be",
        ),
        ("student.training.optimizer.weight_decay=-1", "optimizer.weight_decay must be a finite"),
        ("student.training.optimizer.momentum=1", "optimizer.momentum must be in [0, 1), not 1.0"),
        ("student.training.optimizer.betas=[2, 3]", "optimizer.betas must be in [0, 1), not [2.0"),
        (
            "student.training.schedule.warmup_steps=-1",
            "schedule.warmup_steps must be a finite numb",
        ),
        ("student.training.schedule.final=-1", "schedule.final must be a finite number, 0 or more"),
        (
            "student.objective.temperature=.inf",
            "student.objective.temperature is inf: it should be",
        ),
        ("student.regulation.whn=now", "student.regulation.whn: did you mean when?"),
        ("student.policy={name: all}", "student: mode stands for policy and weighting"),
        ("device=gpu", "device is 'gpu': did you mean cpu?"),
        ("techer.seed=1", "no such setting techer: did you mean teacher"),
        ("seed.x=1", "seed.x: seed is a value (0), not a section"),
        ("seed", "--set 'seed' is not section.key=value"),
        ("a..b=1", "--set 'a..b=1' is not section.key=value"),
        ("seed=[", "--set seed, line 1: not YAML"),
        ("data={path: null}", "data: give either name or path"),
    ],
)
def test_a_bad_override_is_one_line_that_names_the_field(setting, says):
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
        ("teacher.model.path=foo", "teacher.model.path is 'foo': write package.module:Name"),
    ],
)
def test_unknown_names_are_found_before_anything_is_trained(setting, says):
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


def test_a_new_policy_starts_from_its_own_defaults_whatever_the_order():
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
