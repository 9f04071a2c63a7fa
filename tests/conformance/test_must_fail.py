"""The suite catches broken plugs: a fault planted into a copy of a real plug makes the case that is meant for it fail."""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attune.core import catalog
from attune.testing import Broken, check_plug, conformance_cases
from tests.plugs.outside import EXAMPLE, write_package

Plant = Callable[[str, str], str]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """Installs a plug's source text in a package of its own, beside the example package; gives the plug's new name."""

    def see(target: Path) -> None:
        monkeypatch.syspath_prepend(str(target))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(target), os.environ["PYTHONPATH"]]))
        forget()

    def put(kind: str, source: str) -> str:
        mark = hashlib.sha256(source.encode()).hexdigest()[:12]
        see(write_package(tmp_path / mark, f"faulty_{mark}", {"plug.py": source}, {kind: {f"planted_{mark}": "plug"}}))
        return f"planted_{mark}"

    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    plugs = {group.removeprefix("attune."): {name: module.split(".")[1] for name, module in one.items()} for group, one in points.items()}
    see(write_package(tmp_path / "example", EXAMPLE.name, {f"{name}.py": original("", name) for one in plugs.values() for name in one}, plugs))
    yield put
    forget()


def forget() -> None:
    """Nothing that was loaded from a test's own packages is known any more: modules, entry points, plugs."""
    for name in [one for one in sys.modules if one.split(".")[0] == EXAMPLE.name or one.startswith("faulty_")]:
        del sys.modules[name]
    catalog._entries.cache_clear()
    catalog.load.cache_clear()


def original(kind: str, name: str) -> str:
    outside = EXAMPLE / "attune_example_plugs" / f"{name}.py"
    return (outside if outside.is_file() else catalog.ROOM / kind / f"{name}.py").read_text(encoding="utf-8")


# kind, plug, what stands in its source, what takes its place, the check that must notice
FAULTS = [
    ("metrics", "mean_absolute_error", '"""How far off the numbers are, on average."""', '"""numbers"""', "says_what_it_is_for"),
    ("checks", "number_range", "key(-1000000.0,", "key(-float(10**6),", "keys_are_strict_and_literal"),
    ("checks", "number_range", '"smaller numbers are set aside"', '""', "keys_are_strict_and_literal"),
    ("tasks", "text_scoring", "self.keys.decimals", "3", "reads_every_key"),
    ("detectors", "length_shift", "import numpy as np", "import numpy as np\nimport scipy.stats", "imports_nothing_heavy"),
    ("metrics", "mean_absolute_error", "import numpy as np", "import numpy as np\nfrom attune.catalog.metrics import accuracy", "imports_only_core"),
    ("sources", "parquet", "return bool(expand(location, folder, SUFFIXES))", "return expand(location, folder, SUFFIXES)", "recognising_never_fails"),
    (
        "sources",
        "parquet",
        '"""Every row of every file."""',
        '"""Every row of every file."""\n        if not (folder / location).exists():\n            return',
        "nothing_to_read_is_an_error_with_a_way_out",
    ),
    ("checks", "exact_duplicates", 'yield Finding(row["row_id"], column, f"duplicate', 'yield Finding("nobody", column, f"duplicate', "findings_can_be_applied"),
    ("checks", "encoding", "for role in roles:", "for role in roles:\n                row[role.name] = 'touched'", "is_pure"),
    ("checks", "number_range", 'phase = "row"', 'phase = "some day"', "phase_and_order_are_known"),
    (
        "tasks",
        "text_classification",
        "self.probabilities(specialist, [self.text(r) for r in rows])",
        "self.probabilities(specialist, [self.text(r) for r in rows])[::-1]",
        "answers_in_order_and_alone_as_together",
    ),
    ("tasks", "text_classification", 'return str(row["text"])', 'return str(row["text"]) + str(row.get("label"))', "text_and_truth_of_every_row"),
    ("tasks", "text_classification", '{"labels": sorted(counts)', '{"labels": list(counts)', "signature_is_json_and_does_not_depend_on_order"),
    ("tasks", "text_classification", "row = super().parse(values, columns)", 'row = super().parse(values, columns)\n        values["seen"] = True', "parsing_is_pure_and_rows_survive_the_disk"),
    ("tasks", "text_classification", 'main_metric="accuracy"', 'main_metric="token_f1"', "its_defaults_exist_and_fit"),
    ("objectives", "supervised", 'functional.cross_entropy(logits.float(), target, reduction="sum"', 'functional.cross_entropy(logits.float(), target, reduction="mean"', "loss_is_finite_and_adds_up"),
    ("objectives", "contrastive", "waiting.extendleft(reversed(later))", "pass", "order_covers_every_row_once"),
    ("objectives", "contrastive", "return total, float(len(anchors))", "return total.detach(), float(len(anchors))", "what_it_teaches_is_learned"),
    ("objectives", "contrastive", "in enumerate(anchors)]", "in enumerate(anchors.flip(0))]", "loss_is_finite_and_adds_up"),
    ("objectives", "few_shot", "range(count + 1)", "range(count)", "order_covers_every_row_once"),
    ("objectives", "few_shot", "return total, count", "return total.detach(), count", "what_it_teaches_is_learned"),
    ("objectives", "sft", 'batch["targets"][learned]), float', 'batch["targets"][learned]) / len(learned), float', "loss_is_finite_and_adds_up"),
    ("objectives", "pretraining", "return total, float(len(learned))", "return total / max(1, len(learned)), float(len(learned))", "loss_is_finite_and_adds_up"),
    ("objectives", "distillation", "float(len(learned))", 'float(len(batch["targets"]) ** 2)', "loss_is_finite_and_adds_up"),
    ("objectives", "grpo", '"row": dict(row), **', '"when": __import__("time").time_ns(), "row": dict(row), **', "examples_are_one_per_row_and_the_same_each_time"),
    ("rewards", "exact_match", "zip(rows, answers, strict=True)]", "zip(rows, answers, strict=True)][1:]", "numbers_are_finite_and_of_the_answer_alone"),
    ("rewards", "numeric_answer", "float(said is not None and", "float(said is None or not", "right_answers_are_worth_as_much_as_wrong_ones_at_least"),
    ("rewards", "regex", "return [float(", "return [__import__('random').random() + float(", "numbers_are_finite_and_of_the_answer_alone"),
    ("rewards", "unit_tests", "(TESTS,)", '(Role("tests", "any", "", ("tests",), target=True),)', "columns_are_roles"),
    ("metrics", "perplexity", "return Figure().value(totals)", "return -Figure().value(totals)", "right_answers_beat_wrong_ones"),
    ("tasks", "fill_mask", "return [self._said(specialist, said) for said in found]", "return [self._said(specialist, said) for said in found][1:]", "answers_in_order_and_alone_as_together"),
    ("methods", "full", 'parameter.requires_grad = ".pooler." not in name', "parameter.requires_grad = False", "something_trains_and_the_same_each_time"),
    ("methods", "lora", "self.keys, seed)", 'self.keys, __import__("time").time_ns())', "something_trains_and_the_same_each_time"),
    ("methods", "bias_only", "parameter.copy_(saved[name])", "parameter.copy_(parameter)", "what_it_writes_answers_the_same"),
    (
        "methods",
        "lora",
        "return low_rank(model, self.keys, seed)",
        "return low_rank(model, self.keys, seed)\n\n    def load(self, task, base, signature, folder):\n        model = task.build(base, signature)\n"
        "        model.body = __import__('peft').PeftModel.from_pretrained(model.body, folder / 'adapter')\n        return model",
        "a_missing_weight_is_noticed",
    ),
    ("methods", "lora", "epochs = 8", "epochs = 8\n    needs_base = False", "needs_its_base_or_does_not"),
    ("methods", "boosted_trees", "        self.earlier = tensors[GROWN]", "        self.earlier = None and tensors[GROWN]", "a_learner_of_its_own_goes_on_as_if_never_stopped"),
    ("methods", "boosted_trees", "model.save(folder)", "TreeModel(model.features, model.labels).save(folder)", "what_it_writes_answers_the_same"),
    ("rivals", "linear_table", "np.isnan(column).astype(np.float64)", "np.random.default_rng().random(len(column))", "fitting_twice_gives_the_same_answers"),
    ("objectives", "table_labels", ".clamp_min(1e-15)).sum()", ".clamp_min(1e-15)).mean()", "loss_is_finite_and_adds_up"),
    ("tasks", "tabular_classification", 'sorted({row["label"] for row in rows})', 'list(dict.fromkeys(row["label"] for row in rows))', "signature_is_json_and_does_not_depend_on_order"),
    ("metrics", "accuracy", "return _means.mean(totals)", "return 1 - _means.mean(totals)", "right_answers_beat_wrong_ones"),
    ("metrics", "mean_absolute_error", "abs(float(p.output) - float(t))", "abs(float(p.output) - float(t)) / len(truth)", "rows_count_by_their_weight_only"),
    ("metrics", "mean_absolute_error", "totals[..., 0] / np", "totals[0] / np", "value_takes_any_number_of_sums"),
    ("metrics", "mean_absolute_error", ".reshape(-1, 2)", ".reshape(-1, 2)[1:]", "contributions_are_a_row_each"),
    ("rivals", "linear", "self._probabilities(rows), self.labels", "[1.0 * (np.array(self.labels) == self.task.truth(r)) for r in rows], self.labels", "does_not_look_at_the_answers"),
    ("tasks", "reward", "{row['completion']}\"", "{row.get('rejected')}\"", "text_and_truth_of_every_row"),
    ("tasks", "reward", "zip(_scores(specialist, answers), answers", "zip(_scores(specialist, answers)[::-1], answers", "answers_in_order_and_alone_as_together"),
    ("objectives", "reward_model", "return pairs.sum(), ", "return pairs.mean(), ", "loss_is_finite_and_adds_up"),
    ("objectives", "reward_model", "return pairs.sum(), ", "return -pairs.sum(), ", "loss_is_finite_and_adds_up"),
    ("objectives", "reward_model", "scores[:, 0] - scores[:, 1]", "scores[:, 0].detach() - scores[:, 1].detach()", "what_it_teaches_is_learned"),
    ("metrics", "preference_accuracy", "(margin > 0)", "(margin < 0)", "right_answers_beat_wrong_ones"),
    ("metrics", "desirable_auc", "totals[..., :BINS], totals[..., BINS:]", "totals[..., BINS:], totals[..., :BINS]", "right_answers_beat_wrong_ones"),
    ("rivals", "longer_answer", "max(better, worse, key=lambda text: (len(text), text))", "better", "does_not_look_at_the_answers"),
    ("rivals", "mean_answer", "for _ in rows]", "for _ in rows[1:]]", "answers_every_row"),
    ("rivals", "mean_answer", "sum(truth) / len(truth)", "__import__('random').random()", "fitting_twice_gives_the_same_answers"),
    ("probes", "robustness", 'randomness.generator(seed, "probe.robustness", n, p)', 'randomness.generator(__import__("time").time_ns(), "x")', "result_can_be_read_and_repeated"),
    ("probes", "refusals", "means(refused[who][kind])", "means(refused[who][kind][: 9 if who == 'tuned' else 8])", "its_measures_can_be_gated"),
    ("judges", "reference", "0.5 if first == second", "2.0 if first == second", "verdicts_are_shares_or_silence"),
    ("judges", "reference", "float(first > second)", "float(__import__('time').time_ns() % 1000) / 1000", "the_same_duels_get_the_same_verdicts"),
    ("tripwires", "double_begin", "if double:", "if looked:", "is_silent_on_a_clean_run"),
    ("tripwires", "end_not_learned", "stops, known = stop_ids(context.specialist)", "context.rows[0]['seen'] = True\n        stops, known = stop_ids(context.specialist)", "is_pure"),
    ("tripwires", "same_answer", 'phase = "rows"', 'phase = "some day"', "phase_and_class_are_known"),
    ("tripwires", "control_tokens_in_text", 'phase = "rows"', 'phase = "start"', "phase_and_class_are_known"),
    ("tripwires", "same_answer", "answers = {", "context.specialist.model.eval()\n        answers = {", "works_without_a_model_where_it_says_so"),
    ("exports", "bundle", "open_bundle(folder).predict(rows)", "open_bundle(folder).predict(rows[::-1])", "replay_agrees"),
    ("exports", "zipped", "with tempfile", "if not (folder / FILE).exists():\n            return []\n        with tempfile", "replay_reads_what_was_written"),
    ("detectors", "length_shift", ".max())", ".min())", "statistic_is_larger_for_a_moved_world"),
    ("detectors", "length_shift", "if text]", "if True] + [0]", "usable_names_rows"),
    ("detectors", "length_shift", "longest = sorted(window.texts", "longest = sorted(reference.texts", "explains_itself"),
]


@pytest.mark.parametrize(("kind", "name", "old", "new", "check"), FAULTS, ids=[f"{kind}-{check}-{number}" for number, (kind, _, _, _, check) in enumerate(FAULTS)])
def test_a_planted_fault_is_noticed(tmp_path: Path, plant: Plant, kind: str, name: str, old: str, new: str, check: str) -> None:
    source = original(kind, name)
    assert source.count(old) >= 1, f"{name} has changed: {old!r} is not in it"
    planted = plant(kind, source.replace(old, new, 1))
    noticed = []
    for number, case in enumerate(c for c in conformance_cases(kind, planted) if c.check.__name__ == f"check_{check}"):
        room = tmp_path / f"case-{number}"
        room.mkdir()
        try:
            case.run(room)
        except Broken as error:
            noticed.append(str(error))
    assert noticed, "the fault went through"
    assert all(f"{kind}/{planted}" in one for one in noticed)


def test_every_kind_has_a_fault() -> None:
    assert {fault[0] for fault in FAULTS} == set(catalog.KINDS)


def test_the_copy_without_a_fault_passes(tmp_path: Path, plant: Plant) -> None:
    """So that the faults above are noticed for what they are, and not for being copies."""
    for kind, name in (("metrics", "mean_absolute_error"), ("checks", "number_range"), ("detectors", "length_shift"), ("exports", "zipped"), ("methods", "bias_only")):
        planted = plant(kind, original(kind, name))
        assert check_plug(kind, planted, tmp_path / kind) >= 5


def test_everything_wrong_is_told_at_once(tmp_path: Path, plant: Plant) -> None:
    source = original("detectors", "length_shift").replace(".max())", ".min())").replace('"""Notice that texts have become longer or shorter."""', '"""short"""')
    with pytest.raises(Broken) as told:
        check_plug("detectors", plant("detectors", source), tmp_path / "rooms")
    assert "sentence" in str(told.value)
    assert "moved ones only" in str(told.value)


def test_a_plug_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="there is no metrics 'nothing_of_the_kind'"):
        check_plug("metrics", "nothing_of_the_kind", tmp_path)
