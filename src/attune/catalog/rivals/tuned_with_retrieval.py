"""The tuned model that may look it up: the same passages in its prompt as the retrieval-augmented base has. A companion, nothing that has to be beaten."""

from __future__ import annotations

from typing import ClassVar, Literal

from attune.catalog.rivals import _prompting
from attune.core.contracts import RivalContext
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist


class TunedWithRetrievalKeys(Keys):
    """Keys of the rival."""

    documents: str | None = key(None, "text file or folder of text files to look things up in, relative to the recipe; default: the training rows with their answers")
    words: int = key(120, "words of a passage that documents are cut into", ge=10)
    passages: list[int] = key([1, 3], "numbers of passages to choose from; the validation rows choose", aliases=("top_k",))
    by: Literal["words", "vectors", "both"] = key("words", "how passages are found: BM25 on words, the base's vectors, or both ranks together")
    phrase: str = key("{passages}\n\n{question}", "the last question with its passages, for example 'Known: {passages} Question: {question}'")
    tries: int = key(40, "validation rows to choose with", ge=1)
    context: int = key(2048, "longest prompt in tokens, as far as the base reads it; passages that do not fit are left out", ge=16)


class TunedWithRetrieval(_prompting.Passages):
    """Whether looking things up adds to tuning, by the same metrics on the same rows; tuning did not see passages in prompts."""

    keys_type = TunedWithRetrievalKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-in", "text-out", "torch"})
    opponent: ClassVar[bool] = False

    def model(self, context: RivalContext) -> Specialist:
        """The tuned model."""
        return context.tuned()
