"""Tuning language models beside TRL and PEFT, interleaved on one machine: speed, memory, loss curves.

    python benchmarks/language.py [--repeats 5] [--parts sft lora shared updates] [--keep FILE] [--now ROUNDS] [--minutes N]

Every contestant tunes the same base on the same token rows with batches of as many rows at the same learning rate, in a process of its own; one
round runs each of them once, and a figure is the median over the rounds. Speed is tokens (prompt and answer, padding not counted) of all steps but the first three by the time of these steps; memory is the
process's peak. TRL runs as it comes, at its best settings found here, and at these with the large pages that Attune asks for itself. `attune` runs its whole loop, with its tripwires, evaluations and
checkpoints; of `updates` (DPO, GRPO) both sides do optimizer steps on the same given answers, and nothing else.

The part `curves` runs once and hands TRL the very batches of Attune's run: then the losses of every step can be compared. It has no warm-up,
because transformers' begins with a step at rate zero and ours does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Kept, commit, write

SIZES = {"vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6, "max_position_embeddings": 2048}
BATCH, PAIRS, STEPS, LEFT_OUT, LENGTH, SEED = 8, 4, 9, 3, 1024, 7
CURVE_STEPS = 16
RATES = {"full": 5e-4, "lora": 1e-3, "dpo": 5e-5, "grpo": 5e-5}
SYSTEM, GROUP, PROMPTS = 200, 8, 2
"""Tokens of the shared system prompt; answers to a prompt, and prompts of a step, for GRPO. DPO has `PAIRS` in a step."""
WARMUP, DECAY = 0.1, 0.01
PARTS = {
    "sft": ("trl full", "trl full best", "trl full best pages", "attune full"),
    "lora": ("trl lora", "trl lora best", "attune lora"),
    "shared": ("trl shared", "attune shared", "attune shared apart"),
    "updates": ("trl dpo", "attune dpo", "attune dpo apart", "trl grpo", "attune grpo", "attune grpo apart"),
    "curves": ("attune curve full", "trl curve full", "attune curve lora", "trl curve lora"),
}
ROWS = {"plain": STEPS * BATCH, "curve": CURVE_STEPS * BATCH, "shared": STEPS * BATCH, "dpo": STEPS * PAIRS, "grpo": STEPS * PROMPTS}


# ---------------------------------------------------------------- base and rows


def make_base(folder: Path) -> None:
    """A Llama of random weights (35 million) and a tokenizer of 32,000 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "<pad>", "User:", "Assistant:"]
    words += [f"w{i}" for i in range(SIZES["vocab_size"] - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=3)).save_pretrained(folder)


def make_rows(kind: str) -> list[dict[str, Any]]:
    """Rows of words. A word follows from the one before by a rule in half of the places and is drawn by Zipf's law in the others, so that there is
    something to learn. Lengths are log-normal: of `plain` rows, prompt and answer together, with median 150 and at most 1,000."""
    import numpy as np

    draw = np.random.default_rng([SEED, len(kind), ROWS[kind]])
    known = SIZES["vocab_size"] - 6

    def text(count: int) -> str:
        free = np.minimum(draw.zipf(1.2, count) - 1, known - 1)
        follows = draw.random(count) < 0.5
        words = [int(free[0])]
        for place in range(1, count):
            words.append((words[-1] * 31 + 7) % known if follows[place] else int(free[place]))
        return " ".join(f"w{word}" for word in words)

    def lengths(median: float, spread: float, most: int, count: int) -> list[int]:
        return np.clip(np.exp(draw.normal(np.log(median), spread, count)).astype(int), 8, most).tolist()

    spare = 10
    if kind in ("plain", "curve", "shared"):
        system = [{"role": "system", "content": text(SYSTEM)}] if kind == "shared" else []
        rows = []
        for size in lengths(150, 0.8, 1000 - (SYSTEM if system else 0), ROWS[kind] + 2 * spare):
            asked = max(2, int(size * draw.uniform(0.3, 0.8)))
            rows.append({"prompt": [*system, {"role": "user", "content": text(asked)}], "completion": text(max(2, size - asked))})
        return rows
    count = ROWS[kind] + 2 * spare
    sizes = zip(lengths(250, 0.6, 800, count), lengths(50, 0.6, 160, count), lengths(50, 0.6, 160, count), strict=True)
    return [{"prompt": text(prompt), "chosen": text(one), "rejected": text(other)} for prompt, one, other in sizes]


def recipe_of(kind: str, method: str, folder: Path) -> Any:
    from attune.core.recipe import make_recipe

    update = kind in ("dpo", "grpo")
    columns = {"prompt": "prompt", "completion": "chosen", **({"rejected": "rejected"} if kind == "dpo" else {})} if update else None
    count = ROWS[kind] + 20
    values = {
        "name": "speed",
        "task": "text_generation",
        "base_model": str(folder / "base"),
        "objective": {"dpo": "dpo", "grpo": {"name": "grpo", "group": GROUP}}.get(kind, "sft"),
        "method": method,
        "seed": SEED,
        "data": {"path": f"{kind}.jsonl", "checks": ["types"], "splits": {"validation": 10 / count, "test": 10 / count}, **({"columns": columns} if columns else {})},
        "train": {
            "epochs": 1,
            "batch_size": {"grpo": PROMPTS, "dpo": PAIRS}.get(kind, BATCH),
            "max_length": LENGTH + (SYSTEM if kind == "shared" else 0),
            "learning_rate": RATES[kind if update else method],
            "warmup_ratio": 0.0 if kind == "curve" else WARMUP,
            "weight_decay": DECAY,
            "average": 0.0,
            "precision": "bf16",
            "patience": 100,
        },
        **({} if update else {"grade": {"main_metric": "perplexity"}}),
    }
    return make_recipe(values, folder=folder)


def session_of(kind: str, method: str, folder: Path, listeners: tuple[Any, ...] = ()) -> Any:
    """Attune's own session on the rows of a kind; the dataset is made when it is not there yet."""
    from attune import lifecycle
    from attune.core.models import resolve_base
    from attune.core.rows import dataset_rows
    from attune.core.workspace import Workspace
    from attune.stages.finetune.meter import Meter
    from attune.stages.finetune.receipts import Receipts
    from attune.stages.finetune.stage import Session

    recipe = recipe_of(kind, method, folder)
    workspace = Workspace(folder / f"workspace-{kind}", listeners=listeners)
    dataset = lifecycle.run(recipe, workspace, until="curate").dataset
    assert dataset is not None
    train, validation = (dataset_rows(workspace, dataset, recipe.task, part) for part in ("train", "validation"))
    run = Path(tempfile.mkdtemp(dir=folder))
    return Session(recipe, dataset, resolve_base(str(folder / "base")), train, validation, run, run / "cache", Receipts(run, workspace.events(run.name)), Meter(), named={})


def prepare(folder: Path) -> None:
    """The base, the rows, and their token ids as Attune reads them, for everybody."""
    make_base(folder / "base")
    for kind in ROWS:
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(kind)))
        session = session_of(kind, "full", folder)
        order = [[one["row_id"] for one in session.learner.batch_at(i)] for i in range(session.learner.total_steps)]
        if kind == "grpo":
            examples = [{"row_id": one["row_id"], "prompt_ids": one["prompt_ids"]} for one in session.examples]
            answers = iter(make_answers(len(examples) * GROUP))
            for one in examples:
                one["answers"] = [next(answers) for _ in range(GROUP)]
                one["advantages"] = [((7 * i) % GROUP - (GROUP - 1) / 2) / GROUP for i in range(GROUP)]
        else:
            examples = [{name: one[name] for name in ("row_id", "ids", "targets", "begin") if name in one} for one in session.examples]
        (folder / f"{kind}.json").write_text(json.dumps({"examples": examples, "order": order}))


def make_answers(count: int) -> list[list[int]]:
    """Token ids of given answers, of log-normal length with median 50, each with its end."""
    import numpy as np

    draw = np.random.default_rng(SEED)
    sizes = np.clip(np.exp(draw.normal(np.log(50), 0.6, count)).astype(int), 4, 160)
    return [[*draw.integers(6, SIZES["vocab_size"], int(size)).tolist(), 2] for size in sizes]


def tokens_of(one: dict[str, Any]) -> int:
    """Tokens of an example as they are given: a prompt counts with each of its answers, however often it is computed."""
    if "answers" in one:
        return sum(len(one["prompt_ids"]) + len(answer) for answer in one["answers"])
    return sum(map(len, one["ids"].values())) if isinstance(one["ids"], dict) else len(one["ids"])


# ---------------------------------------------------------------- contestants


def told(ends: list[float], sizes: list[int], losses: list[float]) -> dict[str, Any]:
    from attune.core.memory import peak_memory

    return {
        "tokens_per_second": sum(sizes[LEFT_OUT:]) / (ends[-1] - ends[LEFT_OUT - 1]),
        "step": (ends[-1] - ends[LEFT_OUT - 1]) / (len(ends) - LEFT_OUT),
        "peak_mb": peak_memory() / 1e6,
        "steps": len(ends),
        "losses": losses,
    }


def attune(name: str, folder: Path) -> dict[str, Any]:
    """Attune's own loop; of the updates its optimizer steps alone."""
    import torch

    from attune.core.tunable import TunableModel

    words = name.split()
    kind = {"full": "plain", "lora": "plain"}.get(words[1], words[1])
    method = words[2] if kind == "curve" else "lora" if words[1] == "lora" else "full"
    if "apart" in words:
        TunableModel.shares = property(lambda self: False)  # type: ignore[assignment,method-assign]
    ends: list[float] = []
    losses: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "progress" and event["message"] == "train":
            ends.append(time.perf_counter())
            losses.append(event["loss"])

    session = session_of(kind, method, folder, (listen,))
    learner = session.learner
    sizes = {one["row_id"]: tokens_of(one) for one in json.loads((folder / f"{kind}.json").read_text())["examples"]}
    own = [sum(sizes[one["row_id"]] for one in learner.batch_at(i)) for i in range(learner.total_steps)]
    if kind in ("dpo", "grpo"):
        if kind == "grpo":
            give_answers(session, folder)
        learner.begin()
        for index in range(learner.total_steps):
            losses.append(learner.step(index)["loss"])
            ends.append(time.perf_counter())
    else:
        session.loop()
    return told(ends, own, losses) | {"chosen": session.chosen, "threads": torch.get_num_threads()}


def give_answers(session: Any, folder: Path) -> None:
    """The given answers instead of drawn ones, each with its log-probabilities by the model as it begins."""
    import torch

    objective, specialist = session.recipe.objective, session.specialist
    given = {one["row_id"]: one for one in json.loads((folder / "grpo.json").read_text())["examples"]}
    known: dict[str, Any] = {}
    for one in session.examples:
        own = given[one["row_id"]]
        answers = own["answers"]
        full = {**one, **own, "said": [[0.0] * len(answer) for answer in answers], "rewards": own["advantages"], "judged": False}
        batch = objective.collate(specialist, [full])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = specialist.model.log_probabilities(specialist.model.hidden(batch["tokens"], batch["tokens"].before[batch["learned"]]), batch["tokens"].ids[0][batch["learned"]])
        known[one["row_id"]] = full | {"said": [found[batch["sequence"] == i].tolist() for i in range(len(answers))]}
    objective.renew = lambda specialist, examples, seed, step: [known[one["row_id"]] for one in examples]


def trl(name: str, folder: Path) -> dict[str, Any]:
    """TRL's trainers, as they come or at their best."""
    import torch
    import transformers
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback

    transformers.utils.logging.set_verbosity_error()
    words = name.split()
    best, lora = "best" in words, "lora" in words
    kind = {"full": "plain", "lora": "plain"}.get(words[1], words[1])
    read = json.loads((folder / f"{kind}.json").read_text())
    examples = {one["row_id"]: one for one in read["examples"]}
    order = [examples[row] for batch in read["order"] for row in batch]
    ends: list[float] = []
    losses: list[float] = []
    sizes: list[int] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    update = kind in ("dpo", "grpo")
    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(dir=folder),
        "use_cpu": True,
        "per_device_train_batch_size": PAIRS if kind == "dpo" else BATCH,
        "num_train_epochs": 1,
        "learning_rate": RATES[kind if update else "lora" if lora else "full"],
        "warmup_steps": 0 if kind == "curve" else max(1, round(WARMUP * STEPS)),
        "weight_decay": DECAY,
        "adam_epsilon": 1e-6,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": SEED,
    }
    if best:
        settings["gradient_checkpointing"] = False
    more: dict[str, Any] = {"model": str(folder / "base"), "processing_class": tokenizer, "callbacks": [Clock()]}
    if lora:
        from peft import LoraConfig

        more["peft_config"] = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    if kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        def said(ids: list[int]) -> str:
            return " ".join(tokenizer.convert_ids_to_tokens(ids))

        given = []
        for one in order:
            (chosen, rejected), (first, second) = (one["ids"]["chosen"], one["ids"]["rejected"]), one["begin"]
            given.append({"prompt": said(chosen[:first]), "chosen": " " + said(chosen[first:]), "rejected": " " + said(rejected[second:])})
        args = DPOConfig(**settings, beta=0.1, max_length=LENGTH, precompute_ref_log_probs=best)
        trainer: Any = DPOTrainer(args=args, train_dataset=Dataset.from_list(given), **more)
        counted(trainer, lambda batch: int(batch["attention_mask"].sum()), sizes)
    elif kind == "grpo":
        trainer = grpo_trainer(settings, more, order)
        counted(trainer, lambda batch: int(batch["prompt_mask"].sum() + batch["completion_mask"].sum()), sizes)
    else:
        from trl import SFTConfig, SFTTrainer

        if kind == "curve":
            settings["train_sampling_strategy"] = "sequential"
        longest = LENGTH + (SYSTEM if kind == "shared" else 0)
        if best:  # as many packs in a batch as make as many steps of the same rows
            total = sum(map(tokens_of, order))
            settings |= {"packing": True, "per_device_train_batch_size": max(1, round(total / longest / STEPS))}
        given = [{"input_ids": one["ids"], "labels": one["targets"]} for one in order]
        trainer = SFTTrainer(args=SFTConfig(**settings, max_length=longest), train_dataset=Dataset.from_list(given), **more)
        counted(trainer, lambda batch: int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel(), sizes)
    trainer.train()
    return told(ends, sizes, losses) | {"bf16": trainer.args.bf16, "checkpointing": trainer.args.gradient_checkpointing, "threads": torch.get_num_threads()}


def counted(trainer: Any, count: Callable[[Any], int], sizes: list[int]) -> None:
    """Note how many tokens each step computes."""
    step = trainer.training_step

    def noted(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        made = trainer._prepare_inputs(inputs) if "prompt_mask" not in inputs and isinstance(inputs, list) else inputs
        sizes.append(count(made))
        return step(model, inputs, *rest, **named)

    trainer.training_step = noted


def grpo_trainer(settings: dict[str, Any], more: dict[str, Any], order: list[dict[str, Any]]) -> Any:
    """A trainer that is given its answers: all it does is the update."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    class Given(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            seen: dict[int, int] = {}
            pairs = []
            for one in inputs:
                number = one["number"]
                pairs.append((order[number], seen.setdefault(number, 0)))
                seen[number] += 1
            asked = [one["prompt_ids"] for one, _ in pairs]
            answers = [one["answers"][i] for one, i in pairs]
            left, right = max(map(len, asked)), max(map(len, answers))
            mask = torch.tensor([[1] * len(a) + [0] * (right - len(a)) for a in answers])
            return {
                "prompt_ids": torch.tensor([[3] * (left - len(p)) + p for p in asked]),
                "prompt_mask": torch.tensor([[0] * (left - len(p)) + [1] * len(p) for p in asked]),
                "completion_ids": torch.tensor([a + [3] * (right - len(a)) for a in answers]),
                "completion_mask": mask,
                "advantages": torch.tensor([one["advantages"][i] for one, i in pairs]),
                "num_items_in_batch": mask.sum(),
            }

    settings = settings | {"per_device_train_batch_size": PROMPTS * GROUP, "num_generations": GROUP}
    rows = Dataset.from_list([{"prompt": "w1", "number": i} for i in range(len(order))])
    return Given(args=GRPOConfig(**settings, beta=0.0), train_dataset=rows, reward_funcs=lambda completions, **_: [0.0] * len(completions), **more)


def child(name: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    print("RESULT " + json.dumps((trl if name.startswith("trl") else attune)(name, folder)))


# ---------------------------------------------------------------- rounds


def process(words: list[str]) -> str:
    """What this file prints when it is called so, in a process of its own."""
    pages = {"THP_MEM_ALLOC_ENABLE": str(int(words[1].endswith("pages")))} if words[1].startswith("trl") else {}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **pages}
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout[-1000:]} {done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--keep", type=Path, help="keep finished runs in this file and go on from there")
    parser.add_argument("--work", type=Path, help="where the base and the rows lie; default: a temporary folder")
    parser.add_argument("--now", type=int, default=10**6, help="rounds to finish now; the result is written once all are there")
    parser.add_argument("--minutes", type=float, help="after so long no further contestant is begun")
    parser.add_argument("--write", action="store_true", help="run nothing: write the result of what is kept")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only:
        if options.only == "prepare":
            prepare(options.work)
        else:
            child(options.only, options.work)
        return
    kept = Kept(options.keep, options.minutes)
    if options.write:
        report(kept, options.out)
        return
    with tempfile.TemporaryDirectory(prefix="attune-language-") as temporary:
        folder = (options.work or Path(temporary)).resolve()
        if not (folder / "grpo.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            process(["--only", "prepare", "--work", str(folder)])
        made = 0
        for number in range(options.repeats):
            missing = [name for part in options.parts for name in PARTS[part] if (part != "curves" or number == 0) and kept.find(round=number, contestant=name) is None]
            if made >= options.now:
                return
            made += bool(missing)
            for name in missing:
                if kept.time_is_up():
                    return
                said = process(["--only", name, "--work", str(folder)])
                found = json.loads(next(line for line in said.splitlines() if line.startswith("RESULT "))[7:])
                kept.add({"round": number, "contestant": name, "commit": commit(), **found})
                print(number, name, {key: round(value, 3) for key, value in found.items() if isinstance(value, float)}, flush=True)
    report(kept, options.out)


AIMS = (
    # words, ours, the other, figure, aim
    ("full, tokens/s against TRL as it comes", "attune full", "trl full", "speed", ">= 8"),
    ("full, tokens/s against TRL at its best", "attune full", "trl full best", "speed", ">= 4"),
    ("full, tokens/s against TRL at its best with large pages", "attune full", "trl full best pages", "speed", ""),
    ("full, peak memory as a share of TRL's as it comes", "attune full", "trl full", "memory", "<= 0.45"),
    ("full, peak memory as a share of TRL's at its best", "attune full", "trl full best", "memory", ""),
    ("LoRA, tokens/s against TRL + PEFT as they come", "attune lora", "trl lora", "speed", ">= 6.5"),
    ("LoRA, tokens/s against TRL + PEFT at their best", "attune lora", "trl lora best", "speed", ""),
    ("LoRA, peak memory as a share of TRL + PEFT as they come", "attune lora", "trl lora", "memory", "<= 0.3"),
    ("LoRA, peak memory as a share of TRL + PEFT at their best", "attune lora", "trl lora best", "memory", ""),
    (f"shared system prompt of {SYSTEM} tokens, tokens/s against TRL", "attune shared", "trl shared", "speed", ">= 9"),
    ("shared system prompt, tokens/s against our own path without sharing", "attune shared", "attune shared apart", "speed", ">= 1.5"),
    ("shared system prompt, peak memory as a share of TRL's", "attune shared", "trl shared", "memory", ""),
    ("DPO update, tokens/s against our own path without sharing", "attune dpo", "attune dpo apart", "speed", ">= 1.5"),
    ("DPO update, tokens/s against TRL", "attune dpo", "trl dpo", "speed", ">= 9"),
    ("DPO update, peak memory as a share of TRL's", "attune dpo", "trl dpo", "memory", ""),
    ("GRPO update, tokens/s against our own path without sharing", "attune grpo", "attune grpo apart", "speed", ">= 1.5"),
    ("GRPO update, tokens/s against TRL", "attune grpo", "trl grpo", "speed", ">= 9"),
    ("GRPO update, peak memory as a share of TRL's", "attune grpo", "trl grpo", "memory", ""),
)


def report(kept: Kept, out: Path | None) -> None:
    """The table, of what has been kept; of a part, the rounds that all its contestants have run."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for names in PARTS.values():
        whole = set.intersection(*({one["round"] for one in kept.lines if one["contestant"] == name} for name in names))
        runs |= {name: found for name in names if (found := [one for one in kept.lines if one["contestant"] == name and one["round"] in whole])}
    timed = [name for part, names in PARTS.items() if part != "curves" for name in names if name in runs]
    medians = {name: {key: statistics.median(one[key] for one in runs[name]) for key in ("tokens_per_second", "step", "peak_mb")} | {"rounds": len(runs[name])} for name in timed}
    rows = [[name, f"{m['tokens_per_second']:,.0f}", f"{m['step']:.2f}", f"{m['peak_mb']:,.0f}", str(m["rounds"])] for name, m in medians.items()]
    figures: dict[str, Any] = {}
    for words, ours, other, what, aim in AIMS:
        if not {ours, other} <= medians.keys():
            continue
        key = "tokens_per_second" if what == "speed" else "peak_mb"
        each = [mine[key] / theirs[key] for mine in runs[ours] for theirs in runs[other] if mine["round"] == theirs["round"]]
        figures[words] = {"value": medians[ours][key] / medians[other][key], "lowest": min(each), "highest": max(each), "aim": aim}
        one = figures[words]
        said = f"**{one['value']:.2f}{' times' if what == 'speed' else ''}** ({one['lowest']:.2f} to {one['highest']:.2f} in single rounds){f', aim {aim}' if aim else ''}: {words}"
        rows.append([said, "", "", "", ""])
    curves = {method: curve(runs[f"attune curve {method}"][0]["losses"], runs[f"trl curve {method}"][0]["losses"]) for method in ("full", "lora") if f"trl curve {method}" in runs}
    for method, one in curves.items():
        rows.append(
            [
                f"Loss curves, {method}, the same {one['steps']} batches: last five steps {one['ours_last']:.4f} (TRL {one['trl_last']:.4f}, first step {one['first']:.4f}); single steps differ by at most {one['largest']:.1e} of the loss",
                "",
                "",
                "",
                "",
            ]
        )
    ran = [f"{part} {', '.join(dict.fromkeys(one.get('commit', 'unknown') for name in names for one in runs.get(name, ())))}" for part, names in PARTS.items() if names[0] in runs]
    body = {
        "title": "Tuning language models beside TRL and PEFT",
        "command": "python benchmarks/language.py",
        "columns": ["", "tokens/s", "step, s", "peak memory, MB", "rounds"],
        "rows": rows,
        "notes": [
            f"A Llama of {SIZES['num_hidden_layers']} layers, width {SIZES['hidden_size']} and {SIZES['vocab_size']:,} tokens (35 million weights, random), TRL 1.16.0, bf16 on both sides (TRL's own default), "
            f"{BATCH} rows in a batch (TRL's default), {STEPS} steps of which the first {LEFT_OUT} are left out, seed {SEED}, interleaved rounds, medians. Log-normal lengths: median 150, spread 0.8, at most 1,000 tokens; loss on answers, "
            "30 to 80 % of a row is its prompt. The same learning rate, warm-up, decay and epsilon of AdamW; no moving average of weights. "
            "`best`: packing and no gradient checkpointing for TRL; `pages`: torch asks for large pages, as it does in Attune. Tokens are those of the rows, padding not counted, shared ones counted in each row. "
            "`attune` of SFT is the whole loop with evaluations and checkpoints.",
            f"Updates: prompts of median 250 tokens, answers of median 50; {PAIRS} pairs in a step of DPO (our reference was computed before, TRL computes it in every step, as it comes), {PROMPTS} prompts with {GROUP} answers each for GRPO. "
            "`apart`: our own path with sharing switched off.",
            f"Ran at commits: {'; '.join(ran)}.",
            "",
        ],
    }
    write(out, "language", body | {"medians": medians, "figures": figures, "curves": curves, "runs": [one for found in runs.values() for one in found], "seed": SEED})
    print(json.dumps({words: round(one["value"], 3) for words, one in figures.items()}, indent=1))


def curve(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """How two curves of losses on the same batches differ."""
    apart = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    return {"steps": len(ours), "first": ours[0], "ours_last": statistics.fmean(ours[-5:]), "trl_last": statistics.fmean(theirs[-5:]), "largest": max(apart), "ours": ours, "trl": theirs}


if __name__ == "__main__":
    main()
