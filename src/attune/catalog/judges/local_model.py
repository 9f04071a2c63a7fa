"""A language model on this machine judges: asked which answer is better, or by which answer it holds to be likelier. Nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attune.catalog.judges import _asking
from attune.core import catalog
from attune.core.contents import named_model
from attune.core.contracts import Duel, Judge
from attune.core.errors import RecipeError
from attune.core.keys import Keys, key
from attune.core.models import require_base
from attune.core.specialist import Specialist


class LocalModelKeys(Keys):
    """Keys of the judge."""

    base: str | None = key(None, "the model that judges: hub id, folder or package:MODULE, better not the model that is judged", aliases=("model", "base_model"))
    revision: str | None = key(None, "commit of a hub id")
    by: Literal["prompt", "likelihood"] = key("prompt", "prompt: is asked for A or B, for models that follow instructions; likelihood: the answer with more likely tokens wins, for any model")
    criterion: str = key("Which answer is more correct and more helpful?", "what the model is asked to judge by")
    context: int = key(4096, "longest question in tokens, as far as the model reads it", ge=16)


class LocalModel(Judge):
    """By prompt, the likelier of the replies A and B counts, so that every duel is decided; by likelihood, nats per token of the answer."""

    keys_type = LocalModelKeys

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        self._model: Specialist | None = None

    def models(self) -> Mapping[str, tuple[str, str | None]]:
        """The model that judges."""
        return {} if self.keys.base is None else {"base": (self.keys.base, self.keys.revision)}

    def prefer(self, duels: Sequence[Duel]) -> list[float | None]:
        """One pass of the model per answer."""
        if not duels:
            return []
        if self.keys.by == "likelihood":
            pairs = [({"prompt": _asked(duel.question), "completion": duel.first}, {"prompt": _asked(duel.question), "completion": duel.second}) for duel in duels]
        else:
            pairs = [tuple({"prompt": _asked(_asking.question(duel, self.keys.criterion)), "completion": letter} for letter in "AB") for duel in duels]  # type: ignore[misc]
        known = self._opened().likelihood([row for pair in pairs for row in pair])
        surprise = [nats / max(tokens, 1) for nats, tokens in known]
        return [0.5 if first == second else float(first < second) for first, second in zip(surprise[::2], surprise[1::2], strict=True)]

    def _opened(self) -> Specialist:
        if self.keys.base is None:
            raise RecipeError("the judge has no model", place="judge: local_model.base", fix="name one: {name: local_model, base: FOLDER}")
        if self._model is None:
            task = catalog.build("tasks", "text_generation")
            base = named_model(self, "base")
            require_base(task, base)
            signature: dict[str, Any] = {"chat_template": None, "chat_template_sha256": None}
            model = task.build(base, signature)
            room = getattr(model.body.config, "max_position_embeddings", None) or self.keys.context
            self._model = Specialist(task, signature, model, base.tokenizer(), base, min(self.keys.context, room), "judge")
        return self._model


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
