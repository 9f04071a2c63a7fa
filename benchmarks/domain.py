"""A small base learns mixed English by `pretraining`, then customer support by `sft`: what tuning adds, and what it costs elsewhere.

    python benchmarks/domain.py --data DATA_FOLDER [--work FOLDER] [--seeds 3] [--out FILE]

The base is made here: a tokenizer and a small Llama from random weights, trained by Attune on texts of medicine, law, finance, sums and talk, and none
of customer support. Its export is the base of the next recipe: `bitext_support`, questions of customers and their answers, with general documents
replayed beside them. Graded on the same held-out questions are the tuned model, the untouched base, the prompted base (up to three examples chosen by
similarity), base and tuned model with passages of the training rows in their prompts, the nearest training row's answer by words and by vectors, and the answer that
is given most often. The forgetting probe reads held-out general documents and questions; the recipe lets their perplexity rise by a tenth. The same
recipe without replay shows what the budget is worth. With `--work`, what is done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

from common import write
from small_models import estimate, exported, make_blank, run, training, verdict, work_folder, write_rows

SEED = 11
VOCABULARY, WIDTH, LAYERS, HEADS, ROOM = 4096, 192, 4, 4, 1024
LENGTH = 512
"""Tokens of a row while learning."""
LONGEST = 800
"""Characters; answers of customer support that are longer are left out, so that writing them stays cheap."""
DOCUMENT = 2000
"""Characters of a general document at most; longer ones end with the sentence before."""
REPLAYED = 900
"""Characters of a general document that is replayed or probed, so that it fits into a row."""
BUDGET = 0.1
"""How far perplexity on general rows may rise."""
TURN = re.compile(r"\n\n(Human|Assistant): ?")
END = "</s>"


def short(text: str, most: int) -> str:
    """The text as far as the last sentence that ends within `most` characters."""
    text = re.sub(r"[ \t]+", " ", text).strip()
    if len(text) <= most:
        return text
    end = max(text.rfind(sign, 0, most) for sign in (". ", "? ", "! ", "\n"))
    return text[: end + 1 if end > 0 else most].strip()


def talk(turns: list[tuple[str, str]]) -> str:
    """Turns of a user and the assistant as the default chat template writes them; the document's own end closes the last one."""
    return "\n".join(f"{who}: {said}{END if who == 'Assistant' else ''}" for who, said in turns).removesuffix(END)


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    packed = path.read_bytes()
    text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def general(data: Path) -> list[dict[str, str]]:
    """Texts of other fields, shuffled: `text`, the field, and where it is a question with its answer also these."""
    draw = random.Random(SEED)
    found: list[dict[str, str]] = []

    def add(field: str, most: int, rows: list[dict[str, str]]) -> None:
        """So many characters of a field, rows drawn by chance."""
        draw.shuffle(rows)
        for row in rows:
            if most <= 0:
                break
            most -= len(row["text"])
            found.append({"field": field, **row})

    def asked(question: str, answer: str) -> dict[str, str]:
        question, answer = short(question, 600), short(answer, 1200)
        return {"text": talk([("User", question), ("Assistant", answer)]), "prompt": question, "completion": answer}

    def turns(transcript: str) -> list[tuple[str, str]]:
        parts = TURN.split(transcript)
        said = [("User" if who == "Human" else who, short(words, 600)) for who, words in zip(parts[1::2], parts[2::2], strict=True)]
        while said and sum(len(words) for _, words in said) > DOCUMENT:
            said = said[:-2]
        return said

    add("medical questions", 2_600_000, [asked(one["question"], one["answer"]) for one in lines(data / "medquad" / "medquad.jsonl")])
    sums = [asked(one["question"], re.sub(r"<<.*?>>", "", one["answer"])) for one in lines(data / "gsm8k" / "train.jsonl")]
    add("sums", 700_000, sums[:3000])
    pairs = [
        talk([("User", one["prompt"]), ("Assistant", one["completion"]), ("User", two["prompt"]), ("Assistant", two["completion"])]) for one, two in zip(sums[3000::2], sums[3001::2], strict=False)
    ]
    add("sums", 700_000, [{"text": one} for one in pairs])
    add("talk", 1_400_000, [{"text": talk(said)} for one in lines(data / "hh_rlhf_harmless" / "test.jsonl.gz") if (said := turns(one["chosen"]))])
    contexts = [" ".join(one["CONTEXTS"]) for one in json.loads((data / "pubmedqa" / "ori_pqal.json").read_text()).values()]
    add("medical papers", 1_200_000, [{"text": short(one, DOCUMENT)} for one in contexts])
    with (data / "mts_dialog" / "MTS-Dialog-TrainingSet.csv").open(encoding="utf-8", newline="") as stream:
        add("doctor and patient", 700_000, [{"text": short(one["dialogue"], DOCUMENT)} for one in csv.DictReader(stream)])
    add("contracts", 900_000, [{"text": short(one["text"], DOCUMENT)} for one in lines(data / "cuad_clauses" / "cuad_clauses.jsonl")])
    news = (data / "financial_phrasebank" / "Sentences_50Agree.txt").read_text(encoding="latin-1").splitlines()
    add("finance", 600_000, [{"text": one.rsplit("@", 1)[0].strip()} for one in news if one.strip()])
    draw.shuffle(found)
    return found


def support(data: Path) -> list[dict[str, str]]:
    """Questions of customers with their answers, and what is wanted."""
    with (data / "bitext_support" / "bitext_support_2023-08.csv").open(encoding="utf-8", newline="") as stream:
        return [{"prompt": one["instruction"], "completion": one["response"], "intent": one["intent"]} for one in csv.DictReader(stream) if len(one["response"]) <= LONGEST]


def base(data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The base, in `folder`/base/merged; made there unless it is there."""
    told = folder / "base.json"
    if told.is_file():
        kept: dict[str, Any] = json.loads(told.read_text())
        return kept
    rows = general(data)
    if options.quick:
        rows = rows[:1200]
    held, rows = rows[: len(rows) // 20], rows[len(rows) // 20 :]
    write_rows(folder / "general.jsonl", ({"text": row["text"]} for row in rows))
    write_rows(folder / "replay.jsonl", ({"text": row["text"]} for row in rows if len(row["text"]) <= REPLAYED))
    fitting = [row for row in held if len(row["text"]) <= REPLAYED]
    asked = [{"prompt": row["prompt"], "completion": row["completion"]} for row in fitting if "prompt" in row][:100]
    write_rows(folder / "probe.jsonl", asked + [{"text": row["text"]} for row in fitting if "prompt" not in row][:200])
    weights = make_blank(folder / "blank", [row["text"].replace(END, "") for row in rows], vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS, heads=HEADS, room=ROOM, seed=SEED)
    found = run(
        folder,
        {
            "name": "general",
            "base_model": "blank",
            "task": {"name": "text_generation", "max_new_tokens": 32},
            "objective": "pretraining",
            "method": "full",
            "seed": SEED,
            "data": {"path": "general.jsonl", "checks": ["encoding", "types", "exact_duplicates"], "splits": {"test": 0.02, "validation": 0.02}},
            "train": {
                "max_length": LENGTH,
                "batch_size": 16,
                "epochs": options.base_epochs,
                "learning_rate": 3e-3,
                "scheduler": "cosine",
                "average": 0.99,
                "evaluations_per_epoch": 2,
                "refit": False,
                "accept": ["control_tokens_in_text"],
            },
        },
    )
    exported(folder, "general", "base")
    facts = {"weights": weights, "documents": len(rows), "characters": sum(len(row["text"]) for row in rows), "run": training(found), "scorecard": verdict(found)}
    told.write_text(json.dumps(facts))
    return facts


def tuning(name: str, seed: int, epochs: float, share: float) -> dict[str, Any]:
    """The recipe of the support specialist; `share` of its training rows are general."""
    made: dict[str, Any] = {
        "name": name,
        "base_model": "base/merged",
        "task": {"name": "text_generation", "max_new_tokens": 288},
        "objective": "sft",
        "method": "full",
        "seed": seed,
        "data": {"path": "support.jsonl", "columns": {"prompt": "prompt", "completion": "completion"}, "splits": {"test": 0.09, "validation": 0.04}},
        "train": {
            "max_length": LENGTH,
            "batch_size": 16,
            "epochs": epochs,
            "learning_rate": 1e-3,
            "scheduler": "cosine",
            "average": 0.99,
            "refit": False,
            "accept": ["control_tokens_in_text"],  # replayed talk of several turns, as in the base's own texts
        },
        "grade": {
            "metrics": ["token_f1", "rouge_l", "chrf", "perplexity", "answer_length"],
            "rivals": [
                "majority",
                "untouched_base",
                {"name": "prompted_base", "examples": [0, 1, 3]},
                "retrieval",
                {"name": "retrieval", "by": "words"},
                {"name": "retrieval_augmented_base", "passages": [1, 2]},
                "tuned_with_retrieval",
            ],
            "probes": [{"name": "forgetting", "general": "probe.jsonl", "rows": 300}],
        },
        "gates": [
            {"metric": "token_f1", "better_than": "best_rival"},
            {"metric": "rouge_l", "better_than": "best_rival"},
            {"metric": "perplexity", "better_than": "best_rival"},
            {"metric": "forgetting", "at_most": BUDGET},
        ],
    }
    if share:
        made["data"]["replay"] = {"path": "replay.jsonl", "share": share}
    else:
        made["grade"]["rivals"] = ["untouched_base"]
    return made


def measured(data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The base, the specialist with each seed, and once without replay."""
    made = base(data, folder, options)
    if options.only_base:
        return made
    rows = support(data)
    if options.quick:
        rows = rows[:400]
    write_rows(folder / "support.jsonl", rows)
    found: dict[str, Any] = {"base": made, "rows": len(rows), "seeds": {}}
    for number in range(1, options.seeds + 1):
        done = run(folder, tuning(f"support-{number}", number, options.epochs, options.share))
        found["seeds"][str(number)] = {"counts": done["dataset"]["counts"], "run": training(done), **verdict(done)}
    if not options.only_replayed:
        done = run(folder, tuning("support-without-replay", 1, options.epochs, 0.0))
        found["without replay"] = {"counts": done["dataset"]["counts"], "run": training(done), **verdict(done)}
    return found


METRICS = {"perplexity": False, "token_f1": True, "rouge_l": True, "chrf": True}
NAMES = {
    "tuned": "**tuned, with replay**",
    "untouched_base": "untouched base",
    "prompted_base": "prompted base",
    "retrieval_augmented_base": "base with passages",
    "retrieval": "nearest answer, by vectors",
    "retrieval_2": "nearest answer, by words",
    "majority": "most frequent answer",
    "tuned_with_retrieval": "tuned, with passages",
}


def forgotten(card: dict[str, Any], who: str) -> list[str]:
    """Perplexity on general rows and, of a tuned model, its rise."""
    measures = card["probes"]["forgetting"]["measures"]
    general = measures["general_perplexity"]["results"].get(who)
    return [estimate(general, percent=False), estimate(measures["forgetting"]["results"].get(who))]


def report(found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The table and what is said below it."""
    first = found["seeds"]["1"]

    def row(card: dict[str, Any], who: str, words: str) -> list[str]:
        return [words, *(estimate(card["results"][who].get(name), percent=percent) for name, percent in METRICS.items()), *forgotten(card, who)]

    rows = [row(first, who, words) for who, words in NAMES.items() if who in first["results"]]
    rows += [row(card, "tuned", f"tuned, with replay, seed {seed} (another split)") for seed, card in found["seeds"].items() if seed != "1"]
    if "without replay" in found:
        rows.insert(1, row(found["without replay"], "tuned", "tuned, without replay"))
    base, counts = found["base"], first["counts"]
    notes = [
        f"Values with 95% intervals over {first['test_rows']} held-out questions (bootstrap); perplexity of the right answers, per token. A dash: no language model, or not asked. "
        f"Base: {base['weights'] / 1e6:.1f} million weights, {options.base_epochs:g} passes over {base['characters'] / 1e6:.1f} MB of mixed text. "
        f"Tuning: {options.epochs:g} passes, every weight; {options.share:.0%} of a pass are general rows, {counts['train']} rows in all with those of later passes; "
        f"answers of at most {LONGEST} characters.",
        *(f"Seed {seed}: {card['verdict']}. {' '.join(one[0].upper() + one[1:] + '.' for one in card['reasons'])}" for seed, card in found["seeds"].items()),
    ]
    if "without replay" in found:
        rise = next(one for one in found["without replay"]["gates"] if one["gate"].startswith("forgetting"))
        notes.append(f"Without replay: {rise['reason']}.")
    return {
        "title": "A domain: customer support on a base of mixed text",
        "command": "python benchmarks/domain.py --data DATA_FOLDER",
        "columns": ["answers from", "perplexity", "token F1, %", "ROUGE-L, %", "chrF, %", "perplexity on general rows", "forgotten, %"],
        "rows": rows,
        "notes": notes,
        "runs": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a folder for the runs; default: a temporary one")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--base-epochs", type=float, default=2)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--share", type=float, default=0.5, help="share of the specialist's training rows that are general")
    parser.add_argument("--only-base", action="store_true", help="stop when the base is there")
    parser.add_argument("--only-replayed", action="store_true", help="leave the run without replay out")
    parser.add_argument("--quick", action="store_true", help="few rows, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with work_folder(options.work, "domain") as folder:
        found = measured(options.data.resolve(), folder, options)
    if options.only_base:
        print(json.dumps(found))
        return
    write(options.out, "domain", report(found, options))


if __name__ == "__main__":
    main()
