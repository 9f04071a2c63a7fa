"""Signs of a chat template inside the texts ('<|im_start|>', '[INST]', '</s>'): the row was rendered before, and would be rendered twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.text import texts_in

MARKERS = re.compile(
    r"<\|(?:im_start|im_end|endoftext|begin_of_text|end_of_text|eot_id|eom_id|start_header_id|end_header_id|system|user|assistant|end|startoftext|end_of_turn|start_of_role|end_of_role|return|channel|message)\|>"
    r"|</?start_of_turn>|<end_of_turn>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>|<｜[^｜]{1,40}｜>|^\s*<s>|</s>\s*$"
)
"""Tokens by which the templates in use mark turns; <s> and </s> only at a text's edges, inside they are HTML."""


class ChatMarkersKeys(Keys):
    """Keys of the check."""

    action: Literal["flag", "quarantine", "block"] = key("quarantine", "what happens to such rows")


class ChatMarkers(Check):
    """Sets rows aside whose texts hold control tokens of a chat template."""

    keys_type = ChatMarkersKeys
    requires = frozenset({"text-out"})
    phase = "row"

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """One finding per row and role at most; segments are written without a template and may hold such tokens."""
        names = [role.name for role in context.task.roles if role.type in ("messages", "text")]
        for row in rows:
            prompt = row.get("prompt")
            if isinstance(prompt, list) and (not prompt or (isinstance(prompt[0], dict) and prompt[0].get("role") == "segment")):
                continue
            for name in names:
                found = next((match for text in texts_in(row.get(name)) for match in [MARKERS.search(text)] if match), None)
                if found:
                    fix = "give the plain text of each turn; the base's own template is put around it. If the text is meant to hold the sign, set `action: flag` for this check"
                    yield Finding(row["row_id"], name, f"the text holds '{found[0].strip()}', a sign of a chat template", self.keys.action, fix)
