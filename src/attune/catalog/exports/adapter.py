"""Write the adapter alone as a PEFT folder, with tokenizer and chat template; a base that is no hub model goes along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attune.catalog.exports._speaking import adapter_voice, answers, base_beside, card_beside, require_adapter, write_beside
from attune.core.adapters import write_peft
from attune.core.contracts import Export, Prediction, Row
from attune.core.keys import Keys, key
from attune.core.parity import EXACT, Limits, Voice
from attune.core.specialist import Specialist


class AdapterKeys(Keys):
    """Keys of the export."""

    with_base: bool = key(False, "take the base along even where the hub has it")


class Adapter(Export):
    """A few megabytes for those who have the base: PEFT, vLLM and other engines load it beside others on one base."""

    keys_type = AdapterKeys
    requires = frozenset({"torch", "text-out"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """adapter_config.json, adapter_model.safetensors, tokenizer, template, generation settings; `answering.json` keeps the base's digest."""
        require_adapter(specialist, "exports.adapter")
        base_beside(specialist, folder, always=self.keys.with_base)
        write_peft(specialist.model.body, folder)
        write_beside(specialist, folder, base=specialist.base.identity)
        card_beside(bundle, folder)

    def voice(self, folder: Path) -> Voice:
        """The folder through PEFT, on the base that it names."""
        return adapter_voice(folder)

    def limits(self) -> Limits:
        """The same weights in float32."""
        return EXACT

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers by PEFT."""
        return answers(self.voice(folder), folder, rows)
