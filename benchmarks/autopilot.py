"""`method: auto` beside a search of 20 trials: quality on the test rows and the time that either takes.

    python benchmarks/autopilot.py --data DATA_FOLDER [--sets ...] [--trials 20] [--keep FILE --minutes 6]

The search draws 20 recipes with Optuna (TPE): method (head, lora, full), learning rate (a factor of 5 around the method's own), passes (3 to 8), weight decay
and batch size; each is a whole `attune finetune`; the best by the validation rows is graded on the test rows, and so is the best of all by
the test rows themselves, which nobody could have chosen. `auto` runs once without a budget. All use the same curated rows, of which 800 train.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from classification import SETS
from common import commit, write

TRAINED = 800


def rows_of(name: str, data: Path, folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Rows to learn from (validation among them) and test rows: the rest, at most 4,000."""
    given = SETS[name].prepare(data / name, folder)
    columns = given["columns"]

    def read(file: str) -> list[tuple[str, str]]:
        with (folder / file).open(encoding="utf-8", newline="") as stream:
            return [(row[columns["text"]], row[columns["label"]]) for row in csv.DictReader(stream)]

    rows = list(dict.fromkeys(read(given["path"])))
    random.Random(0).shuffle(rows)
    known = {text for text, _ in rows[: int(TRAINED / 0.8)]}
    test = [row for row in (read(given["test_path"]) if "test_path" in given else rows[int(TRAINED / 0.8) :]) if row[0] not in known]
    return rows[: int(TRAINED / 0.8)], test[:4000]


def prepared(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """The recipe of a data set without method and training, its files written."""
    learned, test = rows_of(name, data, folder)
    for file, rows in (("learn.csv", learned), ("test.csv", test)):
        with (folder / file).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows])
    return {
        "name": "search",
        "task": "text_classification",
        "data": {"path": "learn.csv", "test_path": "test.csv", "checks": ["types"], "splits": {"validation": 0.2}},
        "train": {"max_length": 96},
    }


def tuned(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One `finetune` in the folder's workspace: its processor seconds (all threads; other jobs on the machine do not change them), its accuracy on validation and test rows."""
    from attune import lifecycle
    from attune.core.recipe import make_recipe
    from attune.core.rows import read_rows
    from attune.core.specialist import open_bundle
    from attune.core.workspace import Workspace

    recipe = make_recipe(values, folder=folder)
    workspace = Workspace(folder / "workspace")
    lifecycle.run(recipe, workspace, until="curate")
    begin = time.process_time()
    cycle = lifecycle.run(recipe, workspace, until="finetune", fresh=False)
    seconds = time.process_time() - begin
    assert cycle.checkpoint is not None
    assert cycle.dataset is not None
    specialist = open_bundle(workspace.store.path(cycle.checkpoint.store_key), base_folder=folder)
    test = read_rows(workspace.store.path(cycle.dataset.store_key) / "test.parquet", recipe.task)
    answers = specialist.predict(test)
    right = sum(answer.output == recipe.task.truth(row) for answer, row in zip(answers, test, strict=True)) / len(test)
    workspace.close()
    return {"seconds": seconds, "validation": cycle.checkpoint.validation["accuracy"], "test": right, "method": cycle.checkpoint.method, "rows": len(test), "trials": list(cycle.checkpoint.trials)}


def drawn(trial: Any) -> dict[str, Any]:
    """Method and training of one trial of the search."""
    from attune.core import catalog

    method = trial.suggest_categorical("method", ["head", "lora", "full"])
    own = catalog.load("methods", method).learning_rate  # type: ignore[attr-defined]
    train = {
        "learning_rate": own * trial.suggest_float("rate", 0.2, 5.0, log=True),
        "epochs": float(trial.suggest_int("epochs", 3, 8)),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.1, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32]),
    }
    return {"method": method, "train": train}


def main() -> None:
    import optuna

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["banking77", "sms_spam", "financial_phrasebank", "medical_abstracts"])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="keep finished trials in this file (JSON lines) and go on from there")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many minutes, to go on later")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    begun = time.monotonic()
    kept: list[dict[str, Any]] = [json.loads(line) for line in options.keep.read_text().splitlines()] if options.keep and options.keep.exists() else []

    def once(name: str, number: int, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """A trial, or what an earlier call kept of it; number -1 is `auto`."""
        known = next((one for one in kept if (one["set"], one["number"]) == (name, number)), None)
        if known is None:
            if time.monotonic() - begun > 60 * options.minutes:
                raise SystemExit(0)
            known = {"set": name, "number": number, "commit": commit(), **tuned(values, folder)}
            kept.append(known)
            print(json.dumps({key: value for key, value in known.items() if key != "trials"}), flush=True)
            if options.keep:
                with options.keep.open("a") as stream:
                    stream.write(json.dumps(known) + "\n")
        return known

    rows, cells = [], []
    for name in options.sets:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            values = prepared(name, options.data, folder)
            study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=7))
            trials = []
            for number in range(options.trials):
                trial = study.ask()
                given = drawn(trial)
                trials.append(once(name, number, {**values, "method": given["method"], "train": {**values["train"], **given["train"]}}, folder))
                study.tell(trial, trials[-1]["validation"])
                if number == options.trials // 2:  # in the middle of the search, so that both meet the machine as it is
                    auto = once(name, -1, {**values, "method": "auto"}, folder)
        chosen, best = max(trials, key=lambda one: one["validation"]), max(trials, key=lambda one: one["test"])
        share = auto["seconds"] / sum(one["seconds"] for one in trials)
        cells.append({"set": name, "auto": auto, "chosen": chosen, "best": best, "share": share})
        rows.append(
            [
                name,
                f"{100 * auto['test']:.2f} ({auto['method']})",
                f"{100 * chosen['test']:.2f} ({chosen['method']})",
                f"{100 * best['test']:.2f} ({best['method']})",
                f"{100 * (auto['test'] - chosen['test']):+.2f}",
                f"{share:.0%}",
            ]
        )
    body = {
        "title": "`method: auto` beside a search of 20 trials",
        "command": "python benchmarks/autopilot.py --data DATA_FOLDER",
        "columns": ["data set", "auto, accuracy", "the search's choice", "best of its trials, chosen by the test rows", "auto against the choice, points", "time of auto as a share of the search's"],
        "rows": rows,
        "notes": [
            f"{TRAINED} training rows, {TRAINED // 4} validation rows, {', '.join(str(one['auto']['rows']) for one in cells)} test rows; seed 7; {options.trials} trials by Optuna's TPE. Times are processor seconds of the finetune stage, all threads."
            + "".join(f" {whose} ran at commit {', '.join(sorted({one['commit'] for one in kept if (one['number'] == -1) == alone}))}." for whose, alone in (("The searches", False), ("`auto`", True)))
        ],
    }
    write(options.out, "autopilot", body | {"cells": cells})


if __name__ == "__main__":
    main()
