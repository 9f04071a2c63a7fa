"""A recipe is read strictly, every problem at once, each with line, value and way out; other tools' spellings are taken and told."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from attune.core import recipe as module
from attune.core.errors import AttuneError, Problems, RecipeError
from attune.core.recipe import RecipeKeys, make_recipe, read_recipe
from attune.core.recipe_schema import json_schema
from attune.core.yaml_reader import read_yaml

BASE = "name: claims\ntask: text_classification\ndata: {path: a.csv}\n"
RECIPES = Path(module.__file__).parent.parent / "recipes"


def read(text, *settings):
    values, lines = read_yaml(text, "recipe.yaml")
    return make_recipe(values, folder=Path(), name="recipe.yaml", lines=lines, settings=settings)


def problems(text, *settings):
    with pytest.raises(AttuneError) as caught:
        read(text, *settings)
    return caught.value.problems if isinstance(caught.value, Problems) else [caught.value]


def only(text, *settings):
    [one] = problems(text, *settings)
    return one


# ---------------------------------------------------------------- limits of gates


@pytest.mark.parametrize(
    ("gate", "key", "meant"),
    [
        ("{metric: accuracy, at_least: 95}", "at_least", "at_least: 0.95?"),
        ("{metric: accuracy, at_least: -5}", "at_least", "at_least: 0.05?"),
        ("{metric: ece, at_most: 10}", "at_most", "at_most: 0.1?"),
        ("{metric: f1_macro, better_than: linear, by: 3}", "by", "by: 0.03?"),
        ("{metric: f1_macro, better_than: current, by: -2.5}", "by", "by: -0.025?"),
        ("{metric: accuracy, at_least: 1.5}", "at_least", "0 to 1"),
        ("{metric: log_loss, at_most: -0.5}", "at_most", "0 or more"),
    ],
)
def test_a_limit_that_the_metric_cannot_reach_is_refused_with_the_likely_one(gate, key, meant):
    one = only(BASE + f"gates: [{gate}]\n")
    assert one.place == f"recipe.yaml:4 gates[0].{key}"
    assert meant in one.fix


def test_limits_at_the_ends_of_the_range_are_taken():
    text = "gates: [{metric: accuracy, at_least: 0, at_most: 1}, {metric: log_loss, at_most: 95}, {metric: accuracy, better_than: linear, by: -1}]\n"
    assert len(read(BASE + text).keys.gates) == 3


# ---------------------------------------------------------------- what is read


def test_defaults_come_from_the_task():
    recipe = read(BASE)
    assert (recipe.task.name, recipe.objective.name, recipe.method.name, recipe.main_metric) == ("text_classification", "supervised", recipe.task.defaults.method, "accuracy")
    assert recipe.keys.train.batch_size == 32


def test_the_resolved_recipe_reads_back_as_itself():
    recipe = read(BASE + "method: {name: lora, rank: 4}\ntrain: {epochs: 2, learning_rate: 1e-4}\n")
    again = read(recipe.yaml())
    assert again.resolved() == recipe.resolved()
    assert again.digest == recipe.digest
    assert recipe.resolved()["method"]["rank"] == 4


def test_the_digest_does_not_depend_on_spelling_or_order():
    one = read("name: claims\ntask: text_classification\nmethod: lora\nlora_r: 4\nlr: 1e-3\ndata: {path: a.csv}\n")
    two = read("data: {path: a.csv}\ntrain: {learning_rate: 0.001}\nmethod: {rank: 4, name: lora}\ntask: {name: text_classification}\nname: claims\n")
    assert one.digest == two.digest
    assert one.digest != read(BASE).digest


def test_a_folder_stands_for_its_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(BASE)
    assert read_recipe(tmp_path).folder == tmp_path
    assert read_recipe(tmp_path / "recipe.yaml").name == "claims"
    with pytest.raises(RecipeError, match="did you mean"):
        read_recipe(tmp_path / "recipes.yaml")
    with pytest.raises(RecipeError, match="attune init"):
        read_recipe(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="holds no recipe"):
        read_recipe(tmp_path / "empty")


@pytest.mark.parametrize("folder", sorted(path.parent for path in RECIPES.glob("*/recipe.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_read_without_notices_and_fit_the_schema(folder):
    recipe = read_recipe(folder)
    assert recipe.notices == []
    assert recipe.name == folder.name
    jsonschema.validate(read_yaml((folder / "recipe.yaml").read_text(), "recipe.yaml")[0], json_schema())


# ---------------------------------------------------------------- other spellings


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("lr: 1e-3", "train.learning_rate", 1e-3),
        ("num_train_epochs: 2", "train.epochs", 2),
        ("epochs: 2", "train.epochs", 2),
        ("cutoff_len: 99", "train.max_length", 99),
        ("val_set_size: 0.15", "data.splits.validation", 0.15),
        ("lr_scheduler_type: cosine", "train.scheduler", "cosine"),
        ("early_stopping_patience: 9", "train.patience", 9),
        ("trainer: {num_epochs: 2}", "train.epochs", 2),
        ("train: {lr: 2}", "train.learning_rate", 2),
        ("model_name_or_path: some/model", "base_model", "some/model"),
        ("evaluation: {confidence: 0.9}", "grade.confidence", 0.9),
        ("metrics: [accuracy]", "grade.metrics", ["accuracy"]),
        ("monitor: {window: week}", "watch.window", "week"),
    ],
)
def test_other_spellings_are_taken_and_told(text, place, value):
    recipe = read(BASE + text)
    found = recipe.resolved()
    for part in place.split("."):
        found = found[part]
    assert found == value
    assert any(f"is taken as '{place}'" in notice or f"is taken as '{place.split('.')[0]}'" in notice for notice in recipe.notices)
    canonical = read(BASE, f"{place}={json.dumps(value)}")
    assert canonical.digest == recipe.digest
    assert canonical.notices == []


def test_an_axolotl_like_recipe():
    text = "name: x\ntask: text_classification\nbase: some/model\ndatasets:\n  - path: a.csv\nadapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_dropout: 0.1\nsequence_len: 64\nnum_epochs: 1\nlr: 0.0002\nlr_scheduler: cosine\n"
    recipe = read(text)
    assert (recipe.method.name, recipe.method.keys.rank, recipe.method.keys.alpha, recipe.method.keys.dropout) == ("lora", 16, 32, 0.1)
    assert (recipe.keys.base_model, recipe.keys.data.path, recipe.keys.train.max_length, recipe.keys.train.scheduler) == ("some/model", "a.csv", 64, "cosine")


@pytest.mark.parametrize("data", ["data: a.csv", "data: [a.csv, b.csv]", "data: [{path: a.csv}]", "dataset: a.csv"])
def test_short_forms_of_data(data):
    recipe = read(f"name: x\ntask: text_classification\n{data}\n")
    assert recipe.keys.data.path in ("a.csv", ["a.csv", "b.csv"])
    assert recipe.notices


def test_a_key_of_a_method_that_is_not_used_says_whose_it_is():
    one = only(BASE + "lora_r: 8\n")
    assert one.place == "recipe.yaml:4 lora_r"
    assert "belongs to method 'lora'" in one.what
    assert "method: {name: lora, rank: ...}" in one.fix
    inside = only(BASE + "method: {name: head, lora_alpha: 8}\n")
    assert "belongs to method 'lora'" in inside.what
    assert inside.place == "recipe.yaml:4 method.lora_alpha"


def test_keys_of_the_default_plug_need_no_name():
    recipe = read("name: x\ntask: text_generation\ndata: {path: a.jsonl}\nlora_r: 8\n")
    assert recipe.method.name == "lora"
    assert recipe.method.keys.rank == 8
    assert read("name: x\ntask: text_generation\ndata: {path: a.jsonl}\nmethod: {rank: 8}\n").method.keys.rank == 8


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("lr: 1\ntrain: {learning_rate: 2}\n", "say the same thing", "keep 'train.learning_rate'"),
        ("train: {learning_rate: 2, lr: 1}\n", "say the same thing", "keep 'learning_rate'"),
        ("base: a/b\nbase_model: c/d\n", "say the same thing", "keep 'base_model'"),
        ("resamples: 300\n", "could mean grade.resamples or watch.resamples", "grade.resamples"),
        ("gradient_accumulation_steps: 4\n", "not a key of Attune's recipes", "batch_size"),
        ("output_dir: x\n", "not a key of Attune's recipes", "--workspace"),
        ("resume_from_checkpoint: x\n", "not a key of Attune's recipes", "resumes"),
        ("train: {rivals: [majority]}\n", "does not belong here", "grade.rivals"),
        ("data: {path: a.csv, learning_rate: 3}\n", "does not belong here", "train.learning_rate"),
    ],
)
def test_spellings_that_cannot_be_taken_say_what_to_write(text, what, fix):
    body = BASE.replace("data: {path: a.csv}\n", "") if text.startswith("data:") else BASE
    one = only(body + text)
    assert what in one.what
    assert fix in one.fix


# ---------------------------------------------------------------- --set


def test_set_overrides_values_names_and_nested_keys():
    recipe = read(BASE + "method: {name: lora, rank: 4}\ntrain: {epochs: 2}\n", "train.epochs=3", "method.rank=9", "data.path=[x.csv, y.csv]", "lr=1e-3", "grade.rivals=[majority]")
    assert (recipe.keys.train.epochs, recipe.method.keys.rank, recipe.keys.data.path, recipe.keys.train.learning_rate) == (3, 9, ["x.csv", "y.csv"], 1e-3)
    assert read(BASE + "method: lora\n", "method.rank=9").method.keys.rank == 9


def test_set_of_a_plug_drops_the_keys_of_the_other_one():
    assert read(BASE + "method: {name: lora, rank: 4}\n", "method=head").method.name == "head"
    assert read(BASE + "adapter: {type: lora, lora_r: 4}\n", "method=head").method.name == "head"
    assert read(BASE + "method: {name: lora, rank: 4}\n", "method=lora").method.keys.rank == 4
    assert read(BASE + "method: head\n", "method.name=lora", "method.rank=2").method.keys.rank == 2


def test_set_reaches_into_lists():
    recipe = read(BASE + "gates:\n  - {metric: accuracy, at_least: 0.5}\n", "gates.0.at_least=0.9")
    assert recipe.keys.gates[0].at_least == 0.9
    assert "items are numbered from 0 to 0" in only(BASE + "gates:\n  - {metric: accuracy, at_least: 0.5}\n", "gates.4.at_least=0.9").fix


def test_set_wins_over_the_file_even_by_another_spelling():
    assert read(BASE + "train: {learning_rate: 5}\n", "lr=3").keys.train.learning_rate == 3
    assert read(BASE + "lr: 5\n", "train.learning_rate=3").keys.train.learning_rate == 3


@pytest.mark.parametrize("setting", ["epochs", "=3", "a..b=3", "train.=3"])
def test_set_without_key_or_value(setting):
    one = only(BASE, setting)
    assert one.place == "--set"
    assert setting in one.what
    assert "--set train.epochs=3" in one.fix


def test_wrong_values_of_set_name_set_as_their_place():
    assert only(BASE + "train: {epochs: 3}\n", "train.epochs=many").place == "--set train.epochs"
    assert only(BASE, "epochs=many").place == "--set train.epochs"
    assert only(BASE, "train.epoch=3").place == "--set train.epoch"


# ---------------------------------------------------------------- what is wrong


def test_every_problem_comes_at_once_with_its_line():
    text = "name: 'my claims'\ntask: text_clasification\ndat: {path: a}\ntrain:\n  epochs: -1\n  scheduler: cosin\nwatch: 3\ngates:\n  - {metric: 5}\n"
    found = {one.place: one for one in problems(text)}
    assert set(found) == {
        "recipe.yaml:1 name",
        "recipe.yaml:2 task",
        "recipe.yaml data",
        "recipe.yaml:3 dat",
        "recipe.yaml:5 train.epochs",
        "recipe.yaml:6 train.scheduler",
        "recipe.yaml:7 watch",
        "recipe.yaml:9 gates[0].metric",
    }
    assert found["recipe.yaml:2 task"].fix.startswith("did you mean 'text_classification'?")
    assert found["recipe.yaml:3 dat"].fix == "did you mean 'data'?"
    assert "'my claims'" in found["recipe.yaml:1 name"].what
    assert "letters, digits" in found["recipe.yaml:1 name"].fix
    assert "-1 does not fit: expected a number above 0" in found["recipe.yaml:5 train.epochs"].what
    assert "passes over the training rows" in found["recipe.yaml:5 train.epochs"].fix
    assert "expected one of: linear, cosine, constant" in found["recipe.yaml:6 train.scheduler"].what
    assert "did you mean 'cosine'?" in found["recipe.yaml:6 train.scheduler"].fix
    assert "expected a mapping" in found["recipe.yaml:7 watch"].what


@pytest.mark.parametrize(
    ("text", "place", "what", "fix"),
    [
        ("seed: 1.5\n", "recipe.yaml:4 seed", "1.5 does not fit: expected a whole number at least 0", "default 7"),
        ("seed: '7'\n", "recipe.yaml:4 seed", "'7' does not fit", "random draw"),
        ("train: {learning_rate: .inf}\n", "recipe.yaml:4 train.learning_rate", "inf does not fit", "peak"),
        ("train:\n  learning_rate: 1,5\n", "recipe.yaml:5 train.learning_rate", "'1,5' does not fit", "peak"),
        ("train: {learning_rate: '1.5'}\n", "recipe.yaml:4 train.learning_rate", "'1.5' does not fit", "peak"),
        ("train: {learnig_rate: 1}\n", "recipe.yaml:4 train.learnig_rate", "unknown key 'learnig_rate'", "did you mean 'learning_rate'?"),
        ("train: {lrr: 1}\n", "recipe.yaml:4 train.lrr", "unknown key 'lrr'", "learning_rate"),
        ("serve: {log: {sampel: 1}}\n", "recipe.yaml:4 serve.log.sampel", "unknown key 'sampel'", "did you mean 'sample'?"),
        ("serve: {port: 99999}\n", "recipe.yaml:4 serve.port", "at most 65535", "8321"),
        ("grade: {rivals: [majorty]}\n", "recipe.yaml:4 grade.rivals[0]", "there is no rival 'majorty'", "did you mean 'majority'?"),
        ("grade: {rivals: majority}\n", "recipe.yaml:4 grade.rivals", "'majority' does not fit: expected a list", "rivals"),
        ("grade: {metrics: [accuracy, {nam: f1_macro}]}\n", "recipe.yaml:4 grade.metrics[1]", "mapping with 'name'", "name: lora"),
        ("grade: {main_metric: acc}\n", "recipe.yaml:4 grade.main_metric", "there is no metric 'acc'", "accuracy"),
        ("method: lorra\n", "recipe.yaml:4 method", "there is no method 'lorra'", "did you mean 'lora'?"),
        ("method: {name: lora, rnk: 3}\n", "recipe.yaml:4 method.rnk", "unknown key 'rnk'", "did you mean 'rank'?"),
        ("method: {name: lora, rank: 0}\n", "recipe.yaml:4 method.rank", "0 does not fit: expected a whole number", "rank of the update"),
        ("method: 3\n", "recipe.yaml:4 method", "3 does not fit", "which weights move"),
        ("objective: sft\n", "recipe.yaml:4 objective", "does not fit task 'text_classification'", "text_classification"),
        ("exports: [zip]\n", "recipe.yaml:4 exports[0]", "there is no export 'zip'", "bundle"),
        ("data: {path: a, source: cvs}\n", "recipe.yaml:3 data.source", "there is no source 'cvs'", "did you mean 'csv'?"),
        ("gates: [{metric: accuracy}]\n", "recipe.yaml:4 gates[0]", "tests nothing", "at_least"),
        ("gates: [{metric: acuracy, at_least: 1}]\n", "recipe.yaml:4 gates[0].metric", "there is no metric 'acuracy'", "accuracy"),
        ("gates: [{metric: accuracy, better_than: linaer}]\n", "recipe.yaml:4 gates[0].better_than", "no rival 'linaer'", "did you mean 'linear'?"),
        ("gates: [{metric: accuracy, at_least: 1, by: 2}]\n", "recipe.yaml:4 gates[0].by", "names none", "better_than"),
        ("data: {path: a, splits: {by: group}}\n", "recipe.yaml:3 data.splits.by", "no column is named", "data.splits.group"),
        ("data: {path: a, splits: {by: given}}\n", "recipe.yaml:3 data.splits.by", "nothing gives them", "test_path"),
        ("data: {path: a, splits: {test: 0.6, validation: 0.5}}\n", "recipe.yaml:3 data.splits", "leave no rows", "0.2 and 0.1"),
        ("train: {batch_size: 8, micro_batch_size: 16}\n", "recipe.yaml:4 train.micro_batch_size", "larger than batch_size 8", "raise it"),
    ],
)
def test_each_mistake_has_thing_value_place_and_way_out(text, place, what, fix):
    body = BASE.replace("data: {path: a.csv}\n", "") if text.startswith("data:") else BASE
    one = only(body + text)
    assert one.place == place
    assert what in one.what
    assert fix in one.fix


@pytest.mark.parametrize("text", ["{}", "name: x\n", "task: text_classification\n"])
def test_missing_keys_say_what_they_are(text):
    for one in problems(text):
        assert "is missing" in one.what
        assert "add `" in one.fix


def test_a_clean_recipe_has_no_problem():
    text = "train: {batch_size: 8, micro_batch_size: 8}\ngates: [{metric: accuracy, better_than: current, by: -0.01}, {metric: ece, at_most: 0.1}]\ngrade: {main_metric: f1_macro, rivals: [majority, {name: linear}]}\n"
    assert read(BASE + text).main_metric == "f1_macro"


# ---------------------------------------------------------------- read or not


def test_a_key_that_nothing_read_is_an_error_that_names_it():
    recipe = read(BASE + "train: {epochs: 3, warmup_ratio: 0.2}\nmethod: {name: lora, rank: 4, dropout: 0.2}\ngates: [{metric: accuracy, at_least: 0.9}]\n")
    assert recipe.keys.train.epochs == 3
    assert recipe.method.keys.rank == 4
    with pytest.raises(Problems) as caught:
        recipe.require_read("train", "method", "gates")
    assert [one.place for one in caught.value.problems] == ["train.warmup_ratio", "method.dropout", "gates"]
    assert recipe.keys.train.warmup_ratio
    assert recipe.method.keys.dropout
    [gate] = recipe.keys.gates
    with pytest.raises(Problems) as caught:
        recipe.require_read("train", "method", "gates")
    assert [one.place for one in caught.value.problems] == ["gates.0.at_least", "gates.0.metric"]
    assert (gate.metric, gate.at_least) == ("accuracy", 0.9)
    recipe.require_read("train", "method", "gates")


def test_reading_a_recipe_reads_none_of_its_keys():
    recipe = read(BASE + "train: {epochs: 3}\ngrade: {confidence: 0.9}\nseed: 3\n")
    recipe.resolved()
    recipe.yaml()
    for section, place in (("train", "train.epochs"), ("grade", "grade.confidence"), ("seed", "seed"), ("data", "data.path")):
        with pytest.raises(Problems, match=place):
            recipe.require_read(section)


# ---------------------------------------------------------------- schema


def test_the_schema_accepts_what_is_right_and_refuses_what_is_not():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {
        "name": "x",
        "task": "text_classification",
        "data": {"path": "a.csv"},
        "method": {"name": "lora", "rank": 4},
        "grade": {"rivals": ["majority", {"name": "linear"}]},
        "watch": {"detectors": None},
    }
    jsonschema.validate(good, schema)
    for wrong in (
        {**good, "method": {"name": "lora", "rnk": 4}},
        {**good, "method": "lorra"},
        {**good, "grade": {"rivals": ["nobody"]}},
        {**good, "method": {"name": "lora", "rank": "x"}},
        {**good, "extra": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_the_schema_describes_every_key():
    schema = json_schema()
    for body in (schema, *schema["$defs"].values()):
        for name, one in body["properties"].items():
            assert one.get("description"), name
    assert set(schema["properties"]) == set(RecipeKeys.model_fields)
