"""What the formats for models that answer with text share: the merged network, the files that engines read beside it, and replaying a folder."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.core.adapters import merged
from attune.core.contracts import Prediction, Row
from attune.core.conversation import keep_end, question_of, stop_ids, template_digest, template_of
from attune.core.errors import IntegrityError, PlugError
from attune.core.models import load_body
from attune.core.parity import BRAIN, EXACT, HALF, Limits, NetworkVoice, Voice, room_of
from attune.core.specialist import Specialist

FACTS = "answering.json"
TYPES = {"float32": EXACT, "float16": HALF, "bfloat16": BRAIN}
"""What weights are stored in -> how far the answers may be from float32's."""


def adapted(specialist: Specialist) -> bool:
    """Whether the body is a base with a PEFT adapter."""
    return hasattr(specialist.model.body, "peft_config")


def whole_body(specialist: Specialist, dtype: str = "float32") -> Any:
    """The network with an adapter's update added to its weights, in the type asked for; the specialist stays as it is.

    Raises:
        PlugError: the adapter cannot be added to the weights.
    """
    import torch

    own = specialist.model.body
    body = merged(specialist)
    if body is own:  # what is changed on it here stays off the specialist
        body = copy.deepcopy(own) if dtype != "float32" else copy.copy(own)
    return body.to(getattr(torch, dtype)) if dtype != "float32" else body


def write_body(specialist: Specialist, body: Any, folder: Path) -> None:
    """A whole network as a transformers folder with everything an engine reads: weights, tokenizer, chat template, generation settings."""
    body.generation_config = settings_of(specialist)
    body.save_pretrained(folder)
    write_beside(specialist, folder)


def settings_of(specialist: Specialist) -> Any:
    """The generation settings the model was graded with. A base's own (temperature, penalties) would change what engines that obey them answer."""
    from transformers import GenerationConfig

    tokenizer, (_, most) = specialist.tokenizer, room_of(specialist)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=most, eos_token_id=stop_ids(specialist), bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
    )


def write_beside(specialist: Specialist, folder: Path, **facts: Any) -> None:
    """Tokenizer with the chat template in force, generation settings and the facts that a replay needs."""
    tokenizer = copy.copy(specialist.tokenizer)
    tokenizer.chat_template = template_of(specialist)
    tokenizer.save_pretrained(folder)
    settings_of(specialist).save_pretrained(folder)
    write_facts(specialist, folder, **facts)


def write_facts(specialist: Specialist, folder: Path, **facts: Any) -> None:
    """`answering.json`: what the graded model kept of a prompt and of an answer."""
    longest, most = room_of(specialist)
    body = {"kind": "generation", "max_length": longest, "max_new_tokens": most, "chat_template_sha256": template_digest(template_of(specialist)), "stop_ids": stop_ids(specialist), **facts}
    (folder / FACTS).write_text(json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def facts_of(folder: Path) -> dict[str, Any]:
    """What `write_facts` wrote."""
    found: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return found


def card_beside(bundle: Path, folder: Path) -> None:
    """The model card and the recipe of the release."""
    for name in ("README.md", "recipe.yaml"):
        if (bundle / name).is_file():
            shutil.copyfile(bundle / name, folder / name)


def base_beside(specialist: Specialist, folder: Path, *, always: bool = False) -> None:
    """An adapter needs its base: a hub model is named, anything else is copied, so that the folder is enough."""
    on_hub = not specialist.base.local and not specialist.base.reference.startswith("package:") and not always
    for config in specialist.model.body.peft_config.values():
        config.base_model_name_or_path = specialist.base.reference if on_hub else "base"
        config.revision = specialist.base.revision if on_hub else None
    if not on_hub:
        specialist.base.copy(folder / "base")


def require_adapter(specialist: Specialist, place: str) -> None:
    """Refuse a method that leaves no PEFT adapter behind."""
    if not adapted(specialist):
        method = specialist.method.name if specialist.method is not None else "of this model"
        raise PlugError(f"method '{method}' leaves no PEFT adapter", place=place, fix="export it as 'merged': it is a whole model")


def folder_voice(folder: Path, body: Any = None) -> NetworkVoice:
    """A transformers folder as transformers loads and serves it; `body` where it is not simply the folder's own weights."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
    said = settings.eos_token_id
    stops = [int(one) for one in (said if isinstance(said, list) else [said]) if one is not None]
    network = body if body is not None else load_body(folder, "AutoModelForCausalLM")
    return NetworkVoice(network.eval(), tokenizer, tokenizer.chat_template, stops)


def adapter_voice(folder: Path, base: Path | None = None) -> NetworkVoice:
    """A PEFT folder on the base that it names, or on the one given."""
    import warnings

    import peft
    import torch
    import transformers

    config = peft.PeftConfig.from_pretrained(str(folder))
    beside = folder / "base"
    if base is None and beside.is_dir():
        base = beside
    if base is not None:
        network = load_body(base, "AutoModelForCausalLM")
    else:
        options: Any = {"dtype": torch.float32, "attn_implementation": "eager", "use_safetensors": True}
        network = transformers.AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, revision=config.revision or "main", **options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT only warns of weights that it misses or cannot place
            wrapped = peft.PeftModel.from_pretrained(network, str(folder), is_trainable=False)
    except (UserWarning, RuntimeError, ValueError) as error:
        raise IntegrityError(f"the adapter does not fit its base: {str(error)[:300]}", place=str(folder), fix="the base is not the one it was tuned on, or the adapter is incomplete") from error
    voice = folder_voice(folder, wrapped)
    voice.engine += f", peft {peft.__version__}"
    return voice


def replayed(voice: Voice, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
    """`answers` of a voice that is closed afterwards."""
    try:
        return answers(voice, folder, rows)
    finally:
        voice.close()


def answers(voice: Voice, folder: Path, rows: Sequence[Row], first: int | None = None) -> list[Prediction]:
    """Greedy answers of a replayed folder."""
    facts = facts_of(folder)
    prompts = (keep_end(voice.prompt(question_of(row), row.get("tools")), facts["max_length"], first) for row in rows)
    return [Prediction(voice.spoken(voice.answer(ids, facts["max_new_tokens"]))) for ids in prompts]


def limits_of(dtype: str) -> Limits:
    """How far weights stored so may be from the model that was tuned."""
    return TYPES[dtype]
