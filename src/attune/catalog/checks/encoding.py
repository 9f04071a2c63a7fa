"""Empty cells, broken characters (mojibake), invisible and control characters, and rows that are not language ('asdf', '12345', '???')."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.text import map_texts, texts_in

INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]|(?<=[\x00-\x7f])[\u200c\u200d](?=[\x00-\x7f])")
"""Zero-width space, word joiner, byte order mark, soft hyphen, direction overrides; joiners only between ASCII, where no script needs them."""
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
PLACEHOLDERS = frozenset(("null", "nan", "n/a", "#n/a", "#ref!", "#value!", "#name?", "undefined", "<na>", "lorem ipsum"))
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiopü", "asdfghjklöä", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn")
SUSPECT = re.compile(r"[^\x20-\x7e\t\n\r]")


class EncodingKeys(Keys):
    """Keys of the check."""

    repair: bool = key(True, "mend what has one clear reading; false: only tell")
    not_language: Literal["flag", "quarantine", "ignore"] = key("flag", "what happens to rows such as 'asdf', '12345' or '???'")


class Encoding(Check):
    """Repairs characters; sets empty rows aside."""

    keys_type = EncodingKeys
    phase = "row"

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """At most one finding per role value, with every repair named in its reason."""
        roles = [role for role in context.task.roles if role.type in ("text", "messages", "label", "labels", "any")]
        for row in rows:
            for role in roles:
                value = row.get(role.name)
                if value is not None:
                    yield from self._cell(row["row_id"], role.name, value, role.type in ("label", "labels"), role.required)

    def _cell(self, name: str, column: str, value: Any, label: bool, required: bool) -> Iterator[Finding]:
        texts = list(texts_in(value))
        if texts and not label and required and all(not _visible(text) or text.strip().casefold() in PLACEHOLDERS for text in texts):
            what = "the text is empty" if not any(_visible(text) for text in texts) else f"the text is a placeholder: '{texts[0].strip()}'"
            yield Finding(name, column, what, "quarantine", "fill in the text, or delete the row")
            return
        reasons: list[str] = []
        mended = map_texts(value, lambda text: _mend(text, reasons)) if any(SUSPECT.search(text) for text in texts) else value
        if reasons and mended != value:
            action = "repair" if self.keys.repair else "flag"
            yield Finding(name, column, ", ".join(dict.fromkeys(reasons)), action, "nothing to do" if self.keys.repair else "export the rows as UTF-8", mended if self.keys.repair else None)
        if texts and not label and required and self.keys.not_language != "ignore":
            why = not_language(" ".join(texts_in(mended)))
            if why:
                yield Finding(name, column, f"not language: {why}", self.keys.not_language, "delete the row if nobody meant it")


def _visible(text: str) -> bool:
    return bool(CONTROL.sub("", INVISIBLE.sub("", text)).strip())


def _mend(text: str, reasons: list[str]) -> str:
    """The text as it was meant, each kind of repair added to `reasons`."""
    if not SUSPECT.search(text):
        return text
    from ftfy import fix_encoding

    for what, change in (
        ("mojibake undone", fix_encoding),
        ("invisible characters removed", lambda t: INVISIBLE.sub("", t)),
        ("control characters removed", lambda t: CONTROL.sub("", t)),
        ("special spaces made plain", lambda t: SPACES.sub(" ", t)),
        ("characters composed (NFC)", lambda t: unicodedata.normalize("NFC", t)),
    ):
        changed = change(text)
        if changed != text:
            reasons.append(what)
            text = changed
    return text


def not_language(text: str) -> str | None:
    """Why a text is no language, or None. Only plain cases: nothing but digits or signs, one sign over and over, keys in keyboard order."""
    plain = text.strip().casefold()
    letters = [c for c in plain if c.isalpha()]
    if not letters:
        return "digits only" if any(c.isdigit() for c in plain) else "no letters" if plain.isascii() else None
    if len(plain.split()) > 3:
        return None
    word = "".join(letters)
    if len(word) >= 4 and len(set(word)) == 1 and plain.isascii():
        return "one letter over and over"
    if len(word) >= 4 and all(_on_one_row(part) for part in re.findall(r"[^\W\d_]+", plain)):
        return "keys in a row"
    if plain.isascii() and len(plain.split()) == 1 and len(word) >= 6 and not set(word) & set("aeiouy"):
        return "no vowels"
    return None


def _on_one_row(word: str) -> bool:
    """True for runs along the keyboard such as asdf, jkl, qwertz, asdfasdf, sdfsdf."""
    steps = [any(a + b in row or b + a in row for row in KEYBOARD) for a, b in pairwise(word)]
    return len(word) >= 3 and sum(steps) >= 0.7 * len(steps) and word not in ("were", "pop", "tree")
