"""Answers that are JSON of a given schema, or a call of a function: at every place only tokens with which the text can still become such may be written.

The grammar is llguidance's: one wheel without needs of its own, exact on tokens, cheap for each token, with limits against hostile schemas. (xgrammar
asks for Triton, outlines-core computes an index of every state beforehand.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attune.core.errors import DataError, MachineError

if TYPE_CHECKING:
    from attune.core.tool_calls import CallForm

LIMITS: dict[str, Any] = {"initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 200_000, "step_max_items": 50_000, "max_lexer_states": 50_000, "max_grammar_size": 100_000}
LONGEST = 64_000
"""Characters of a schema."""
SPACES = r"[ \n\t]{0,20}"
"""Between JSON's parts; unbounded, a network could write spaces for ever."""


class Vocabulary:
    """A tokenizer's vocabulary as the grammar sees it; made once for a tokenizer, which takes about a second for 100,000 tokens.

    Raises:
        MachineError: llguidance is not installed.
        DataError: the tokenizer is of a kind that it cannot read.
    """

    def __init__(self, tokenizer: Any, stops: list[int]) -> None:
        try:
            from llguidance import hf
        except ImportError as error:
            raise MachineError("answers by a JSON schema need llguidance", place="response_format", fix="pip install 'attune[serve]'") from error
        try:
            self.known = hf.from_tokenizer(tokenizer, eos_token=stops)
        except ValueError as error:
            raise DataError("answers by a JSON schema need a fast tokenizer", place="response_format", fix="leave response_format out, or take a base with a tokenizer.json") from error

    def grammar(self, schema: dict[str, Any]) -> Grammar:
        """A grammar at its beginning, for one answer; raises DataError for a schema that cannot be obeyed."""
        from llguidance import LLMatcher

        return self._begun([schema], lambda: LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": SPACES}), "response_format")

    def calls(self, form: CallForm, tools: Sequence[Mapping[str, Any]]) -> Grammar:
        """A grammar at its beginning, for an answer that calls one of these functions in a template's form, arguments by the function's own schema.

        Raises:
            DataError: a schema of arguments cannot be obeyed.
        """
        from llguidance import LLMatcher

        schemas = []
        rules = []
        for number, tool in enumerate(tools):
            body = tool.get("function", tool)
            given = body.get("parameters") or {}
            schemas.append({**(given if isinstance(given, Mapping) else {}), "type": "object"})
            said = [_literal(json.dumps(one, ensure_ascii=False)) for one in (form.name, body["name"], form.arguments)]
            rules.append(f'call{number}: "{{" WS {said[0]} WS ":" WS {said[1]} WS "," WS {said[2]} WS ":" WS arguments{number} WS "}}"')
            rules.append(f"arguments{number}: %json {json.dumps({**schemas[-1], 'x-guidance': {'whitespace_pattern': SPACES}})}")
        which = "(" + " | ".join(f"call{number}" for number in range(len(tools))) + ")"
        parts = [_literal(form.opening), f'"[" WS {which} WS "]"' if form.listed else which, _literal(form.closing)]
        text = "\n".join([f"start: {' WS '.join(part for part in parts if part)}", *rules, f"WS: /{SPACES}/"])
        return self._begun(schemas, lambda: LLMatcher.grammar_from_lark(text), "tools")

    def _begun(self, schemas: Sequence[Any], text: Callable[[], str], place: str) -> Grammar:
        """The grammar of a text, which is made of these schemas; `place` is where the request has them."""
        from llguidance import LLMatcher, LLParserLimits

        size = sum(len(json.dumps(one)) for one in schemas)
        if size > LONGEST:
            raise DataError(f"the schema has {size:,} characters", place=place, fix=f"at most {LONGEST:,} are read")
        try:
            matcher = LLMatcher(self.known, text(), log_level=0, limits=LLParserLimits(**LIMITS))
        except ValueError as error:
            raise DataError(f"the schema cannot be obeyed: {error}", place=place, fix="send a JSON schema") from error
        if matcher.is_error():
            raise DataError(f"the schema cannot be obeyed: {matcher.get_error().splitlines()[0][:300]}", place=place, fix="leave out what is named")
        return Grammar(matcher, place)


def _literal(text: str) -> str:
    """A text as Lark's grammars write it; nothing for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any, place: str) -> None:
        self._matcher = matcher
        self._place = place

    def allowed(self, size: int) -> Any:
        """bool tensor [size]: the tokens that may come next."""
        import numpy as np
        import torch

        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")[:size].astype(bool)
        if not bits.any():
            raise DataError(f"no token can continue the answer: {self._matcher.get_error()[:200] or 'the grammar is at its end'}", place=self._place, fix="simplify the schema")
        found = torch.zeros(size, dtype=torch.bool)
        found[: len(bits)] = torch.from_numpy(bits)
        return found

    def push(self, token: int) -> bool:
        """Take a token; True when the value is complete and nothing more can follow."""
        if not self._matcher.consume_token(token):
            raise DataError(f"the answer left its schema: {self._matcher.get_error()[:200]}", place=self._place, fix="simplify the schema")
        return bool(self._matcher.is_stopped())
