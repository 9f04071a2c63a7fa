"""Learn from answers that are marked good or bad one by one: no pairs are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attune.core.contracts import Batch, Example, Objective, Role, Row, Task
from attune.core.conversation import stop_ids
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.replies import Answer, answers_to, laid, log_probabilities, reference
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel

SAID = {"true": True, "1": True, "yes": True, "good": True, "up": True, "false": False, "0": False, "no": False, "bad": False, "down": False}


class KtoKeys(Keys):
    """Keys of the objective."""

    loss: Literal["kto", "apo_zero_unpaired"] = key("kto", "kto measures against how far the model has moved on mismatched answers; apo_zero_unpaired against none", aliases=("loss_type",))
    beta: float = key(0.1, "how far the model may move for a row: smaller is farther", aliases=("kto_beta", "pref_beta"), gt=0)
    desirable_weight: float = key(1.0, "weight of good answers", aliases=("kto_chosen_weight", "chosen_weight"), gt=0)
    undesirable_weight: float = key(1.0, "weight of bad answers", aliases=("kto_rejected_weight", "rejected_weight"), gt=0)


class Kto(Objective):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 7 and 8).

    How far the model has moved from its start is estimated on each row's prompt with another row's answer; the estimate of a step is taken
    over its whole batch, which therefore cannot be computed in parts.
    """

    keys_type = KtoKeys
    requires = frozenset({"text-out", "torch"})
    separable = False

    def shaped(self, task: Task) -> Task:
        """Rows with a prompt, an answer, and whether it is a good one."""
        prompt = next(role for role in task.roles if role.name == "prompt")
        roles = (
            prompt,
            Role("completion", "text", "the answer", ("completion", "response", "answer", "output", "reply"), target=True),
            Role("desirable", "any", "whether the answer is a good one: true or false", ("label", "desirable", "kto_tag", "thumbs_up", "good"), target=True),
        )

        def parse(values: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
            found = task.parse(values, {name: column for name, column in columns.items() if name != "desirable"})
            return {**found, "desirable": _flag(values.get(columns["desirable"]), columns["desirable"])}

        defaults = dataclasses.replace(task.defaults, main_metric="desirable_auc", metrics=("desirable_auc",), rivals=("untouched_base",))
        return task.with_rows(roles, parse, defaults)

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Each row's answer, and the next row's answer to its prompt."""
        stops = stop_ids(specialist)
        pairs = self.keys.loss == "kto"
        found: list[Example] = []
        for number, row in enumerate(rows):
            others = [rows[(number + 1) % len(rows)]["completion"]] if pairs else []
            own, *other = answers_to(specialist, row, [row["completion"], *others], max_length, stops)
            ids = {"own": own.ids, **({"other": other[0].ids} if other else {})}
            begins = (own.begin, *(one.begin for one in other))
            found.append({"row_id": row["row_id"], "size": sum(map(len, ids.values())), "ids": ids, "begin": begins, "desirable": bool(row["desirable"]), "cut": own.cut})
        if {one["desirable"] for one in found} == {True} or {one["desirable"] for one in found} == {False}:
            raise DataError(
                f"all {len(found)} rows are {'good' if found[0]['desirable'] else 'bad'} answers",
                place="data.columns.desirable",
                fix="give answers of both kinds; for good ones alone take objective sft",
            )
        return found

    def precompute(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Log-probabilities by the model as it begins."""
        known = iter(reference(specialist, [answer for one in examples for answer in _answers(one)]))
        for one in examples:
            one["reference"] = [next(known) for _ in one["begin"]]
        return "the reference's log-probabilities were computed once"

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens of all own answers, then of the mismatched ones; the reference [rows] of each; which are good."""
        import torch

        answers = [_answers(one)[part] for part in range(len(examples[0]["begin"])) for one in examples]
        start = torch.tensor([one["reference"][part] for part in range(len(examples[0]["begin"])) for one in examples])
        return {"tokens": laid(specialist, answers), "begins": [one.begin for one in answers], "reference": start, "desirable": torch.tensor([one["desirable"] for one in examples])}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the rows' losses; the count is the rows."""
        ahead = log_probabilities(model, batch["tokens"], batch["begins"])[0] - batch["reference"]
        rows = len(batch["desirable"])
        moved = ahead[rows:].mean().clamp(min=0).detach() if self.keys.loss == "kto" else ahead.new_zeros(())
        good = batch["desirable"]
        sign = good.float() * 2 - 1
        weight = good.float() * self.keys.desirable_weight + (~good).float() * self.keys.undesirable_weight
        return (weight * (1 - (self.keys.beta * sign * (ahead[:rows] - moved)).sigmoid())).sum(), float(rows)


def _answers(example: Example) -> list[Answer]:
    return [Answer(ids, begin) for ids, begin in zip(example["ids"].values(), example["begin"], strict=True)]


def _flag(value: Any, column: str) -> bool | None:
    """True or False as people write it; None where nothing is said."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    found = SAID.get(str(value).strip().lower())
    if found is None:
        raise DataError(f"{value!r} does not say whether the answer is good", place=column, fix="write true or false (or 1 and 0, yes and no, good and bad)")
    return found
