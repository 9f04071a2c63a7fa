"""The base's weights were rounded to few bits before (GPTQ, AWQ, bitsandbytes ...): training would work on the rounded ones, and merging would round twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError


class BaseQuantised(Tripwire):
    """Looks at `quantization_config` in the base's config.json."""

    requires = frozenset({"prefers"})
    phase = "rows"
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where the base says how it was quantised."""
        path = context.specialist.base.folder / "config.json"
        said = json.loads(path.read_text(encoding="utf-8")).get("quantization_config") if path.is_file() else None
        if said:
            how = said.get("quant_method", "an unnamed way") if isinstance(said, dict) else "an unnamed way"
            yield Alarm(f"the base is already quantised ({how})", "base_model", "take the base in full precision; `method: qlora` rounds it itself, and exports can round the result")
