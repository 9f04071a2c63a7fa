"""Learn from a larger teacher: not only the right word of every answer, but how likely the teacher holds each word to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attune.core import catalog
from attune.core.contents import named_model
from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.errors import PlugError
from attune.core.keys import Keys, key
from attune.core.models import require_base
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class DistillationKeys(Keys):
    """Keys of the objective."""

    teacher: str | None = key(None, "hub id, folder or package:MODULE of the teacher, which has the base's tokenizer; default: the untouched base, so that what it knew is kept")
    divergence: Literal["forward", "reverse", "jensen_shannon"] = key(
        "forward", "forward covers all that the teacher might say, reverse keeps to what it would most likely say, jensen_shannon is between"
    )
    temperature: float = key(1.0, "logits of both are divided by it; higher shows more of what is unlikely", gt=0)
    teacher_share: float = key(0.5, "jensen_shannon: the teacher's share of the middle", gt=0, lt=1)
    supervised_share: float = key(0.5, "share of the plain loss on the rows' answers in the whole", aliases=("alpha",), ge=0, lt=1)


class Distillation(Objective):
    """Distillation of logits (Hinton et al. 2015; Agarwal et al. 2024) at the places where sft learns: rows are encoded and laid as it does."""

    keys_type = DistillationKeys
    requires = frozenset({"text-out", "torch"})

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        self._answers: Objective = catalog.build("objectives", "sft")
        self._teacher: TunableModel | None = None
        self.reference = "start" if self.keys.teacher is not None or not self.keys.supervised_share else ""

    def models(self) -> Mapping[str, tuple[str, str | None]]:
        """The teacher, where it is not the base."""
        return {} if self.keys.teacher is None else {"teacher": (self.keys.teacher, None)}

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """As sft's. The teacher is looked for here, before anything is computed."""
        if self._teacher is None:
            self._teacher = self._load(specialist)
        return self._answers.examples(specialist, rows, max_length)

    def _load(self, specialist: Specialist) -> TunableModel:
        """The teacher, ready to be asked; raises PlugError where its tokens are not the base's."""
        base = named_model(self, "teacher") if self.keys.teacher is not None else specialist.base
        if base is not specialist.base:
            require_base(specialist.task, base)
            _require_same_tokens(specialist.tokenizer, base.tokenizer(), base.reference)
        teacher: TunableModel = specialist.task.build(base, specialist.signature)
        return teacher.requires_grad_(False).eval()

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """sft's batch, and `known`, float32 [learned, width]: the teacher's states before the learned tokens."""
        import torch

        assert self._teacher is not None
        batch = self._answers.collate(specialist, examples)
        tokens, learned = batch["tokens"], (batch["targets"] >= 0).nonzero().squeeze(1)
        with torch.no_grad():
            known = self._teacher.hidden(tokens, tokens.before[learned])
        return {**batch, "learned": learned, "known": known}

    def reference_gap(self, specialist: Specialist, examples: Sequence[Example]) -> float | None:
        """On the tokens that are learned."""
        if not examples:
            return None
        batch = self.collate(specialist, examples)
        learned, model, teacher = batch["learned"], specialist.model, self._teacher
        assert teacher is not None
        targets = batch["targets"][learned]
        own = model.log_probabilities(model.hidden(batch["tokens"], batch["tokens"].before[learned]), targets)
        return float((own - teacher.log_probabilities(batch["known"], targets)).abs().mean())

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum over learned tokens; the count is those tokens."""
        from attune.core.divergence import linear_divergence

        assert self._teacher is not None
        learned, share = batch["learned"], self.keys.supervised_share
        hidden = model.hidden(batch["tokens"], batch["tokens"].before[learned])
        settings: dict[str, Any] = {"temperature": self.keys.temperature}
        if self.keys.divergence == "jensen_shannon":
            settings["share"] = self.keys.teacher_share
        total = (1 - share) * linear_divergence(hidden, model.output_layer(), batch["known"], self._teacher.output_layer(), self.keys.divergence, **settings)
        if share:
            total = total + share * model.output_loss(hidden, batch["targets"][learned])
        return total, float(len(learned))


def _require_same_tokens(own: Any, theirs: Any, name: str) -> None:
    mine, known = own.get_vocab(), theirs.get_vocab()
    if mine == known:
        return
    apart = sorted(token for token in mine.keys() | known.keys() if mine.get(token) != known.get(token))
    raise PlugError(
        f"teacher '{name}' has another tokenizer than the base: {len(apart)} tokens differ, for example {', '.join(repr(one) for one in apart[:3])}",
        place="objective.teacher",
        fix="choose a larger model of the base's own family",
    )
