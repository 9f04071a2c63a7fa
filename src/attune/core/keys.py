"""Recipe keys as strict models that remember which of them were read, so that a key which nothing reads is an error, not a silence."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic.fields import FieldInfo


def key(default: Any = ..., description: str = "", *, aliases: tuple[str, ...] = (), plugs: str = "", words: tuple[str, ...] = (), **constraints: Any) -> Any:
    """Declare one recipe key: its default, one line of meaning, other spellings users know, and constraints (ge, le, ...).

    `...` as default makes the key required. `plugs` names the kind of plug that the key (or each item of its list) holds.
    `words` are what may stand there instead of a plug.
    The listing reads this call from the source text, so keep the arguments literal.
    """
    facts: dict[str, Any] = {name: value for name, value in (("aliases", list(aliases)), ("plugs", plugs), ("words", list(words))) if value}
    return Field(default, description=description, json_schema_extra=facts or None, **constraints)


class Keys(BaseModel):
    """Base of every group of recipe keys: unknown keys refused, strict types, finite numbers, immutable, reads remembered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=False, allow_inf_nan=False)

    _read: set[str] = PrivateAttr(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith(("_", "model_")) and name in type(self).__pydantic_fields__:
            private = super().__getattribute__("__pydantic_private__")
            if private is not None:
                private["_read"].add(name)
        return value

    def unread(self) -> list[str]:
        """Names of the keys that the user set and that no code has read (nested groups as dotted names, list items by number)."""
        left: list[str] = []
        for name in sorted(self.model_fields_set):
            value = self.__dict__[name]
            if isinstance(value, Keys):
                left += [f"{name}.{inner}" for inner in value.unread()]
            elif name not in self._read:
                left.append(name)
            elif isinstance(value, list):
                left += [f"{name}.{number}.{inner}" for number, item in enumerate(value) if isinstance(item, Keys) for inner in item.unread()]
        return left

    def assume_read(self) -> None:
        """Count every key as read: for a run that goes on, where the start that reads some of them lies behind."""
        self._read.update(type(self).model_fields)


def _facts(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def aliases_of(model: type[BaseModel]) -> dict[str, str]:
    """Other spellings of a model's keys: alias -> canonical name."""
    return {str(alias): name for name, field in model.model_fields.items() for alias in _facts(field).get("aliases", [])}


def plugs_of(field: FieldInfo) -> str:
    """The kind of plug that a key holds, or ''."""
    return str(_facts(field).get("plugs", ""))


def words_of(field: FieldInfo) -> tuple[str, ...]:
    """What may stand in a key instead of a plug's name."""
    found = _facts(field).get("words", [])
    return tuple(str(one) for one in found) if isinstance(found, list) else ()


def groups_of(model: type[BaseModel]) -> dict[str, type[Keys]]:
    """Keys of a model that are groups of keys themselves: name -> model."""
    return {name: field.annotation for name, field in model.model_fields.items() if isinstance(field.annotation, type) and issubclass(field.annotation, Keys)}
