"""A specialist is a model ready to answer; a bundle is its immutable form on disk. Grading, serving and watching all ask through here,
so that offline and online answers are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core import catalog
from attune.core.commit import verify
from attune.core.contracts import Method, Metric, Prediction, Row, Signature, Task
from attune.core.errors import IntegrityError
from attune.core.long_rows import SHORTEN, cut_facts
from attune.core.memory import give_back, in_parts
from attune.core.models import Base, require_same_base, resolve_base
from attune.core.receipts import Receipt
from attune.core.shortening import FAR
from attune.core.text import portion

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
FACTS = "bundle.json"
ROWS_AT_ONCE = 64
HOLES = 100_000_000
"""Bytes of freed memory that may be kept between two batches."""


@dataclass
class Specialist:
    """A model with everything it needs to answer rows."""

    task: Task
    signature: Signature
    model: Any
    """A TunableModel, or whatever the method's learner makes."""
    tokenizer: Any
    """None where no text is read."""
    base: Base
    max_length: int
    name: str = ""
    id: str = "unsaved"
    """The release id, or the bundle's digest, or 'unsaved'."""
    method: Method | None = None
    known_features: dict[str, Any] | None = None
    """Pooled features by text, kept while the body cannot change; None: compute each time."""
    samples: tuple[int, float] = (0, 0.0)
    """How many answers `examine` samples for each row beside the answer itself, for the metrics that read them, and at which temperature."""
    generator: Any = None
    """A running `core.generation.Generator` of the model, where it answers a server; None: one is made when it is needed."""
    told: Callable[[str, int, int], None] = lambda what, done, total: None
    """Hears how far an answer to many rows is: what is done, how much of it, of how much."""
    long_rows: str = SHORTEN
    """What becomes of rows that are longer than `max_length` when they are learned (`train.long_rows`)."""
    noted: Callable[[Receipt], None] = lambda receipt: None
    """Hears of every row that an objective leaves out."""

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer rows, in order."""
        return self._asked(rows, self.task.predict)

    def examine(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer rows in the form that metrics grade."""
        return self._asked(rows, self.task.examine)

    def answers_for(self, metric: Metric, rows: Sequence[Row]) -> list[Prediction]:
        """`examine` for one metric alone: nothing is written where it reads no outputs."""
        return self._asked(rows, self.task.examine if metric.reads_outputs else self.task.weigh)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [n, d]."""
        with _answering(self.model):
            return self.task.embed(self, texts)

    def likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """How likely this language model holds each row's right answer to be: see `likelihood.answer_nll`."""
        from attune.core.likelihood import answer_nll

        with _answering(self.model):
            return answer_nll(self, rows)

    def _asked(self, rows: Sequence[Row], ask: Any) -> list[Prediction]:
        if not rows:
            return []
        with _answering(self.model):
            answers: list[Prediction] = ask(self, rows)
        if len(answers) != len(rows):
            raise IntegrityError(f"task '{self.task.name}' gave {len(answers)} answers to {len(rows)} rows")
        return answers

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts with the model's special tokens, cut at `max_length`."""
        return [ids for ids, _ in self.encode(texts)]

    def encode(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """`token_ids`, and whether a text was longer than they hold. No tokenizer sees more of a text than could matter: a cell of megabytes stalls it."""
        found: list[list[int]] = []
        seen = [portion(text, self.max_length) for text in texts]
        if seen:
            found = self.tokenizer(seen, truncation=False, add_special_tokens=True, verbose=False)["input_ids"]
        again = [i for i, ids in enumerate(found) if len(ids) <= self.max_length and len(seen[i]) < len(texts[i])]
        if again:
            for i in again:
                seen[i] = portion(texts[i], self.max_length, wider=True)
            for i, ids in zip(again, self.tokenizer([seen[i] for i in again], truncation=False, add_special_tokens=True, verbose=False)["input_ids"], strict=True):
                found[i] = ids
        cut = [len(ids) > self.max_length or len(seen[i]) < len(texts[i]) for i, ids in enumerate(found)]
        long = [i for i, ids in enumerate(found) if len(ids) > self.max_length]
        if long:
            for i, ids in zip(long, self.tokenizer([seen[i] for i in long], truncation=True, max_length=self.max_length, add_special_tokens=True)["input_ids"], strict=True):
                found[i] = ids
        filler = next((int(i) for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id) if i is not None), 0) if self.tokenizer is not None else 0
        return [(ids or [filler], was_cut) for ids, was_cut in zip(found, cut, strict=True)]  # a row without a token could not be read at all

    def cut_facts(self, texts: Sequence[str], kept: Sequence[Sequence[int]], cut: bool) -> dict[str, int | bool]:
        """`core.long_rows.cut_facts` of texts of which `encode` kept so many tokens; they are counted here, where some were cut."""
        if not cut:
            return cut_facts(False, 0, 0, False)
        seen = [portion(text, FAR * self.max_length) for text in texts]
        whole = sum(map(len, self.tokenizer(seen, truncation=False, add_special_tokens=True, verbose=False)["input_ids"]))
        return cut_facts(True, whole, sum(map(len, kept)), any(len(part) < len(text) for part, text in zip(seen, texts, strict=True)))


class _answering:
    """Evaluation mode without gradients; the training mode is restored afterwards."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.was_training = bool(getattr(model, "training", False))

    def __enter__(self) -> None:
        import torch

        self.guard = torch.no_grad()
        self.guard.__enter__()
        if hasattr(self.model, "eval"):
            self.model.eval()

    def __exit__(self, *error: Any) -> None:
        self.guard.__exit__(*error)
        if self.was_training:
            self.model.train()


def by_length(sizes: Sequence[int], batch_size: int = ROWS_AT_ONCE) -> Iterator[list[int]]:
    """Index batches of similar size, so that rows computed together cost the same; every index once.

    The longest come first: the others fit into the memory that they leave behind, and where memory does not suffice that shows at once. What
    many batches of other sizes leave as holes is given back between them, so that more rows need no more memory.
    """
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    for begin in reversed(range(0, len(order), batch_size)):
        yield order[begin : begin + batch_size]
        give_back(HOLES)


def text_features(specialist: Specialist, texts: Sequence[str]) -> Any:
    """Pooled features of texts, float32 tensor [n, hidden], in order; the caller sets evaluation mode."""
    import torch

    from attune.core.tokens import Tokens

    known = specialist.known_features if specialist.known_features is not None else {}
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    ids = specialist.token_ids(missing)
    done = 0
    for index in by_length([len(one) for one in ids]):
        for i, vector in zip(index, in_parts(lambda part: list(specialist.model.features(Tokens.of([ids[j] for j in part]))), index), strict=True):
            known[missing[i]] = vector
        done += len(index)
        specialist.told("reads texts", done, len(missing))
    return torch.stack([known[text] for text in texts]) if texts else torch.zeros((0, 0))


def write_bundle(specialist: Specialist, folder: Path) -> None:
    """Write an (uncommitted) bundle into a folder: facts, tokenizer (where there is one) and what the method saves. The caller commits the folder."""
    assert specialist.method is not None
    model_folder = folder / "model"
    model_folder.mkdir(parents=True)
    specialist.method.save(specialist.model, model_folder)
    if specialist.tokenizer is not None:
        specialist.tokenizer.save_pretrained(folder / "tokenizer")
        if (model_folder / "body").is_dir():  # a whole network is a base that another specialist can start from
            specialist.tokenizer.save_pretrained(model_folder / "body")
    facts = {
        "format": FORMAT,
        "name": specialist.name,
        "task": {"name": specialist.task.name, **specialist.task.keys.model_dump(mode="json")},
        "method": {"name": specialist.method.name, **specialist.method.keys.model_dump(mode="json")},
        "signature": specialist.signature,
        "base": specialist.base.identity,
        "max_length": specialist.max_length,
        "tokenizer": specialist.tokenizer is not None,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False))


def open_bundle(folder: Path, *, base_folder: Path | None = None, id: str | None = None) -> Specialist:
    """A specialist from a committed bundle; every hash is checked before anything is used.

    Args:
        folder: the bundle; a base carried along in its `base/` is taken instead of the machine's.
        base_folder: where relative base references start.
        id: what answers are labelled with; default: the bundle's digest.
    """
    digest = verify(folder)
    facts = json.loads((folder / FACTS).read_text())
    if facts.get("format") != FORMAT:
        raise IntegrityError(f"bundle format {facts.get('format')!r} is not known", place=str(folder), fix=f"this Attune reads format {FORMAT}")
    task: Task = catalog.build("tasks", facts["task"])
    method: Method = catalog.build("methods", facts["method"])
    if method.needs_base and (folder / "base").is_dir():
        base = Base(facts["base"]["reference"], facts["base"]["revision"], folder / "base")
        require_same_base(base, facts["base"])
    elif method.needs_base:
        base = resolve_base(facts["base"]["reference"], facts["base"]["revision"], base_folder)
        require_same_base(base, facts["base"])
    else:
        base = Base(facts["base"]["reference"], facts["base"]["revision"], folder / "model")
    model = method.load(task, base, facts["signature"], folder / "model")
    if hasattr(model, "eval"):
        model.eval()
    tokenizer = None
    if facts.get("tokenizer", True):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return Specialist(task, facts["signature"], model, tokenizer, base, facts["max_length"], facts["name"], id or digest[:16], method)
