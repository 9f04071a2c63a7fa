"""Write a Modelfile and the GGUF file it names, for `ollama create`: template translated, end tokens and greedy settings as graded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attune.catalog.exports._gguf_file import FILE, write_gguf
from attune.catalog.exports._gguf_voice import llama_cpp_installed, voice_in
from attune.catalog.exports._ollama_template import rendered, translated
from attune.catalog.exports._speaking import card_beside, facts_of, replayed, write_facts
from attune.core.contracts import Export, Prediction, Row
from attune.core.conversation import Message, for_template, render, segments, stop_ids
from attune.core.errors import IntegrityError, PlugError
from attune.core.keys import Keys, key
from attune.core.parity import EIGHT_BITS, HALF, Limits, Voice, room_of
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import numpy as np

MODELFILE = "Modelfile"
NOTES = "notes"


class OllamaKeys(Keys):
    """Keys of the export."""

    weights: Literal["f32", "f16", "q8_0"] = key("f16", "what the matrices are stored in: 32, 16 or 8 bits a weight")


class Ollama(Export):
    """`ollama create NAME -f Modelfile` in the folder makes the model."""

    keys_type = OllamaKeys
    requires = frozenset({"torch", "text-out"})

    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """`Modelfile`, `model.gguf` and the card; raises PlugError when the chat template has no form in Ollama."""
        tokenizer = specialist.tokenizer
        lead = tokenizer.bos_token if tokenizer.bos_token and render(specialist, [{"role": "user", "content": "a"}], to_answer=True).startswith(tokenizer.bos_token) else ""

        def plain(messages: Sequence[Message], to_answer: bool) -> str:
            return render(specialist, messages, to_answer=to_answer).removeprefix(lead)  # the file says that a begin token comes first

        template, notes = translated(plain)
        longest, most = room_of(specialist)
        stops = [str(tokenizer.convert_ids_to_tokens(one)) for one in stop_ids(specialist)]
        if any('"' in one for one in stops):
            raise PlugError("an end token holds a quote, which a Modelfile cannot", place="exports.ollama", fix="export it as 'gguf'")
        lines = [f"FROM ./{FILE}", f'TEMPLATE """{template}"""', *(f'PARAMETER stop "{one}"' for one in stops)]
        lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_predict {most}", f"PARAMETER num_ctx {longest + most}"]
        (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_gguf(specialist, folder, self.keys.weights)
        write_facts(specialist, folder, notes=notes)
        card_beside(bundle, folder)

    def voice(self, folder: Path) -> Voice:
        """The GGUF file, prompted by the Modelfile's template and ended by its stops."""
        return ModelfileVoice(folder)

    def limits(self) -> Limits:
        """As for the GGUF file."""
        return EIGHT_BITS if self.keys.weights == "q8_0" else HALF

    def caveat(self, folder: Path) -> str:
        """Ollama is a service; its template language and its engine are stood in for."""
        return "; ".join(
            [f"the file was replayed through {'llama.cpp' if llama_cpp_installed() else 'transformers'} with the Modelfile's template; Ollama itself did not run here", *facts_of(folder)[NOTES]]
        )

    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Greedy answers."""
        return replayed(self.voice(folder), folder, rows)


class ModelfileVoice(Voice):
    """A Modelfile as Ollama reads it."""

    def __init__(self, folder: Path) -> None:
        text = (folder / MODELFILE).read_text(encoding="utf-8")
        found = re.search(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
        if found is None or f"FROM ./{FILE}" not in text:
            raise IntegrityError("the Modelfile names no template or no file", place=str(folder / MODELFILE), fix="export it again")
        self.inner: Voice = voice_in(folder)
        self.go, self.trims = found[1], any("spaces" in note for note in facts_of(folder)[NOTES])
        self.engine, self.constants, self.special = f"{self.inner.engine} with the Modelfile's template", self.inner.constants, self.inner.special
        said = re.findall(r'^PARAMETER stop "(.*)"$', text, re.MULTILINE)
        known = [self.inner.encode(one, begin=False) for one in said]  # type: ignore[attr-defined]
        if any(len(ids) != 1 for ids in known):
            raise IntegrityError(f"a stop of the Modelfile is no single token: {said}", place=str(folder / MODELFILE), fix="export it again")
        self.stops = frozenset(ids[0] for ids in known)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Through the Go template; the begin token comes first where the file says so. The template writes no functions, so they are lost where the tuned model's does."""
        if not messages or segments(messages):
            return self.inner.prompt(messages)
        plain = for_template(self.inner.template, messages, tools)[0]
        plain = [{**one, "content": one["content"].strip()} for one in plain] if self.trims else plain
        found: list[int] = self.inner.encode(rendered(self.go, plain))  # type: ignore[attr-defined]
        return found

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Of the file."""
        return self.inner.logits(ids)

    def text(self, ids: Sequence[int]) -> str:
        """Of the file."""
        return self.inner.text(ids)

    def close(self) -> None:
        """Free the model."""
        self.inner.close()
