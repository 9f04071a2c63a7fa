"""The rows of a run that are not learned as they are: sifted before anything is encoded, told, and written down one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attune.core import receipts, tripwires
from attune.core.contracts import Example, Row, TripwireContext
from attune.core.errors import DataError, MachineError
from attune.core.events import Events
from attune.core.long_rows import KEY, encoded
from attune.core.models import Base
from attune.core.receipts import ASIDE, CUT, FILE, Receipt
from attune.core.recipe import Recipe
from attune.core.records import DatasetVersion
from attune.core.specialist import Specialist
from attune.stages.finetune.preflight import unloaded

WORDS = {"train": "training rows", "validation": "validation rows"}
SHOWN = 50
"""Rows that an event names; the file has all of them."""


class Receipts:
    """The receipts of one run, in its folder; the trials of `method: auto` share them, because what becomes of a row is the same for each."""

    def __init__(self, folder: Path, events: Events) -> None:
        self.path, self.events = folder / FILE, events
        self._sifted: dict[str, list[Receipt]] = {}
        self._encoded: dict[str, list[Receipt]] = {}
        self._read: dict[str, int] = {}

    def sift(self, recipe: Recipe, base: Base, dataset: DatasetVersion, rows: Sequence[Row], split: str) -> list[Row]:
        """The rows without those that a tripwire sets aside one by one; each reason is told.

        Raises:
            AttuneError: so many training rows are bad that the recipe or the base is to blame (`core.tripwires.sifted`).
            DataError: no validation row is left.
        """
        self._read[split] = len(rows)
        if not any(one.judges for one in tripwires.of_task(recipe.task)):
            return list(rows)
        held_out = split != "train"
        found = tripwires.sifted(TripwireContext(unloaded(recipe, base, dataset.signature), recipe.objective, rows), recipe.keys.train.accept, held_out=held_out)
        if not held_out:
            tripwires.settle(found.left, recipe.keys.train.accept, self.events)
        if not found.rows:
            raise DataError(f"none of the {len(rows)} {WORDS[split]} can be used: {found.receipts[0].reason}", place=receipts.places(list(rows)), fix=found.receipts[0].fix)
        self._sifted[split] = found.receipts
        self._warn(found.receipts, len(rows), split)
        return found.rows

    def encode(self, recipe: Recipe, specialist: Specialist, rows: Sequence[Row], limit: int, split: str) -> list[Example]:
        """The rows' examples, as `train.long_rows` wants them; what is left out and what is cut is told."""
        examples, found = encoded(recipe.objective, specialist, rows, limit)
        self._encoded[split] = found
        self._warn([one for one in found if one.action == ASIDE], len(rows), split)
        cut = [one for one in found if one.action == CUT]
        if cut:
            self.events.warn(
                f"{len(cut):,} of {len(rows):,} {WORDS[split]}: longer than train.max_length = {limit} tokens and cut there, {lost_words(cut)}; each is in {FILE} of the run's folder",
                rows=[one.row["row_id"] for one in cut[:SHOWN]],
            )
        return examples

    def _warn(self, found: Sequence[Receipt], total: int, split: str) -> None:
        for sentence in receipts.words(found, total, WORDS[split]):
            self.events.warn(sentence)
        if found:
            gone = list(dict.fromkeys(one.row["row_id"] for one in found))
            self.events.warn(f"{len(gone):,} of {total:,} {WORDS[split]} are set aside; each is in {FILE} of the run's folder", rows=gone[:SHOWN])

    def write(self) -> None:
        """All receipts so far, into the run's folder; no file where nothing happened to any row."""
        every = [(split, one) for split in WORDS for one in self._of(split)]
        try:
            if every:
                receipts.write(self.path, every)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise MachineError(f"cannot write {FILE}: {error}", place=str(self.path.parent), fix="free disk space or mend the permissions, then run again") from error

    def chosen(self) -> dict[str, str]:
        """What the record says: how many rows were set aside and why, how many were cut."""
        aside, cut = [], []
        for split, read in self._read.items():
            gone = {one.row["row_id"]: one.check for one in self._of(split) if one.action == ASIDE}
            if gone:
                aside.append(f"{len(gone):,} of {read:,} {WORDS[split]} ({', '.join(f'{name} {number:,}' for name, number in Counter(gone.values()).most_common())})")
            shorter = [one for one in self._of(split) if one.action == CUT]
            if shorter:
                cut.append(f"{len(shorter):,} of {read:,} {WORDS[split]} cut: {lost_words(shorter)}")
        where = f"; each with its reason in {FILE} of the run's folder"
        return {**({"set aside": " and ".join(aside) + where} if aside else {}), **({KEY: " and ".join(cut) + where} if cut else {})}

    def _of(self, split: str) -> list[Receipt]:
        return [*self._sifted.get(split, []), *self._encoded.get(split, [])]


def lost_words(cut: Sequence[Receipt]) -> str:
    """How many tokens rows lose: '1,204 tokens lost in all, 90 at most'."""
    known = [one.lost for one in cut if one.lost is not None]
    if not known:
        return "an unknown number of tokens lost"
    more = "more than " if any(one.more for one in cut) else ""
    return f"{more}{sum(known):,} tokens lost in all, {'far more than ' if more else ''}{max(known):,} at most"


def pieces(examples: Sequence[Example], limit: int) -> str:
    """A sentence where rows are learned in several pieces; else ''."""
    rows = len({one["row_id"] for one in examples})
    return f"{rows} training rows are learned in {len(examples)} pieces of at most {limit} tokens" if len(examples) > rows else ""
