"""Real small releases for tests: MiniLM with a nearest-centroid head over three intents, made without the training loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.contracts import Task
from attune.core.events import Events
from attune.core.models import resolve_base
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import Checkpoint, DatasetVersion, Estimate, GateResult, Release, Scorecard
from attune.core.rows import row_id, rows_digest, write_rows
from attune.core.specialist import Specialist, write_bundle
from attune.core.workspace import Workspace
from attune.stages import register

NAME = "tickets"
TEXTS = {
    "delivery": [
        "where is my parcel",
        "the package has not arrived",
        "my order is late",
        "when will it be delivered",
        "the courier never came",
        "tracking has not moved for a week",
        "still waiting for my box",
        "delivery was promised on monday",
    ],
    "password": [
        "I forgot my password",
        "cannot log in",
        "reset my login please",
        "the sign in page refuses me",
        "my account is locked",
        "password reset mail never comes",
        "two factor code does not work",
        "I want to change my password",
    ],
    "refund": [
        "I want my money back",
        "please refund this order",
        "how do I get a refund",
        "I was charged twice",
        "return the payment to my card",
        "the refund has not been paid",
        "give me back what I paid",
        "my refund is missing",
    ],
}
LABELS = sorted(TEXTS)
QUESTIONS = ["my parcel is late again", "let me in, the password is gone", "pay me back", "hello", "late refund for a lost parcel", "I cannot sign in to see my refund"]


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"name": NAME, "task": "text_classification", "method": "head", "data": {"path": "rows.csv"}, **changes}
    return make_recipe(values, folder=Path("."))


def rows() -> list[dict[str, Any]]:
    found = []
    for label, texts in TEXTS.items():
        for number, text in enumerate(texts):
            found.append(
                {"row_id": row_id({"text": text, "label": label}), "place": f"rows.csv:{2 + len(found)}", "text": text, "label": label, "split": ["train", "train", "validation", "test"][number % 4]}
            )
    return found


def specialist(scale: float = 20.0, made: Recipe | None = None) -> Specialist:
    """MiniLM whose head is the direction of each class's mean vector; `scale` makes it more or less sure of itself."""
    import torch

    from attune.core.specialist import text_features

    made = made or recipe()
    base = resolve_base(made.keys.base_model, None, made.folder)
    signature = {"labels": LABELS, "multi_label": False, "thresholds": None}
    model = made.method.prepare(made.task.build(base, signature), seed=1)
    found = Specialist(made.task, signature, model, base.tokenizer(), base, 64, made.name, method=made.method)
    model.eval()
    with torch.inference_mode():
        means = torch.stack([text_features(found, TEXTS[label]).mean(0) for label in LABELS])
    middle = means.mean(0)
    with torch.no_grad():
        directions = torch.nn.functional.normalize(means - middle, dim=-1)
        model.head.weight.copy_(scale * directions)
        model.head.bias.copy_(-scale * directions @ middle)
    return found


def dataset(workspace: Workspace, task: Task | None = None) -> DatasetVersion:
    """The intents as rows; for a task that writes they are questions, with the label as the right answer."""
    task = task or catalog.build("tasks", "text_classification")
    writes = "text-out" in task.traits
    all_rows = [{**row, "prompt": [{"role": "user", "content": row["text"]}], "completion": row["label"]} if writes else row for row in rows()]

    def fill(folder: Path) -> None:
        for split in ("train", "validation", "test"):
            write_rows(folder / f"{split}.parquet", [{k: v for k, v in row.items() if k != "split"} for row in all_rows if row["split"] == split], task)
        (folder / "curation.json").write_text("{}")
        (folder / "card.md").write_text("# rows\n")

    counts = {split: sum(row["split"] == split for row in all_rows) for split in ("train", "validation", "test")}
    return workspace.ledger.add(
        DatasetVersion(
            specialist=NAME,
            store_key=workspace.store.put("dataset", fill),
            task=task.name,
            signature={"labels": LABELS, "multi_label": False, "thresholds": None},
            columns={"prompt": "message", "completion": "intent"} if writes else {"text": "message", "label": "intent"},
            counts={"read": 26, "kept": 23, "repaired": 1, "quarantined": 2, **counts},
            findings={"encoding": 1},
            rows_digest=rows_digest((row["row_id"], row["split"]) for row in all_rows),
        )
    )


def checkpoint(workspace: Workspace, made: Recipe, model: Specialist) -> Checkpoint:
    data = dataset(workspace, made.task if "text-out" in made.task.traits else None)
    return workspace.ledger.add(
        Checkpoint(
            specialist=NAME,
            parents=(data.id,),
            store_key=workspace.store.put("checkpoint", lambda folder: write_bundle(model, folder)),
            dataset_id=data.id,
            task=made.task.name,
            objective="supervised",
            method=made.method.name,
            base=model.base.identity,
            recipe_digest=made.digest,
            best_step=4,
            steps=6,
            main_metric="accuracy",
            validation={"accuracy": 1.0, "loss": 0.2},
            curve=({"step": 1.0, "loss": 1.0},),
            chosen={"precision": "fp32: test"},
            run="test",
        )
    )


def scorecard(workspace: Workspace, tuned: Checkpoint, verdict: str = "SHIP", value: float = 0.95) -> Scorecard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def fill(folder: Path) -> None:
        (folder / "scorecard.json").write_text(json.dumps({"checkpoint": tuned.id, "verdict": verdict}))
        (folder / "report.html").write_text("<html></html>")
        pq.write_table(pa.table({"text": ["where is it"], "predicted": ["delivery"], "confidence": [0.9], "correct": [1.0]}), folder / "reference.parquet")

    def estimate(number: float) -> Estimate:
        return Estimate(value=number, low=number - 0.04, high=number + 0.03)

    return workspace.ledger.add(
        Scorecard(
            specialist=NAME,
            parents=(tuned.id,),
            store_key=workspace.store.put("scorecard", fill),
            checkpoint_id=tuned.id,
            dataset_id=tuned.dataset_id,
            test_rows=6,
            test_uses=1,
            confidence=0.95,
            resamples=2000,
            results={"tuned": {"accuracy": estimate(value), "f1_macro": estimate(0.94)}, "majority": {"accuracy": estimate(0.33), "f1_macro": estimate(0.17)}},
            comparisons=(),
            per_class={},
            probes={},
            gates=(GateResult(gate="accuracy better than best_rival", outcome="pass" if verdict == "SHIP" else "fail", reason="the interval lies above 0"),),
            verdict=verdict,  # type: ignore[arg-type]
            reasons=("it beats every rival",) if verdict == "SHIP" else ("it does not beat the linear model",),
        )
    )


def release(workspace: Workspace, *, scale: float = 20.0, verdict: str = "SHIP", made: Recipe | None = None, model: Specialist | None = None) -> Release:
    """Register one release; another scale is another release."""
    made = made or recipe()
    tuned = checkpoint(workspace, made, model or specialist(scale, made))
    return workspace.ledger.add(register.run(made, workspace, tuned, scorecard(workspace, tuned, verdict), Events()))
