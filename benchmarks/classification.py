"""Text classification on public data sets through the command line, beside published figures.

    python benchmarks/classification.py --data DATA_FOLDER [--sets banking77 ...] [--methods full lora head] [--seeds 7 8 9]

`DATA_FOLDER` holds one folder per data set as their authors publish them. Every cell is one `attune run` (curate, finetune, grade, register)
on a fresh workspace; the figures are those of its scorecard on the sealed test rows. Results are added to the JSON as they come, so that a
benchmark that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import RESULTS, attune, commit, machine


@dataclass(frozen=True)
class DataSet:
    """How one public data set becomes a recipe, and what others report on it."""

    prepare: Callable[[Path, Path], dict[str, Any]]
    published: tuple[str, ...]
    protocol: str
    train: dict[str, Any] = field(default_factory=dict)
    task: Any = "text_classification"
    metrics: tuple[str, ...] = ("accuracy", "f1_macro", "f1_micro", "f1_weighted")


def table(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write (text, label) rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


def banking77(source: Path, folder: Path) -> dict[str, Any]:
    for name in ("train.csv", "test.csv"):
        shutil.copy(source / name, folder / name)
    return {"path": "train.csv", "test_path": "test.csv", "columns": {"text": "text", "label": "category"}}


def medical_abstracts(source: Path, folder: Path) -> dict[str, Any]:
    shutil.copy(source / "medical_tc_test.csv", folder / "rows.csv")
    return {"path": "rows.csv", "columns": {"text": "medical_abstract", "label": "condition_label"}}


def financial_phrasebank(source: Path, folder: Path) -> dict[str, Any]:
    lines = (source / "Sentences_50Agree.txt").read_text(encoding="latin-1").splitlines()
    table(folder / "rows.csv", [tuple(line.rsplit("@", 1)) for line in lines if "@" in line])  # type: ignore[misc]
    return {"path": "rows.csv", "columns": {"text": "text", "label": "label"}}


def unfair_tos(source: Path, folder: Path) -> dict[str, Any]:
    """The LexGLUE form: 'Other' is no label at all."""
    with (source / "unfair_tos.tsv").open(encoding="utf-8", newline="") as stream:
        rows = [(row["text"], "" if row["label"] == "Other" else row["label"]) for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]
    table(folder / "rows.csv", rows)
    return {"path": "rows.csv", "columns": {"text": "text", "label": "label"}}


def sms_spam(source: Path, folder: Path) -> dict[str, Any]:
    shutil.copy(source / "sms_spam.csv", folder / "rows.csv")
    return {"path": "rows.csv", "columns": {"text": "text", "label": "type"}}


SETS = {
    "banking77": DataSet(
        banking77,
        ("BERT-base tuned, full data: accuracy 0.9366 (Casanueva et al. 2020, table 3)", "USE + ConveRT: 0.9336"),
        "official split; 10% of the training rows validate",
        {"max_length": 96, "epochs": 3},
    ),
    "medical_abstracts": DataSet(
        medical_abstracts,
        ("TF-IDF + linear SVM, 5-fold on the same file: accuracy 0.596, macro-F1 0.581",),
        "official test file only, split 70/10/20",
        {"max_length": 192, "epochs": 3},
    ),
    "financial_phrasebank": DataSet(
        financial_phrasebank,
        ("FinBERT, 10-fold: accuracy 0.86, macro-F1 0.84 (Araci 2019)", "ULMFiT: 0.83, 0.79", "LSTM: 0.71, 0.64"),
        "all sentences with at least 50% agreement, split 70/10/20",
        {"epochs": 4},
    ),
    "unfair_tos": DataSet(
        unfair_tos,
        ("LexGLUE, other split: BERT micro-F1 0.956, macro-F1 0.813; Legal-BERT 0.960, 0.830; TF-IDF + SVM 0.954, 0.788 (there 'no label' counts as a class)",),
        "several labels, 'Other' is none; split 70/10/20",
        {"epochs": 4, "max_length": 128},
        {"name": "text_classification", "multi_label": True},
    ),
    "sms_spam": DataSet(sms_spam, ("linear SVM: accuracy 0.9764 (Almeida et al. 2011)", "TF-IDF + linear SVM, 10-fold: 0.992"), "split 70/10/20", {"epochs": 3}),
}


def one(name: str, method: str, seed: int, data: Path, work: Path, until: str, rivals: bool) -> dict[str, Any]:
    """One run through the command line; a run that was stopped goes on in the same folder. All rivals answer in one run a set: seeds do not move them."""
    folder = work / f"{name}-{method}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    described = SETS[name]
    train = {k: v for k, v in described.train.items() if not (k == "epochs" and method == "head")}
    recipe = {
        "name": name,
        "task": described.task,
        "method": method,
        "seed": seed,
        "data": described.prepare(data / name, folder),
        "train": train,
        "grade": {"metrics": list(described.metrics), "probes": []},
    }
    if not rivals:
        recipe["grade"]["rivals"] = ["majority"]  # type: ignore[index]
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))
    attune("run", "recipe.yaml", "--workspace", "workspace", "--until", until, folder=folder)
    if until != "register":
        return {"set": name, "method": method, "seed": seed}
    from attune.core.records import Checkpoint, DatasetVersion, Scorecard
    from attune.core.workspace import Workspace

    workspace = Workspace(folder / "workspace")
    scorecard = workspace.ledger.find(Scorecard)[-1]
    checkpoint = workspace.ledger.find(Checkpoint)[-1]
    dataset = workspace.ledger.find(DatasetVersion)[-1]
    workspace.close()
    shutil.rmtree(folder)
    return {
        "set": name,
        "method": method,
        "seed": seed,
        "test_rows": scorecard.test_rows,
        "counts": dataset.counts,
        "results": {who: {metric: estimate.model_dump() for metric, estimate in metrics.items()} for who, metrics in scorecard.results.items()},
        "verdict": scorecard.verdict,
        "best_step": checkpoint.best_step,
        "steps": checkpoint.steps,
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=["full", "lora", "head"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    parser.add_argument("--work", type=Path, default=Path("/tmp/attune-classification"))
    parser.add_argument("--until", default="register", choices=["finetune", "register"], help="finetune: tune now, grade in a later call")
    parser.add_argument("--out", type=Path, default=RESULTS / "classification.json")
    options = parser.parse_args()
    kept = json.loads(options.out.read_text()) if options.out.is_file() else {"runs": []}
    done = {(run["set"], run["method"], run["seed"]) for run in kept["runs"]}
    for name in options.sets:
        for method in options.methods:
            for seed in options.seeds:
                if (name, method, seed) in done:
                    continue
                run = one(name, method, seed, options.data.resolve(), options.work, options.until, rivals=(method, seed) == (options.methods[0], options.seeds[0]))
                if options.until != "register":
                    print(run, flush=True)
                    continue
                kept["runs"].append(run)
                tuned = run["results"]["tuned"]
                print(name, method, seed, {m: round(e["value"], 4) for m, e in tuned.items()}, run["verdict"], flush=True)
                kept |= {"name": "classification", "machine": machine(), "sets": {key: {"published": value.published, "protocol": value.protocol} for key, value in SETS.items()}}
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
