"""Plant bad numbers, spikes and memory faults into runs and see whether they finish, as good as an undisturbed one, with the rows named.

    python benchmarks/defence.py [--events 20] [--seed 7] [--keep FILE [--minutes 5]]

Each planted run is the real `finetune` stage on the shipped support tickets (MiniLM-L6, all layers). The kinds take turns: a row whose loss is NaN
whenever it is in a batch, one step whose loss is infinite, one step with a loss a thousand times as large, and memory that runs out for batches of
more than so many rows, in training or in evaluation. Quality is accuracy on the validation rows, against the undisturbed run of the same seed.
With `--keep` each run is written down when it ends, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, Kept, commit, write

VALIDATION = 0.4
"""Share of the rows that validate: with few of them one row more or less would be more than half a point."""
CLOSE = 0.5
"""Points of accuracy."""
KINDS = ("none", "row", "infinite", "spike", "memory", "memory in evaluation")


def child(kind: str, seed: int, step: int) -> dict[str, Any]:
    """One run with one planted event."""
    from attune import lifecycle
    from attune.catalog.objectives.supervised import Supervised
    from attune.core.recipe import make_recipe
    from attune.core.specialist import Specialist
    from attune.core.workspace import Workspace
    from attune.core.yaml_reader import read_yaml_file

    loss, examples, predict = Supervised.loss, Supervised.examples, Specialist.examine
    state: dict[str, Any] = {"calls": 0, "bad": None, "name": None}

    def faulty_examples(self: Any, specialist: Any, rows: Any, max_length: int) -> Any:
        found = examples(self, specialist, rows, max_length)
        if state["bad"] is None:
            one = random.Random(seed).choice(found)
            state["bad"], state["name"] = one["key"], one["row_id"]
        return found

    def faulty_loss(self: Any, model: Any, batch: Any) -> Any:
        total, items = loss(self, model, batch)
        if not model.training:
            return total, items
        rows = len(batch["target"])
        state["calls"] += rows > 1
        if kind == "row" and state["bad"] in batch["keys"].tolist():
            return total * math.nan, items
        if kind in ("infinite", "spike") and rows > 1 and state["calls"] == step:
            return total * (math.inf if kind == "infinite" else 1000.0), items
        if kind == "memory" and rows > 12:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000000000000 bytes.")
        return total, items

    from attune.core.tunable import TunableModel

    features = TunableModel.features

    def faulty_features(self: Any, tokens: Any) -> Any:
        if kind == "memory in evaluation" and not self.training and len(tokens.lengths) > 20:
            raise MemoryError
        return features(self, tokens)

    Supervised.examples, Supervised.loss, TunableModel.features = faulty_examples, faulty_loss, faulty_features  # type: ignore[method-assign]
    assert predict is Specialist.examine
    warnings: list[dict[str, Any]] = []
    source = ROOT / "src" / "attune" / "recipes" / "support_tickets"
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name) / "workspace", listeners=(lambda event: warnings.append(event) if event["kind"] == "warning" else None,))
        values = read_yaml_file(source / "recipe.yaml")[0]
        values["data"]["splits"] |= {"test": 0.05, "validation": VALIDATION}
        recipe = make_recipe({**values, "method": "full", "seed": seed, "train": {"epochs": 4, "max_length": 64, "patience": 100}}, folder=source)
        cycle = lifecycle.run(recipe, workspace, until="finetune")
        assert cycle.checkpoint is not None
        assert cycle.dataset is not None
        workspace.close()
    told = [event["message"] for event in warnings]
    named = {row for event in warnings for row in event.get("rows", [])}
    return {
        "accuracy": cycle.checkpoint.validation["accuracy"],
        "rows": cycle.dataset.counts["validation"],
        "warnings": [text for text in told if any(sign in text for sign in ("no number", "skipped", "memory ran out", "half the learning rate"))],
        "named": state["name"] in named if kind == "row" else bool(named) if kind in ("infinite", "spike") else True,
        "told": kind in ("none", "memory in evaluation") or any(sign in text for text in told for sign in ("no number", "skipped", "memory ran out")),
    }


def counts(name: str, runs: list[dict[str, Any]], clean: dict[int, float]) -> list[Any]:
    """A row of the table."""
    good = [run for run in runs if run["finished"]]
    apart = [100 * (run["accuracy"] - clean[run["seed"]]) for run in good]
    told = sum(run["named"] and run["told"] for run in good)
    close = sum(abs(one) <= CLOSE for one in apart)
    return [name, len(runs), len(good), told, close, *([f"{statistics.fmean(apart):+.2f}", f"{min(apart):+.2f} to {max(apart):+.2f}"] if apart else ["", ""])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only:
        print("RESULT " + json.dumps(child(options.only[0], options.seed, int(options.only[1]))))
        return
    draw, kept, runs = random.Random(options.seed), Kept(options.keep, options.minutes), []
    plan = [("none", options.seed + i) for i in range(3)] + [(KINDS[1 + i % 5], options.seed + i % 3) for i in range(options.events)]
    for number, (kind, seed) in enumerate(plan):
        step = draw.randrange(15, 55)
        known = kept.find(number=number, kind=kind, seed=seed, step=step)
        if known is not None:
            runs.append(known)
            continue
        if kept.time_is_up():
            print(f"{len(runs)} of {len(plan)} runs are done; the same command goes on from there")
            return
        done = subprocess.run([sys.executable, __file__, "--seed", str(seed), "--only", kind, str(step)], capture_output=True, text=True, check=False, env=dict(os.environ))
        found = next((json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        runs.append({"number": number, "commit": commit(), "kind": kind, "seed": seed, "step": step, "finished": found is not None, "error": "" if found else done.stderr[-500:], **(found or {})})
        kept.add(runs[-1])
        print(runs[-1], flush=True)
    clean = {run["seed"]: run["accuracy"] for run in runs if run["kind"] == "none"}
    planted = [run for run in runs if run["kind"] != "none"]
    rows = [counts(kind, [run for run in planted if run["kind"] == kind], clean) for kind in KINDS[1:]]
    rows.append(counts("**all**", planted, clean))
    body = {
        "title": "Bad numbers, spikes and memory faults planted into runs",
        "command": "python benchmarks/defence.py",
        "columns": ["planted", "runs", "finished", "told, rows named", f"within {CLOSE} points of the clean run", "mean accuracy beside the clean runs, points", "lowest to highest of a run"],
        "rows": rows,
        "notes": [
            f"{len(planted)} planted runs, seeds {options.seed} to {options.seed + 2}; the clean runs of these seeds reach "
            + ", ".join(f"{100 * value:.2f}" for value in clean.values())
            + f" on {runs[0]['rows']} validation rows (a seed draws another split). One row is {100 / runs[0]['rows']:.2f} points: {CLOSE:g} points are {round(CLOSE / 100 * runs[0]['rows'])} rows.",
        ],
    }
    write(options.out, "defence", body | {"runs": runs, "clean": clean, "seed": options.seed, "n": len(planted)})


if __name__ == "__main__":
    main()
