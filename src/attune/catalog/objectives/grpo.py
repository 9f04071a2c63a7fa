"""Learn from rewards: several answers to each prompt are tried, and what did better than the others of its group becomes likelier."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attune.catalog.objectives import _policy
from attune.core import catalog
from attune.core.contracts import Batch, Example, Objective, Prediction, Role, Row, Task
from attune.core.conversation import prompt_ids, question_ids, question_of, shortened_question, stop_ids
from attune.core.errors import DataError, PlugError, RecipeError
from attune.core.keys import Keys, key
from attune.core.long_rows import cut_facts, each_that_fits
from attune.core.programs import TESTS, unit_tests_of
from attune.core.receipts import place_of
from attune.core.replies import must_stay
from attune.core.rewards import Reward
from attune.core.rollouts import attempts
from attune.core.shapes import ASKED, TOOLS, rewarded_of
from attune.core.shortening import FAR
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class GrpoKeys(Keys):
    """Keys of the objective."""

    rewards: list[str | dict[str, Any]] = key(["exact_match"], "what answers are worth: names of rewards, or mappings with `name` and keys")
    weights: list[float] | None = key(None, "weight of each reward in the sum; default: 1 each", aliases=("reward_weights",))
    group: int = key(8, "answers tried for each prompt", aliases=("num_generations",), ge=2)
    max_new_tokens: int = key(64, "longest answer tried, in tokens", aliases=("max_completion_length",), ge=1)
    temperature: float = key(1.0, "of the sampling, and of the probabilities that are learned", gt=0)
    scale: Literal["group", "none"] = key("group", "divide what an answer is better by the spread of its group, or not (Dr. GRPO)", aliases=("scale_rewards",))
    level: Literal["token", "sequence"] = key("token", "importance ratios of tokens (GRPO) or of whole answers (GSPO)", aliases=("importance_sampling_level",))
    clip: float = key(0.2, "ratios to the policy that wrote the answer count up to 1 - clip and 1 + clip", aliases=("epsilon", "cliprange"), gt=0)
    clip_high: float | None = key(None, "another bound above; default: clip", aliases=("epsilon_high",), gt=0)
    beta: float = key(0.0, "weight of the KL divergence from the untouched base; 0: none", aliases=("kl_coef",), ge=0)
    updates_per_rollout: int = key(1, "optimizer updates on each set of answers; with more than one, ratios to the policy that wrote them matter", aliases=("num_iterations", "mu"), ge=1)
    average: Literal["sequence", "token", "constant"] = key("sequence", "mean of each answer's tokens, then of answers; of all tokens; or sums divided by max_new_tokens (Dr. GRPO)")


class Grpo(Objective):
    """Group relative policy optimisation (Shao et al. 2024, eq. 3; Liu et al. 2025 for Dr. GRPO; Zheng et al. 2025 for GSPO).

    Answers are drawn anew in each step, purely by (weights, seed, step, row, sample), and learned from in one update or several; a group's prompt
    is computed once.
    """

    keys_type = GrpoKeys
    requires = frozenset({"text-out", "torch"})
    learns = ASKED
    loss_falls = False

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        self._rewards: list[Reward] = [catalog.build("rewards", spec, f"objective.rewards[{number}]") for number, spec in enumerate(self.keys.rewards)]
        self._weights: list[float] = self.keys.weights if self.keys.weights is not None else [1.0] * len(self._rewards)
        if not self._rewards or len(self._weights) != len(self._rewards):
            raise RecipeError(
                f"{len(self._weights)} weights for {len(self._rewards)} rewards", place="objective.weights", fix="name at least one reward, and give each one weight or leave the weights out"
            )
        self._reference: TunableModel | None = None
        self.updates = self.keys.updates_per_rollout
        self.reference = "steps" if self.keys.beta else ""

    def parts(self) -> Sequence[Reward]:
        """The rewards."""
        return self._rewards

    def shaped(self, task: Task) -> Task:
        """Prompts, and the columns that the rewards read; answers are graded by the rewards too."""
        prompt = next(role for role in task.roles if role.name == "prompt")
        roles: dict[str, Role] = {"prompt": prompt} | {role.name: role for reward in self._rewards for role in reward.roles} | {"tools": TOOLS}
        known = "completion" in roles
        metrics = ("mean_reward", *(task.defaults.metrics if known else ()))
        defaults = dataclasses.replace(task.defaults, main_metric="mean_reward", metrics=metrics, rivals=("untouched_base",))
        found = task.with_rows(list(roles.values()), _parse(list(roles.values())), defaults)
        vars(found).update(examine=lambda specialist, rows: self._examined(task, specialist, rows))
        return found

    def _examined(self, task: Task, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        answers = task.examine(specialist, rows)
        worth = self.worth(rows, [str(one.output) for one in answers])
        return [dataclasses.replace(one, extra={**one.extra, "reward": value}) for one, value in zip(answers, worth, strict=True)]

    def worth(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """The weighted sum of the rewards of each answer."""
        for reward in self._rewards:
            reward.prepare()
        columns = [reward.score(rows, answers) for reward in self._rewards]
        return [sum(weight * value for weight, value in zip(self._weights, values, strict=True)) for values in zip(*columns, strict=True)]

    def rewards(self, specialist: Specialist, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """As `worth`."""
        return self.worth(rows, answers)

    def own_rewards(self, specialist: Specialist, examples: Sequence[Example]) -> list[list[float]]:
        """The rewards of one group of answers to each prompt, as validation draws them."""
        return [one["rewards"] for one in self.renew(specialist, examples, 0, -1)]

    def reference_gap(self, specialist: Specialist, examples: Sequence[Example]) -> float | None:
        """On the tokens of the prompts, where there is a divergence to take."""
        from attune.core.tokens import Tokens

        if not self.keys.beta or not examples:
            return None
        tokens = Tokens.of([one["prompt_ids"] for one in examples])
        spoken = (tokens.positions[0] > 0).nonzero().squeeze(1)
        own, other = (model.log_probabilities(model.hidden(tokens, tokens.before[spoken]), tokens.ids[0][spoken]) for model in (specialist.model, self._untouched(specialist)))
        return float((own - other).abs().mean())

    def _untouched(self, specialist: Specialist) -> TunableModel:
        if self._reference is None:
            self._reference = specialist.task.build(specialist.base, specialist.signature).requires_grad_(False).eval()
        return self._reference

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Token ids of the prompts, at most `max_length` (`cut` tells); `row` is what the rewards read. A prompt that could only be asked without what
        the system says is refused."""
        for reward in self._rewards:
            reward.prepare()
        room = getattr(specialist.base.config(), "max_position_embeddings", None) or 1 << 30
        if room < max_length + self.keys.max_new_tokens:
            raise PlugError(
                f"the base reads {room} tokens, fewer than train.max_length = {max_length} of the prompt and objective.max_new_tokens = {self.keys.max_new_tokens} of an answer",
                place="objective.max_new_tokens",
                fix="lower one of them",
            )

        def size(row: Row) -> int:
            return question_ids(specialist, question_of(row), FAR * max_length, row.get("tools"))[1]

        def encode(row: Row) -> Example:
            question = question_of(row)
            kept, need = shortened_question(specialist, question, max_length, row.get("tools"))
            if need:
                raise must_stay(place_of(row), need, max_length, answer="")
            ids, cut = prompt_ids(specialist, kept, max_length, row.get("tools"))
            cut = cut or kept is not question
            whole = size(row) if cut else 0
            return {"row_id": row["row_id"], "size": len(ids), "prompt_ids": ids, "row": dict(row), **cut_facts(cut, whole, len(ids), whole > FAR * max_length)}

        return [example for _, example in each_that_fits(specialist, rows, max_length, encode, size)]

    def renew(self, specialist: Specialist, examples: Sequence[Example], seed: int, step: int) -> Sequence[Example]:
        """Each prompt with a group of answers (`answers`, `said`), their `rewards` and `advantages`; `judged` where they are only looked at."""
        group, stops = self.keys.group, stop_ids(specialist)
        keys = [(seed, step, zlib.crc32(str(one["row_id"]).encode()), sample) for one in examples for sample in range(group)]
        prompts = [one["prompt_ids"] for one in examples for _ in range(group)]
        tried = attempts(specialist, prompts, keys, stops=stops, most=self.keys.max_new_tokens, temperature=self.keys.temperature)
        texts = [specialist.tokenizer.decode(one.ids[:-1] if one.ended else one.ids, skip_special_tokens=True).strip() for one in tried]
        worth = self.worth([one["row"] for one in examples for _ in range(group)], texts)
        for number, value in enumerate(worth):
            if not math.isfinite(value):
                row = examples[number // group]["row"]
                raise DataError(f"an answer's reward is {value}", place=str(row.get("place") or row["row_id"]), fix="mend the reward: it must give a finite number for any text, the empty one too")
        found = []
        for number, one in enumerate(examples):
            own = slice(number * group, (number + 1) * group)
            facts = {"answers": [a.ids for a in tried[own]], "said": [a.said for a in tried[own]], "rewards": worth[own], "texts": texts[own]}
            found.append({**one, **facts, "advantages": _policy.advantages(worth[own], self.keys.scale), "judged": step < 0})
        return found

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens of every prompt with its answers; `learned`, int64, where the answers' tokens lie; of each of these `advantages`, `said` (log-probability
        when it was drawn), `sequence` (the answer it belongs to), and with beta `reference`. Of answers that are only judged: `rewards`. Nothing where no
        answers were tried yet."""
        import torch

        if not examples or "answers" not in examples[0]:
            return {}
        if examples[0]["judged"]:
            return {"rewards": torch.tensor([value for one in examples for value in one["rewards"]])}
        batch = _policy.laid(specialist.model, examples)
        if self.keys.beta:
            with torch.no_grad():
                batch["reference"] = _policy.log_probabilities(self._untouched(specialist), batch, self.keys.temperature)
        return batch

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum and count of what `average` says: answers, or tokens. Where answers are only judged: minus their rewards."""
        if "rewards" in batch:
            return -batch["rewards"].sum(), float(len(batch["rewards"]))
        own = _policy.log_probabilities(model, batch, self.keys.temperature)
        high = self.keys.clip if self.keys.clip_high is None else self.keys.clip_high
        each = _policy.token_losses(own, batch, self.keys.level, self.keys.clip, high)
        if self.keys.beta:
            each = each + self.keys.beta * _policy.divergence(own, batch["reference"])
        return _policy.summed(each, batch, self.keys.average, self.keys.max_new_tokens)


def _parse(roles: Sequence[Role]) -> Any:
    read = [role for role in roles if role.name not in ("prompt", "completion", "tools")]
    answered = any(role.name == "completion" for role in roles)

    def parse(values: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        """The prompt from every shape that has one, a right answer where a reward reads it, and the other columns of the rewards as they are."""
        row = rewarded_of(values, columns if answered else {role: column for role, column in columns.items() if role != "completion"})
        if not answered and row.pop("completion") is not None:
            raise DataError("the prompt ends with an answer", place=str(columns.get("prompt", "prompt")), fix="leave the last turn out: the model writes it while it learns")
        for role in read:
            value = values.get(columns[role.name]) if role.name in columns else None
            if role.name == TESTS.name:
                value = unit_tests_of(value, str(columns.get(role.name, role.name)))
            row[role.name] = value if value not in ("", []) else None
        return row

    return parse
