"""What a recipe names by path enters the fingerprint of the stage that uses it by its content: another model at the same path is another input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.commit import committed_folder
from attune.core.contents import contents, named_model
from attune.core.errors import Problems, RecipeError
from attune.core.models import resolve_base
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import DatasetVersion
from attune.core.specialist import Specialist, write_bundle
from attune.stages import finetune
from attune.testing.models import tiny_bert, tiny_llama

TEXTS = ["Where is my parcel?", "It is on its way."]


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [tiny_llama(tmp_path_factory.mktemp("llama"), TEXTS, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles of a classifier, whose heads differ."""
    folder = tmp_path_factory.mktemp("judges")
    task, method, base = catalog.build("tasks", "text_classification"), catalog.build("methods", "full"), resolve_base(str(tiny_bert(folder / "bert")))
    signature = {"labels": ["polite", "rude"], "multi_label": False, "thresholds": None}
    found = []
    for number in range(2):
        judge = Specialist(task, signature, method.prepare(task.build(base, signature), 1), base.tokenizer(), base, 32, "judge", method=method)
        judge.model.head.bias.data[0] = number
        with committed_folder(folder / str(number)) as inside:
            write_bundle(judge, inside)
        found.append(folder / str(number))
    return found


def lay(source: Path, target: Path) -> None:
    """The content of one folder at the place of another."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def recipe_of(folder: Path, **values: Any) -> Recipe:
    return make_recipe({"name": "speaker", "task": "text_generation", "base_model": "base", "method": "lora", "data": {"path": "rows.jsonl"}, **values}, folder=folder)


def tuning(recipe: Recipe) -> dict[str, Any]:
    dataset = DatasetVersion(specialist="speaker", store_key="d/1", task="text_generation", signature={}, columns={}, counts={}, findings={}, rows_digest="x")
    return finetune.inputs(recipe, dataset)


def test_a_changed_teacher_at_the_same_path_is_another_input(tmp_path: Path, llamas: list[Path]) -> None:
    lay(llamas[0], tmp_path / "base")
    lay(llamas[0], tmp_path / "teacher")
    recipe = recipe_of(tmp_path, objective={"name": "distillation", "teacher": "teacher"})
    before = tuning(recipe)
    assert tuning(recipe) == before, "nothing changed"
    lay(llamas[1], tmp_path / "teacher")
    assert tuning(recipe) != before
    lay(llamas[0], tmp_path / "teacher")
    assert tuning(recipe) == before


def test_a_changed_reward_bundle_at_the_same_path_is_another_input(tmp_path: Path, llamas: list[Path], judges: list[Path]) -> None:
    lay(llamas[0], tmp_path / "base")
    lay(judges[0], tmp_path / "judge")
    recipe = recipe_of(tmp_path, objective={"name": "grpo", "rewards": [{"name": "reward_model", "bundle": "judge", "label": "polite"}]})
    before = tuning(recipe)
    lay(judges[1], tmp_path / "judge")
    assert tuning(recipe) != before
    lay(judges[0], tmp_path / "judge")
    assert tuning(recipe) == before


def test_a_changed_judge_and_a_changed_reward_are_another_grading(tmp_path: Path, llamas: list[Path], judges: list[Path]) -> None:
    from attune.stages.grade.stage import contents_of, plugs_of

    lay(llamas[0], tmp_path / "base")
    lay(llamas[0], tmp_path / "referee")
    lay(judges[0], tmp_path / "judge")
    probe = {"name": "win_rate", "judge": {"name": "local_model", "base": "referee"}}
    recipe = recipe_of(tmp_path, grade={"probes": [probe]}, objective={"name": "grpo", "rewards": [{"name": "reward_model", "bundle": "judge", "label": "polite"}]})
    before = contents_of(recipe, plugs_of(recipe))
    lay(llamas[1], tmp_path / "referee")
    after = contents_of(recipe, plugs_of(recipe))
    assert after != before
    lay(judges[1], tmp_path / "judge")
    assert contents_of(recipe, plugs_of(recipe)) not in (before, after)


def test_relative_names_begin_at_the_recipe(tmp_path: Path, llamas: list[Path], judges: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    lay(llamas[0], home / "teacher")
    lay(judges[0], home / "judge")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    objective = recipe_of(home, objective={"name": "distillation", "teacher": "teacher"}).objective
    assert named_model(objective, "teacher").folder == home / "teacher"
    rewards = recipe_of(home, objective={"name": "grpo", "rewards": [{"name": "reward_model", "bundle": "judge", "label": "polite"}]}).objective.parts()
    rewards[0].prepare()
    assert len(rewards[0].score([{"row_id": "1"}], ["thank you"])) == 1
    lay(home, tmp_path / "moved")
    moved = recipe_of(tmp_path / "moved", objective={"name": "distillation", "teacher": "teacher"}).objective
    assert contents([moved]) == contents([objective]), "where a recipe lies is no part of what it reads"


def test_what_is_not_there_is_told_with_the_key(tmp_path: Path, llamas: list[Path]) -> None:
    with pytest.raises(Problems, match=r"no '.*judge', which reward 'reward_model' reads"):
        recipe_of(tmp_path, objective={"name": "grpo", "rewards": [{"name": "reward_model", "bundle": "judge"}]})
    lay(llamas[0], tmp_path / "base")
    with pytest.raises(RecipeError, match=r"objective distillation\.teacher: there is no base model '\./teacher'"):
        tuning(recipe_of(tmp_path, objective={"name": "distillation", "teacher": "./teacher"}))


def test_a_recipe_that_names_nothing_has_no_contents(tmp_path: Path, llamas: list[Path]) -> None:
    lay(llamas[0], tmp_path / "base")
    assert "contents" not in tuning(recipe_of(tmp_path))
