"""Many LoRA adapters on one network at once: every row of a batch is answered with its own, all in one forward pass.

What an adapter adds to a linear layer is a product of two thin matrices. For a batch of answers with different adapters these products are one
batched product over stacks with a place for each slot, filled when an answer joins (S-LoRA, Sheng et al. 2024, section 5, does it by gathering).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attune.core.errors import IntegrityError, Refused
from attune.core.flat import network_of

FOLDER = "adapter"
PREFIX = "base_model.model."
PLAIN = {"use_dora": False, "bias": "none", "modules_to_save": None, "layer_replication": None, "trainable_token_indices": None}
"""Settings of PEFT under which an adapter is nothing but two matrices a layer, which can stand beside others."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """The matrices of one adapter by the name of the layer in the network: down [rank, in] and up [rank, out], its scale in the latter."""

    name: str
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max(down.shape[0] for down, _ in self.layers.values())


def read_adapter(name: str, folder: Path) -> Adapter:
    """An adapter in PEFT's format from a bundle's `model` folder.

    Raises:
        Refused: there is none, or it is of a kind that cannot share a network with others.
        IntegrityError: it changes nothing, or its matrices do not belong together.
    """
    from safetensors.torch import load_file

    path = folder / FOLDER
    if not (path / "adapter_config.json").is_file():
        raise Refused(f"'{name}' has no adapter that could stand beside others", place="model", fix="serve it as a specialist of its own; plain low-rank adapters can stand beside others")
    facts = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [key for key, plain in PLAIN.items() if facts.get(key, plain) not in (plain, [], {})]
    if facts.get("peft_type") != "LORA" or odd:
        raise Refused(f"'{name}' is not a plain LoRA adapter ({', '.join(odd) or facts.get('peft_type')})", place="model", fix="serve it as a specialist of its own")
    weights = load_file(path / "adapter_model.safetensors")
    layers = {}
    for key in sorted(weights):
        stem, _, kind = key.partition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            raise Refused(f"'{name}' holds '{key}', which is no matrix of a linear layer's update", place="model", fix="serve it as a specialist of its own")
        if kind == "A.weight":
            if f"{stem}.lora_B.weight" not in weights:
                raise IntegrityError(f"'{name}' holds '{key}' without its other half", place=str(path), fix="restore the release")
            layer, down, up = stem.removeprefix(PREFIX), weights[key].float(), weights[f"{stem}.lora_B.weight"].float()
            layers[layer] = (down, (up * _scale(facts, layer, down.shape[0])).T.contiguous())
    return _sound(Adapter(name, layers))


def _scale(facts: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) where the adapter says so (Kalajdzievski 2023); alpha may differ by layer."""
    patterns = facts.get("alpha_pattern") or {}
    alpha = next((value for end, value in patterns.items() if layer == end or layer.endswith("." + end)), facts["lora_alpha"])
    return float(alpha) / (rank**0.5 if facts.get("use_rslora") else rank)


def _sound(adapter: Adapter) -> Adapter:
    if not adapter.layers or not any(bool(up.any()) for _, up in adapter.layers.values()):
        raise IntegrityError(f"adapter '{adapter.name}' changes nothing: all its updates are zero", place="model", fix="tune again, or restore the release")
    return adapter


def own_adapter(body: Any) -> Adapter | None:
    """The adapter that PEFT has put into a network, scale applied; None where there is none or it is more than plain LoRA."""
    configs = list(getattr(body, "peft_config", {}).items())
    if len(configs) != 1:
        return None
    name, config = configs[0]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA" or any(getattr(config, key, plain) not in (plain, [], {}, None) for key, plain in PLAIN.items()):
        return None
    layers = {}
    for layer, module in network_of(body).named_modules():
        if name in getattr(module, "lora_A", {}):
            down, up = module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach()
            layers[layer] = (down.float(), (up.float() * module.scaling[name]).T.contiguous())
    return Adapter("", layers) if layers else None


class Bank:
    """Adds each row's adapter to the linear layers of one network, whose own adapter by PEFT sleeps meanwhile.

    Args:
        body: the network, or PEFT's wrapping of it.
    """

    def __init__(self, body: Any) -> None:
        self.network = network_of(body)
        self._modules = dict(self.network.named_modules())
        self._peft = [module for module in self._modules.values() if hasattr(module, "_disable_adapters")]
        self._hooks: dict[str, Any] = {}
        self._stacks: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._held: list[Adapter | None] = []
        self._rank = 0
        self._groups: list[tuple[Adapter, torch.Tensor | None]] = []
        self._mixed = 0
        """Slots in use when they differ in their adapters, else 0."""
        self._thread = 0

    def fit(self, adapter: Adapter) -> None:
        """Make the network's layers listen for an adapter; raises Refused when it belongs to another network."""
        for name, (down, up) in adapter.layers.items():
            module = self._modules.get(name)
            shape = _shape(module)
            if shape != (down.shape[1], up.shape[1]):
                said = f"of {shape[0]} x {shape[1]}" if shape else "that is not there"
                raise Refused(f"adapter '{adapter.name}' updates a layer '{name}' {said}", place="model", fix="it belongs to another base; serve it as a specialist of its own")
        for name in adapter.layers:
            if name not in self._hooks:
                self._hooks[name] = self._modules[name].register_forward_hook(self._hook(name))

    def close(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    @contextmanager
    def for_prompts(self, adapters: Sequence[Adapter | None], row: torch.Tensor) -> Iterator[None]:
        """Answer rows laid end to end, each with its adapter; `row`, int64 [tokens], says whose each token is."""
        kinds = list(dict.fromkeys(adapters))
        groups: list[tuple[Adapter | None, torch.Tensor | None]] = [(kinds[0], None)]
        if len(kinds) > 1:
            number = torch.tensor([kinds.index(one) for one in adapters])[row]
            groups = [(kind, (number == i).nonzero().squeeze(1)) for i, kind in enumerate(kinds)]
        with self._awake([(kind, places) for kind, places in groups if kind is not None], 0):
            yield

    @contextmanager
    def for_slots(self, adapters: Sequence[Adapter | None]) -> Iterator[None]:
        """Answer one token for each slot, in order."""
        kinds = list(dict.fromkeys(adapters))
        if len(kinds) == 1:
            with self._awake([(kinds[0], None)] if kinds[0] is not None else [], 0):
                yield
            return
        self._fill(adapters)
        with self._awake([], len(adapters)):
            yield

    @contextmanager
    def _awake(self, groups: list[tuple[Adapter, torch.Tensor | None]], mixed: int) -> Iterator[None]:
        """In this thread alone; but PEFT's own adapter sleeps for all, so a network with a bank is run by one thread."""
        before = [module._disable_adapters for module in self._peft]
        for module in self._peft:
            module._disable_adapters = True
        self._groups, self._mixed, self._thread = groups, mixed, threading.get_ident()
        try:
            yield
        finally:
            self._groups, self._mixed, self._thread = [], 0, 0
            for module, was in zip(self._peft, before, strict=True):
                module._disable_adapters = was

    def _fill(self, adapters: Sequence[Adapter | None]) -> None:
        """Bring each slot's place in the stacks up to date; only slots whose adapter changed are written."""
        rank = max(one.rank for one in adapters if one is not None)
        if rank > self._rank or len(adapters) > len(self._held) or len(self._stacks) < len(self._hooks):
            self._rank = max(rank, self._rank)
            slots = max(len(adapters), 2 * len(self._held))
            self._held = [None] * slots
            self._stacks = {}
            for name in self._hooks:
                wide, high = _shape(self._modules[name])
                self._stacks[name] = (torch.zeros(slots, self._rank, wide), torch.zeros(slots, self._rank, high))
        for slot, adapter in enumerate(adapters):
            if self._held[slot] is adapter:
                continue
            self._held[slot] = adapter
            for name, (down, up) in self._stacks.items():
                own = adapter.layers.get(name) if adapter is not None else None
                size = 0 if own is None else own[0].shape[0]
                if own is not None:
                    down[slot, :size], up[slot, :size] = own
                down[slot, size:], up[slot, size:] = 0, 0

    def _hook(self, name: str) -> Any:
        def add(_: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor | None:
            """given[0] [1, tokens, in], out [1, tokens, out]."""
            if self._thread != threading.get_ident():
                return None
            if self._mixed:
                down, up = self._stacks[name]
                x = given[0].reshape(self._mixed, 1, -1)
                return out + torch.bmm(torch.bmm(x, down[: self._mixed].transpose(1, 2)), up[: self._mixed]).view(out.shape)
            for adapter, places in self._groups:
                own = adapter.layers.get(name)
                if own is None:
                    continue
                x = given[0][0] if places is None else given[0][0].index_select(0, places)
                added = (x @ own[0].T) @ own[1]
                out = out + added if places is None else out.index_add(1, places, added.unsqueeze(0))
            return out

        return add


def _shape(module: Any) -> tuple[int, ...]:
    """(in, out) of a linear layer, PEFT's wrapping and GPT-2's transposed one included; () for anything else."""
    base = getattr(module, "base_layer", module)
    weight = getattr(base, "weight", None)
    if hasattr(base, "in_features"):
        return (int(base.in_features), int(base.out_features))
    if type(base).__name__ == "Conv1D" and weight is not None:
        return (int(weight.shape[0]), int(weight.shape[1]))
    return ()
