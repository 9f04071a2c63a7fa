"""Tokens become text while they come: characters whose bytes lie in several tokens wait for their end, and so does what could begin a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

HALF = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet one."""


class TextStream:
    """The text of one answer, piece by piece; the pieces laid end to end are the whole.

    Args:
        tokenizer: whose decoder is asked; special tokens are left out.
        stop: the text ends before the first of these.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.text = ""
        """Everything given out so far."""
        self.stopped = False
        """True when a stop text came."""
        self._ids: list[int] = []
        self._from, self._read = 0, 0
        self._kept = ""

    def push(self, token: int) -> str:
        """The text that is settled with this token, possibly none."""
        self._ids.append(token)
        found = self._decoded(len(self._ids))
        if found.endswith(HALF):
            return ""
        before = self._decoded(self._read)
        self._from, self._read = self._read, len(self._ids)
        return self._give(found[len(before) :], final=False)

    def end(self) -> str:
        """What was still kept; half a character is written as the decoder writes it."""
        if self.stopped:
            return ""
        rest = self._decoded(len(self._ids))[len(self._decoded(self._read)) :]
        self._from = self._read = len(self._ids)
        return self._give(rest, final=True)

    def _decoded(self, upto: int) -> str:
        """Text of the tokens from the last settled ones on; they come along because decoders treat the first token in a way of its own."""
        found: str = self.tokenizer.decode(self._ids[self._from : upto], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return found

    def _give(self, text: str, *, final: bool) -> str:
        self._kept += text
        places = [place for place in (self._kept.find(one) for one in self.stop) if place >= 0]
        if places:
            self.stopped = True
            given, self._kept = self._kept[: min(places)], ""
        else:
            hold = 0 if final else max((overlap(self._kept, one) for one in self.stop), default=0)
            given, self._kept = self._kept[: len(self._kept) - hold], self._kept[len(self._kept) - hold :]
        self.text += given
        return given


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes (Radford et al. 2019, GPT-2's encoder)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(one): one for one in plain}
    table.update({chr(256 + number): one for number, one in enumerate(one for one in range(256) if one not in set(plain))})
    return table


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes that a token stands for; a special token's name."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return b""
    if token in tokenizer.added_tokens_decoder:
        return str(piece).encode()
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    table = _byte_of()
    if tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids("Ġ")) == "Ġ" and all(one in table for one in piece):
        return bytes(table[one] for one in piece)
    return str(piece).replace("▁", " ").encode()
