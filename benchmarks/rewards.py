"""Rewards: a small model learns the form of an answer from a few rows (`sft`), and to give the right one from rewards alone (`grpo`).

    python benchmarks/rewards.py --data DATA_FOLDER [--work FOLDER] [--out FILE]

The base is that of benchmarks/domain.py (made there unless `--work` holds it already). The task: name the intent of a customer's question as JSON,
`{"intent": "get_refund"}`, one of 27. A few rows with answers teach the form; then `grpo` sees questions alone and earns 0.8 for the right intent and
0.2 for JSON that fits the schema. Measured is the reward of greedy answers to the same held-out questions before (the rival `untouched_base`, which is
the `sft` model) and after, with intervals over questions and the paired test that every grading makes. With `--work`, what is done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path
from typing import Any

from common import write
from domain import base
from small_models import estimate, exported, run, training, verdict, work_folder, write_rows

SEED = 5
SHOWN, TRIED, HELD = 270, 1600, 600
"""Questions that are shown with their answers, that rewards teach, and that are held out."""
TRAIN = {"max_length": 96, "batch_size": 16, "refit": False, "average": 0.99}


def questions(data: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Questions with their intents as JSON, shuffled, and all intents."""
    with (data / "bitext_support" / "bitext_support_2023-08.csv").open(encoding="utf-8", newline="") as stream:
        rows = [(one["instruction"], one["intent"]) for one in csv.DictReader(stream)]
    random.Random(SEED).shuffle(rows)
    return [{"prompt": question, "completion": json.dumps({"intent": intent})} for question, intent in rows], sorted({intent for _, intent in rows})


def measured(data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both runs, and the scorecard of the second one."""
    base(data, folder, options)
    rows, intents = questions(data)
    shown, tried = (options.shown, options.tried)
    write_rows(folder / "shown.jsonl", rows[:shown])
    write_rows(folder / "tried.jsonl", rows[shown : shown + tried])
    write_rows(folder / "held.jsonl", rows[-HELD:])
    common = {"task": {"name": "text_generation", "max_new_tokens": 24}, "method": "full", "seed": SEED}
    columns = {"prompt": "prompt", "completion": "completion"}
    first = run(
        folder,
        {
            "name": "form",
            "base_model": "base/merged",
            "objective": "sft",
            **common,
            "data": {"path": "shown.jsonl", "test_path": "held.jsonl", "columns": columns, "splits": {"validation": 0.15}},
            "train": TRAIN | {"epochs": options.sft_epochs, "learning_rate": 1e-3},
            "grade": {"metrics": ["exact_match"], "main_metric": "exact_match", "rivals": []},
            "gates": [{"metric": "exact_match", "at_least": 0.01}],
        },
    )
    exported(folder, "form", "form")
    schema = {"type": "object", "properties": {"intent": {"enum": intents}}, "required": ["intent"], "additionalProperties": False}
    second = run(
        folder,
        {
            "name": "rewarded",
            "base_model": "form/merged",
            "objective": {
                "name": "grpo",
                "rewards": [{"name": "exact_match", "normalise": False}, {"name": "json_schema", "for_all": schema}],
                "weights": [0.8, 0.2],
                "group": 8,
                "max_new_tokens": 24,
            },
            **common,
            "data": {"path": "tried.jsonl", "test_path": "held.jsonl", "columns": columns, "splits": {"validation": 0.08}},
            "train": TRAIN | {"epochs": options.epochs, "learning_rate": 3e-4, "evaluations_per_epoch": 2},
            "grade": {"metrics": ["mean_reward", "exact_match", {"name": "json_valid", "json_schema": schema}], "rivals": ["untouched_base"]},
            "gates": [{"metric": "mean_reward", "better_than": "untouched_base"}],
        },
    )
    counts = {name: dict(done["dataset"]["counts"]) for name, done in (("form", first), ("rewarded", second))}
    return {"counts": counts, "intents": len(intents), "form": training(first), "rewarded": training(second), "scorecard": verdict(second)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a folder for the runs; default: a temporary one")
    parser.add_argument("--base-epochs", type=float, default=0.7)
    parser.add_argument("--shown", type=int, default=SHOWN)
    parser.add_argument("--tried", type=int, default=TRIED)
    parser.add_argument("--sft-epochs", type=float, default=6)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--quick", action="store_true", help="a base of few texts, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with work_folder(options.work, "rewards") as folder:
        found = measured(options.data.resolve(), folder, options)
    card = found["scorecard"]
    columns = {"mean_reward": False, "exact_match": True, "json_valid": True}
    names = {"untouched_base": "after sft, before grpo", "tuned": "after grpo"}
    against = [one for one in card["comparisons"] if one["metric"] in columns]
    gain = next(one for one in against if one["metric"] == "mean_reward")
    body = {
        "title": "Rewards on held-out questions",
        "command": "python benchmarks/rewards.py --data DATA_FOLDER",
        "columns": ["model", "mean reward", "right intent, %", "valid by the schema, %"],
        "rows": [[words, *(estimate(card["results"][who].get(name), percent=percent) for name, percent in columns.items())] for who, words in names.items()],
        "notes": [
            f"{card['test_rows']} held-out questions of bitext_support, greedy answers, 95% intervals over questions. {found['counts']['form']['train']} questions with answers for `sft`, "
            f"{found['counts']['rewarded']['train']} without for `grpo`, groups of 8; {found['intents']} intents. Reward: 0.8 for the right intent, 0.2 for JSON that fits the schema (0.1 for other JSON). One seed.",
            f"The reward rises by {gain['difference']:.3f} ({gain['low']:.3f} to {gain['high']:.3f}), paired permutation test p = {gain['p_value']:.4f}.",
        ],
        "runs": found,
    }
    write(options.out, "rewards", body)


if __name__ == "__main__":
    main()
