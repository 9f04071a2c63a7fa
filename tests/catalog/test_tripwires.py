"""Tripwires: every planted fault is noticed by the one that is to notice it, with rows and a way out; clean worlds are left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.contracts import TripwireContext
from attune.core.errors import AttuneError, DataError, PlugError, Problems
from attune.core.events import Events
from attune.core.tripwires import alarms, settle, spread
from attune.core.workspace import Workspace
from attune.stages import curate, finetune
from attune.testing.faults import CLEAN, COUNT, FAULTS, TWICE, Fault, World, answer, question
from attune.testing.row_faults import ROW_FAULTS

NAMES = {entry.name for entry in catalog.entries("tripwires")}
OF_ROWS = ("control_token_in_text", "system_refused", "equal_when_read")
"""Some rows are bad: tests/finetune/test_receipts.py has what becomes of them."""
OF_TRIPWIRES = [fault for fault in FAULTS if fault.by in NAMES and fault.name not in OF_ROWS] + [fault for fault in ROW_FAULTS if fault.by in NAMES and fault.name.endswith("mostly")]
ELSEWHERE = [fault for fault in FAULTS if fault.by not in NAMES]
TOLD_ONLY = {"template_tells_time"}
NEED_A_BASE_OF_THEIR_OWN = {"nothing_trains"}


def tuned(world: World) -> tuple[dict[str, int], int]:
    """Counts of curation, and steps that were made."""
    recipe, workspace = world.made(), Workspace(world.folder / "workspace")
    dataset = curate.run(recipe, workspace, Events())
    return dict(dataset.counts), finetune.run(recipe, workspace, dataset, Events(), run="run").steps


def world_of(fault: Fault, folder: Path, request: pytest.FixtureRequest) -> World:
    world = World(folder, request.getfixturevalue("shared") if fault.name == "other_tokenizer" else None)
    fault.plant(world)
    return world


@pytest.mark.parametrize("fault", OF_TRIPWIRES, ids=lambda fault: fault.name)
def test_a_planted_fault_ends_the_run_before_it_goes_wrong(fault: Fault, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with pytest.raises(AttuneError) as caught:
        tuned(world_of(fault, tmp_path, request))
    told = caught.value.problems if isinstance(caught.value, Problems) else [caught.value]
    ours = [one for one in told if f"tripwire {fault.by})" in one.what]
    assert ours, f"others noticed it: {caught.value}"
    assert type(ours[0]) is catalog.load("tripwires", fault.by).error  # type: ignore[attr-defined]
    assert ours[0].place
    assert "accept" in (ours[0].fix or "")


@pytest.mark.parametrize("every", [100, 1], ids=["only the start is saved", "each step is saved"])
@pytest.mark.parametrize("name", ["adapter_without_effect", "kl_from_itself"])
def test_a_run_that_was_refused_after_its_first_steps_is_refused_again(name: str, every: int, tmp_path: Path) -> None:
    """What was saved before the alarm is gone on from, and must not slip past it."""
    world = World(tmp_path)
    fault = next(one for one in FAULTS if one.name == name)
    fault.plant(world)
    world.recipe["train"] = {**world.recipe.get("train", {}), "checkpoint_every": every}
    recipe, workspace = world.made(), Workspace(tmp_path / "workspace")
    dataset = curate.run(recipe, workspace, Events())
    for start in range(2):
        told: list[dict[str, Any]] = []
        with pytest.raises(AttuneError, match=f"tripwire {fault.by}"):
            finetune.run(world.made(), workspace, dataset, Events(None, [told.append]), run="run")
        assert any("resumed at step" in one.get("message", "") for one in told) == bool(start)


@pytest.mark.parametrize("fault", ELSEWHERE, ids=lambda fault: fault.name)
def test_faults_that_no_tripwire_needs_to_see(fault: Fault, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Bad rows are set aside and the good ones kept; what spoils every row refuses the run."""
    world = world_of(fault, tmp_path, request)
    if fault.name in ("equal_preferences", "bad_answers_among_good", "empty_answers", "turns_out_of_order", "pictures", "begin_token_in_text", "rendered_already"):
        recipe = world.made()
        dataset = curate.run(recipe, Workspace(tmp_path / "workspace"), Events())
        assert world.planted == 8
        assert dataset.counts["quarantined"] == world.planted
        assert dataset.counts["kept"] == len(world.rows) - world.planted
        return
    with pytest.raises(AttuneError) as caught:
        tuned(world)
    assert caught.value.place or isinstance(caught.value, Problems)


CLEAN_HERE = ["messages", "default template", "functions", "several turns, the first not learned", "segments", "preferences", "small learning rate", "preferences, dpo", "labelled answers, kto"]
CLEAN_HERE += ["rewards", "rewards, and a reference", "rewards for right answers", "the base teaches, so that what it knew is kept"]


@pytest.mark.parametrize("name", CLEAN_HERE)
def test_clean_worlds_are_left_alone(name: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    CLEAN[name](world)
    counts, steps = tuned(world)
    assert counts["quarantined"] == 0
    assert steps >= 10


def test_every_tripwire_has_a_planted_fault() -> None:
    names = {entry.name for entry in catalog.entries("tripwires") if entry.origin == "attune"}
    assert names == {fault.by for fault in OF_TRIPWIRES} | TOLD_ONLY | NEED_A_BASE_OF_THEIR_OWN


def context_of(tmp_path: Path) -> TripwireContext:
    from attune.core.models import resolve_base
    from attune.core.specialist import Specialist

    world = World(tmp_path)
    recipe = world.made()
    base = resolve_base(str(tmp_path / "base"))
    rows = [{"row_id": str(i), "place": f"rows.jsonl:{i + 1}", **recipe.task.parse(one, {"prompt": "messages"})} for i, one in enumerate(world.rows)]
    model = recipe.method.prepare(recipe.task.build(base, {}), 3)
    specialist = Specialist(recipe.task, {}, model, base.tokenizer(), base, 160, method=recipe.method)
    return TripwireContext(specialist, recipe.objective, rows, recipe.objective.examples(specialist, rows, 160))


def test_nothing_to_train_is_noticed(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    assert alarms(context, "start") == []
    for parameter in context.specialist.model.parameters():
        parameter.requires_grad = False
    assert [wire.name for wire, alarm in alarms(context, "start") if alarm.blocks] == ["nothing_trains"]


def test_a_template_that_tells_the_time_is_told_and_blocks_nothing(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.specialist.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + context.specialist.tokenizer.chat_template
    found = [(wire, alarm) for wire, alarm in alarms(context, "rows") if wire.name == "template_tells_time"]
    assert [alarm.blocks for _, alarm in found] == [False]
    heard: list[str] = []
    settle(found, [], Events(listeners=[lambda event: heard.append(event["message"])]))
    assert "today's date" in heard[0]


def test_an_alarm_that_the_recipe_accepts_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    next(fault for fault in FAULTS if fault.name == "begin_token_twice").plant(world)
    world.recipe = {"train": {"accept": ["double_begin"]}}
    assert tuned(world)[1] >= 10


def test_a_name_that_no_tripwire_has_is_refused() -> None:
    with pytest.raises(DataError, match="no tripwire 'double_beginning'") as caught:
        settle([], ["double_beginning"], Events())
    assert "double_begin" in (caught.value.fix or "")


def test_several_alarms_come_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name in ("begin_token_twice", "end_token_untrained"):
        next(fault for fault in FAULTS if fault.name == name).plant(world)
    with pytest.raises(Problems) as caught:
        tuned(world)
    assert {type(one) for one in caught.value.problems} == {PlugError}
    assert caught.value.exit_code == PlugError.exit_code
    assert len(caught.value.problems) == 2


def test_spread_is_even_and_bounded() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]
    assert spread([], 4) == []


def test_a_reward_that_the_model_never_gets_is_told_and_blocks_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    CLEAN["rewards for right answers"](world)
    world.recipe["objective"] = {**world.recipe["objective"], "rewards": ["exact_match"]}
    recipe, workspace, heard = world.made(), Workspace(tmp_path / "workspace"), []
    events = Events(listeners=[lambda event: heard.append(event["message"])])
    assert finetune.run(recipe, workspace, curate.run(recipe, workspace, events), events, run="run").steps >= 10
    assert [one for one in heard if one.startswith("reward_is_flat: of 16 answers of the model's own to 4 prompts, none is worth more")]


def test_a_reward_that_is_no_number_blocks_with_the_row(tmp_path: Path) -> None:
    def broken(objective: Any) -> Any:
        class Broken(type(objective)):  # type: ignore[misc]
            def worth(self, rows: Any, answers: Any) -> list[float]:
                return [float("nan") if "parcel" in str(row["prompt"]) else float(len(text)) for row, text in zip(rows, answers, strict=True)]

        return Broken(objective.keys)

    world = World(tmp_path)
    CLEAN["rewards"](world)
    world.objective = broken
    with pytest.raises(DataError, match=r"no number \(tripwire reward_is_flat") as caught:
        tuned(world)
    assert "rows.jsonl:" in str(caught.value.place)


@pytest.mark.parametrize(
    ("shared", "length", "way_out"),
    [
        (200, 160, "leave these rows out, or raise train.max_length = 160, to at most the 256 tokens that the base reads, where the answers differ only behind it"),
        (400, 160, "leave these rows out, or shorten what both answers begin with: they are the same as far as the base reads, 256 tokens"),
        (400, 256, "leave these rows out, or shorten what both answers begin with: they are the same as far as the base reads, 256 tokens"),
    ],
)
def test_no_length_is_advised_that_the_base_cannot_read(tmp_path: Path, shared: int, length: int, way_out: str) -> None:
    context = context_of(tmp_path)
    begin = "7"
    while len(context.specialist.tokenizer(begin)["input_ids"]) < shared:
        begin += " 7" * 20
    rows = [{"row_id": "1", "place": "rows.jsonl:1", "prompt": [], "completion": f"{begin} yes", "rejected": f"{begin} no"}]
    context = dataclasses.replace(context, rows=rows, specialist=dataclasses.replace(context.specialist, max_length=length))
    (alarm,) = catalog.build("tripwires", "equal_preference").examine(context)
    assert alarm.fix == way_out


def planted_by(name: str) -> Any:
    """How a fault of the shipped list changes the base."""
    world = World(Path())
    next(fault for fault in FAULTS if fault.name == name).plant(world)
    return world.change_base


def few_positions(base: Path) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"max_position_embeddings": 20}), encoding="utf-8")


def preferences() -> list[dict[str, Any]]:
    return [{"prompt": question(i), "chosen": answer(i), "rejected": "No."} for i in range(COUNT)]


def labelled() -> list[dict[str, Any]]:
    return [{"prompt": question(i), "completion": answer(i), "label": i % 2 == 0} for i in range(COUNT)]


VOWELS = {"name": "grpo", "rewards": [{"name": "regex", "pattern": "[aeiou]"}], "group": 4, "max_new_tokens": 4}
NO_EFFECT = {"method": "full", "train": {"learning_rate": 1e-20}}
OTHER_FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpo": (preferences, {"objective": "dpo"}),
    "simpo": (preferences, {"objective": {"name": "dpo", "loss": "simpo"}}),
    "kto": (labelled, {"objective": "kto"}),
    "grpo": (lambda: [{"prompt": question(i)} for i in range(COUNT)], {"objective": VOWELS}),
    "reward_model": (preferences, {"task": "reward", "data": {"path": "rows.jsonl", "checks": ["types"]}}),
}
"""Objectives whose examples are pairs of answers, or prompts alone."""


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize(
    ("by", "planted"),
    [
        ("double_begin", {"template": TWICE}),
        ("nothing_moves", {"recipe": NO_EFFECT}),
        ("nothing_moves", {"recipe": {"method": {"name": "lora", "alpha": 1e-10}}}),
        ("vocabulary_too_small", {"change_base": planted_by("tokens_without_vectors")}),
        ("row_too_long", {"change_base": few_positions}),
        ("base_quantised", {"change_base": planted_by("quantised_base")}),
        ("weights_no_numbers", {"change_base": planted_by("weights_not_numbers")}),
        (None, {}),
    ],
    ids=["begin twice", "rate", "adapter", "vocabulary", "positions", "quantised", "no number", "clean"],
)
def test_examples_of_every_form_are_looked_at(form: str, by: str | None, planted: dict[str, Any], tmp_path: Path) -> None:
    """Pairs, answers with labels and prompts alone, and the reward model too."""
    world = World(tmp_path)
    world.rows, recipe = OTHER_FORMS[form][0](), OTHER_FORMS[form][1]
    for name, value in planted.items():
        setattr(world, name, value)
    world.recipe = {**recipe, **world.recipe}
    if form == "reward_model" and by == "nothing_moves" and world.recipe.get("method") == "full":
        world.recipe["train"] = {**NO_EFFECT["train"], "head_learning_rate": 1e-20}
    if form == "reward_model" and planted.get("recipe", {}).get("method", "") not in ("", "full"):
        pytest.skip("its head moves without the adapter")
    if (form, by) == ("grpo", "vocabulary_too_small"):
        world.rows = [{"prompt": f"{row['prompt']} Open your account."} for row in world.rows]  # the new token, which stands in answers elsewhere
    if by is None:
        assert tuned(world)[1] >= 10
        return
    with pytest.raises(AttuneError) as caught:
        tuned(world)
    told = caught.value.problems if isinstance(caught.value, Problems) else [caught.value]
    by_whom = "the base reads 20 tokens" if (form, by) == ("grpo", "row_too_long") else f"tripwire {by})"  # its answers need room too, which the objective says
    assert any(by_whom in one.what for one in told), str(caught.value)


def test_a_draw_that_teaches_nothing_is_no_adapter_without_effect(tmp_path: Path) -> None:
    """With rewards that do not differ in the first steps no gradient comes, and nothing may move; with gradients something must."""
    context = context_of(tmp_path)
    wire = catalog.build("tripwires", "nothing_moves")
    context.remembered[wire.name] = wire.remember(context)
    for falls, taught, alarmed in [(True, True, 1), (True, False, 1), (False, True, 1), (False, False, 0)]:
        context.objective.loss_falls, context.taught = falls, taught
        assert len(list(wire.examine(context))) == alarmed


def test_a_pair_is_as_long_as_its_longer_answer(tmp_path: Path) -> None:
    """Both answers of a pair together may well be longer than what the base reads at once."""
    context = context_of(tmp_path)
    wire = catalog.build("tripwires", "row_too_long")
    context.specialist.model.body.config.max_position_embeddings = 40
    pair = {"row_id": "0", "size": 60, "ids": {"chosen": list(range(4, 34)), "rejected": list(range(4, 34))}}
    context.examples = [pair]
    assert not list(wire.examine(context))
    context.examples = [{**pair, "ids": {**pair["ids"], "rejected": list(range(4, 45))}}]
    assert "up to 41 tokens" in next(iter(wire.examine(context))).what
