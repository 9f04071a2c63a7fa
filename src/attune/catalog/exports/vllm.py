"""Write a folder for `vllm serve` with the command line beside it: one merged model, or the base with one or several adapters."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from attune.catalog.exports._speaking import adapter_voice, answers, card_beside, facts_of, folder_voice, limits_of, require_adapter, whole_body, write_beside, write_body
from attune.core.adapters import write_peft
from attune.core.commit import verify
from attune.core.contracts import Export, Prediction, Row
from attune.core.conversation import template_digest, template_of
from attune.core.errors import PlugError
from attune.core.keys import Keys, key
from attune.core.parity import Limits, Voice, room_of
from attune.core.specialist import Specialist

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""
SCRIPT = "serve.sh"


class VllmKeys(Keys):
    """Keys of the export."""

    merge: bool = key(True, "one merged model; false: the base, and the adapter as --lora-modules")
    adapters: list[str] = key(
        [], "folders (from where the command runs) that the format 'adapter' wrote on the same base, served beside this one with merge: false; each is called by its folder's name"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = key("float32", "what the weights are stored and served in")
    name: str | None = key(None, "what requests call the model; default: the specialist's name")


class Vllm(Export):
    """vLLM is a service of its own with its own torch; it reads this folder and needs nothing of Attune."""

    keys_type = VllmKeys
    requires = frozenset({"torch", "text-out"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """`model/`, `adapters/NAME/` where asked for, `serve.sh` and the card."""
        name, model = self.keys.name or specialist.name or "model", folder / "model"
        if self.keys.adapters and self.keys.merge:
            raise PlugError("several adapters need the base unmerged", place="exports.vllm.adapters", fix="set merge: false")
        ranks: dict[str, int] = {}
        if self.keys.merge:
            write_body(specialist, whole_body(specialist, self.keys.dtype), model)
        else:
            require_adapter(specialist, "exports.vllm.merge")
            specialist.base.copy(model)
            write_beside(specialist, model)
            own = folder / "adapters" / name
            write_peft(specialist.model.body, own)
            write_beside(specialist, own, base=specialist.base.identity)
            ranks[name] = self._rank(own)
            for given in self.keys.adapters:
                ranks |= self._take(specialist, Path(given), folder / "adapters", ranks)
        longest, most = room_of(specialist)
        command = self._command(name, ranks, longest + most)
        (folder / SCRIPT).write_text('#!/bin/sh\ncd "$(dirname "$0")" || exit 1\nexec ' + " \\\n  ".join(command) + "\n", encoding="utf-8")
        (folder / SCRIPT).chmod(0o755)
        facts = facts_of(model)
        (folder / "answering.json").write_text(json.dumps({**facts, "command": command, "adapter": None if self.keys.merge else name}, indent=1, sort_keys=True), encoding="utf-8")
        card_beside(bundle, folder)

    def _rank(self, folder: Path) -> int:
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if said.get("peft_type") != "LORA" or said.get("use_dora"):
            kind = "DoRA" if said.get("use_dora") else said.get("peft_type")
            raise PlugError(f"vLLM serves no adapters of type {kind}", place="exports.vllm.merge", fix="set merge: true")
        rank = max([int(said["r"]), *map(int, (said.get("rank_pattern") or {}).values())])
        if rank > RANKS[-1]:
            raise PlugError(f"vLLM serves adapters up to rank {RANKS[-1]}, this one has {rank}", place="exports.vllm.merge", fix="set merge: true")
        return rank

    def _take(self, specialist: Specialist, given: Path, room: Path, taken: dict[str, int]) -> dict[str, int]:
        """Another adapter: whole, on the same base, with the same template (vLLM has one template for all)."""
        if not (given / "adapter_config.json").is_file():
            raise PlugError(f"'{given}' holds no adapter", place="exports.vllm.adapters", fix="give folders that the format 'adapter' wrote")
        verify(given)
        facts = facts_of(given)
        if (facts.get("base") or {}).get("digest") != specialist.base.identity["digest"]:
            raise PlugError(f"the adapter in '{given}' was tuned on another base", place="exports.vllm.adapters", fix="give adapters of this base only")
        if facts["chat_template_sha256"] != template_digest(template_of(specialist)):
            raise PlugError(f"the adapter in '{given}' was tuned with another chat template", place="exports.vllm.adapters", fix="vLLM has one template for all: serve it alone")
        name = given.resolve().name
        if name in taken:
            raise PlugError(f"two adapters are called '{name}'", place="exports.vllm.adapters", fix="rename one of the folders")
        shutil.copytree(given, room / name, ignore=shutil.ignore_patterns("base", "COMMIT.json"))
        return {name: self._rank(room / name)}

    def _command(self, name: str, ranks: dict[str, int], longest: int) -> list[str]:
        served = name if self.keys.merge else "base"
        words = ["vllm serve ./model", f"--served-model-name {shlex.quote(served)}", f"--dtype {self.keys.dtype}", f"--max-model-len {longest}"]
        words += ["--chat-template ./model/chat_template.jinja", "--generation-config ./model"]
        if ranks:
            needed = next(one for one in RANKS if one >= max(ranks.values()))
            modules = " ".join(shlex.quote(f"{one}=./adapters/{one}") for one in ranks)
            words += ["--enable-lora", f"--max-lora-rank {needed}", f"--max-loras {len(ranks)}", f"--lora-modules {modules}"]
        return words

    def voice(self, folder: Path) -> Voice:
        """What vLLM will load, through transformers (and PEFT)."""
        name: Any = facts_of(folder)["adapter"]
        voice = adapter_voice(folder / "adapters" / name, folder / "model") if name else folder_voice(folder / "model")
        if name:  # vLLM takes template and generation settings from the model folder
            served = folder_voice(folder / "model", voice.network)
            voice.template, voice.stops, voice.tokenizer = served.template, served.stops, served.tokenizer
        voice.template = (folder / "model" / "chat_template.jinja").read_text(encoding="utf-8")  # what --chat-template names
        return voice

    def limits(self) -> Limits:
        """By the type of the weights."""
        return limits_of(self.keys.dtype)

    def caveat(self, folder: Path) -> str:
        """vLLM itself needs another torch and, for speed, a graphics card."""
        return "the same files were replayed through transformers; vLLM itself did not run here"

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers by transformers."""
        return answers(self.voice(folder), folder, rows)
