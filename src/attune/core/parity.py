"""Parity: does what left speak as what was tuned? Both read the same golden prompts, and their next-token distributions are compared.

The training-time model and the artefact are each a `Voice`. At the positions of a golden prompt and of the training-time model's own greedy answer the
two distributions p (training time) and q (artefact) are compared by KL(p || q) in nats; at the answer's positions also by the token that each would say.
A token is a real disagreement when the training-time model holds the artefact's choice for worse than its own by more than `Limits.tie` nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Prediction, Row, Task
from attune.core.conversation import Message, keep_end, question_of, stop_ids, template_digest, template_of, written
from attune.core.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np

    from attune.core.contracts import Metric
    from attune.core.specialist import Specialist


POSITIONS = 512
"""Of a prompt the distributions behind at most this many of its last tokens are compared; every one would need tokens x vocabulary numbers."""

ROUNDED = 2e-7
"""Constants this close, relatively, are the same: files hold them in float32. Token ids are never this close."""


@dataclass(frozen=True)
class Limits:
    """How far an artefact may be from the training-time model."""

    divergence: float
    """Largest mean of KL(p || q) over positions, nats."""
    tie: float
    """Two tokens this close (nats, by the training-time model) count as equally likely."""
    metric: float
    """Largest difference of the main metric on the golden rows."""


EXACT = Limits(1e-6, 1e-3, 0.02)
"""The same weights in float32, computed by another program."""
HALF = Limits(1e-3, 0.05, 0.05)
"""Weights, or a cache, of 16 bits with ten bits of mantissa (float16)."""
BRAIN = Limits(1e-2, 0.25, 0.05)
"""bfloat16, with seven bits."""
EIGHT_BITS = Limits(2e-2, 0.5, 0.10)
"""Blocks of 8-bit weights."""


class Voice(ABC):
    """A causal language model that can be heard token by token, with the tokenizer, the template and the end tokens it is served with."""

    engine: str = ""
    """What computes, with its version."""
    template: str | None = None
    """The chat template it comes with."""
    stops: frozenset[int] = frozenset()
    """Tokens that end an answer."""
    special: frozenset[int] = frozenset()
    """Tokens that no text contains; one of them more among `stops` does no harm."""
    constants: Mapping[str, Any] = {}
    """What no answer shows clearly, by the names of `constants_of`; `end_tokens` where what it was read from names them, for an engine may know more."""

    @abstractmethod
    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Token ids of a conversation in which functions may be called, up to where the answer begins."""

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [tokens, vocabulary]: row i is about the token behind ids[i]."""

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """An answer's tokens (without its end token) as text."""

    def answer(self, prompt: Sequence[int], most: int, draft: Sequence[int] = ()) -> list[int]:
        """The greedy answer with its end token, at most `most` tokens. A draft only saves steps: what it says is kept as far as it is what this voice says."""
        found = list(draft[:most])
        while True:
            choices = self.logits([*prompt, *found])[len(prompt) - 1 :].argmax(-1).tolist()
            found = found[: next((i for i, token in enumerate(found) if token != choices[i]), len(found))]
            end = next((i for i, token in enumerate(found) if token in self.stops), None)
            if end is not None or len(found) >= most:
                return found if end is None else found[: end + 1]
            found.append(int(choices[len(found)]))
            if found[-1] in self.stops or len(found) >= most:
                return found

    def spoken(self, ids: Sequence[int]) -> str:
        """`text` without the end token."""
        return self.text(ids[:-1] if ids and ids[-1] in self.stops else ids)

    def close(self) -> None:
        """Give back what the engine holds."""
        return


class NetworkVoice(Voice):
    """A transformers network (or a PEFT wrapper of one) with a transformers tokenizer."""

    def __init__(self, network: Any, tokenizer: Any, template: str | None, stops: Sequence[int], engine: str = "", constants: Mapping[str, Any] | None = None, begin: bool = False) -> None:
        import transformers

        self.network, self.tokenizer, self.template = network, tokenizer, template
        self.stops, self.special = frozenset(stops), frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)
        self.engine = engine or f"transformers {transformers.__version__}"
        self.constants = constants if constants is not None else constants_of(network)
        self.begin = begin
        """Whether `encode` puts the begin token in front, as the engine that is stood in for does."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Through the template it comes with."""
        if not messages:
            return [int(self.tokenizer.bos_token_id)] if self.tokenizer.bos_token_id is not None else []
        return self.encode(written(self.tokenizer, self.template, messages, to_answer=True, tools=tools), begin=False)

    def encode(self, text: str, *, begin: bool | None = None) -> list[int]:
        """Token ids of a rendered conversation."""
        ids = [int(one) for one in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        return [int(self.tokenizer.bos_token_id), *ids] if (self.begin if begin is None else begin) else ids

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """One pass over all tokens."""
        import torch

        tokens = torch.tensor([list(ids)])
        with torch.no_grad():
            found = self.network(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0, -len(ids) :]  # learned prompts stand in front
        array: np.ndarray = found.float().numpy()
        return array

    def answer(self, prompt: Sequence[int], most: int, draft: Sequence[int] = ()) -> list[int]:
        """With a cache, which saves more than a draft."""
        import torch
        from transformers import GenerationConfig

        tokens, pad = torch.tensor([list(prompt)]), int(self.tokenizer.pad_token_id or 0)
        settings = GenerationConfig(max_new_tokens=most, do_sample=False, num_beams=1, eos_token_id=sorted(self.stops), pad_token_id=pad, use_cache=True)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            found = self.network.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)[0, len(prompt) :].tolist()
        end = next((i for i, token in enumerate(found) if token in self.stops), None)
        return [int(one) for one in (found if end is None else found[: end + 1])]

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens and surrounding spaces, as `text_generation` answers."""
        said: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return said.strip()


def voice_of(specialist: Specialist) -> NetworkVoice:
    """The training-time model: what every artefact is compared with."""
    return NetworkVoice(specialist.model.body, specialist.tokenizer, template_of(specialist), stop_ids(specialist))


def constants_of(network: Any) -> dict[str, Any]:
    """layers, heads, key_value_heads, hidden_size, norm_epsilon (one number or several) and rope_base of a transformers network, as far as it has them."""
    config = network.config
    rope = getattr(config, "rope_parameters", None) or {}
    names = {
        "layers": getattr(config, "num_hidden_layers", None),
        "heads": getattr(config, "num_attention_heads", None),
        "key_value_heads": getattr(config, "num_key_value_heads", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "norm_epsilon": _epsilons(network) or _first(config, ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")),
        "rope_base": rope.get("rope_theta", getattr(config, "rope_theta", None)),
    }
    return {name: value for name, value in names.items() if value is not None}


def _epsilons(network: Any) -> tuple[float, ...]:
    """The different epsilons that a network's normalisations compute with; none where one of them hides its own."""
    innermost = (module for module in network.modules() if next(module.children(), None) is None)
    found = {_first(module, ("variance_epsilon", "eps", "epsilon")) for module in innermost if "norm" in type(module).__name__.lower()}
    return () if None in found else tuple(sorted(found))


def _first(holder: Any, names: Sequence[str]) -> Any:
    """The first of some attributes that is there and says something."""
    return next((value for name in names if (value := getattr(holder, name, None)) is not None), None)


def room_of(specialist: Specialist) -> tuple[int, int]:
    """Most tokens of a prompt, and of an answer."""
    most = int(specialist.task.keys.max_new_tokens)
    room = getattr(specialist.model.body.config, "max_position_embeddings", None) or 1 << 30
    return min(specialist.max_length, room - most), most


def differences(own: Voice, theirs: Voice) -> list[str]:
    """What is wrong with an artefact before it says a word: its template, its end tokens, its constants."""
    wrong = []
    if own.template is not None and theirs.template is not None and own.template != theirs.template:
        wrong.append(f"its chat template (sha256 {template_digest(theirs.template)[:12]}) is not the one it was tuned with ({template_digest(own.template)[:12]})")
    lost = sorted(own.stops - theirs.stops)
    if lost:
        wrong.append(f"token {', '.join(map(str, lost))} ({own.text(lost) or 'special'}) ends an answer of the tuned model and none of this one")
    more = sorted(theirs.stops - own.stops - theirs.special)
    if more:
        wrong.append(f"token {', '.join(map(str, more[:5]))} ends its answers and none of the tuned model's")
    return wrong + other_constants({**own.constants, "end_tokens": own.stops}, theirs.constants)


def other_constants(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What both state and state differently, in words; a value is a number or several in any order."""
    wrong = []
    for name in sorted(own.keys() & theirs.keys()):
        a, b = (sorted(map(float, value)) if isinstance(value, Collection) else [float(value)] for value in (own[name], theirs[name]))
        if len(a) != len(b) or not all(math.isclose(x, y, rel_tol=ROUNDED) for x, y in zip(a, b, strict=True)):
            said, meant = (", ".join(f"{one:.0f}" if one.is_integer() else f"{one:.6g}" for one in values) or "none" for values in (b, a))
            verb = "are" if name.endswith("s") else "is"
            wrong.append(f"its {name.replace('_', ' ')} {verb} {said}, the tuned model's {verb} {meant}")
    return wrong


def examine(own: Voice, theirs: Voice, rows: Sequence[Row], *, longest: int, most: int, limits: Limits, first: int | None = None) -> tuple[dict[str, Any], list[Prediction], list[Prediction]]:
    """Replay golden prompts through an artefact.

    Args:
        own: the training-time model.
        theirs: the artefact.
        rows: golden rows with `prompt`.
        longest: tokens kept of a prompt (its end); as at training time.
        most: tokens of an answer.
        limits: what is still the same.
        first: the begin token, which stays when a prompt is cut.

    Returns:
        The figures (with `disagreements`: row and why, empty when all is well), and both sides' answers.
    """
    import numpy as np

    wrong = [{"row_id": "", "why": why} for why in differences(own, theirs)]
    answers: tuple[list[Prediction], list[Prediction]] = ([], [])
    divergence: list[np.ndarray] = []
    tokens = same = ties = prompts = 0
    largest = 0.0
    for row in rows:
        asked, heard = (voice.prompt(question_of(row), row.get("tools")) for voice in (own, theirs))
        prompts += asked == heard
        if asked != heard:
            place = next((i for i, (a, b) in enumerate(zip(asked, heard, strict=False)) if a != b), min(len(asked), len(heard)))
            wrong.append({"row_id": row.get("row_id", ""), "why": f"its prompt becomes other tokens, from token {place + 1} on ({asked[place : place + 3]} became {heard[place : place + 3]})"})
        ids = keep_end(asked, longest, first)
        if not ids:
            continue
        said = own.answer(ids, most)
        kept = -(POSITIONS + len(said))
        p, q = own.logits([*ids, *said[:-1]])[kept:], theirs.logits([*ids, *said[:-1]])[kept:]
        if p.shape != q.shape:
            wrong.append({"row_id": row.get("row_id", ""), "why": f"it chooses from {q.shape[1]} tokens, the tuned model from {p.shape[1]}"})
            break
        p, q = _log_softmax(p), _log_softmax(q)
        divergence.append((np.exp(p) * (p - q)).sum(-1))
        largest = max(largest, float(np.abs(np.exp(p) - np.exp(q)).max()))
        p, q = p[-len(said) :], q[-len(said) :]
        chosen = q.argmax(-1)
        apart = p.max(-1) - np.take_along_axis(p, chosen[:, None], -1)[:, 0]
        tokens, same, ties = tokens + len(said), same + int((apart == 0).sum()), ties + int(((apart > 0) & (apart <= limits.tie)).sum())
        far = np.flatnonzero(~(apart <= limits.tie))
        if len(far):
            wrong.append({"row_id": row.get("row_id", ""), "why": f"token {far[0] + 1} of the answer is {theirs.text([int(chosen[far[0]])])!r} and not {own.text([said[far[0]]])!r}"})
        answers[0].append(Prediction(own.spoken(said)))
        agreed = bool((chosen == np.array(said)).all()) and not any(token in theirs.stops for token in said[:-1]) and (said[-1] in theirs.stops or len(said) >= most)
        answers[1].append(Prediction(theirs.spoken(said if agreed else theirs.answer(ids, most, said))))
    if not tokens and not wrong:
        raise IntegrityError("none of the golden rows has a prompt to answer", place="export", fix="give prompts of your own with --golden")
    every = np.concatenate(divergence) if divergence else np.array([math.nan])
    mean = float(every.mean())
    if not mean <= limits.divergence:
        wrong.append({"row_id": "", "why": f"its next-token distributions are {mean:.2e} nats from the tuned model's on average; {limits.divergence:.0e} is the limit"})
    figures = {
        "rows": len(rows),
        "positions": len(every),
        "answer_tokens": tokens,
        "prompts_with_the_same_tokens": prompts,
        "token_agreement": same / tokens if tokens else 0.0,
        "ties": ties,
        "divergence_mean": mean,
        "divergence_largest": float(every.max()),
        "max_difference": largest,
        "answers_the_same": sum(a.output == b.output for a, b in zip(*answers, strict=True)),
        "limits": asdict(limits),
        "disagreements": wrong,
    }
    return figures, answers[0], answers[1]


def metric_difference(metric: Metric, task: Task, signature: Mapping[str, Any], rows: Sequence[Row], own: Sequence[Prediction], theirs: Sequence[Prediction]) -> dict[str, Any] | None:
    """The main metric of both on the golden rows that have a right answer; None where none has, or it is undefined for them."""
    target = next((role.name for role in task.roles if role.target), None)
    known = [i for i, row in enumerate(rows) if target is not None and row.get(target) is not None]
    if not known or len(own) != len(rows) or len(theirs) != len(rows):
        return None
    truth = [task.truth(rows[i]) for i in known]
    values = [float(metric.value(metric.contributions(truth, [side[i] for i in known], dict(signature)).sum(0))) for side in (own, theirs)]
    if all(math.isnan(value) for value in values):
        return None
    return {"name": metric.name, "rows": len(known), "tuned": values[0], "exported": values[1], "difference": abs(values[1] - values[0])}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    found: np.ndarray = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found
