"""The base carries two chat templates that differ: which of them a server takes depends on the program, so training and serving may not agree."""

from __future__ import annotations

import json
from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import IntegrityError


class TwoTemplates(Tripwire):
    """Compares chat_template.jinja with the template in tokenizer_config.json."""

    requires = frozenset({"text-out"})
    phase = "rows"
    error = IntegrityError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where both are there and say different things."""
        folder = context.specialist.base.folder
        beside, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
        if not (beside.is_file() and config.is_file()):
            return
        inside = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(inside, str) and inside.strip() != beside.read_text(encoding="utf-8").strip():
            yield Alarm(
                "chat_template.jinja and tokenizer_config.json hold different chat templates", "base_model", "keep the right one: delete the file, or `chat_template` from tokenizer_config.json"
            )
