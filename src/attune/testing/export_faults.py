"""Planted faults for formats in which text-writing models leave: each makes, of a good specialist, the one that a broken exporter would have written.

An exporter is given the faulty specialist and its artefact is judged against the good one: it has to be refused.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attune.core.conversation import template_digest, template_of
from attune.core.models import Base, resolve_base
from attune.core.specialist import Specialist


def planted(fault: str, specialist: Specialist, folder: Path) -> Specialist:
    """A copy of a specialist with one fault; `folder` (new) takes a base of its own where the fault lies in the base.

    Raises:
        KeyError: there is no such fault.
    """
    found = dataclasses.replace(specialist, model=copy.deepcopy(specialist.model), tokenizer=copy.deepcopy(specialist.tokenizer), signature=dict(specialist.signature))
    FAULTS[fault](found)
    if fault in IN_THE_BASE:
        body = copy.deepcopy(found.model.body)
        (body.unload() if hasattr(body, "peft_config") else body).save_pretrained(folder)
        specialist.tokenizer.save_pretrained(folder)
        found.base = resolve_base(str(folder))
    else:
        found.base = Base(specialist.base.reference, specialist.base.revision, specialist.base.folder, specialist.base.local)
    return found


def _network(specialist: Specialist) -> Any:
    body = specialist.model.body
    return body.get_base_model() if hasattr(body, "peft_config") else body


def _wrong_base(specialist: Specialist) -> None:
    """A near relative of the base: every matrix a twentieth of its spread away."""
    import torch

    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in _network(specialist).named_parameters():
            if weight.ndim == 2 and "lora_" not in name:
                weight += 0.05 * weight.std() * torch.randn(weight.shape, generator=generator)


def _unmerged(specialist: Specialist) -> None:
    """The adapter left out: its updates add nothing."""
    import torch

    with torch.no_grad():
        for name, weight in specialist.model.body.named_parameters():
            if "lora_B" in name:
                weight.zero_()


def _template(specialist: Specialist) -> None:
    """One space more where the answer begins."""
    changed = template_of(specialist).replace("Assistant:{% endif %}", "Assistant: {% endif %}").replace("assistant\n{% endif %}", "assistant{% endif %}")
    assert changed != template_of(specialist), "the template has no place for the fault"
    specialist.signature.update(chat_template=changed, chat_template_sha256=template_digest(changed))
    specialist.tokenizer.chat_template = changed


def _dropped_head(specialist: Specialist) -> None:
    """The output layer lost, the embedding in its place."""
    network = _network(specialist)
    network.get_output_embeddings().weight = network.get_input_embeddings().weight
    network.config.tie_word_embeddings = True


def _swapped(specialist: Specialist) -> None:
    """Two layers' matrices of the same shape in each other's place."""
    first, second = [module for name, module in _network(specialist).named_modules() if name.endswith("mlp.up_proj")][:2]
    for one in ("base_layer", ""):
        a, b = (module.get_submodule(one) if one and hasattr(module, one) else module for module in (first, second))
        if hasattr(a, "weight") and not hasattr(a, "base_layer"):
            a.weight.data, b.weight.data = b.weight.data.clone(), a.weight.data.clone()
            return


def _rope(specialist: Specialist) -> None:
    """The rotary positions of another version of the family."""
    network = _network(specialist)
    network.config.rope_parameters = {**network.config.rope_parameters, "rope_theta": 5 * network.config.rope_parameters["rope_theta"]}
    network.model.rotary_emb = type(network.model.rotary_emb)(config=network.config)


def _norm(specialist: Specialist) -> None:
    """1e-5 for 1e-6 or the other way round: what is most often confused."""
    network = _network(specialist)
    network.config.rms_norm_eps = 1e-6 if network.config.rms_norm_eps > 3e-6 else 1e-5
    for module in network.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = network.config.rms_norm_eps


def _end(specialist: Specialist) -> None:
    """Answers that end with the token that begins texts."""
    specialist.tokenizer.eos_token = specialist.tokenizer.bos_token


FAULTS: dict[str, Callable[[Specialist], None]] = {
    "wrong base": _wrong_base,
    "unmerged adapter": _unmerged,
    "changed template": _template,
    "dropped head": _dropped_head,
    "swapped tensor": _swapped,
    "wrong rope constant": _rope,
    "wrong norm constant": _norm,
    "wrong end token": _end,
}
IN_THE_BASE = frozenset({"wrong base", "dropped head", "swapped tensor", "wrong rope constant", "wrong norm constant"})
