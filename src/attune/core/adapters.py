"""What the methods share that put small weights into a frozen network: which layers they change, how they are written, and how reading
refuses weights that do not belong to the base; and folding them into the base.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Method, Signature, Task
from attune.core.errors import IntegrityError, PlugError
from attune.core.models import Base, last_layers, load_head, save_head
from attune.core.randomness import key as random_key

if TYPE_CHECKING:
    import torch

    from attune.core.specialist import Specialist
    from attune.core.tunable import TunableModel

FOLDER = "adapter"
"""Where an adapter stands inside of what its method writes, in PEFT's format where PEFT has the method."""
CANNOT_MERGE = "cannot_merge"
"""Attribute of a module that no weight of the base can stand for: why."""


# ---------------------------------------------------------------- which layers


def linear_layers(body: Any, last: int | None = None) -> list[str]:
    """Full names of a network's linear layers (GPT-2's transposed ones and fused projections as one each) that adapting makes sense for:
    without the output layer, a pooler that no task runs, and the routers of a mixture of experts, whose choices stay those of the base.
    Experts that a family keeps together in one tensor are no linear layers and stay as they are.

    Args:
        last: only those in the last so many layers.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = body.get_output_embeddings() if hasattr(body, "get_output_embeddings") else None
    mixtures = [name.removesuffix("experts") for name, _ in body.named_modules() if name.rpartition(".")[2] == "experts"]
    found = []
    for name, module in body.named_modules():
        own = next((name.removeprefix(mixture).partition(".")[0] for mixture in mixtures if name.startswith(mixture)), "")
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output and "pooler" not in name.split(".") and "gate" not in own and "router" not in own:
            found.append(name)
    if last is not None:
        above = last_layers(body, last)
        found = [name for name in found if any(name.startswith(stem + ".") for stem in above)]
    return found


def chosen_layers(body: Any, wanted: str | list[str], last: int | None = None) -> list[str]:
    """Full names of the layers that a recipe's `targets` means: all-linear, or ends of module names; a name that fits no layer is refused."""
    linear = linear_layers(body, last)
    ends = [] if wanted in ("all-linear", "all") else [wanted] if isinstance(wanted, str) else list(wanted)
    lost = [end for end in ends if not any(_ends(name, end) for name in linear)]
    if lost or not linear:
        there = sorted({name.rsplit(".", 1)[-1] for name in linear})
        what = f"no linear layer ends in {', '.join(lost)}" if lost else f"a {type(body).__name__} has no linear layer to adapt"
        raise PlugError(what, place="method.targets", fix="choose from: " + ", ".join(there) if there else "use a method that trains the network itself")
    return [name for name in linear if not ends or any(_ends(name, end) for end in ends)]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)


def attention_and_feed_forward(body: Any, last: int | None = None) -> dict[str, list[str]]:
    """Names of modules by what they do, found by structure, so that a family's own names hardly matter.

    Returns:
        keys_values: projections to keys and values, or to queries, keys and values at once.
        attention: the last projection of every attention, back to the hidden width.
        feed_forward: the same of every feed-forward block; of a mixture of experts the block itself, which need not be a linear layer.
    """
    width = body.config.get_text_config().hidden_size
    linear = linear_layers(body, last)
    inside = {name: any("attn" in part or "attention" in part for part in name.split(".")[:-1]) for name in linear}
    shapes = {name: _shape(body.get_submodule(name)) for name in linear}
    keys_values = [name for name in linear if inside[name] and name.rpartition(".")[2].lower() in KEYS_VALUES]
    attention: dict[str, str] = {}
    for name in linear:
        if inside[name] and shapes[name][1] == width and name.rpartition(".")[2].lower() not in (*KEYS_VALUES, *QUERIES):
            attention[_layer(name)] = name
    mixtures = [name.rpartition(".")[0] for name, _ in body.named_modules() if name.rpartition(".")[2] == "experts"]
    above = last_layers(body, last) if last is not None else [""]
    feed_forward: dict[str, str] = {_layer(name): name for name in mixtures if any(not stem or name.startswith(stem + ".") for stem in above)}
    for name in linear:
        if not inside[name] and shapes[name][1] == width and shapes[name][0] != width and _layer(name) not in feed_forward:
            feed_forward[_layer(name)] = name
    return {"keys_values": keys_values, "attention": list(attention.values()), "feed_forward": list(feed_forward.values())}


KEYS_VALUES = ("k_proj", "v_proj", "key", "value", "k_lin", "v_lin", "k", "v", "kv_proj", "c_attn", "query_key_value", "qkv_proj", "wqkv", "qkv", "kv_a_proj_with_mqa", "kv_b_proj")
QUERIES = ("q_proj", "query", "q_lin", "q")


def _layer(name: str) -> str:
    """The name up to the number of the layer."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: number + 1])


def _shape(module: Any) -> tuple[int, int]:
    """Width before and after a linear layer."""
    from torch import nn

    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else (int(module.weight.shape[0]), int(module.weight.shape[1]))


# ---------------------------------------------------------------- PEFT


def wrap(model: TunableModel, config: Any, seed: int) -> TunableModel:
    """Wrap the body as a PEFT configuration says, drawing from the seed; only what PEFT adds, and the head, train."""
    import torch
    from peft import get_peft_model
    from transformers.pytorch_utils import Conv1D

    if hasattr(config, "fan_in_fan_out"):
        config.fan_in_fan_out = isinstance(model.body.get_submodule(next(iter(config.target_modules))), Conv1D)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name; nothing a user could do
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # of families that mix both kinds; PEFT settles each by itself
        torch.manual_seed(random_key(seed, "lora"))
        model.body = get_peft_model(model.body, config)
    return model


def save_adapter(model: TunableModel, folder: Path) -> None:
    """Write the adapter in PEFT's format, without this machine's paths and with its lists in one order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for config in model.body.peft_config.values():
        config.base_model_name_or_path = None
        config.target_modules = sorted(config.target_modules)
        if getattr(config, "feedforward_modules", None):  # PEFT shortens the other list alone, and then refuses the pair when it reads them
            config.feedforward_modules = sorted(config.feedforward_modules)
            config.target_modules = sorted(name for name, module in model.body.get_base_model().named_modules() if isinstance(module, BaseTunerLayer))
    write_peft(model.body, folder / FOLDER)


def write_peft(body: Any, folder: Path) -> None:
    """PEFT's files of one adapter, the base named as its configuration names it: where that names none, PEFT would write the folder of this machine
    that the base came from. Its empty card, which says nothing of this model, is left out."""
    (config,) = body.peft_config.values()
    name = config.base_model_name_or_path
    body.save_pretrained(folder, save_embedding_layers=False)
    config.base_model_name_or_path = name
    written = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": name}, indent=2, sort_keys=True), encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)


def load_adapter(model: TunableModel, folder: Path) -> TunableModel:
    """Wrap the body of a fresh model with the adapter that `save_adapter` wrote.

    Raises:
        IntegrityError: it lacks weights that this base takes, or has others; they would be random, or lost, and nobody would notice.
    """
    from peft import PeftModel, get_peft_model_state_dict

    place = folder / FOLDER
    stored = set(read_tensors(place / "adapter_model.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is refused below
        model.body = PeftModel.from_pretrained(model.body, place, is_trainable=False)
    require_same_names(stored, set(get_peft_model_state_dict(model.body, save_embedding_layers=False)), place)
    return model


class AdapterMethod(Method):
    """A method whose weights are an adapter in PEFT's format beside the base, and the head."""

    def save(self, model: TunableModel, folder: Path) -> None:
        """The adapter and the head."""
        save_adapter(model, folder)
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The base with the saved adapter and head; a missing adapter weight is an error."""
        model: TunableModel = self.readied(task.build(base, signature))
        load_adapter(model, folder)
        load_head(model, folder)
        return model

    def readied(self, model: TunableModel) -> TunableModel:
        """The base as the adapter was learned on it; default: as it is."""
        return model


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; a missing file is an error."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise IntegrityError("the adapter's weights are missing", place=str(path), fix="the bundle is incomplete; make it again")
    found: dict[str, torch.Tensor] = load_file(path)
    return found


def require_same_names(stored: set[str], expected: set[str], place: Path) -> None:
    """Raise when an adapter's file and the network that it is for do not hold the same tensors."""
    if stored != expected:
        first = sorted(stored ^ expected)[0]
        raise IntegrityError(
            f"the adapter holds {len(stored)} tensors, the model takes {len(expected)}; they differ first in '{first}'", place=str(place), fix="the adapter belongs to another base; tune again"
        )


def set_tensors(parameters: Mapping[str, torch.nn.Parameter], path: Path) -> None:
    """Fill parameters from a safetensors file that holds the same names and shapes.

    Raises:
        IntegrityError: it does not.
    """
    import torch

    stored = read_tensors(path)
    require_same_names(set(stored), set(parameters), path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != stored[name].shape:
                raise IntegrityError(f"'{name}' has shape {list(stored[name].shape)}, the model takes {list(parameter.shape)}", place=str(path), fix="the adapter belongs to another base; tune again")
            parameter.copy_(stored[name])


# ---------------------------------------------------------------- merging


def merged(specialist: Specialist) -> Any:
    """A plain transformers network (float32) that answers as the specialist's body does, adapters folded into the base's weights, exact to rounding.

    The specialist stays as it is: where there is something to fold in, a copy is changed; else its own network is returned, not to be changed.
    Weights of a 4-bit base come back as the float32 numbers that they stand for.

    Raises:
        PlugError: the method computes something that no weight of the base can stand for.
    """
    import copy

    from attune.core.flat import network_of
    from attune.core.four_bit import FourBit

    body = specialist.model.body
    why = next((getattr(module, CANNOT_MERGE) for module in body.modules() if getattr(module, CANNOT_MERGE, None)), None)
    if why is not None:
        method = specialist.method.name if specialist.method is not None else "this method"
        raise PlugError(f"what '{method}' learned cannot be folded into the base: {why}", place="method", fix="export it as a bundle, or tune with a method whose change can be added to the weights")
    quantised = any(isinstance(module, FourBit) for module in body.modules())
    if not hasattr(body, "peft_config") and not quantised:
        return body
    made = copy.deepcopy(body)
    if quantised:
        _whole_again(network_of(made))
    if hasattr(made, "peft_config"):
        made = made.merge_and_unload()
    vars(made).pop("peft_config", None)
    return made.eval()


def _whole_again(network: Any) -> None:
    """Replace, in place, 4-bit layers by the float32 layers that they stand for."""
    from attune.core.four_bit import FourBit

    for name, layer in list(network.named_modules()):
        if isinstance(layer, FourBit):
            above, _, own = name.rpartition(".")
            around = network.get_submodule(above)
            setattr(around, own, layer.whole())
            if layer.transposed and hasattr(around, "fan_in_fan_out"):
                around.fan_in_fan_out = True
