"""The base with a good prompt: an instruction, and the most similar training rows as examples. What costs nothing to try instead of tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from attune.catalog.rivals import _prompting
from attune.catalog.rivals._search import Search
from attune.core.contracts import RivalContext, Row
from attune.core.conversation import answer_of
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist


class PromptedBaseKeys(Keys):
    """Keys of the rival."""

    instruction: str | None = key(None, "what the base is told before everything else, as a system's turn")
    examples: list[int] = key([0, 1, 3, 5], "numbers of examples to choose from, 0 is zero-shot; the validation rows choose", aliases=("shots", "num_fewshot"))
    by: Literal["words", "vectors", "both"] = key("words", "how similar rows are found: BM25 on words, the base's vectors, or both ranks together")
    tries: int = key(40, "validation rows to choose with", ge=1)
    context: int = key(2048, "longest prompt in tokens, as far as the base reads it; examples that do not fit are left out", ge=16)


class PromptedBase(_prompting.Prompting):
    """In-context learning with examples chosen by similarity (Liu et al. 2022), the most similar one last, as earlier turns of the conversation."""

    keys_type = PromptedBaseKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-in", "text-out", "torch"})
    thing = "examples"

    def model(self, context: RivalContext) -> Specialist:
        """The untouched base."""
        return context.untuned()

    def prepare(self, context: RivalContext) -> None:
        """Index the training rows by their questions."""
        self.rows = [row for row in context.train if row["prompt"]]
        self.search = Search([context.task.text(row) for row in self.rows], self.keys.by, context.embed) if any(self.keys.examples) else None

    def choices(self) -> list[int]:
        """The key `examples`."""
        return list(self.keys.examples)

    def prompts(self, rows: Sequence[Row], number: int) -> list[Callable[[int], _prompting.Prompt]]:
        """Instruction, examples, conversation."""
        found = self.search.best([self.context.task.text(row) for row in rows], number) if self.search is not None and number else [[] for _ in rows]
        return [lambda n, row=row, places=places: self._prompt(row, places[:n]) for row, places in zip(rows, found, strict=True)]  # type: ignore[misc]

    def _prompt(self, row: Row, places: Sequence[int]) -> _prompting.Prompt:
        system, asked = _prompting.turns(row)
        if self.keys.instruction is not None:
            said = [self.keys.instruction, *(message["content"] for message in system)]
            system = [{"role": "system", "content": "\n".join(said)}]
        shown: _prompting.Prompt = []
        for place in reversed(places):
            shown += [*_prompting.turns(self.rows[place])[1], answer_of(str(self.context.task.truth(self.rows[place])))]
        return [*system, *shown, *asked]
