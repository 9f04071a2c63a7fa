"""Write the model as an ONNX graph for onnxruntime: any batch and length; labels, vectors or next-token logits, adapters merged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.catalog.exports._speaking import answers, card_beside, facts_of, whole_body, write_beside
from attune.core.contracts import Export, Prediction, Row
from attune.core.conversation import Message, written
from attune.core.errors import MachineError, PlugError
from attune.core.keys import Keys, key
from attune.core.parity import EXACT, Limits, Voice
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import numpy as np

GRAPH, FACTS = "model.onnx", "answering.json"
KINDS = {"label-out": "classification", "vector-out": "vectors", "text-out": "generation"}
NORMALISE = {"LayerNormalization": 1e-5, "RMSNormalization": 1e-5}
"""Operators with an epsilon -> ONNX's own, where they state none."""
ROOTS = frozenset({"Sqrt", "Pow"})
CHARACTERS = 200
"""Of a text this many characters per token are read at most."""


class OnnxKeys(Keys):
    """Keys of the export."""

    opset: int = key(20, "version of the ONNX operators", ge=18)


class Onnx(Export):
    """Inputs input_ids and attention_mask (int64 [batch, length]); output logits or vectors (float32). Scores of labels are for softmax or sigmoid."""

    keys_type = OnnxKeys
    requires = frozenset({"torch", "text-in"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """`model.onnx`, the tokenizer, `answering.json` and the card."""
        import logging
        import warnings

        import torch

        runtime()
        kinds = [kind for trait, kind in KINDS.items() if trait in specialist.task.traits]
        if len(kinds) != 1:
            raise PlugError(f"task '{specialist.task.name}' answers with neither labels, text nor a vector", place="exports.onnx", fix=f"it would need one of the traits {', '.join(KINDS)}")
        network = _network(specialist, kinds[0])
        tokens = torch.ones((2, 5), dtype=torch.int64)  # a batch of one would become a constant of the graph
        free: Any = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        quiet = logging.getLogger("torch.onnx")
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program: Any = torch.onnx.export(
                    network,
                    (tokens, torch.ones_like(tokens)),
                    dynamo=True,
                    verbose=False,
                    opset_version=self.keys.opset,
                    input_names=["input_ids", "attention_mask"],
                    output_names=["logits" if kinds[0] != "vectors" else "vectors"],
                    dynamic_shapes={"input_ids": free, "attention_mask": free},
                )
        finally:
            quiet.setLevel(level)
        program.save(str(folder / GRAPH))
        if kinds[0] == "generation":
            write_beside(specialist, folder)
        else:
            specialist.tokenizer.save_pretrained(folder)
            facts = {"kind": kinds[0], "max_length": specialist.max_length, "signature": specialist.signature, "input": next(role.name for role in specialist.task.roles if not role.target)}
            (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        card_beside(bundle, folder)

    def voice(self, folder: Path) -> Voice | None:
        """The graph in onnxruntime, where it writes texts."""
        return OnnxVoice(folder) if facts_of(folder)["kind"] == "generation" else None

    def constants(self, folder: Path) -> Mapping[str, Any]:
        """What its normalisations compute with."""
        return constants_of_graph(folder / GRAPH)

    def limits(self) -> Limits:
        """The same weights in float32."""
        return EXACT

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Answers by onnxruntime and the folder's tokenizer."""
        facts = facts_of(folder)
        if facts["kind"] != "generation":
            return _read(folder, facts, rows)
        return answers(OnnxVoice(folder), folder, rows)


def runtime() -> Any:
    """onnxruntime; raises MachineError naming the extra where something is missing."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch writes the graph with it)
    except ImportError as error:
        raise MachineError(f"the package '{error.name}' is not installed", place="exports.onnx", fix="pip install 'attune[export]'") from error
    return onnxruntime


def session_of(folder: Path) -> Any:
    """The graph, ready to run with as many threads as torch uses."""
    import torch

    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])


def constants_of_graph(path: Path) -> dict[str, Any]:
    """norm_epsilon: the different numbers in operators that normalise, and in roots of a mean and a constant, which is how others are written; empty without any."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    known = {one.name: one for one in graph.initializer} | {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"}
    found = set()
    for node in graph.node:
        if node.op_type in NORMALISE:
            found.add(next((one.f for one in node.attribute if one.name == "epsilon"), NORMALISE[node.op_type]))
        elif node.op_type in ROOTS and node.input[0] in made and made[node.input[0]].op_type == "Add":
            first, second = made[node.input[0]].input
            for mean, number in ((first, second), (second, first)):
                if mean in made and made[mean].op_type == "ReduceMean" and number in known and math.prod(known[number].dims) == 1:
                    found.add(float(onnx.numpy_helper.to_array(known[number], base_dir=str(path.parent)).item()))
    return {"norm_epsilon": tuple(sorted(found))} if found else {}


def _network(specialist: Specialist, kind: str) -> Any:
    """Ids and mask in, numbers out, in one module."""
    import torch
    from torch import nn

    body, head, pooling = whole_body(specialist), specialist.model.head, specialist.model.pooling
    normalise = bool(getattr(specialist.task.keys, "normalise", False))

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            if kind == "generation":
                positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # a batch filled up on the left counts from its first token
                return self.body(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False).logits
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            if pooling == "mean":
                found = (hidden * mask).sum(1) / mask.sum(1)
            elif pooling == "cls":
                found = hidden[:, 0]
            else:
                last = (attention_mask * torch.arange(attention_mask.shape[1])).argmax(-1)
                found = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
            if self.head is not None:
                found = self.head(found)
            return found / found.norm(dim=-1, keepdim=True).clamp(min=1e-12) if normalise else found

    return Reads().eval()


def _read(folder: Path, facts: dict[str, Any], rows: Sequence[Row]) -> list[Prediction]:
    """Labels or vectors, a row at a time."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer, session = AutoTokenizer.from_pretrained(folder, local_files_only=True), session_of(folder)
    answers = []
    for row in rows:
        batch = tokenizer(row[facts["input"]][: facts["max_length"] * CHARACTERS], truncation=True, max_length=facts["max_length"], return_tensors="np")
        found = session.run(None, {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")})[0][0].astype(np.float64)
        if facts["kind"] == "vectors":
            answers.append(Prediction(found.tolist()))
            continue
        signature = facts["signature"]
        scores = 1 / (1 + np.exp(-found)) if signature["multi_label"] else np.exp(found - found.max()) / np.exp(found - found.max()).sum()
        if signature["multi_label"]:
            chosen: Any = [label for label, p, least in zip(signature["labels"], scores, signature["thresholds"], strict=True) if p >= least]
        else:
            chosen = signature["labels"][int(scores.argmax())]
        answers.append(Prediction(chosen, dict(zip(signature["labels"], scores.tolist(), strict=True))))
    return answers


class OnnxVoice(Voice):
    """A decoder's graph in onnxruntime, with the folder's tokenizer, template and generation settings."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, GenerationConfig

        self.session = session_of(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        said = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        self.template, self.stops = self.tokenizer.chat_template, frozenset(said if isinstance(said, list) else [said])
        self.special = frozenset(self.tokenizer.all_special_ids) | frozenset(self.tokenizer.added_tokens_decoder)
        self.engine, self.constants = f"onnxruntime {runtime().__version__}", constants_of_graph(folder / GRAPH)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Through the folder's template."""
        if not messages:
            return [int(self.tokenizer.bos_token_id)] if self.tokenizer.bos_token_id is not None else []
        text = written(self.tokenizer, None, messages, to_answer=True, tools=tools)
        return [int(one) for one in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """One pass over all tokens."""
        import numpy as np

        tokens = np.array([list(ids)], dtype=np.int64)
        found: np.ndarray = self.session.run(None, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})[0][0]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens and surrounding spaces."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
