"""Batches whose rows are learned from together give the same loss and gradients in parts as whole, also when memory runs out in the middle of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attune.core import catalog, rows
from attune.core.contracts import Objective
from attune.core.errors import MachineError, PlugError, RecipeError
from attune.core.events import Events
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import DatasetVersion
from attune.core.specialist import Specialist
from attune.core.tunable import TunableModel
from attune.core.workspace import Workspace
from attune.stages import finetune
from attune.stages.finetune import joined
from attune.stages.finetune.torch_learner import TorchLearner
from attune.testing.models import tiny_llama

from .conftest import make_dataset, make_rows
from .test_resume import Stopped, stop_at

OBJECTIVES = ["few_shot", "contrastive", "kto"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), [row["text"] for row in make_rows(40)])


def given(objective: str, count: int) -> list[dict[str, Any]]:
    """Rows as their files hold them, of many lengths."""
    texts = make_rows(count)
    if objective == "few_shot":
        return [{"text": row["text"], "label": row["label"]} for row in texts]
    if objective == "contrastive":  # the right text is now and then the same as the anchor: only dropout tells them apart
        return [{"anchor": row["text"], "positive": row["text"] if i % 5 == 0 else f"{row['label']} {i}", **({"negative": "hello today"} if i % 3 == 0 else {})} for i, row in enumerate(texts)]
    return [{"prompt": row["text"], "completion": row["label"] * (1 + i % 3), "label": bool(i % 2)} for i, row in enumerate(texts)]


TASKS = {"few_shot": "text_classification", "contrastive": "embedding", "kto": "text_generation"}
COLUMNS = {
    "few_shot": {"text": "text", "label": "label"},
    "contrastive": {"anchor": "anchor", "positive": "positive", "negative": "negative"},
    "kto": {"prompt": "prompt", "completion": "completion", "desirable": "label"},
}


@pytest.fixture
def recipe_for(tiny_base: Path, llama: Path):
    """Recipes of objectives whose rows are learned from together."""

    def make(objective: str, method: Any = "full", **train: Any) -> Recipe:
        train = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "max_length": 64, "checkpoint_every": 4, "dropout": 0.1, **train}
        base = llama if objective == "kto" else tiny_base
        return make_recipe(
            {"name": "small", "task": TASKS[objective], "objective": objective, "method": method, "base_model": str(base), "seed": 7, "data": {"path": "rows.jsonl"}, "train": train}, folder=Path(".")
        )

    return make


def parsed(recipe: Recipe, objective: str, count: int) -> list[dict[str, Any]]:
    found = []
    for i, row in enumerate(given(objective, count)):
        values = recipe.task.parse(row, {role: column for role, column in COLUMNS[objective].items() if column in row})
        found.append({"row_id": rows.row_id(values, i), "place": f"rows:{i}", **values})
    return found


def dataset_of(workspace: Workspace, recipe: Recipe, objective: str) -> DatasetVersion:
    return make_dataset(workspace, recipe, parsed(recipe, objective, 64), COLUMNS[objective], validate=(1, 3))


def learner_for(recipe: Recipe, objective: str) -> TorchLearner:
    from attune.core.models import resolve_base

    base, all_rows = resolve_base(recipe.keys.base_model), parsed(recipe, objective, 24)
    signature = recipe.task.signature(all_rows)
    model = recipe.method.prepare(recipe.task.build(base, signature), 7)
    specialist = Specialist(recipe.task, signature, model, base.tokenizer(), base, recipe.keys.train.max_length, "x", method=recipe.method)
    examples = recipe.objective.examples(specialist, all_rows, recipe.keys.train.max_length)
    recipe.objective.precompute(specialist, examples)
    learner = TorchLearner(specialist, recipe.objective, examples, recipe.keys.train, 7, recipe.keys.train.precision)
    with torch.no_grad():  # away from the start, where a reference is nowhere ahead
        draw = torch.Generator().manual_seed(4)
        for parameter in learner.trained.values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    learner.model.train()
    return learner


def gradients(learner: TorchLearner, size: int) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss, count and gradients of a batch, in parts of `size` rows."""
    learner.micro_batch_size = size
    total, items = learner._sums(3, learner.batch_at(1))
    found = {name: p.grad.clone() for name, p in learner.trained.items() if p.grad is not None}
    learner.optimizer.zero_grad(set_to_none=True)
    return total, items, found


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference, as a share of the largest gradient."""
    assert ours.keys() == theirs.keys()
    most = max(float(one.abs().max()) for one in theirs.values())
    assert most > 1e-3
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) / most


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("method", ["full", {"name": "lora", "dropout": 0.2}], ids=["full", "lora"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parts_give_loss_and_gradients_of_the_whole_though_dropout_is_on(recipe_for, objective, method):
    learner = learner_for(recipe_for(objective, method), objective)
    whole, items, wanted = gradients(learner, 8)
    for size in (5, 3, 1):
        total, count, found = gradients(learner, size)
        assert total == pytest.approx(whole, rel=1e-5)
        assert count == items
        assert apart(found, wanted) < 2e-5
    learner.model.eval()
    assert apart(gradients(learner, 8)[2], wanted) > 1e-3, "dropout is on"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parts_on_their_own_would_be_another_loss(recipe_for, objective, monkeypatch):
    """The must-fail twin: without what the other parts said."""
    learner = learner_for(recipe_for(objective), objective)
    whole, _, wanted = gradients(learner, 8)
    monkeypatch.setattr(type(learner.objective), "separable", True)
    total, _, found = gradients(learner, 3)
    assert total != pytest.approx(whole, rel=1e-3)
    assert apart(found, wanted) > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_other_dropout_the_second_time_would_be_noticed(recipe_for, objective, monkeypatch):
    """The must-fail twin: gradients of numbers that nobody said."""
    learner = learner_for(recipe_for(objective), objective)
    _, _, wanted = gradients(learner, 8)
    own, seeds = joined.gradients_in_parts, iter(range(1000))
    monkeypatch.setattr(
        "attune.stages.finetune.torch_learner.gradients_in_parts",
        lambda objective, specialist, rows, size, drawn, autocast: own(objective, specialist, rows, size, lambda _: joined.noise(next(seeds)), autocast),
    )
    assert apart(gradients(learner, 3)[2], wanted) > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parts_in_half_precision_learn_every_weight(recipe_for, objective):
    """What is narrowed without gradients must not be used again with them."""
    learner = learner_for(recipe_for(objective, precision="bf16"), objective)
    whole, _, wanted = gradients(learner, 8)
    total, _, found = gradients(learner, 3)
    assert total == pytest.approx(whole, rel=0.02)
    assert apart(found, wanted) < 0.1
    assert all(bool(found[name].any()) for name, one in wanted.items() if bool(one.any()))


def test_a_frozen_body_is_taught_in_parts_too(recipe_for):
    learner = learner_for(recipe_for("few_shot", "head"), "few_shot")
    whole, _, wanted = gradients(learner, 8)
    total, _, found = gradients(learner, 3)
    assert total == pytest.approx(whole, rel=1e-5)
    assert apart(found, wanted) < 2e-5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_memory_that_runs_out_while_training_and_while_looking_changes_nothing(recipe_for, workspace, objective, monkeypatch):
    recipe = recipe_for(objective)
    dataset = dataset_of(workspace, recipe, objective)
    clean = finetune.run(recipe, workspace, dataset, Events(), run="clean")
    hidden, loss, asked = TunableModel.hidden, TorchLearner._losses, {"training": 0, "looking": 0}
    looking: list[bool] = []

    def look(self, examples):
        looking.append(True)
        try:
            return loss(self, examples)
        finally:
            looking.pop()

    def short(self, tokens, at=None):
        what = "training" if self.training else "looking" if looking else ""
        if what and len(tokens.lengths) > 7:
            asked[what] += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes.")
        return hidden(self, tokens, at)

    monkeypatch.setattr(TorchLearner, "_losses", look)
    monkeypatch.setattr(TunableModel, "hidden", short)
    told: list[Any] = []
    found = finetune.run(recipe, workspace, dataset, Events(None, [told.append]), run="short")
    assert asked["training"]
    assert asked["looking"]
    assert "4 rows are computed at once from here on, before it was 8; the batch of 8 stays" in next(event["message"] for event in told if event["kind"] == "warning")
    assert found.steps == clean.steps
    assert len(found.curve) == len(clean.curve) > 2
    for ours, theirs in zip(found.curve, clean.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
    asked["training"] = 0
    with pytest.raises(Stopped):
        finetune.run(recipe, workspace, dataset, stop_at(5), run="broken")
    again = finetune.run(recipe, workspace, dataset, Events(), run="broken")
    assert again.store_key == found.store_key, "going on, it is known how many rows fit"


def test_where_one_row_does_not_fit_it_says_what_would(recipe_for, workspace, monkeypatch):
    recipe = recipe_for("few_shot")
    dataset = dataset_of(workspace, recipe, "few_shot")

    def short(self, model, batch):
        raise MemoryError

    monkeypatch.setattr(type(recipe.objective), "each", short)
    with pytest.raises(MachineError, match="memory ran out with 1 row at once"):
        finetune.run(recipe, workspace, dataset, Events(), run="short")


def test_an_objective_that_gives_no_parts_is_computed_whole_or_not_at_all(recipe_for, monkeypatch):
    plain = catalog.build("objectives", "supervised")
    assert plain.divisible
    monkeypatch.setattr(type(plain), "separable", False)
    assert not plain.divisible
    for ask in (lambda: plain.each(None, {}), lambda: plain.together(None, [], {})):
        with pytest.raises(PlugError, match="objective 'supervised'"):
            ask()
    recipe = recipe_for("contrastive", micro_batch_size=4)
    monkeypatch.setattr(type(recipe.objective), "each", Objective.each)
    with pytest.raises(RecipeError, match="learns from all rows of a batch together"):
        learner_for(recipe, "contrastive")
    whole = recipe_for("contrastive")
    learner = learner_for(recipe_for("few_shot"), "few_shot")
    monkeypatch.setattr(type(whole.objective), "each", Objective.each)
    monkeypatch.setattr(type(learner.objective), "each", Objective.each)

    def short(self, model, batch):
        raise MemoryError

    monkeypatch.setattr(type(learner.objective), "loss", short)
    with pytest.raises(MachineError, match="needs the whole batch at once"):
        learner.step(0)
    with pytest.raises(MachineError, match="needs the whole batch at once"):
        learner.validation_loss(learner.examples[:8])
