"""What the rivals share that put something into the prompt: how much of it fits, and how much of it the validation rows want."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.catalog.rivals._documents import files, passages
from attune.catalog.rivals._search import Search
from attune.core import catalog, randomness
from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.conversation import Message, question_ids, question_of, segments
from attune.core.errors import RecipeError
from attune.core.specialist import Specialist

Prompt = list[Message]


class Prompting(Rival):
    """A language model asked with more in its prompt: `ask(row, number)` says what, the validation rows how much of it."""

    thing: str = "things"
    """What is put into the prompt, in the plural."""

    def fit(self, context: RivalContext) -> None:
        """Prepare what is put in, then choose how much on a sample of the validation rows, by the task's main metric; the least of equal ones."""
        self.context = context
        self.prepare(context)
        self.specialist = widened(self.model(context), self.keys.context)
        choices = sorted(set(self.choices()))
        if not choices or choices[0] < 0:
            raise RecipeError(f"{self.choices()} are no numbers of {self.thing}", place=f"grade.rivals: {self.name}", fix="give a list of whole numbers such as [1, 3]")
        self.number = choices[0]
        if len(choices) > 1 and context.validation:
            order = randomness.generator(context.seed, "rival.prompting").permutation(len(context.validation))
            rows = [context.validation[i] for i in sorted(order[: self.keys.tries])]
            values = {number: self._value(rows, number) for number in choices}
            self.number = max(choices, key=lambda number: (values[number], -number))
        self.note = f"{self.number} {self.thing} in the prompt" + (f", chosen among {', '.join(map(str, choices))} on validation rows" if len(choices) > 1 else "")

    @abstractmethod
    def model(self, context: RivalContext) -> Specialist:
        """Who is asked."""

    @abstractmethod
    def prepare(self, context: RivalContext) -> None:
        """Index what is put in."""

    @abstractmethod
    def choices(self) -> list[int]:
        """Numbers of things to choose from."""

    @abstractmethod
    def prompts(self, rows: Sequence[Row], number: int) -> list[Callable[[int], Prompt]]:
        """For each row, its prompt with its `n` most fitting things, as a function of n up to `number`."""

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answers of the model."""
        return self._answers(rows, self.number)

    def _answers(self, rows: Sequence[Row], number: int) -> list[Prediction]:
        if not rows:
            return []
        asked = []
        for row, prompt in zip(rows, self.prompts(rows, number), strict=True):
            plain = not row["prompt"] or segments(question_of(row))  # a text that goes on has no turns to put something into
            fitting = 0 if plain else next((n for n in range(number, 0, -1) if fits(self.specialist, prompt(n), row.get("tools"))), 0)
            asked.append(row if plain else {**row, "prompt": prompt(fitting)})
        return self.specialist.examine(asked)

    def _value(self, rows: Sequence[Row], number: int) -> float:
        metric = catalog.build("metrics", self.context.task.defaults.main_metric)
        truth = [self.context.task.truth(row) for row in rows]
        value = float(metric.value(metric.of_rows(rows, truth, self._answers(rows, number), self.context.signature).sum(0)))
        return -math.inf if math.isnan(value) else value if metric.higher_is_better else -value


def widened(specialist: Specialist, tokens: int) -> Specialist:
    """The specialist, reading prompts of so many tokens as far as its network can: training rows may have been cut shorter."""
    room = getattr(specialist.model.body.config, "max_position_embeddings", None) or tokens
    return dataclasses.replace(specialist, max_length=max(specialist.max_length, min(tokens, room)))


def fits(specialist: Specialist, prompt: Prompt, tools: Sequence[Mapping[str, Any]] | None = None) -> bool:
    """True when a prompt, with the functions that may be called, leaves room for the answer."""
    room = (getattr(specialist.model.body.config, "max_position_embeddings", None) or 1 << 30) - specialist.task.keys.max_new_tokens
    limit: int = min(specialist.max_length, room)
    return question_ids(specialist, prompt, limit, tools)[1] <= limit


def turns(row: Row) -> tuple[Prompt, Prompt]:
    """The system's turns of a row's prompt, and the others."""
    messages = question_of(row)
    return [m for m in messages if m["role"] == "system"], [m for m in messages if m["role"] != "system"]


class Passages(Prompting):
    """Put the most similar passages before the question: of documents, or the training rows with their answers."""

    thing = "passages"

    def reads(self) -> Sequence[Path]:
        """The documents."""
        path = self.located(self.keys.documents) if self.keys.documents is not None else None
        return () if path is None else files(path) or [path]

    def prepare(self, context: RivalContext) -> None:
        """Cut documents into passages, or take each training row as one, and index them."""
        if self.keys.documents is not None:
            self.passages = passages(self.located(self.keys.documents), self.keys.words, self.name)
        else:
            self.passages = [f"{context.task.text(row)}\n{context.task.truth(row)}".strip() for row in context.train]
        self.search = Search(self.passages, self.keys.by, context.embed)

    def choices(self) -> list[int]:
        """The key `passages`."""
        return list(self.keys.passages)

    def prompts(self, rows: Sequence[Row], number: int) -> list[Callable[[int], Prompt]]:
        """The last user turn with the passages before it, the most similar first."""
        found = self.search.best([self.context.task.text(row) for row in rows], number)
        return [lambda n, row=row, places=places: self._prompt(row, places[:n]) for row, places in zip(rows, found, strict=True)]  # type: ignore[misc]

    def _prompt(self, row: Row, places: Sequence[int]) -> Prompt:
        system, asked = turns(row)
        if not places:
            return [*system, *asked]
        last = max((i for i, message in enumerate(asked) if message["role"] == "user"), default=len(asked) - 1)
        text = self.keys.phrase.replace("{passages}", "\n\n".join(self.passages[place] for place in places)).replace("{question}", asked[last]["content"])
        return [*system, *asked[:last], {**asked[last], "content": text}, *asked[last + 1 :]]
