"""Write one whole model: safetensors in a transformers folder, with tokenizer, chat template and generation settings; an adapter is merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attune.catalog.exports._speaking import answers, card_beside, folder_voice, limits_of, whole_body, write_body
from attune.core.contracts import Export, Prediction, Row
from attune.core.keys import Keys, key
from attune.core.parity import Limits, Voice
from attune.core.specialist import Specialist


class MergedKeys(Keys):
    """Keys of the export."""

    dtype: Literal["float32", "float16", "bfloat16"] = key("float32", "what the weights are stored in; the 16-bit types halve the size")


class Merged(Export):
    """What transformers, vLLM, TGI, SGLang and other engines load as it is."""

    keys_type = MergedKeys
    requires = frozenset({"torch", "text-out"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """Weights, config.json, tokenizer, chat_template.jinja, generation_config.json and the card."""
        write_body(specialist, whole_body(specialist, self.keys.dtype), folder)
        card_beside(bundle, folder)

    def voice(self, folder: Path) -> Voice:
        """The folder through transformers."""
        return folder_voice(folder)

    def limits(self) -> Limits:
        """By the type of the weights."""
        return limits_of(self.keys.dtype)

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers by transformers."""
        return answers(self.voice(folder), folder, rows)
