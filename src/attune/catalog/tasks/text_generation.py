"""Write a text in answer to a text or a conversation: replies, summaries, commands, reports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.conversation import Message, messages_of, prompt_ids, stop_ids, template_digest, template_of
from attune.core.errors import DataError, PlugError
from attune.core.keys import Keys, key
from attune.core.memory import in_parts
from attune.core.replies import likelihoods
from attune.core.specialist import Specialist, by_length, pad_id, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel

AT_ONCE = 16


class TextGenerationKeys(Keys):
    """Keys of the task."""

    max_new_tokens: int = key(64, "longest answer, in tokens", aliases=("max_tokens", "max_completion_tokens"), ge=1)


class TextGeneration(Task):
    """Conversation in, text out, by a causal language model with the chat template it was tuned with."""

    keys_type = TextGenerationKeys
    traits = frozenset({"text-in", "text-out", "prefers", "embeds", "torch"})
    bases = frozenset({"decoder"})
    roles = (
        Role(
            "prompt",
            "messages",
            "what is answered: a text, or a conversation as a list of messages (which may hold the answer as its last turn)",
            ("messages", "conversations", "conversation", "prompt", "instruction", "question", "query", "input", "text", "user", "source", "document", "dialogue"),
        ),
        Role("completion", "text", "the right answer", ("completion", "output", "response", "answer", "target", "reply", "assistant", "summary"), required=False, target=True),
    )
    defaults = Defaults(
        objective="sft",
        method="lora",
        main_metric="token_f1",
        metrics=("token_f1", "exact_match"),
        rivals=("majority", "untouched_base", "retrieval"),
        checks=("encoding", "types", "pii", "exact_duplicates", "near_duplicates", "leakage"),
        detectors=("embedding_shift", "performance_drop"),
        exports=("bundle", "transformers"),
    )

    def parse(self, values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
        """`prompt` as messages and `completion` as text, from chat, ShareGPT, prompt/completion and Alpaca shapes.

        A conversation without a completion column gives its last assistant turn that is learned from; turns behind it teach nothing and are left.
        Alpaca's `input`, `system` and `history` are read beside its `instruction`.
        """
        column = columns["prompt"]
        given = values.get(column)
        if given is None or given == "" or given == []:
            return {"prompt": None, "completion": None}
        prompt = messages_of(given, column)
        if column == "instruction":
            prompt = _alpaca(values, prompt)
        elif isinstance(values.get("system"), str) and values["system"].strip() and prompt[0]["role"] != "system" and column != "system":
            prompt = [{"role": "system", "content": values["system"]}, *prompt]
        if "completion" in columns:
            answer = _answer(values.get(columns["completion"]), columns["completion"])
            if not answer.strip():
                raise DataError("there is no answer", place=columns["completion"], fix="write the answer, or leave the row out")
            return {"prompt": prompt, "completion": answer}
        if isinstance(given, str):
            return {"prompt": prompt, "completion": None}
        turns = [number for number, message in enumerate(prompt) if message["role"] == "assistant" and message.get("train", True)]
        if not turns or turns[-1] == 0:
            raise DataError(
                "the conversation has no assistant turn to learn from", place=column, fix="end it with an assistant's turn behind a user's, or name the answer's column in data.columns.completion"
            )
        return {"prompt": prompt[: turns[-1]], "completion": prompt[turns[-1]]["content"]}

    def signature(self, rows: Sequence[Row]) -> Signature:
        """The template is the base's matter and is settled with the model; here only that every row has an answer."""
        lost = [str(row.get("place") or row.get("row_id")) for row in rows if not row.get("completion")]
        if lost:
            raise DataError(f"{len(lost)} of {len(rows)} rows have no answer", place=", ".join(lost[:5]), fix="name the answer's column in data.columns.completion, or remove these rows")
        return {"chat_template": None, "chat_template_sha256": None}

    def text(self, row: Row) -> str:
        """Everything but the system's turns, a line each."""
        return "\n".join(message["content"] for message in messages_of(row["prompt"], "prompt") if message["role"] != "system")

    def truth(self, row: Row) -> Any:
        """The right answer."""
        return row["completion"]

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained causal language model as it is."""
        from attune.core.tunable import TunableModel

        return TunableModel(base.body("AutoModelForCausalLM"), None, "mean")

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers; confidence is the geometric mean of the tokens' probabilities."""
        room = getattr(specialist.model.body.config, "max_position_embeddings", None) or 1 << 30
        if room <= self.keys.max_new_tokens:
            raise PlugError(
                f"the base reads {room} tokens, of which max_new_tokens = {self.keys.max_new_tokens} leaves none for the question", place="task.max_new_tokens", fix=f"lower it below {room}"
            )
        limit = min(specialist.max_length, room - self.keys.max_new_tokens)
        asked = [prompt_ids(specialist, messages_of(row["prompt"], "prompt"), limit) for row in rows]
        ids = [one for one, _ in asked]
        stops = stop_ids(specialist)
        answers: list[Any] = [None] * len(rows)
        for index in by_length([len(one) for one in ids], AT_ONCE):
            for i, answer in zip(index, in_parts(lambda part: self._generate(specialist, part, stops), [ids[i] for i in index]), strict=True):
                answers[i] = dataclasses.replace(answer, extra={**answer.extra, "cut": asked[i][1]})
        return answers

    def examine(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The answers, and how likely the rows' own answers are held to be."""
        return [dataclasses.replace(answer, extra={**answer.extra, **held.extra}) for answer, held in zip(self.predict(specialist, rows), self.weigh(specialist, rows), strict=True)]

    def weigh(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """How likely the rows' own answers are held to be (`core.replies.likelihoods`); nothing is written."""
        return [Prediction("", extra=held) for held in likelihoods(specialist, rows)]

    def _generate(self, specialist: Specialist, ids: Sequence[Sequence[int]], stops: list[int]) -> list[Prediction]:
        """Answers to one batch, padded on the left so that every answer begins at the same place."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        longest, pad = max(len(one) for one in ids), pad_id(specialist.tokenizer)
        tokens = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in ids])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids])
        certainty: list[torch.Tensor] = []

        def watch(_seen: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Keep the log-probability of the token that greedy decoding takes; keeping all scores would need tokens x vocabulary."""
            certainty.append(scores.float().log_softmax(-1).amax(-1))
            return scores

        settings = GenerationConfig(max_new_tokens=self.keys.max_new_tokens, do_sample=False, num_beams=1, eos_token_id=stops, pad_token_id=pad, use_cache=True)  # type: ignore[no-untyped-call]
        found = specialist.model.body.generate(input_ids=tokens, attention_mask=mask, generation_config=settings, logits_processor=LogitsProcessorList([watch]))
        answers = []
        for row, log_probabilities in zip(found[:, longest:].tolist(), torch.stack(certainty, 1).tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), None)
            size = len(row) if end is None else end + 1
            text = specialist.tokenizer.decode(row[:end] if end is not None else row, skip_special_tokens=True).strip()
            answers.append(Prediction(text, confidence=math.exp(sum(log_probabilities[:size]) / size), extra={"tokens": size, "stopped": end is not None}))
        return answers

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """Mean of the last hidden states."""
        found: np.ndarray = text_features(specialist, texts).numpy()
        return found

    def settle(self, specialist: Specialist, validation: Sequence[Row]) -> Signature:
        """The chat template, so that it travels with the model, in the bundle's facts and in its tokenizer."""
        template = template_of(specialist)
        specialist.tokenizer.chat_template = template
        return {**specialist.signature, "chat_template": template, "chat_template_sha256": template_digest(template)}

    def request(self, payload: dict[str, Any]) -> Row:
        """A row from `prompt` (a text or messages) or `messages`."""
        given = payload.get("prompt", payload.get("messages"))
        prompt = messages_of(given, "prompt")
        if not any(message["content"].strip() for message in prompt):
            raise DataError("field 'prompt' is empty", place="prompt", fix='send {"prompt": "..."} or {"prompt": [{"role": "user", "content": "..."}]}')
        return {"prompt": prompt}


def _alpaca(values: Mapping[str, Any], instruction: list[Message]) -> list[Message]:
    """instruction + input as the user's turn, behind the system's and the earlier turns."""
    extra = values.get("input")
    asked = instruction[-1]["content"] + (f"\n{extra}" if isinstance(extra, str) and extra.strip() else "")
    before: list[Message] = []
    if isinstance(values.get("system"), str) and values["system"].strip():
        before.append({"role": "system", "content": values["system"]})
    for number, pair in enumerate(values.get("history") or []):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise DataError(f"{pair!r} is not a pair of question and answer", place=f"history[{number}]", fix='give history as [["question", "answer"], ...]')
        before += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return [*before, {"role": "user", "content": asked}]


def _answer(value: Any, column: str) -> str:
    """The completion as text: given so, or as one assistant message."""
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool)):
        return "" if value is None else str(value)
    messages = messages_of(value, column)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise DataError(f"the answer has {len(messages)} messages", place=column, fix="give one assistant message or a text")
    return str(messages[0]["content"])
