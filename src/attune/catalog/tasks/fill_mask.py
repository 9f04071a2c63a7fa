"""Say which words are hidden in a text; tuned on plain documents, the result is an encoder for your domain that other tasks can start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.masking import draw, hidden_places, mask_id
from attune.core.memory import in_parts
from attune.core.specialist import Specialist, by_length, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel


class FillMaskKeys(Keys):
    """Keys of the task."""

    hidden_share: float = key(0.15, "share of a text's words that grading hides, always the same ones, where the text has no masks of its own", gt=0, lt=1)


class FillMask(Task):
    """Text in, hidden words out, by a masked language model. Where the base comes without an output layer, a fresh one starts that shares the
    weights of its embedding."""

    keys_type = FillMaskKeys
    traits = frozenset({"text-in", "mask-out", "language-model", "embeds", "torch"})
    guessed = False
    bases = frozenset({"encoder"})
    roles = (
        Role("text", "text", "a document, or a sentence with the base's mask token in it", ("text", "content", "document", "body", "sentence", "article", "passage", "abstract")),
        Role("answer", "text", "the hidden words, for sentences with mask tokens", ("answer", "masked", "target"), required=False, target=True),
    )
    defaults = Defaults(
        objective="pretraining",
        method="full",
        main_metric="perplexity",
        metrics=("perplexity", "masked_accuracy"),
        rivals=("untouched_base",),
        checks=("encoding", "types", "pii", "exact_duplicates", "near_duplicates", "leakage"),
        detectors=("embedding_shift",),
        exports=("bundle",),
    )

    def signature(self, rows: Sequence[Row]) -> Signature:
        """How many texts there are; raises DataError without any."""
        if not rows:
            raise DataError("there are no texts", place="text", fix="give rows with a text")
        return {"texts": len(rows)}

    def text(self, row: Row) -> str:
        """The text."""
        return str(row["text"])

    def truth(self, row: Row) -> Any:
        """The hidden words where they are given, else the text that some are hidden in."""
        return row.get("answer") or row["text"]

    def answered(self, row: Row) -> bool:
        """True where the hidden words are given."""
        return bool(row.get("answer"))

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained encoder with its output part for masked words, or a fresh one."""
        from attune.core.tunable import TunableModel

        mask_id(base.tokenizer())
        return TunableModel(base.body("AutoModelForMaskedLM", fresh=True), None, base.pooling())

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The likeliest word for every mask token of a text, in order; confidence is that of the least sure one."""
        mask = mask_id(specialist.tokenizer)
        ids = specialist.token_ids([self.text(row) for row in rows])
        found = self._asked(specialist, ids, [[place for place, token in enumerate(one) if token == mask] for one in ids])
        return [self._said(specialist, said) for said in found]

    def examine(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Answers, with how likely the hidden words were held to be (`nll` in nats, of `nll_tokens`) and how many were found (`hits`).

        A text without mask tokens has some of its words hidden by chance, drawn from the text itself, so that every contestant gets the same.
        """
        mask, special = mask_id(specialist.tokenizer), frozenset(specialist.tokenizer.all_special_ids)
        asked, places, right = [], [], []
        for row, ids in zip(rows, specialist.token_ids([self.text(row) for row in rows]), strict=True):
            hidden = [place for place, token in enumerate(ids) if token == mask]
            words = self._words(specialist, row, len(hidden)) if hidden else []
            if not hidden:
                hidden = hidden_places(ids, special, self.keys.hidden_share, draw(0, 0, self.text(row)))
                words = [ids[place] for place in hidden]
            asked.append([mask if place in hidden else token for place, token in enumerate(ids)])
            places.append(hidden)
            right.append(words)
        answers = []
        for said, words in zip(self._asked(specialist, asked, places), right, strict=True):
            nats = -sum(float(said[i, word]) for i, word in enumerate(words))
            hits = sum(int(said[i].argmax()) == word for i, word in enumerate(words))
            plain = self._said(specialist, said)
            answers.append(Prediction(plain.output, confidence=plain.confidence, extra={"nll": nats, "nll_tokens": len(words), "hits": hits}))
        return answers

    def _words(self, specialist: Specialist, row: Row, masks: int) -> list[int]:
        words = [int(one) for one in specialist.tokenizer(str(row.get("answer") or ""), add_special_tokens=False)["input_ids"]]
        if len(words) != masks:
            raise DataError(
                f"the text has {masks} mask token{'s' if masks != 1 else ''}, and the answer '{row.get('answer')}' is {len(words)} tokens",
                place=str(row.get("place") or row.get("row_id")),
                fix="give one mask token for every token of the answer, or remove the masks from the text",
            )
        return words

    def _asked(self, specialist: Specialist, ids: Sequence[list[int]], places: Sequence[list[int]]) -> list[Any]:
        """Log-probabilities of the vocabulary at each row's places, float32 [places, vocabulary]."""
        import torch

        from attune.core.tokens import Tokens

        def some(part: Sequence[int]) -> list[Any]:
            tokens = Tokens.of([ids[i] for i in part])
            at = torch.tensor([int(tokens.starts[number]) + place for number, i in enumerate(part) for place in places[i]], dtype=torch.long)
            logits = specialist.model.vocabulary_logits(specialist.model.hidden(tokens, at)).float().log_softmax(-1)
            return list(logits.split([len(places[i]) for i in part]))

        found: list[Any] = [None] * len(ids)
        done = 0
        for index in by_length([len(one) for one in ids]):
            for i, one in zip(index, in_parts(some, index), strict=True):
                found[i] = one
            done += len(index)
            specialist.told("fills masks", done, len(ids))
        return found

    def _said(self, specialist: Specialist, said: Any) -> Prediction:
        best = said.max(-1)
        words = [specialist.tokenizer.decode([token]).strip() for token in best.indices.tolist()]
        return Prediction(words, confidence=math.exp(min(best.values.tolist())) if words else None)

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """Pooled vectors."""
        found: np.ndarray = text_features(specialist, texts).numpy()
        return found
