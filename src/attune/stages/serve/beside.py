"""One network, several releases: the served one, and adapters of others that were tuned from the same base, loaded and evicted while it answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attune.core import catalog
from attune.core.conversation import stop_ids, template_of
from attune.core.errors import AttuneError, IntegrityError, PlugError, Refused, did_you_mean
from attune.core.records import Release
from attune.core.releases import release_folder
from attune.core.specialist import FACTS, Specialist
from attune.core.workspace import Workspace

if TYPE_CHECKING:
    from attune.core.generation import Generator
    from attune.core.json_grammar import Vocabulary

GRACE = 5.0
"""Seconds that a replaced generator goes on taking requests, for those that had read the old reference."""


@dataclass(frozen=True)
class Voice:
    """A release that can be asked to write: its tokenizer, its template, its end tokens, and its adapter where it has one."""

    release: Release
    specialist: Specialist
    stops: frozenset[int]
    adapter: str | None


class Beside:
    """The generator of a served release and every release that answers through it.

    Args:
        most: adapters that are kept; loading one more evicts the one that was asked least recently.
    """

    def __init__(self, workspace: Workspace, generator: Generator, voice: Voice, most: int) -> None:
        self.workspace = workspace
        self.generator = generator
        self.served = voice
        self.most = most
        self.voices: dict[str, Voice] = {}
        """By release id."""
        self._asked: dict[str, float] = {}
        self._vocabularies: dict[str, Vocabulary] = {}
        self._changing = threading.Lock()

    @classmethod
    def of(cls, workspace: Workspace, release: Release, specialist: Specialist, *, running: int, waiting: int, most: int) -> Beside | None:
        """The generator, started, of a release that writes; None for others."""
        body = getattr(specialist.model, "body", None)
        if "text-out" not in specialist.task.traits or body is None or not hasattr(body, "generate"):
            return None
        from attune.core.generation import Generator

        template_of(specialist)  # refuses a template that is not the one of the training
        stops = frozenset(stop_ids(specialist))
        generator = Generator(body, slots=running, waiting=waiting)
        generator.start()
        specialist.generator = generator
        return cls(workspace, generator, Voice(release, specialist, stops, None), most)

    # -------------------------------------------------------- which release

    def voice(self, name: str) -> Voice:
        """The release that a request's `model` means: an id, or a specialist's name.

        Raises:
            Refused: it is not loaded; `place` is 'model'.
        """
        if name in (self.served.release.specialist, self.served.release.id):
            return self.served
        found = self.voices.get(name) or next((one for one in reversed(self.voices.values()) if one.release.specialist == name), None)
        if found is None:
            raise Refused(f"the model '{name[:100]}' is not loaded", place="model", fix=did_you_mean(name, self.names()))
        self._asked[found.release.id] = time.monotonic()
        return found

    def names(self) -> list[str]:
        """What `model` may say."""
        return [self.served.release.specialist, *dict.fromkeys(one.release.specialist for one in self.voices.values() if one.release.specialist != self.served.release.specialist), *self.ids()]

    def ids(self) -> list[str]:
        """Ids of the releases that answer here, the served one first."""
        return [self.served.release.id, *self.voices]

    # -------------------------------------------------------- load and evict

    def load(self, name: str) -> Voice:
        """Load the adapter of a release by its id, or of a specialist's approved release by its name.

        Raises:
            Refused: it was never approved, belongs to another base, or is no plain LoRA adapter.
            IntegrityError: its files are not what was released, or it changes nothing.
        """
        release = self._release(name)
        with self._changing:
            if release.id in self.ids():
                return self.voice(release.id)
            if self.most < 1:
                raise Refused("no adapters are taken in", place="model", fix="raise serve.max_adapters")
            while len(self.voices) >= self.most:
                self._evict(min(self.voices, key=lambda id: self._asked.get(id, 0.0)))
            voice = self._open(release)
            self._asked[release.id] = time.monotonic()
            self.voices = {**self.voices, release.id: voice}
            return voice

    def evict(self, name: str) -> Release:
        """Unload an adapter; requests that run with it end with it.

        Raises:
            Refused: it is not loaded, or it is the served release itself.
        """
        with self._changing:
            voice = self.voice(name)
            if voice is self.served:
                raise Refused("this is the served release itself", place="model", fix="promote another release, or stop the endpoint")
            self._evict(voice.release.id)
            return voice.release

    def _evict(self, id: str) -> None:
        self.voices = {known: one for known, one in self.voices.items() if known != id}
        self._asked.pop(id, None)
        self.generator.evict(id)

    def _release(self, name: str) -> Release:
        """By exact id or specialist, and only what was approved once: this door must not lead around the gates."""
        ledger = self.workspace.ledger
        releases = ledger.find(Release)
        found = next((one for one in releases if one.id == name), None) or (ledger.approved(name) if any(one.specialist == name for one in releases) else None)
        if found is None:
            raise Refused(f"there is no approved release '{name[:100]}'", place="model", fix="give a release's id, or the name of a specialist with an approved release")
        if not any(event["release_id"] == found.id for event in ledger.promotions(found.specialist)):
            raise Refused(f"release '{found.id}' was never approved", place="model", fix="`attune promote` it first")
        return found

    def _open(self, release: Release) -> Voice:
        from attune.core.adapter_bank import own_adapter, read_adapter

        own = self.served.specialist
        folder = release_folder(self.workspace, release)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if own.method is None or facts["method"]["name"] != own.method.name or own_adapter(own.model.body) is None:
            raise Refused(f"'{release.id}' and the served release do not share a network: each must be a LoRA adapter", place="model", fix="serve it as a specialist of its own")
        if facts["base"]["digest"] != own.base.identity["digest"]:
            raise Refused(f"'{release.id}' was tuned from another base", place="model", fix="serve it as a specialist of its own")
        adapter = read_adapter(release.id, folder / "model")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        task = catalog.build("tasks", facts["task"])
        specialist = Specialist(task, facts["signature"], own.model, tokenizer, own.base, facts["max_length"], facts["name"], release.id, own.method, generator=self.generator)
        try:
            template_of(specialist)
        except PlugError as error:
            raise IntegrityError(error.what, place=error.place, fix=error.fix) from error
        self.generator.load(adapter)
        return Voice(release, specialist, frozenset(stop_ids(specialist)), release.id)

    def take_over(self, before: Beside) -> Iterator[tuple[str, str]]:
        """Load what another one had loaded; yields (release id, reason) of what does not fit."""
        for id in before.voices:
            try:
                self.load(id)
            except AttuneError as error:
                yield id, error.what

    # -------------------------------------------------------- JSON

    def vocabulary(self, voice: Voice) -> Vocabulary:
        """A release's vocabulary as grammars see it."""
        from attune.core.json_grammar import Vocabulary

        if voice.release.id not in self._vocabularies:
            self._vocabularies = {id: one for id, one in self._vocabularies.items() if id in self.ids()}
            self._vocabularies[voice.release.id] = Vocabulary(voice.specialist.tokenizer, sorted(voice.stops))
        return self._vocabularies[voice.release.id]

    # -------------------------------------------------------- end

    def retire(self) -> None:
        """End once what runs and what is about to come was answered."""

        def work() -> None:
            time.sleep(GRACE)
            self.stop()

        threading.Thread(target=work, name="attune-retire", daemon=True).start()

    def stop(self) -> None:
        """Answer what was accepted, then end the thread."""
        self.served.specialist.generator = None
        self.generator.stop()
