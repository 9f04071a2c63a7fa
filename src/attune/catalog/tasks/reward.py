"""Score how good an answer to a prompt is, learned from pairs of a better and a worse answer: a reward for other models, a filter, a ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.conversation import messages_of, template_digest, template_of
from attune.core.errors import DataError
from attune.core.replies import Answer, heard, laid, looked_at, plain_prompt
from attune.core.shapes import preference_of
from attune.core.specialist import Specialist, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel


class Reward(Task):
    """Prompt and answer in, one number out; graded by which of a row's two answers gets the higher one.

    Only differences between answers to one prompt mean something: the sigmoid of a difference is the chance that the first answer is preferred
    (Bradley & Terry 1952).
    """

    traits = frozenset({"text-in", "score-out", "prefers", "embeds", "torch"})
    pipeline_tag = "text-classification"
    roles = (
        Role("prompt", "messages", "what is answered: a text, or a conversation as a list of messages", ("prompt", "instruction", "question", "query", "input", "messages", "conversation")),
        Role(
            "completion", "text", "the better answer; when asked, the answer to score", ("chosen", "preferred", "preferred_output", "response_chosen", "accepted", "completion", "answer", "response")
        ),
        Role("rejected", "text", "the worse answer", ("rejected", "rejected_response", "dispreferred", "non_preferred_output", "response_rejected"), target=True),
        Role("margin", "number", "by how much the better answer's score must be ahead", ("margin",), required=False, target=True),
    )
    defaults = Defaults(
        objective="reward_model",
        method="lora",
        main_metric="preference_accuracy",
        metrics=("preference_accuracy",),
        rivals=("longer_answer", "untouched_base"),
        checks=("encoding", "types", "pii", "exact_duplicates", "near_duplicates", "leakage"),
        detectors=("embedding_shift",),
        exports=("bundle", "transformers"),
    )

    def parse(self, values: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        """A pair, in every shape that preference rows have, and its margin where there is one."""
        row = preference_of(values, columns)
        return {**row, "margin": _number(values.get(columns["margin"]), columns["margin"])} if "margin" in columns else row

    def signature(self, rows: Sequence[Row]) -> Signature:
        """The chat template, where the base has one in use, is settled with the model."""
        return {"chat_template": None, "chat_template_sha256": None}

    def text(self, row: Row) -> str:
        """The conversation and the answer to score."""
        return f"{plain_prompt(messages_of(row['prompt'], 'prompt'))}\n{row['completion']}"

    def truth(self, row: Row) -> Any:
        """The better answer, which is what an examined row says as its output."""
        return row["completion"]

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained network with a fresh linear layer to one number that starts at zero: every answer is as good as any other."""
        import torch

        from attune.core.tunable import TunableModel

        body = base.body()
        head = torch.nn.Linear(body.config.hidden_size, 1, bias=False)  # a bias would be the same for both answers
        torch.nn.init.zeros_(head.weight)
        return TunableModel(body, head, base.pooling())

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The score of each row's `completion`."""
        answers = [heard(specialist, row, [row["completion"]], specialist.max_length, whole=False)[0] for row in rows]
        return [Prediction(score, extra={"cut": answer.cut}) for score, answer in zip(_scores(specialist, answers), answers, strict=True)]

    def examine(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The preferred one of each row's two answers, with `margin` (the score of `completion` minus that of `rejected`) and the chance that it is
        preferred as confidence. Of equal scores the answer that comes first in the alphabet."""
        answers = [answer for row in rows for answer in heard(specialist, row, [row["completion"], row["rejected"]], specialist.max_length, whole=False)]
        scores = _scores(specialist, answers)
        found = []
        for row, one, other in zip(rows, scores[::2], scores[1::2], strict=True):
            margin = one - other
            preferred = min(row["completion"], row["rejected"]) if margin == 0 else row["completion" if margin > 0 else "rejected"]
            found.append(Prediction(preferred, confidence=1 / (1 + math.exp(-min(abs(margin), 700.0))), extra={"margin": margin}))
        return found

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """The pooled vectors that the head sees."""
        found: np.ndarray = text_features(specialist, texts).numpy()
        return found

    def settle(self, specialist: Specialist, validation: Sequence[Row]) -> Signature:
        """For a decoder its chat template, so that it travels with the model."""
        if specialist.model.pooling != "last":
            return specialist.signature
        template = template_of(specialist)
        specialist.tokenizer.chat_template = template
        return {**specialist.signature, "chat_template": template, "chat_template_sha256": template_digest(template)}

    def request(self, payload: dict[str, Any]) -> Row:
        """A row from `prompt` (a text or messages) and `completion`."""
        completion = payload.get("completion")
        if not isinstance(completion, str) or not completion.strip():
            raise DataError("field 'completion' must be the answer to score", place="completion", fix='send {"prompt": "...", "completion": "..."}')
        prompt = messages_of(payload.get("prompt", payload.get("messages")), "prompt")
        if not any(message["content"].strip() for message in prompt):
            raise DataError("field 'prompt' is empty", place="prompt", fix='send {"prompt": "...", "completion": "..."}')
        return {"prompt": prompt, "completion": completion}


def _scores(specialist: Specialist, answers: Sequence[Answer]) -> list[float]:
    """The head's number for each answer, in order."""
    model = specialist.model

    def some(part: Sequence[Answer]) -> list[float]:
        found: list[float] = model.head(model.features(laid(specialist, part))).squeeze(1).tolist()
        return found

    return looked_at(specialist, answers, some)


def _number(value: Any, column: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"the margin {value!r} is not a number", place=column, fix="write a number such as 0.5, or leave the cell empty")
    return found
