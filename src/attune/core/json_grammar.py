"""Answers that are JSON of a given schema: at every place only tokens with which the text can still become such a value may be written.

The grammar is llguidance's: one wheel without needs of its own, exact on tokens, cheap for each token, with limits against hostile schemas. (xgrammar
asks for Triton, outlines-core computes an index of every state beforehand.)
"""

from __future__ import annotations

import json
from typing import Any

from attune.core.errors import DataError, MachineError

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
        from llguidance import LLMatcher, LLParserLimits

        written = json.dumps(schema)
        if len(written) > LONGEST:
            raise DataError(f"the schema has {len(written):,} characters", place="response_format", fix=f"at most {LONGEST:,} are read")
        try:
            text = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": SPACES})
            matcher = LLMatcher(self.known, text, log_level=0, limits=LLParserLimits(**LIMITS))
        except ValueError as error:
            raise DataError(f"the schema cannot be obeyed: {error}", place="response_format", fix="send a JSON schema") from error
        if matcher.is_error():
            raise DataError(f"the schema cannot be obeyed: {matcher.get_error().splitlines()[0][:300]}", place="response_format", fix="leave out what is named")
        return Grammar(matcher)


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> Any:
        """bool tensor [size]: the tokens that may come next."""
        import numpy as np
        import torch

        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")[:size].astype(bool)
        if not bits.any():
            raise DataError(f"no token can continue the answer: {self._matcher.get_error()[:200] or 'the grammar is at its end'}", place="response_format", fix="simplify the schema")
        found = torch.zeros(size, dtype=torch.bool)
        found[: len(bits)] = torch.from_numpy(bits)
        return found

    def push(self, token: int) -> bool:
        """Take a token; True when the value is complete and nothing more can follow."""
        if not self._matcher.consume_token(token):
            raise DataError(f"the answer left its schema: {self._matcher.get_error()[:200]}", place="response_format", fix="simplify the schema")
        return bool(self._matcher.is_stopped())
