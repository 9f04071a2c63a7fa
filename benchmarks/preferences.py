"""Preferences of people: a small Llama learns to answer from the better answers of HH-RLHF (`sft`), then from the pairs (`dpo`).

    python benchmarks/preferences.py --data DATA_FOLDER [--work FOLDER] [--out FILE]

Measured is the share of held-out pairs whose better answer the model finds likelier per token, before `dpo` (the rival `untouched_base`, which is
the `sft` model) and after it, on the same pairs, with intervals and the paired test that every grading makes. The pairs are the plain-text test file
of `harmless-base`; conversations that open with the same words stand on one side of the split. The tokenizer and the network are made here, from the
training texts and a configuration, so the model knows nothing else: the figures say whether the method moves preferences, not how good such a model is.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

TURN = re.compile(r"\n\n(Human|Assistant): ?")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TEST_SHARE, SEED = 0.25, 3
LONGEST = 320
"""Characters; pairs with a longer answer are left out, so that every answer fits beside some of its question."""
VOCABULARY, WIDTH, LAYERS, HEADS, ROOM = 2000, 128, 3, 4, 192
TRAIN = {"max_length": ROOM, "batch_size": 16, "evaluations_per_epoch": 1}


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


def split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and test rows; rows with the same first turn stay together."""
    import numpy as np

    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["prompt"][0]["content"].lower(), []).append(row)
    ordered = [list(groups.values())[i] for i in np.random.default_rng(SEED).permutation(len(groups))]
    test: list[dict[str, Any]] = []
    while len(test) < TEST_SHARE * len(rows):
        test += ordered.pop()
    return [row for group in ordered for row in group], test


def make_base(folder: Path, texts: list[str]) -> None:
    """A Llama of random weights and a byte-level tokenizer trained on the texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2 * ROOM,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


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


def run(folder: Path, made: dict[str, Any], *words: str) -> dict[str, Any]:
    from common import attune

    (folder / f"{made['name']}.yaml").write_text(json.dumps(made, indent=1))
    return attune("run", f"{made['name']}.yaml", "--workspace", "workspace", *words, folder=folder)


def checkpoint_of(folder: Path, name: str, target: Path) -> dict[str, Any]:
    """Write the network that a run kept, with its tokenizer, as a base of its own; returns what the run says of itself."""
    from attune.core.records import Checkpoint
    from attune.core.specialist import open_bundle
    from attune.core.workspace import Workspace

    workspace = Workspace(folder / "workspace")
    checkpoint = next(one for one in workspace.ledger.find(Checkpoint) if one.specialist == name)
    specialist = open_bundle(workspace.store.path(checkpoint.store_key), base_folder=folder)
    workspace.close()
    specialist.model.body.save_pretrained(target)
    specialist.tokenizer.save_pretrained(target)
    return {"best_step": checkpoint.best_step, "steps": checkpoint.steps, "validation": checkpoint.validation}


def measured(data: Path, folder: Path, sft_epochs: float, dpo_epochs: float) -> dict[str, Any]:
    """Both runs, and the scorecard of the second one."""
    with gzip.open(data / "hh_rlhf_harmless" / "test.jsonl.gz", "rt", encoding="utf-8") as stream:
        read = [json.loads(line) for line in stream]
    rows = [row for one in read if (row := pair(one["chosen"], one["rejected"])) is not None]
    train, test = split(rows)
    for name, part in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    make_base(folder / "base", [text for row in train for text in (*(message["content"] for message in row["prompt"]), row["chosen"])])
    run(folder, recipe("answers", "base", "sft", {"epochs": sft_epochs, "learning_rate": 2e-3}, grade={"main_metric": "token_f1", "rivals": []}), "--until", "finetune")
    sft = checkpoint_of(folder, "answers", folder / "sft")
    made = recipe("preferences", "sft", {"name": "dpo", "beta": 0.1}, {"epochs": dpo_epochs, "learning_rate": 2e-4})
    made["data"]["columns"] |= {"rejected": "rejected"}
    run(folder, made)
    dpo = checkpoint_of(folder, "preferences", folder / "dpo")
    return {"pairs": len(rows), "of": len(read), "train": len(train), "test": len(test), "sft": sft, "dpo": dpo, "scorecard": scorecard(folder)}


def scorecard(folder: Path) -> dict[str, Any]:
    """What the grading of the second run found."""
    from attune.core.records import Scorecard
    from attune.core.workspace import Workspace

    workspace = Workspace(folder / "workspace")
    found = next(one for one in workspace.ledger.find(Scorecard) if one.specialist == "preferences")
    workspace.close()
    body = found.model_dump(mode="json")
    return {name: body[name] for name in ("test_rows", "results", "comparisons", "verdict", "reasons")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a folder for the runs; default: a temporary one")
    parser.add_argument("--sft-epochs", type=float, default=3)
    parser.add_argument("--dpo-epochs", type=float, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.work or Path(tempfile.mkdtemp(prefix="preferences-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = measured(options.data.resolve(), folder, options.sft_epochs, options.dpo_epochs)
    if options.work is None:
        shutil.rmtree(folder)

    from common import write

    results = found["scorecard"]["results"]
    names = {"untouched_base": "after sft, before dpo", "tuned": "after dpo", "longer_answer": "always the longer answer"}
    rows = []
    for who, words in names.items():
        one = results[who]["preference_accuracy"]
        rows.append([words, f"{one['value']:.1%}", f"{one['low']:.1%} to {one['high']:.1%}"])
    against = [one for one in found["scorecard"]["comparisons"] if one["metric"] == "preference_accuracy"]
    body = {
        "title": "Preferences on held-out pairs",
        "command": "python benchmarks/preferences.py --data DATA_FOLDER",
        "columns": ["model", "preference accuracy", "95% interval"],
        "rows": rows,
        "notes": [
            f"{found['test']} held-out pairs; {found['train']} for training. HH-RLHF harmless-base, its {found['of']} test pairs without those with an answer of more than {LONGEST} characters. A Llama with {LAYERS} layers of width {WIDTH} that has seen nothing but these texts.",
            f"Verdict of the grading: {found['scorecard']['verdict']}. {' '.join(found['scorecard']['reasons'])}",
        ],
        "paired": against,
        "runs": found,
    }
    write(options.out, "preferences", body)


if __name__ == "__main__":
    main()
