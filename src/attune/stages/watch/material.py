"""What detectors look at: the release's reference (its test rows, as grading left them) and logged requests, in the same form.

Personal data is masked on both sides here, whatever the recipe's checks and the endpoint's log did: otherwise the masks themselves
would be the difference that is found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attune.core import catalog
from attune.core.contracts import Task, WindowData, coarse_label
from attune.core.errors import IntegrityError
from attune.core.pii import mask
from attune.core.randomness import generator
from attune.core.specialist import FACTS, Specialist
from attune.stages.watch.windows import Request

MOST_EMBEDDED = 2000
"""Rows of a window that are embedded."""


def task_of(folder: Path) -> Task:
    """The task of a bundle, without its weights."""
    task: Task = catalog.build("tasks", json.loads((folder / FACTS).read_text())["task"])
    return task


def read_reference(folder: Path) -> WindowData:
    """The drift reference inside a release's folder: reference.parquet (text, label, confidence, correct) and, where the task embeds
    texts, reference_embeddings.safetensors."""
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    file, vectors = folder / "reference.parquet", folder / "reference_embeddings.safetensors"
    if not file.is_file():
        raise IntegrityError("the release has no drift reference", place=str(file), fix="grade and register the checkpoint again: grading writes the reference from the test rows")
    table = pq.read_table(file).to_pydict()
    rows = len(table["text"])
    embeddings = load_file(vectors)["embeddings"].astype(np.float32) if vectors.is_file() else np.zeros((rows, 0), dtype=np.float32)
    if len(embeddings) != rows:
        raise IntegrityError(f"the reference has {rows} rows but {len(embeddings)} embeddings", place=str(vectors), fix="grade and register the checkpoint again")
    return WindowData([str(t) for t in table["text"]], embeddings, [str(one) for one in table["label"]], _numbers(table["confidence"]), _numbers(table["correct"]))


def masked_reference(reference: WindowData, specialist: Specialist | None) -> WindowData:
    """The reference with personal data masked; rows that this changes are embedded again."""
    texts = [mask(text) for text in reference.texts]
    changed = [i for i, (new, old) in enumerate(zip(texts, reference.texts, strict=True)) if new != old]
    embeddings = reference.embeddings
    if changed and specialist is not None and embeddings.size:
        embeddings = embeddings.copy()
        embeddings[changed] = specialist.embed([texts[i] for i in changed])
    return replace(reference, texts=texts, embeddings=embeddings)


def window_data(requests: Sequence[Request], task: Task, specialist: Specialist | None, *, graded: bool) -> WindowData:
    """Logged requests as detectors see them.

    Args:
        requests: logged requests, n of them.
        task: reads the text of an input.
        specialist: embeds the texts, at most MOST_EMBEDDED of them (the others have NaN); None: no embeddings, [n, 0].
        graded: whether the reference says what was right; where it does not (answers that are vectors), labels are empty and `correct` is NaN.
    """
    texts = [mask(task.text(request["input"])) for request in requests]
    embeddings = _embedded(specialist, texts) if specialist else np.zeros((len(texts), 0), dtype=np.float32)
    correct = [float(coarse_label(r["answer"]) == coarse_label(r["output"])) if graded and r["answer"] is not None else None for r in requests]
    labels = [coarse_label(r["output"]) if graded else "" for r in requests]
    return WindowData(texts, embeddings, labels, _numbers([r["confidence"] for r in requests]), _numbers(correct))


def _embedded(specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, d]; of a large window a random part is embedded, drawn by its size alone, because a test needs no more."""
    drawn = np.sort(generator(0, "watch embeddings", len(texts)).permutation(len(texts))[:MOST_EMBEDDED])
    vectors = specialist.embed([texts[i] for i in drawn]).astype(np.float32)
    found = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    found[drawn] = vectors
    return found


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
