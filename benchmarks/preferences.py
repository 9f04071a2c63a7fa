"""Preferences: a small Llama learns to answer from better answers (`sft`), then from pairs of a better and a worse one (`dpo`).

    python benchmarks/preferences.py --data DATA_FOLDER [--sets harmless support] [--work FOLDER] [--out FILE]

Measured is the share of held-out pairs whose better answer the model finds likelier per token, before `dpo` (the rival `untouched_base`, which is
the `sft` model) and after it, on the same pairs, with intervals and the paired test that every grading makes. Two sets of pairs: `harmless`, judged by
people, is the plain-text test file of `harmless-base` of HH-RLHF; `support` is the customer support of Bitext, where the worse answer is the right one
to a question that wants something else. What begins with the same words stands on one side of the split. The tokenizer and the network are made here,
from the training texts and a configuration, so the model knows nothing else: the figures say whether the method moves preferences, not how good such a
model is.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import write
from small_models import estimate, exported, make_blank, run, training, verdict, work_folder, write_rows

TURN = re.compile(r"\n\n(Human|Assistant): ?")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TEST_SHARE, SEED = 0.25, 3
LONGEST, LONGEST_SUPPORT = 320, 800
"""Characters; pairs with a longer answer are left out, so that every answer fits beside some of its question."""
VOCABULARY, WIDTH, LAYERS, HEADS, ROOM = 2000, 128, 3, 4, 320
TRAIN = {"max_length": ROOM, "batch_size": 16, "average": 0.99, "refit": False}
Pairs = list[dict[str, Any]]


def turns(transcript: str) -> list[dict[str, str]]:
    """The messages of a transcript with 'Human:' and 'Assistant:' before each turn; empty where it does not begin with one."""
    parts = TURN.split(transcript)
    if parts[0].strip():
        return []
    return [{"role": SPEAKERS[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def pair(chosen: str, rejected: str) -> dict[str, Any] | None:
    """A preference row of two transcripts that differ in their last answer alone; None for others, and for answers that are empty or too long."""
    one, other = turns(chosen), turns(rejected)
    if len(one) < 2 or one[:-1] != other[:-1] or not one[-1]["role"] == other[-1]["role"] == "assistant":
        return None
    better, worse = one[-1]["content"], other[-1]["content"]
    if not better or not worse or better == worse or max(len(better), len(worse)) > LONGEST or not all(message["content"] for message in one):
        return None
    return {"prompt": one[:-1], "chosen": better, "rejected": worse}


def harmless(data: Path) -> tuple[Pairs, str]:
    """Pairs judged by people, and what they are."""
    with gzip.open(data / "hh_rlhf_harmless" / "test.jsonl.gz", "rt", encoding="utf-8") as stream:
        read = [json.loads(line) for line in stream]
    rows = [row for one in read if (row := pair(one["chosen"], one["rejected"])) is not None]
    return rows, f"HH-RLHF harmless-base, its {len(read)} test pairs without those with an answer of more than {LONGEST} characters"


def support(data: Path) -> tuple[Pairs, str]:
    """Answers to questions of customers, each beside one to a question that wants something else, and what they are."""
    with (data / "bitext_support" / "bitext_support_2023-08.csv").open(encoding="utf-8", newline="") as stream:
        read = [one for one in csv.DictReader(stream) if len(one["response"]) <= LONGEST_SUPPORT]
    draw = random.Random(SEED)
    rows = []
    for one in read:
        other = draw.choice(read)
        while other["intent"] == one["intent"]:
            other = draw.choice(read)
        rows.append({"prompt": [{"role": "user", "content": one["instruction"]}], "chosen": one["response"], "rejected": other["response"]})
    return rows, f"Bitext customer support, answers of at most {LONGEST_SUPPORT} characters; the worse one answers a question with another intent"


SETS: dict[str, Callable[[Path], tuple[Pairs, str]]] = {"harmless": harmless, "support": support}


def split(rows: Pairs) -> tuple[Pairs, Pairs]:
    """Training and test rows; rows with the same first turn stay together."""
    import numpy as np

    groups: dict[str, Pairs] = {}
    for row in rows:
        groups.setdefault(row["prompt"][0]["content"].lower(), []).append(row)
    ordered = [list(groups.values())[i] for i in np.random.default_rng(SEED).permutation(len(groups))]
    test: Pairs = []
    while len(test) < TEST_SHARE * len(rows):
        test += ordered.pop()
    return [row for group in ordered for row in group], test


def recipe(name: str, base: str, objective: Any, train: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A recipe on the pairs."""
    return {
        "name": name,
        "base_model": base,
        "task": {"name": "text_generation", "max_new_tokens": 16},
        "objective": objective,
        "method": "full",
        "seed": SEED,
        "data": {"path": "train.jsonl", "test_path": "test.jsonl", "columns": {"prompt": "prompt", "completion": "chosen"}, "checks": ["encoding", "types"], "splits": {"validation": 0.08}},
        "train": TRAIN | train,
        **more,
    }


def measured(rows: Pairs, folder: Path, sft_epochs: float, dpo_epochs: float) -> dict[str, Any]:
    """Both runs, and the scorecard of the second one."""
    folder.mkdir(exist_ok=True)
    train, test = split(rows)
    for name, part in (("train", train), ("test", test)):
        write_rows(folder / f"{name}.jsonl", part)
    texts = [text for row in train for text in (*(message["content"] for message in row["prompt"]), row["chosen"])]
    make_blank(folder / "blank", texts, vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS, heads=HEADS, room=2 * ROOM, seed=SEED)
    first = run(folder, recipe("answers", "blank", "sft", {"epochs": sft_epochs, "learning_rate": 2e-3}, grade={"main_metric": "perplexity", "metrics": ["perplexity"], "rivals": []}))
    exported(folder, "answers", "sft")
    made = recipe("preferences", "sft/merged", {"name": "dpo", "beta": 0.1}, {"epochs": dpo_epochs, "learning_rate": 5e-4})
    made["data"]["columns"] |= {"rejected": "rejected"}
    second = run(folder, made)
    return {"pairs": len(rows), "train": len(train), "test": len(test), "sft": training(first), "dpo": training(second), "scorecard": verdict(second)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--work", type=Path, help="a folder for the runs; default: a temporary one")
    parser.add_argument("--sft-epochs", type=float, default=3)
    parser.add_argument("--dpo-epochs", type=float, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = {"untouched_base": "after sft, before dpo", "tuned": "after dpo", "longer_answer": "always the longer answer"}
    rows, notes, runs = [], [], {}
    for name in options.sets:
        pairs, what = SETS[name](options.data.resolve())
        with work_folder(options.work, "preferences") as folder:
            found = runs[name] = measured(pairs, folder / name, options.sft_epochs, options.dpo_epochs)
        card = found["scorecard"]
        rows += [[name, words, estimate(card["results"][who]["preference_accuracy"])] for who, words in names.items()]
        notes.append(f"`{name}`: {found['test']} held-out pairs, {found['train']} for training. {what}. Verdict of the grading: {card['verdict']}. {' '.join(card['reasons'])}.")
    notes.append(f"A Llama with {LAYERS} layers of width {WIDTH} that has seen nothing but these texts.")
    body = {
        "title": "Preferences on held-out pairs",
        "command": "python benchmarks/preferences.py --data DATA_FOLDER",
        "columns": ["pairs", "model", "better answer preferred, % of pairs (95% interval)"],
        "rows": rows,
        "notes": notes,
        "runs": runs,
    }
    write(options.out, "preferences", body)


if __name__ == "__main__":
    main()
