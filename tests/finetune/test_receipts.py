"""Rows that cannot be learned as they are: few of them are set aside with a receipt each and the good ones are learned, nearly all of them refuse the run;
rows that are too long become what the recipe says, and every one is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from attune.core import catalog
from attune.core.contracts import TripwireContext
from attune.core.errors import AttuneError, DataError, Problems
from attune.core.events import Events
from attune.core.long_rows import DROP, REFUSE, SHORTEN, encoded, too_many
from attune.core.models import resolve_base
from attune.core.receipts import ASIDE, CUT, FILE, Receipt, write
from attune.core.rows import GENERAL, dataset_rows
from attune.core.specialist import Specialist
from attune.core.tripwires import SOME, sifted, spread
from attune.core.workspace import Workspace
from attune.stages import curate, finetune, grade
from attune.stages.finetune.preflight import preflight
from attune.testing.faults import CLEAN, COUNT, FAULTS, Fault, World, answer, question, talk
from attune.testing.row_faults import ROW_FAULTS, set_aside

JUDGES = {entry.name for entry in catalog.entries("tripwires") if catalog.load("tripwires", entry.name).judges}  # type: ignore[attr-defined]
FEW = [fault for fault in (*FAULTS, *ROW_FAULTS) if fault.by in {*JUDGES, "train.long_rows"} and not fault.name.endswith("mostly")] + [one for one in ROW_FAULTS if one.by == "reading"]
MOSTLY = [fault for fault in ROW_FAULTS if fault.name.endswith("mostly")]


class Tuned:
    """A world that was curated and tuned, and what was heard."""

    def __init__(self, world: World) -> None:
        self.world, self.heard = world, []
        self.recipe, self.workspace = world.made(), Workspace(world.folder / "workspace")
        self.events = Events(listeners=[lambda event: self.heard.append(event)])
        self.dataset = curate.run(self.recipe, self.workspace, self.events)
        self.folder = self.workspace.run_folder("run")

    def run(self) -> Any:
        return finetune.run(self.recipe, self.workspace, self.dataset, self.events, run="run")

    def numbers(self, *splits: str) -> set[int]:
        """Rows of these splits, counted from 0 as in the world."""
        return {int(row["place"].rpartition(":")[2]) - 1 for split in splits for row in dataset_rows(self.workspace, self.dataset, self.recipe.task, split)}

    def receipts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(self.folder / FILE).to_pylist()
        return found

    def warnings(self) -> list[str]:
        return [one["message"] for one in self.heard if one["kind"] == "warning"]


def planted(fault: Fault, folder: Path) -> World:
    world = World(folder)
    fault.plant(world)
    return world


@pytest.mark.parametrize("fault", FEW, ids=lambda fault: fault.name)
def test_a_few_bad_rows_are_set_aside_and_the_good_ones_learned(fault: Fault, tmp_path: Path) -> None:
    tuned = Tuned(planted(fault, tmp_path))
    assert 3 < tuned.world.planted < COUNT / 3
    made = tuned.run()
    bad = tuned.world.bad & tuned.numbers("train", "validation")
    assert set_aside(tuned.folder) == dict.fromkeys(bad, fault.by)
    own = [one for one in tuned.receipts() if one["action"] == ASIDE]
    assert all(one["reason"] and one["fix"] and one["row_id"] and one["file"].endswith("rows.jsonl") for one in own)
    training = tuned.world.bad & tuned.numbers("train")
    assert {one["row"] - 1 for one in own if one["split"] == "train"} == training
    assert any(f"{len(training)} of {len(tuned.numbers('train'))} training rows are set aside ({fault.by})" in one for one in tuned.warnings())
    assert f"{len(training)} of {len(tuned.numbers('train'))} training rows ({fault.by} {len(training)})" in made.chosen["set aside"]
    assert made.steps >= 10


@pytest.mark.parametrize("fault", MOSTLY, ids=lambda fault: fault.name)
def test_where_nearly_all_rows_are_bad_the_run_is_refused(fault: Fault, tmp_path: Path) -> None:
    tuned = Tuned(planted(fault, tmp_path))
    with pytest.raises(AttuneError) as caught:
        tuned.run()
    told = caught.value.problems[0] if isinstance(caught.value, Problems) else caught.value
    assert "rows.jsonl:" in str(told.place)
    assert told.fix
    assert fault.by == "train.long_rows" or f"tripwire {fault.by})" in told.what
    assert not any(one["message"] == "train" for one in tuned.heard)
    assert not (tuned.folder / FILE).exists()


def test_what_the_recipe_accepts_is_told_and_learned(tmp_path: Path) -> None:
    world = planted(next(one for one in FAULTS if one.name == "control_token_in_text"), tmp_path)
    world.recipe = {"train": {"accept": ["control_tokens_in_text"]}}
    tuned = Tuned(world)
    assert "set aside" not in tuned.run().chosen
    assert any(one.startswith("control_tokens_in_text: ") for one in tuned.warnings())
    assert not (tuned.folder / FILE).exists()


@pytest.mark.parametrize("name", ["messages", "system turns", "preferences, dpo", "rewards"])
def test_clean_rows_have_no_receipts(name: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    CLEAN[name](world)
    tuned = Tuned(world)
    assert not {"set aside", "train.long_rows"} & tuned.run().chosen.keys()
    assert not (tuned.folder / FILE).exists()
    assert not any("set aside" in one for one in tuned.warnings())


def judged(world: World, rows: list[dict[str, Any]]) -> TripwireContext:
    recipe = world.made()
    base = resolve_base(str(world.folder / "base"))
    return TripwireContext(Specialist(recipe.task, {}, None, base.tokenizer(), base, 160, method=recipe.method), recipe.objective, rows)


def parsed(number: int, asked: str, **more: Any) -> dict[str, Any]:
    return {"row_id": str(number), "place": f"rows.jsonl:{number + 1}", "prompt": [{"role": "user", "content": asked}], "completion": answer(number), **more}


def test_every_row_of_many_is_looked_at(tmp_path: Path) -> None:
    rows = [parsed(i, question(i)) for i in range(3 * SOME)]
    rows[1] = parsed(1, "<|end|>")
    assert rows[1] not in spread(rows)
    found = sifted(judged(World(tmp_path), rows), [])
    assert [one.row["row_id"] for one in found.receipts] == ["1"]
    assert len(found.rows) == len(rows) - 1
    assert sifted(judged(World(tmp_path), rows[2:]), []).receipts == []


def test_a_rejected_answer_and_a_prompt_alone_are_looked_at_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    pairs = [parsed(i, question(i), rejected="No.") for i in range(8)]
    pairs[3]["rejected"] = "No.<|end|>"
    assert [one.row["row_id"] for one in sifted(judged(world, pairs), []).receipts] == ["3"]
    asked = [{name: value for name, value in parsed(i, question(i)).items() if name != "completion"} for i in range(8)]
    asked[5]["prompt"][0]["content"] += "<|end|>"
    assert [one.row["row_id"] for one in sifted(judged(world, asked), []).receipts] == ["5"]


def test_too_many_is_more_than_half_of_the_domains_rows_or_of_the_general_ones() -> None:
    own, general = [{"row_id": i} for i in range(4)], [{"row_id": f"g{i}", GENERAL: True} for i in range(4)]
    assert not too_many([*own[:2], *general[:2]], [*own, *general])
    assert too_many(own[:3], [*own, *general])
    assert too_many(general[:3], [*own, *general])


def test_rows_that_test_are_set_aside_alike_and_the_rivals_answer_the_others(tmp_path: Path) -> None:
    world = planted(next(one for one in ROW_FAULTS if one.name == "assistant_begins"), tmp_path)
    world.rows += [{"messages": talk(i)} for i in range(COUNT, 2 * COUNT)]
    world.recipe = {"data": {"path": "rows.jsonl", "checks": [], "splits": {"test": 0.4}}, "grade": {"resamples": 200, "rivals": ["untouched_base", "prompted_base"]}}
    tuned = Tuned(world)
    checkpoint = tuned.run()
    card = grade.run(tuned.recipe, tuned.workspace, tuned.dataset, checkpoint, tuned.events)
    bad = world.bad - tuned.numbers("train", "validation")
    assert bad, "some are in the test split"
    assert card.test_rows == tuned.dataset.counts["test"] - len(bad)
    assert any(f"{len(bad)} of {tuned.dataset.counts['test']} test rows are set aside (template_refuses)" in one for one in card.reasons)
    written = pq.read_table(tuned.workspace.store.path(card.store_key) / FILE).to_pylist()
    assert {one["row"] - 1 for one in written} == bad
    assert {one["split"] for one in written} == {"test"}


def test_pairs_that_test_are_set_aside_alike_where_the_bundle_carries_its_network(tmp_path: Path) -> None:
    world = planted(next(one for one in ROW_FAULTS if one.name == "equal_pairs"), tmp_path)
    world.recipe |= {"method": "full", "data": {"path": "rows.jsonl", "checks": ["encoding"], "splits": {"test": 0.4}}, "grade": {"resamples": 200, "rivals": []}}
    tuned = Tuned(world)
    card = grade.run(tuned.recipe, tuned.workspace, tuned.dataset, tuned.run(), tuned.events)
    bad = world.bad - tuned.numbers("train", "validation")
    assert bad, "some are in the test split"
    assert card.test_rows == tuned.dataset.counts["test"] - len(bad)


# ---------------------------------------------------------------- long rows


def long_world(folder: Path, rule: str, *, every: int = 1, count: int = 80, **train: Any) -> World:
    """Rows of which every so many has a question that is too long."""
    world = World(folder, rows=[{"prompt": " ".join(question(i + j) for j in range(9 if i % every == 0 else 1)), "completion": answer(i)} for i in range(count)])
    world.recipe = {"train": {"max_length": 80, "epochs": 1, "long_rows": rule, **train}}
    return world


def test_every_row_that_is_cut_is_written_down_with_the_tokens_that_it_lost(tmp_path: Path) -> None:
    tuned = Tuned(long_world(tmp_path, SHORTEN))
    made = tuned.run()
    cut = [one for one in tuned.receipts() if one["split"] == "train"]
    assert len(cut) == tuned.dataset.counts["train"] > 50
    assert {one["action"] for one in tuned.receipts()} == {CUT}
    assert {one["row"] - 1 for one in tuned.receipts()} == tuned.numbers("train", "validation")
    base = resolve_base(str(tmp_path / "base")).tokenizer()
    for one in cut:
        row = tuned.world.rows[one["row"] - 1]
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        whole = len(base(base.apply_chat_template(turns, tokenize=False).rstrip("\n"), add_special_tokens=False)["input_ids"])
        assert (one["tokens"], one["lost"], one["more"]) == (whole, whole - 80, False)
    total, most = sum(one["lost"] for one in cut), max(one["lost"] for one in cut)
    said = f"{total:,} tokens lost in all, {most:,} at most"
    assert any(f"{len(cut)} of {len(cut)} training rows: longer than train.max_length = 80 tokens" in one and said in one for one in tuned.warnings())
    assert said in made.chosen["train.long_rows"]


def test_long_rows_can_be_dropped(tmp_path: Path) -> None:
    tuned = Tuned(long_world(tmp_path, DROP, every=4, epochs=3))
    made = tuned.run()
    long = {i for i in tuned.numbers("train", "validation") if i % 4 == 0}
    assert set_aside(tuned.folder) == dict.fromkeys(long, "train.long_rows")
    assert all(one["lost"] == one["tokens"] > 80 for one in tuned.receipts())
    assert "train.long_rows" in made.chosen["set aside"]


def test_long_rows_can_refuse_the_run(tmp_path: Path) -> None:
    tuned = Tuned(long_world(tmp_path, REFUSE, every=20))
    long = [i for i in sorted(tuned.numbers("train")) if i % 20 == 0]
    with pytest.raises(DataError, match=rf"{len(long)} of {len(tuned.numbers('train'))} rows are longer than train.max_length = 80 tokens, and train.long_rows is refuse") as told:
        tuned.run()
    assert {int(one.rpartition(":")[2]) - 1 for one in str(told.value.place).split(", ")} == set(long)
    assert not any(one["message"] == "train" for one in tuned.heard)
    need = int(str(told.value.fix).removeprefix("set train.max_length to ").split()[0])
    assert Tuned(long_world(tmp_path, REFUSE, every=20, max_length=need)).run().steps > 5


def test_where_nothing_would_be_left_dropping_refuses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows are longer than train.max_length = 80 tokens, and train.long_rows = drop leaves them out"):
        Tuned(long_world(tmp_path, DROP)).run()


ANSWERED = {"completion": answer(1), "rejected": "No.", "desirable": True}


@pytest.mark.parametrize("objective", ["sft", "distillation", "dpo", "kto", "grpo"])
def test_every_objective_that_writes_obeys_the_rule(objective: str, tmp_path: Path) -> None:
    world = World(tmp_path, recipe={"objective": objective})
    context = judged(world, [])
    plug, specialist = context.objective, context.specialist
    rows = [{**parsed(i, " ".join(question(i) for _ in range(9 if i in (2, 5) else 1))), **ANSWERED} for i in range(6)]
    rows[4]["prompt"].insert(0, {"role": "system", "content": "word " * 2000})
    specialist.max_length = 90
    examples, receipts = encoded(plug, specialist, rows, 90)
    assert [one["row_id"] for one in examples] == ["0", "1", "2", "3", "5"]
    found = {one.row["row_id"]: one for one in receipts}
    assert {name: one.action for name, one in found.items() if name != "3" or objective != "kto"} == {"2": CUT, "5": CUT, "4": ASIDE}
    assert found["4"].more
    for one in examples:
        if one.get("cut"):
            ids = one.get("prompt_ids") or one["ids"]
            own = ids if isinstance(ids, list) else next(iter(ids.values()))
            assert one["whole"] - one["lost"] == len(own)
    specialist.long_rows = DROP
    left, dropped = encoded(plug, specialist, rows, 90)
    assert {one["row_id"] for one in left} == {"0", "1", "3"}
    assert {one.row["row_id"]: one.action for one in dropped} == dict.fromkeys("245", ASIDE)
    specialist.long_rows = REFUSE
    with pytest.raises(DataError, match=r"3 of 6 rows are longer than train.max_length = 90 tokens, and train.long_rows is refuse") as told:
        encoded(plug, specialist, rows, 90)
    assert "rows.jsonl:5" in str(told.value.place)
    general = [{**row, GENERAL: row["row_id"] in "245"} for row in rows]
    assert {one["row_id"] for one in encoded(plug, specialist, general, 90)[0]} == {"0", "1", "3"}, "general rows refuse no run"


def test_a_rule_that_the_objective_does_not_need_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, rows=[{"text": f"{question(i)} {answer(i)}"} for i in range(COUNT)])
    world.recipe = {"objective": "pretraining", "train": {"long_rows": "drop"}}
    with pytest.raises(Problems, match=r"train\.long_rows"):
        Tuned(world).run()


def test_documents_that_are_left_out_have_receipts(tmp_path: Path) -> None:
    world = World(tmp_path, rows=[{"text": " ".join(question(i + j) for j in range(12 if i % 6 == 0 else 1))} for i in range(COUNT)])
    world.recipe = {"objective": {"name": "pretraining", "cut": "drop"}, "train": {"max_length": 64}}
    tuned = Tuned(world)
    tuned.run()
    assert set_aside(tuned.folder) == {i: "objective.cut" for i in tuned.numbers("train", "validation") if i % 6 == 0}
    assert all(one["tokens"] == one["lost"] > 64 for one in tuned.receipts())


def test_a_check_says_what_a_run_would_set_aside(tmp_path: Path) -> None:
    fault = next(one for one in ROW_FAULTS if one.name == "long_answers")
    world = planted(fault, tmp_path)
    recipe = world.made()
    rows = [{"row_id": str(i), "place": f"rows.jsonl:{i + 1}", **recipe.task.parse(one, {"prompt": "messages"})} for i, one in enumerate(world.rows)]
    found = preflight(recipe, rows, weights=True)
    assert {int(one.row["row_id"]) for one in found.receipts if one.action == ASIDE} == world.bad
    assert found.encoded == COUNT - world.planted
    assert not any(alarm.blocks for _, alarm in found.alarms)


def test_receipts_are_written_for_rows_without_a_place_and_with_odd_letters(tmp_path: Path) -> None:
    write(tmp_path / FILE, [("train", Receipt({"row_id": "a"}, "reading", ASIDE, "odd \ud800", "mend it"))])
    (one,) = pq.read_table(tmp_path / FILE).to_pylist()
    assert (one["file"], one["row"], one["row_id"], one["reason"], one["tokens"]) == ("a", None, "a", "odd \\ud800", None)
