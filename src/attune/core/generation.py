"""The one place that decodes: many answers at once, each joining and leaving the running batch at any token.

Every step reads the prompts of the answers that join, laid end to end without padding, and then one token for every running answer.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

import torch

from attune.core.adapter_bank import Adapter, Bank, own_adapter
from attune.core.errors import DataError, MachineError, Refused
from attune.core.json_grammar import Grammar
from attune.core.kv_cache import CachedReader, reader_of
from attune.core.memory import available_memory, ran_out
from attune.core.sampling import Choice, Said, Sampling, choose
from attune.core.specialist import Specialist
from attune.core.text_stream import TextStream

SLOTS = 32
PROMPT_TOKENS = 2048
"""So many tokens of prompts join in one step, and always at least one prompt: running answers do not wait for longer."""
MEMORY_SHARE = 0.5
"""Of the memory that is free at the start, for keys and values."""


@dataclass(frozen=True)
class Piece:
    """What one token brought: text that is settled now (often none), the token, and, with the last one, why the answer ended."""

    text: str
    choice: Choice | None
    finish: str | None = None
    """stop (an end token, a stop text, or a complete JSON value) | length | cancelled | error."""


@dataclass(frozen=True)
class Answer:
    """A finished answer."""

    ids: list[int]
    """Its tokens, the one that ended it included."""
    choices: list[Choice]
    text: str
    """Without what came after a stop text; '' where no tokenizer was given."""
    finish: str
    """As `Piece.finish`."""


@dataclass
class Request:
    """A question to the generator."""

    prompt: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    stops: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    tokenizer: Any = None
    """Makes text; without it there are only tokens."""
    adapter: str | None = None
    """A name that was loaded; None: the model as it is."""
    grammar: Grammar | None = None
    listener: Callable[[Piece], None] | None = None
    """Called with every piece, in the generator's thread."""


class Ticket:
    """A request on its way."""

    def __init__(self, request: Request, adapter: Adapter | None, most: int) -> None:
        self.request = request
        self.adapter = adapter
        self.most = most
        self.answer: Future[Answer] = Future()
        self.cancelled = False
        self._listener = request.listener
        self.choices: list[Choice] = []
        self.ids: list[int] = []
        self.text = TextStream(request.tokenizer, request.sampling.stop) if request.tokenizer is not None else None

    def cancel(self) -> None:
        """Stop it at the next token; the slot becomes free."""
        self.cancelled = True

    def said(self, vocabulary: int) -> Said:
        """What the choice of the next token asks for."""
        allowed = self.request.grammar.allowed(vocabulary) if self.request.grammar is not None else None
        return Said(self.request.sampling, self.request.prompt, self.ids, allowed)

    def push(self, choice: Choice) -> bool:
        """Take a token and tell of it; True when the answer ended with it."""
        self.choices.append(choice)
        self.ids.append(choice.token)
        text, finish = "", None
        if choice.token in self.request.stops:
            finish = "stop"
        else:
            complete = self.request.grammar is not None and self.request.grammar.push(choice.token)
            if self.text is not None:
                text = self.text.push(choice.token)
            if complete or (self.text is not None and self.text.stopped):
                finish = "stop"
            elif len(self.ids) >= self.most:
                finish = "length"
        if finish is not None and self.text is not None:
            text += self.text.end()
            finish = "stop" if self.text.stopped else finish
        self._tell(Piece(text, choice, finish))
        if finish is not None:
            self.answer.set_result(Answer(self.ids, self.choices, self.text.text if self.text is not None else "", finish))
        return finish is not None

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self._tell(Piece("", None, "error"))

    def drop(self) -> None:
        """End because nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_exception(CancelledError())
            self._tell(Piece("", None, "cancelled"))

    def _tell(self, piece: Piece) -> None:
        listener = self._listener
        if listener is not None:
            self._listener = None  # one that fails is not told of its own failure
            listener(piece)
            self._listener = listener


class Full(Refused):
    """More requests wait than may."""


class Generator:
    """Decodes for one network. Used by one thread at a time through `run`, or started as a thread of its own and asked by many.

    Args:
        body: a causal language model of transformers, or PEFT's wrapping of one, in evaluation mode.
        slots: answers that run at once.
        waiting: requests that may wait for a slot; None: any number.
        memory: bytes for keys and values; None: a share of what is free.
        told: hears why a network is read without a cache.
    """

    def __init__(self, body: Any, *, slots: int = SLOTS, waiting: int | None = None, memory: int | None = None, told: Callable[[str], None] = lambda why: None) -> None:
        self.body = body
        self.reader = reader_of(body, told)
        self.slots = slots
        self.waiting_room = waiting
        self.memory = int(available_memory() * MEMORY_SHARE) if memory is None else memory
        config = self.reader.network.config if isinstance(self.reader, CachedReader) else body.config
        self.room = int(getattr(getattr(config, "text_config", None) or config, "max_position_embeddings", None) or 1 << 30)
        self.adapters: dict[str, Adapter] = {}
        self._own: Adapter | None = None
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        """By slot."""
        self._changes: deque[Callable[[], None]] = deque()
        self._at_work = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.steps = 0
        self.tokens = 0

    # -------------------------------------------------------- adapters

    def load(self, adapter: Adapter) -> None:
        """Take an adapter in; answers that run are not disturbed. A second one of the same name replaces it for requests that come from now on.

        Raises:
            Refused: the network is of a family or a method that cannot carry it, or it belongs to another base.
        """

        def take() -> None:
            bank = self._bank()
            if bank is None:
                raise Refused(
                    "this model cannot carry adapters beside its own",
                    place="model",
                    fix="serve the other release as a specialist of its own; plain low-rank adapters on a Llama-like base can share one",
                )
            bank.fit(adapter)
            self.adapters = {**self.adapters, adapter.name: adapter}

        self._between_steps(take)

    def evict(self, name: str) -> bool:
        """Forget an adapter; answers that run with it end with it. False: it was not there."""
        with self._changed:
            there = name in self.adapters
            self.adapters = {known: one for known, one in self.adapters.items() if known != name}
            return there

    def _between_steps(self, change: Callable[[], None]) -> None:
        """Do something to the network while it is not at work."""
        done: Future[None] = Future()

        def work() -> None:
            try:
                change()
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)

        with self._changed:
            if self._at_work:
                self._changes.append(work)
                self._changed.notify()
            else:
                work()
        done.result()

    def _bank(self) -> Bank | None:
        """The bank, made with the first adapter; the network's own one moves into it."""
        if isinstance(self.reader, CachedReader) and self.reader.bank is None:
            own = own_adapter(self.body)
            if own is not None or not hasattr(self.body, "peft_config"):
                bank = Bank(self.body)
                if own is not None:
                    bank.fit(own)
                self._own, self.reader.bank = own, bank
        return self.reader.bank if isinstance(self.reader, CachedReader) else None

    # -------------------------------------------------------- requests

    def submit(self, request: Request, *, at_any_length: bool = False) -> Ticket:
        """Let a request join as soon as there is a slot; `at_any_length` of the queue where it was let in elsewhere.

        Raises:
            Full: too many wait already.
            DataError: the prompt is empty or leaves no room for an answer.
            Refused: the adapter is not loaded.
            MachineError: the generator is stopping.
        """
        if not request.prompt:
            raise DataError("the prompt is empty", place="prompt", fix="send some text")
        most = min(request.sampling.max_tokens, self.room - len(request.prompt))
        if most < 1:
            raise DataError(f"the prompt has {len(request.prompt)} tokens and the model reads {self.room}, so there is no room for an answer", place="prompt", fix="shorten it")
        with self._changed:
            if self._stopping:
                raise MachineError("the model is stopping", fix="ask again")
            if not at_any_length and self.waiting_room is not None and len(self._waiting) >= self.waiting_room + max(0, self.slots - len(self._running)):
                raise Full(f"{len(self._waiting)} requests wait already", fix="come back later")
            if request.adapter is not None and request.adapter not in self.adapters:
                raise Refused(f"adapter '{request.adapter}' is not loaded", place="model", fix="load it")
            ticket = Ticket(request, self.adapters[request.adapter] if request.adapter is not None else None, most)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def run(self, requests: Sequence[Request], told: Callable[[int, int], None] = lambda done, total: None) -> list[Answer]:
        """Answer requests, in order; by the running thread where there is one, else here, where `told` hears how many are done."""
        tickets = [self.submit(request, at_any_length=True) for request in requests]
        if self._thread is None:
            try:
                while self.step():
                    told(len(requests) - self.busy, len(requests))
            except BaseException:
                self._clear()
                raise
            told(len(requests), len(requests))
        return [ticket.answer.result() for ticket in tickets]

    @property
    def busy(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    # -------------------------------------------------------- the thread

    def start(self) -> None:
        """Answer in a thread of its own from now on."""
        self._at_work = True
        self._thread = threading.Thread(target=self._work, name="attune-generator", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer what was accepted, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        if isinstance(self.reader, CachedReader) and self.reader.bank is not None:
            self.reader.bank.close()

    def alive(self) -> bool:
        """True while its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _work(self) -> None:
        with torch.no_grad():
            while True:
                with self._changed:
                    while not (self._waiting or self._running or self._changes or self._stopping):
                        self._changed.wait()
                    changes, self._changes = self._changes, deque()
                    if self._stopping and not (self._waiting or self._running or changes):
                        self._at_work = False
                        return
                for change in changes:
                    change()
                try:
                    self.step()
                except Exception as error:  # what is wrong with this batch must not end the next one
                    for ticket in self._clear():
                        ticket.fail(error)

    def _clear(self) -> list[Ticket]:
        """Forget everything that runs."""
        gone, self._running = self._running, []
        self.reader.reset()
        return gone

    # -------------------------------------------------------- one step

    def step(self) -> bool:
        """Let requests join, then one token for every running answer; False when nothing is left to do."""
        with torch.no_grad():
            self._leave([slot for slot, ticket in enumerate(self._running) if ticket.cancelled])
            self._join(self._admitted())
            if self._running:
                logits = self.reader.tokens([ticket.ids[-1] for ticket in self._running], [self._adapter(one) for one in self._running])
                self._leave(self._push(logits, self._running, 0))
        self.steps += 1
        return bool(self._running or self._waiting)

    def _adapter(self, ticket: Ticket) -> Adapter | None:
        return ticket.adapter if ticket.adapter is not None else self._own

    def _admitted(self) -> list[Ticket]:
        """What joins now: as many as there are slots, memory, and tokens in one step for."""
        found: list[Ticket] = []
        size = 0
        with self._changed:
            while self._waiting and len(self._running) + len(found) < self.slots:
                ticket = self._waiting[0]
                if ticket.cancelled:
                    self._waiting.popleft().drop()
                    continue
                together = [*self._running, *found, ticket]
                needed = self.reader.bytes_for(len(together), max(len(one.request.prompt) + one.most for one in together))
                if len(together) > 1 and (needed > self.memory or (found and size + len(ticket.request.prompt) > PROMPT_TOKENS)):
                    break
                found.append(self._waiting.popleft())
                size += len(ticket.request.prompt)
        return found

    def _join(self, tickets: list[Ticket]) -> None:
        """Read the prompts of new answers; one that several of them share is read once."""
        if not tickets:
            return
        groups: dict[tuple[int, tuple[int, ...]], list[Ticket]] = {}
        for ticket in tickets:
            groups.setdefault((id(self._adapter(ticket)), tuple(ticket.request.prompt)), []).append(ticket)
        first = len(self._running)
        heads = [group[0] for group in groups.values()]
        try:
            logits = self.reader.prompts([one.request.prompt for one in heads], [self._adapter(one) for one in heads])
        except Exception as error:
            if not ran_out(error):
                self._running += tickets  # the caller ends whatever runs
                raise
            if len(tickets) == 1:
                tickets[0].fail(MachineError("the prompt does not fit into memory", place="prompt", fix="shorten it"))
                return
            for ticket in tickets:
                self._join([ticket])
            return
        joined = heads + [ticket for group in groups.values() for ticket in group[1:]]
        source = [number for number, group in enumerate(groups.values()) for _ in group[1:]]
        self._running += joined  # before anything else can fail: the caller ends whatever runs
        for number in source:
            self.reader.repeat(first + number)
        everything = torch.cat([logits, logits[source]]) if source else logits
        self._leave(self._push(everything, joined, first))

    def _push(self, logits: torch.Tensor, tickets: Sequence[Ticket], first: int) -> list[int]:
        """Choose and tell a token for each; returns the slots of the answers that ended."""
        ended, said, asked = [], [], []
        for number, ticket in enumerate(tickets):
            try:
                said.append(ticket.said(logits.shape[1]))
                asked.append(number)
            except Exception as error:  # a grammar of one answer is no matter of the others
                ticket.fail(error)
                ended.append(first + number)
        if not asked:
            return ended
        for number, choice in zip(asked, choose(logits if len(asked) == len(tickets) else logits[asked], said), strict=True):
            self.tokens += 1
            try:
                if choice is None:
                    raise MachineError("the model gives no probabilities", place="answer", fix="ask with less extreme settings; where it happens with none, look at the checkpoint's weights")
                if tickets[number].push(choice):
                    ended.append(first + number)
            except Exception as error:  # nor is a listener
                tickets[number].fail(error)
                ended.append(first + number)
        return ended

    def _leave(self, slots: list[int]) -> None:
        """Give slots back, the last ones first, so that the others keep their numbers."""
        for slot in sorted(slots, reverse=True):
            ticket = self._running[slot]
            moved = self.reader.free(slot)
            self._running[slot] = self._running[moved]
            self._running.pop()
            ticket.drop()


def generate(specialist: Specialist, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling], *, stops: Sequence[int], texts: bool = False, slots: int = SLOTS) -> list[Answer]:
    """Answers to prompts of token ids, in order; the caller sets evaluation mode.

    Args:
        sampling: for all, or one for each; `Sampling.request` tells rows of one seed apart and is their number where one is given for all.
        stops: tokens that end an answer.
        texts: make text too.
        slots: answers that run at once, where no generator of the specialist's own is at work.
    """
    each = [dataclasses.replace(sampling, request=number) for number in range(len(prompts))] if isinstance(sampling, Sampling) else list(sampling)
    tokenizer = specialist.tokenizer if texts else None
    requests = [Request(prompt, one, frozenset(stops), tokenizer) for prompt, one in zip(prompts, each, strict=True)]
    generator = specialist.generator if specialist.generator is not None else Generator(specialist.model.body, slots=slots)
    return generator.run(requests, functools.partial(specialist.told, "writes answers"))
