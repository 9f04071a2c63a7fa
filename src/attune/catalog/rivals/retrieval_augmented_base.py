"""The base that may look it up: the most similar passages of your documents, or of the training rows, stand in its prompt (retrieval-augmented generation)."""

from __future__ import annotations

from typing import ClassVar, Literal

from attune.catalog.rivals import _prompting
from attune.core.contracts import RivalContext
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist


class RetrievalAugmentedBaseKeys(Keys):
    """Keys of the rival."""

    documents: str | None = key(None, "text file or folder of text files to look things up in, relative to the recipe; default: the training rows with their answers")
    words: int = key(120, "words of a passage that documents are cut into", ge=10)
    passages: list[int] = key([1, 3], "numbers of passages to choose from; the validation rows choose", aliases=("top_k",))
    by: Literal["words", "vectors", "both"] = key("words", "how passages are found: BM25 on words, the base's vectors, or both ranks together")
    phrase: str = key("{passages}\n\n{question}", "the last question with its passages, for example 'Known: {passages} Question: {question}'")
    tries: int = key(40, "validation rows to choose with", ge=1)
    context: int = key(2048, "longest prompt in tokens, as far as the base reads it; passages that do not fit are left out", ge=16)


class RetrievalAugmentedBase(_prompting.Passages):
    """The untouched base with passages before the question (Lewis et al. 2020; here nothing is trained)."""

    keys_type = RetrievalAugmentedBaseKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-in", "text-out", "torch"})

    def model(self, context: RivalContext) -> Specialist:
        """The untouched base."""
        return context.untuned()
