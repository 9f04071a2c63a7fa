"""A model behind an OpenAI-compatible address judges. Questions and answers are sent there, so know whose it is."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from attune.catalog.judges import _asking
from attune.core.contracts import Duel, Judge
from attune.core.errors import MachineError, RecipeError
from attune.core.keys import Keys, key

AGAIN = (408, 409, 429, 500, 502, 503, 504)
"""Answers after which asking again may help."""


class OpenaiEndpointKeys(Keys):
    """Keys of the judge."""

    url: str = key("http://127.0.0.1:8000/v1", "address up to and with /v1", aliases=("base_url",))
    model: str = key("default", "name of the model that judges")
    key_variable: str | None = key(None, "environment variable that holds the key; default: none is sent", aliases=("api_key_env",))
    criterion: str = key("Which answer is more correct and more helpful?", "what the model is asked to judge by")
    at_once: int = key(4, "questions in flight", ge=1, le=64)
    seconds: float = key(60.0, "longest wait for one reply", gt=0)
    tries: int = key(4, "times a question is asked before the grading stops", ge=1)
    max_tokens: int = key(16, "longest reply", ge=1)


class OpenaiEndpoint(Judge):
    """Temperature 0; a reply that is neither A, B nor TIE decides nothing, and is counted."""

    keys_type = OpenaiEndpointKeys

    def prefer(self, duels: Sequence[Duel]) -> list[float | None]:
        """One request per duel."""
        if not duels:
            return []
        if not self.keys.url.startswith(("http://", "https://")):
            raise RecipeError(f"'{self.keys.url}' is no address", place="judge: openai_endpoint.url", fix="write http://HOST:PORT/v1")
        secret = None
        if self.keys.key_variable is not None:
            secret = os.environ.get(self.keys.key_variable)
            if not secret:
                raise MachineError(f"the environment variable {self.keys.key_variable} is empty", place="judge: openai_endpoint.key_variable", fix="set it to the key, or remove key_variable")
        with ThreadPoolExecutor(self.keys.at_once) as pool:
            return list(pool.map(lambda duel: _asking.verdict(self._reply(duel, secret)), duels))

    def _reply(self, duel: Duel, secret: str | None) -> str:
        body = {
            "model": self.keys.model,
            "messages": [{"role": "user", "content": _asking.question(duel, self.keys.criterion)}],
            "temperature": 0,
            "max_tokens": self.keys.max_tokens,
        }
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {secret}"} if secret else {})}
        request = urllib.request.Request(f"{self.keys.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        why = ""
        for attempt in range(self.keys.tries):
            try:
                with urllib.request.urlopen(request, timeout=self.keys.seconds) as reply:
                    return str(json.load(reply)["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                why = f"it answers {error.code}: {error.read(200).decode(errors='replace')}"
                if error.code not in AGAIN:
                    break
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                why = f"{type(error).__name__}: {error}"
            if attempt + 1 < self.keys.tries:
                time.sleep(min(0.2 * 2**attempt, 5))
        raise MachineError(f"the judge at {self.keys.url} gave no reply: {why}", place="judge: openai_endpoint", fix="look whether it runs and knows the model; then grade again")
