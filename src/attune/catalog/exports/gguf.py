"""Write one GGUF file for llama.cpp and what is built on it: weights, tokenizer, end tokens and chat template inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attune.catalog.exports._gguf_file import write_gguf
from attune.catalog.exports._gguf_voice import llama_cpp_installed, voice_in
from attune.catalog.exports._speaking import card_beside, replayed
from attune.core.contracts import Export, Prediction, Row
from attune.core.keys import Keys, key
from attune.core.parity import EIGHT_BITS, HALF, Limits, Voice
from attune.core.specialist import Specialist


class GgufKeys(Keys):
    """Keys of the export."""

    weights: Literal["f32", "f16", "q8_0"] = key("f16", "what the matrices are stored in: 32, 16 or 8 bits a weight")


class Gguf(Export):
    """One file with everything in it. An adapter is merged first."""

    keys_type = GgufKeys
    requires = frozenset({"torch", "text-out"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """`model.gguf` and the card; raises PlugError naming a family or a tokenizer that is not supported."""
        write_gguf(specialist, folder, self.keys.weights)
        card_beside(bundle, folder)

    def voice(self, folder: Path) -> Voice:
        """The file through llama.cpp, or read back by transformers."""
        return voice_in(folder)

    def limits(self) -> Limits:
        """llama.cpp keeps its cache in 16 bits, whatever the weights are in."""
        return EIGHT_BITS if self.keys.weights == "q8_0" else HALF

    def caveat(self, folder: Path) -> str:
        """Whether llama.cpp has run it."""
        return "" if llama_cpp_installed() else "the file was read back through transformers; llama.cpp did not run it here (pip install 'attune[gguf-replay]' builds it)"

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers by what is installed."""
        return replayed(self.voice(folder), folder, rows)
