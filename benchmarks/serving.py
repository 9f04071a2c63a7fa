"""Writing many answers at once: against one-at-a-time `generate` of transformers, with many adapters on one base, and while adapters come and go.

python benchmarks/serving.py [--parts streams adapters live] [--rounds 5] [--out FILE]

Parts that are not run keep what the file says of them, so that each can be measured in a hold of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, commit, write

PARTS = ("streams", "adapters", "live")
STREAMS, ANSWER = 32, 32
ADAPTERS, RANK = 64, 16
REQUESTS = 2000
SIZES = {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024}


def network() -> Any:
    """A Llama of 40 million weights from a configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval()


def prompts(count: int) -> list[list[int]]:
    """Log-normal lengths, median 60, at most 400 tokens."""
    import numpy as np

    draw = np.random.default_rng(5)
    sizes = np.clip(np.exp(draw.normal(np.log(60), 0.7, count)).astype(int), 4, 400)
    return [draw.integers(4, SIZES["vocab_size"], int(size)).tolist() for size in sizes]


def ours(body: Any, asked: list[list[int]], slots: int, adapters: list[Any], which: list[str | None]) -> tuple[float, list[list[int]]]:
    """Tokens each second, and the answers."""
    from attune.core.generation import Generator, Request
    from attune.core.sampling import Sampling

    generator = Generator(body, slots=slots)
    for adapter in adapters:
        generator.load(adapter)
    begin = time.perf_counter()
    found = generator.run([Request(one, Sampling(max_tokens=ANSWER), adapter=name) for one, name in zip(asked, which, strict=True)])
    took = time.perf_counter() - begin
    generator.stop()
    return sum(len(one.ids) for one in found) / took, [one.ids for one in found]


def one_at_a_time(body: Any, asked: list[list[int]]) -> tuple[float, list[list[int]]]:
    """The same by transformers, a request after the other, greedy, with its own cache."""
    import torch

    answers = []
    begin = time.perf_counter()
    with torch.no_grad():
        for one in asked:
            found = body.generate(input_ids=torch.tensor([one]), attention_mask=torch.ones(1, len(one), dtype=torch.long), max_new_tokens=ANSWER, do_sample=False, eos_token_id=None, pad_token_id=0)
            answers.append(found[0, len(one) :].tolist())
    return len(asked) * ANSWER / (time.perf_counter() - begin), answers


def streams(rounds: int) -> dict[str, Any]:
    body, asked = network(), prompts(STREAMS)
    kept: dict[str, list[float]] = {"generate": [], "ours": []}
    same = 0
    ours(body, asked[:4], STREAMS, [], [None] * 4)
    one_at_a_time(body, asked[:1])
    for number in range(rounds):
        first = number % 2
        for name in ("generate", "ours")[:: -1 if first else 1]:
            speed, answers = one_at_a_time(body, asked) if name == "generate" else ours(body, asked, STREAMS, [], [None] * STREAMS)
            kept[name].append(speed)
            if name == "generate":
                told = answers
            else:
                mine = answers
        same = sum(a == b for a, b in zip(told, mine, strict=True))
    return {"rounds": rounds, "tokens_per_second": kept, "same_answers": same, "streams": STREAMS}


def adapter_of(body: Any, name: str, seed: int) -> Any:
    """A LoRA adapter on every linear layer, of random numbers."""
    import torch

    from attune.core.adapters import Adapter

    draw = torch.Generator().manual_seed(seed)
    layers = {}
    for layer, module in body.named_modules():
        if isinstance(module, torch.nn.Linear) and layer != "lm_head":
            layers[layer] = (torch.randn(RANK, module.in_features, generator=draw) * 0.02, torch.randn(RANK, module.out_features, generator=draw) * 0.02)
    return Adapter(name, layers)


def many_adapters(rounds: int) -> dict[str, Any]:
    body, asked = network(), prompts(ADAPTERS)
    bank = [adapter_of(body, str(number), number) for number in range(ADAPTERS)]
    ways: dict[str, tuple[list[Any], list[str | None]]] = {
        "none": ([], [None] * ADAPTERS),
        "one": (bank[:1], ["0"] * ADAPTERS),
        "each its own": (bank, [one.name for one in bank]),
    }
    kept: dict[str, list[float]] = {name: [] for name in ways}
    for loaded, which in ways.values():
        ours(body, asked[:8], ADAPTERS, loaded, which[:8])
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            kept[name].append(ours(body, asked, ADAPTERS, *ways[name])[0])
    return {"rounds": rounds, "tokens_per_second": kept, "adapters": ADAPTERS, "rank": RANK}


def live() -> dict[str, Any]:
    """Requests by the official client over the loopback to four releases, two of which are loaded and evicted all the time."""
    sys.path.insert(0, str(ROOT))
    import openai

    from attune.core.workspace import Workspace
    from tests import writers
    from tests.serve.conftest import Told
    from tests.serve.test_openai import QUESTION, Server, turn

    with tempfile.TemporaryDirectory() as folder:
        space, base = Workspace(Path(folder) / "space"), writers.base(Path(folder) / "base")
        names = ["writer", "poet", "clerk", "guest"]
        for number, name in enumerate(names):
            writers.release(space, base, number + 1, name)
        server = Server(space, Told(), max_adapters=3)
        for name in names[1:]:
            turn(server, "load", name)
        with server.client() as client:
            wanted = {name: client.chat.completions.create(model=name, messages=QUESTION).choices[0].message.content for name in names}
        turn(server, "evict", "clerk")
        turn(server, "evict", "guest")
        failed: list[str] = []
        left, lock, changes = iter(range(REQUESTS)), threading.Lock(), 0

        def work() -> None:
            with server.client() as client:
                while True:
                    with lock:
                        number = next(left, None)
                    if number is None:
                        return
                    name = names[number % 2]
                    try:
                        found = client.chat.completions.create(model=name, messages=QUESTION).choices[0].message.content
                        if found != wanted[name]:
                            failed.append(f"{number}: another answer")
                    except openai.OpenAIError as error:
                        failed.append(f"{number}: {error!r}")

        threads = [threading.Thread(target=work) for _ in range(16)]
        for one in threads:
            one.start()
        while any(one.is_alive() for one in threads):
            for name in names[2:]:
                assert turn(server, "load", name).status_code == 200
                assert turn(server, "evict", name).status_code == 200
                changes += 2
        for one in threads:
            one.join()
        server.end()
        space.close()
    return {"requests": REQUESTS, "failed": len(failed), "first_failures": failed[:3], "loads_and_evictions": changes, "different_answers": len(set(wanted.values()))}


def table(parts: dict[str, Any]) -> list[list[str]]:
    rows = []
    if "streams" in parts:
        speeds = parts["streams"]["tokens_per_second"]
        ratios = [a / b for a, b in zip(speeds["ours"], speeds["generate"], strict=True)]
        rows.append(
            [
                f"{parts['streams']['streams']} streams at once, against one-at-a-time `generate`",
                f"{statistics.median(speeds['ours']):.0f} against {statistics.median(speeds['generate']):.1f} tokens/s",
                f"**{statistics.median(ratios):.1f} x** ({min(ratios):.1f}-{max(ratios):.1f}); {parts['streams']['same_answers']} of {parts['streams']['streams']} answers equal",
                "4 x",
            ]
        )
    if "adapters" in parts:
        speeds = parts["adapters"]["tokens_per_second"]
        shares = [a / b for a, b in zip(speeds["each its own"], speeds["one"], strict=True)]
        rows.append(
            [
                f"{parts['adapters']['adapters']} adapters of rank {parts['adapters']['rank']} on one base, a stream each, against as many streams of one adapter",
                f"{statistics.median(speeds['each its own']):.0f} against {statistics.median(speeds['one']):.0f} tokens/s ({statistics.median(speeds['none']):.0f} without an adapter)",
                f"**{100 * statistics.median(shares):.0f} %** ({100 * min(shares):.0f}-{100 * max(shares):.0f})",
                "70 %",
            ]
        )
    if "live" in parts:
        one = parts["live"]
        rows.append([f"{one['requests']:,} requests over HTTP during {one['loads_and_evictions']} loads and evictions of adapters", "failed or answered otherwise", f"**{one['failed']}**", "0"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    path = options.out or RESULTS / "serving.json"
    parts: dict[str, Any] = json.loads(path.read_text())["parts"] if path.is_file() else {}
    for name in options.parts:
        parts[name] = {**(streams(options.rounds) if name == "streams" else many_adapters(options.rounds) if name == "adapters" else live()), "commit": commit()}
        write(
            options.out,
            "serving",
            {
                "title": "Serving: many answers at once",
                "command": "python benchmarks/serving.py",
                "columns": ["what", "measured", "result", "aim"],
                "rows": table(parts),
                "parts": parts,
                "notes": [
                    f"A Llama of 8 layers, width 512 and 32,000 tokens (39 million weights, random) in fp32; prompts of log-normal length (median 60), {ANSWER} greedy tokens each; medians over "
                    f"{options.rounds} interleaved rounds, in brackets the lowest and highest. The last row is a tiny Llama behind the real endpoint, asked by the official `openai` client.",
                    "",
                ],
            },
        )


if __name__ == "__main__":
    main()
