"""Addresses of databases: a password stands in the environment and never in a recipe, because the recipe is shown, hashed and sent along with the model."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from attune.core.errors import MachineError

VARIABLE = "DATABASE_PASSWORD"
"""Environment variable that is proposed for a password."""
_NAMED = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_PASSWORD = re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^:/@]*:)([^@]+)(?=@)|((?:[?&;=]|%3b)(?:password|passwd|pwd|sslpassword)(?:=|%3d))([^&;]+)")


def hidden(address: str) -> str:
    """An address with a variable of the environment in place of a password; one without a password, or with such a variable, is left as it is."""
    return _PASSWORD.sub(lambda found: found[0] if _NAMED.fullmatch(found[2] or found[4]) else f"{found[1] or found[3]}${{{VARIABLE}}}", address)


def opened(address: str) -> str:
    """An address with every ${NAME} filled in from the environment, in the form that a URL needs. Only for connecting: do not show, keep or hash it.

    Raises:
        MachineError: a variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise MachineError(f"the environment variable {found[1]} is not set, and the address of the rows needs it", place="data.path", fix=f"export {found[1]}=... and try again")
        return quote(os.environ[found[1]], safe="")

    return _NAMED.sub(value, address)
