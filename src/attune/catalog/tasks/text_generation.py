"""Write a text in answer to a text or a conversation: replies, summaries, commands, reports."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Defaults, Prediction, Row, Signature, Task
from attune.core.conversation import calls_as_text, messages_of, prompt_ids, question_of, stop_ids, template_digest, template_of, tools_of
from attune.core.errors import DataError, PlugError
from attune.core.keys import Keys, key
from attune.core.likelihood import answer_nll
from attune.core.memory import in_parts
from attune.core.programs import TESTS, unit_tests_of
from attune.core.randomness import key as key_of
from attune.core.replies import likelihoods
from attune.core.shapes import ANSWERED_ROLES, answered_of, shape_of
from attune.core.specialist import Specialist, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel


class TextGenerationKeys(Keys):
    """Keys of the task."""

    max_new_tokens: int = key(64, "longest answer, in tokens", aliases=("max_tokens", "max_completion_tokens"), ge=1)


class TextGeneration(Task):
    """Conversation in, text out, by a causal language model with the chat template it was tuned with."""

    keys_type = TextGenerationKeys
    traits = frozenset({"text-in", "text-out", "language-model", "prefers", "embeds", "torch"})
    bases = frozenset({"decoder"})
    roles = (*ANSWERED_ROLES, dataclasses.replace(TESTS, required=False))
    defaults = Defaults(
        objective="sft",
        method="lora",
        main_metric="token_f1",
        metrics=("token_f1", "exact_match", "rouge_l", "perplexity", "answer_length"),
        rivals=("majority", "untouched_base", "prompted_base", "retrieval", "retrieval_augmented_base"),
        checks=("encoding", "types", "chat_markers", "pii", "exact_duplicates", "near_duplicates", "leakage"),
        detectors=("embedding_shift", "performance_drop"),
        exports=("bundle", "transformers"),
    )

    def parse(self, values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
        """`prompt` as messages, `completion` as text, `tools` and unit tests, from every shape of `core.shapes` that has an answer."""
        found = answered_of(values, {name: column for name, column in columns.items() if name != "tests"})
        tests = unit_tests_of(values.get(columns["tests"]), columns["tests"]) if "tests" in columns else None
        return found if tests is None else {**found, "tests": tests}

    def shape(self, values: Mapping[str, Any]) -> str:
        """The name of the row's shape."""
        return shape_of(values)

    def signature(self, rows: Sequence[Row]) -> Signature:
        """The template is the base's matter and is settled with the model; here only that every row has an answer."""
        lost = [str(row.get("place") or row.get("row_id")) for row in rows if not row.get("completion")]
        if lost and not self.shaped:
            raise DataError(f"{len(lost)} of {len(rows)} rows have no answer", place=", ".join(lost[:5]), fix="name the answer's column in data.columns.completion, or remove these rows")
        return {"chat_template": None, "chat_template_sha256": None}

    def text(self, row: Row) -> str:
        """Everything before the answer but the system's turns, a line each; of raw text, which has no question, the text."""
        asked = "\n".join(calls_as_text(message) for message in question_of(row) if message["role"] != "system")
        return asked if row.get("prompt") else str(row.get("completion") or "")

    def context(self, row: Row) -> str:
        """What the system says."""
        return "\n".join(message["content"] for message in question_of(row) if message["role"] == "system")

    def truth(self, row: Row) -> Any:
        """The right answer."""
        return row.get("completion")

    def answered(self, row: Row) -> bool:
        """True for a question with an answer that is not marked as a bad one; a document is no answer to anything."""
        return bool(row.get("prompt") and row.get("completion") and row.get("desirable", True))

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained causal language model as it is."""
        from attune.core.tunable import TunableModel

        return TunableModel(base.body("AutoModelForCausalLM"), None, "mean")

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers; confidence is the geometric mean of the tokens' probabilities."""
        asked = self._prompts(specialist, rows)
        written = in_parts(lambda part: self._written(specialist, part, stop_ids(specialist)), [ids for ids, _ in asked])
        return [dataclasses.replace(answer, extra={**answer.extra, "cut": cut}) for answer, (_, cut) in zip(written, asked, strict=True)]

    def _prompts(self, specialist: Specialist, rows: Sequence[Row]) -> list[tuple[list[int], bool]]:
        """Token ids of each row's question, virtual ones first, and whether it was cut."""
        first = specialist.model.in_front()
        room = (getattr(specialist.model.body.config, "max_position_embeddings", None) or 1 << 30) - len(first)
        if room <= self.keys.max_new_tokens:
            raise PlugError(
                f"the base reads {room} tokens, of which max_new_tokens = {self.keys.max_new_tokens} leaves none for the question", place="task.max_new_tokens", fix=f"lower it below {room}"
            )
        limit = min(specialist.max_length, room - self.keys.max_new_tokens)
        asked = [prompt_ids(specialist, question_of(row), limit, row.get("tools")) for row in rows]
        return [([*first, *ids], cut) for ids, cut in asked]

    def examine(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The answers, each with how likely the right one was held to be (see `weigh`). A document has no question, so nothing is written for it."""
        asked = [i for i, row in enumerate(rows) if row.get("prompt")]
        answers = self.weigh(specialist, rows)
        for i, answer in zip(asked, self.predict(specialist, [rows[i] for i in asked]) if asked else [], strict=True):
            answers[i] = dataclasses.replace(answer, extra={**answer.extra, **answers[i].extra})
        if asked and specialist.samples[0]:
            for i, texts in zip(asked, self._sampled(specialist, [rows[i] for i in asked]), strict=True):
                answers[i].extra["samples"] = texts
        return answers

    def _sampled(self, specialist: Specialist, rows: Sequence[Row]) -> list[list[str]]:
        """Sampled answers to each row, as many as the specialist is to give; each drawn by the row and its number alone."""
        from attune.core.generation import generate
        from attune.core.sampling import Sampling

        (count, temperature), stops = specialist.samples, stop_ids(specialist)
        seeds = [key_of(0, "samples", zlib.crc32(str(row.get("row_id", number)).encode())) for number, row in enumerate(rows)]
        wanted = [
            (ids, Sampling(max_tokens=self.keys.max_new_tokens, temperature=temperature, seed=seed, request=number))
            for (ids, _), seed in zip(self._prompts(specialist, rows), seeds, strict=True)
            for number in range(count)
        ]

        def written(part: Sequence[tuple[list[int], Sampling]]) -> list[str]:
            found = generate(specialist, [ids for ids, _ in part], [one for _, one in part], stops=stops)
            return [specialist.tokenizer.decode(one.ids[:-1] if one.ids[-1] in stops else one.ids, skip_special_tokens=True).strip() for one in found]

        texts = in_parts(written, wanted)
        return [texts[begin : begin + count] for begin in range(0, len(texts), count)]

    def weigh(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """How likely the rows' own answers are held to be; nothing is written: `nll` (nats, the end token included) and `nll_tokens`, and for rows that
        prefer one answer to another what `core.replies.likelihoods` says."""
        found = likelihoods(specialist, rows)
        known = [i for i, row in enumerate(rows) if row.get("completion")]
        for i, (nll, tokens) in zip(known, answer_nll(specialist, [rows[i] for i in known]), strict=True):
            found[i] |= {"nll": nll, "nll_tokens": tokens}
        return [Prediction("", extra=held) for held in found]

    def _written(self, specialist: Specialist, ids: Sequence[Sequence[int]], stops: list[int]) -> list[Prediction]:
        from attune.core.generation import generate
        from attune.core.sampling import Sampling

        answers = []
        for found in generate(specialist, ids, Sampling(max_tokens=self.keys.max_new_tokens), stops=stops):
            stopped = found.ids[-1] in stops
            text = specialist.tokenizer.decode(found.ids[:-1] if stopped else found.ids, skip_special_tokens=True).strip()
            certainty = math.exp(sum(one.logprob for one in found.choices) / len(found.choices))
            answers.append(Prediction(text, confidence=certainty, extra={"tokens": len(found.ids), "stopped": stopped}))
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
        tools = tools_of(payload.get("tools"))
        return {"prompt": prompt, "tools": tools} if tools else {"prompt": prompt}
