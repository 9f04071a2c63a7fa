"""Export faulty and honest models in every format and see whether the parity certificate refuses the former and passes the latter.

    python benchmarks/parity.py [--base FOLDER] [--seed 7]

The base is a small Llama (default: the shared stories260K) given an output layer of its own; a LoRA adapter is tuned on question-and-answer rows with
the `sft` objective. Each planted fault (see `attune.testing.export_faults`) is exported in each format and judged against the good model. Where
llama-cpp-python is installed, GGUF files are replayed through llama.cpp, else (and in any case once more) through transformers' reader of such files.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, write

FORMATS: list[dict[str, Any]] = [
    {"name": "adapter"},
    {"name": "merged"},
    {"name": "merged", "dtype": "float16"},
    {"name": "merged", "dtype": "bfloat16"},
    {"name": "vllm"},
    {"name": "vllm", "merge": False},
    {"name": "gguf", "weights": "f32"},
    {"name": "gguf", "weights": "f16"},
    {"name": "gguf", "weights": "q8_0"},
    {"name": "ollama"},
    {"name": "onnx"},
]
PAIRS = [
    ("Where is my parcel?", "It is on the way to you."),
    ("I want my money back.", "The money is on the way."),
    ("Can I cancel the order?", "Yes, you can cancel it today."),
    ("My key does not open the door.", "We will send you a new key."),
    ("Who can help me?", "Tom and Lily can help you."),
    ("What is in the box?", "There is a big red ball."),
    ("When will you come?", "I will come in the morning."),
    ("Is the shop open?", "The shop is open all day."),
]


def specialist_of(base_folder: Path, folder: Path, seed: int) -> Any:
    """The base with an output layer of its own and a tuned adapter."""
    import torch

    from attune.core import catalog
    from attune.core.models import load_body, resolve_base
    from attune.core.specialist import Specialist

    torch.manual_seed(seed)
    body = load_body(base_folder, "AutoModelForCausalLM")
    embedding = body.get_input_embeddings().weight.detach()
    body.config.tie_word_embeddings = False
    body.lm_head.weight = torch.nn.Parameter(embedding + 0.3 * embedding.std() * torch.randn_like(embedding))
    body.save_pretrained(folder)
    resolve_base(str(base_folder)).tokenizer().save_pretrained(folder)
    task, method, objective = catalog.build("tasks", {"name": "text_generation", "max_new_tokens": 24}), catalog.build("methods", {"name": "lora", "rank": 8}), catalog.build("objectives", "sft")
    base = resolve_base(str(folder))
    found = Specialist(task, task.signature(rows()), method.prepare(task.build(base, {}), seed), base.tokenizer(), base, 128, "parity", method=method)
    batch = objective.collate(found, objective.examples(found, rows(), 128))
    optimizer = torch.optim.AdamW([p for p in found.model.parameters() if p.requires_grad], lr=5e-3)
    found.model.train()
    for _ in range(60):
        total, count = objective.loss(found.model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    found.model.eval()
    found.signature = task.settle(found, [])
    return found


def rows() -> list[dict[str, Any]]:
    return [{"row_id": f"r{i}", "place": f"pairs:{i}", "prompt": [{"role": "user", "content": a}], "completion": b} for i, (a, b) in enumerate(PAIRS)]


def judged(spec: dict[str, Any], written: Any, good: Any, folder: Path, *, read_back: bool) -> dict[str, Any]:
    """Export `written`, judge it against `good`: refused or not, by what engine, and why."""
    from attune.catalog.exports import _gguf_voice
    from attune.core import catalog
    from attune.core.certificate import replayed
    from attune.core.errors import AttuneError
    from attune.core.parity import voice_of

    plug = catalog.build("exports", spec)
    folder.mkdir()
    installed = _gguf_voice.llama_cpp_installed
    begin = time.monotonic()
    try:
        if read_back:
            _gguf_voice.llama_cpp_installed = lambda: False
        plug.write(written, folder.parent / "base" / "no card", folder)
        figures = replayed(plug, folder, good, voice_of(good), [], rows())
    except AttuneError as error:
        return {"refused": True, "why": str(error)[:200], "seconds": round(time.monotonic() - begin, 1)}
    finally:
        _gguf_voice.llama_cpp_installed = installed
    kept = ("token_agreement", "divergence_mean", "divergence_largest", "answers_the_same", "rows", "replayed_by", "metric")
    wrong = figures["disagreements"]
    return {"refused": bool(wrong), "why": wrong[-1]["why"] if wrong else "", "seconds": round(time.monotonic() - begin, 1), **{name: figures[name] for name in kept if name in figures}}


def table(outcomes: list[dict[str, Any]]) -> list[list[str]]:
    """A line per format and engine."""
    lines = []
    for honest in (one for one in outcomes if one["fault"] == "none"):
        faulty = [one for one in outcomes if one["fault"] != "none" and (one["format"], one["read_back"]) == (honest["format"], honest["read_back"])]
        said = json.loads(honest["format"])
        keys = ", ".join(f"{name}: {value}" for name, value in said.items() if name != "name")
        lines.append(
            [
                f"`{said['name']}`" + (f" ({keys})" if keys else ""),
                honest.get("replayed_by", ""),
                "refused" if honest["refused"] else "passes",
                f"{honest.get('token_agreement', 0):.1%}",
                f"{honest.get('divergence_mean', float('nan')):.1e}",
                f"{sum(one['refused'] for one in faulty)} of {len(faulty)}",
            ]
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ROOT.parent / "shared" / "weights" / "stories260K" / "hf", help="a small Llama")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="names of formats")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from attune.catalog.exports._gguf_voice import llama_cpp_installed
    from attune.testing.export_faults import FAULTS, planted

    outcomes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        good = specialist_of(options.base, folder / "base", options.seed)
        models = {"none": good, **{fault: planted(fault, good, folder / f"base {fault}") for fault in FAULTS}}
        engines = [False, True] if llama_cpp_installed() else [True]
        for spec in FORMATS:
            if options.only and spec["name"] not in options.only:
                continue
            for read_back in engines if spec["name"] in ("gguf", "ollama") else [False]:
                for fault, written in models.items():
                    found = judged(spec, written, good, folder / f"out{len(outcomes)}", read_back=read_back)
                    outcomes.append({"format": json.dumps(spec), "fault": fault, "read_back": read_back, **found})
                    right = found["refused"] is (fault != "none")
                    print(f"{'ok ' if right else 'BAD'} {spec} {'read back ' if read_back else ''}{fault}: refused {found['refused']}, {found['why'][:110]} ({found['seconds']} s)", flush=True)
    honest = [one for one in outcomes if one["fault"] == "none"]
    faulty = [one for one in outcomes if one["fault"] != "none"]
    figures = {
        "planted": len(faulty),
        "refused": sum(one["refused"] for one in faulty),
        "refused_share": sum(one["refused"] for one in faulty) / max(1, len(faulty)),
        "honest": len(honest),
        "honest_passed": sum(not one["refused"] for one in honest),
        "llama_cpp": llama_cpp_installed(),
    }
    body = {
        "title": "Exports: planted faults and honest forms",
        "command": "python benchmarks/parity.py",
        "columns": ["format", "replayed by", "honest form", "token agreement", "mean KL, nats", "planted faults refused"],
        "rows": table(outcomes),
        "notes": [f"Planted, each in every format: {', '.join(fault for fault in models if fault != 'none')}. Golden rows: {len(PAIRS)}.", ""],
    }
    write(options.out, "parity", {**body, "figures": figures, "outcomes": outcomes})
    print(json.dumps(figures))
    return 0 if figures["refused"] == len(faulty) and figures["honest_passed"] == len(honest) else 1


if __name__ == "__main__":
    sys.exit(main())
