"""Corpus BLEU of the generated texts against the right ones, as sacreBLEU counts it (1 to 4 words): for translations. Needs the extra [text-metrics]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from attune.core.answers import accepted
from attune.core.contracts import Metric, Prediction, Signature
from attune.core.errors import MachineError
from attune.core.keys import Keys, key

ORDERS = 4


class BleuKeys(Keys):
    """Keys of the metric."""

    tokenize: Literal["13a", "intl", "char", "zh", "none"] = key("13a", "how texts are cut into words: 13a for most languages, char or zh for Chinese and Japanese", aliases=("tokenizer",))
    lowercase: bool = key(False, "compare without case")


class Bleu(Metric):
    """Papineni et al. 2002, with the exponential smoothing and the tokenizers of sacreBLEU (Post 2018): a function of summed counts."""

    keys_type = BleuKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """float64 [n, 10]: length of the answer and of the right text; matching and all n-grams of each order."""
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise MachineError("metric 'bleu' needs the package sacrebleu", place="grade.metrics", fix="pip install 'attune[text-metrics]', or measure chrf, which needs nothing") from error
        counter = BLEU(tokenize=self.keys.tokenize, lowercase=self.keys.lowercase)
        counter.max_ngram_order = ORDERS
        found = np.zeros((len(truth), 2 + 2 * ORDERS))
        for row, (right, prediction) in enumerate(zip(truth, predictions, strict=True)):
            one = counter.sentence_score(str(prediction.output if prediction.output is not None else ""), accepted(right) or [""])
            found[row] = [one.sys_len, one.ref_len, *one.counts, *one.totals]
        return found

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Geometric mean of the n-gram precisions, times the penalty for answers that are too short."""
        totals = np.asarray(totals, dtype=np.float64)
        said, wanted = totals[..., 0], totals[..., 1]
        matched, there = totals[..., 2 : 2 + ORDERS], totals[..., 2 + ORDERS :]
        log = np.zeros_like(said)
        halving = np.ones_like(said)
        with np.errstate(divide="ignore", invalid="ignore"):
            for order in range(ORDERS):
                none = (matched[..., order] == 0) & (there[..., order] > 0)
                halving = np.where(none, halving * 2, halving)
                precision = np.where(none, 1 / halving, matched[..., order]) / there[..., order]
                log = log + np.where(there[..., order] > 0, np.log(precision), -np.inf)
            short = np.where(said < wanted, 1 - wanted / np.where(said > 0, said, 1), 0.0)
        score = np.where(matched.sum(-1) > 0, np.exp(log / ORDERS + short), 0.0)
        return np.where(wanted > 0, score, np.nan)
