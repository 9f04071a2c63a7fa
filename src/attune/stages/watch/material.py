"""What detectors look at: the release's reference (its test rows, as grading left them) and logged requests, in the same form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attune.core import catalog
from attune.core.contracts import Task, WindowData, coarse_label
from attune.core.errors import IntegrityError
from attune.core.specialist import FACTS, Specialist
from attune.stages.watch.windows import Request


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


def window_data(requests: Sequence[Request], task: Task, specialist: Specialist | None, *, graded: bool) -> WindowData:
    """Logged requests as detectors see them.

    Args:
        requests: logged requests, n of them.
        task: reads the text of an input.
        specialist: embeds the texts; None: no embeddings, [n, 0].
        graded: whether the reference says what was right; where it does not (answers that are vectors), labels are empty and `correct` is NaN.
    """
    texts = [task.text(request["input"]) for request in requests]
    embeddings = specialist.embed(texts).astype(np.float32) if specialist and texts else np.zeros((len(texts), 0), dtype=np.float32)
    correct = [float(coarse_label(r["answer"]) == coarse_label(r["output"])) if graded and r["answer"] is not None else None for r in requests]
    labels = [coarse_label(r["output"]) if graded else "" for r in requests]
    return WindowData(texts, embeddings, labels, _numbers([r["confidence"] for r in requests]), _numbers(correct))


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
