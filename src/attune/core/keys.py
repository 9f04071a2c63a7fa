"""Recipe keys as strict models that remember which of them were read, so that a key which nothing reads is an error, not a silence."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

Model = TypeVar("Model", bound="Keys")


def key(default: Any = ..., description: str = "", *, aliases: tuple[str, ...] = (), **constraints: Any) -> Any:
    """Declare one recipe key: its default, one line of meaning, other spellings users know, and constraints (ge, le, ...).

    `...` as default makes the key required. The listing reads this call from the source text, so keep the arguments literal.
    """
    return Field(default, description=description, json_schema_extra={"aliases": list(aliases)} if aliases else None, **constraints)


class Keys(BaseModel):
    """Base of every group of recipe keys: unknown keys refused, strict types, immutable, reads remembered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=False)

    _read: set[str] = PrivateAttr(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith(("_", "model_")) and name in type(self).__pydantic_fields__:
            private = super().__getattribute__("__pydantic_private__")
            if private is not None:
                private["_read"].add(name)
        return value

    def unread(self) -> list[str]:
        """Names of the keys that the user set and that no code has read (nested groups as dotted names)."""
        left: list[str] = []
        for name in sorted(self.model_fields_set):
            value = self.__dict__[name]
            if isinstance(value, Keys):
                left += [f"{name}.{inner}" for inner in value.unread()]
            elif name not in self._read:
                left.append(name)
        return left


def aliases_of(model: type[BaseModel]) -> dict[str, str]:
    """Other spellings of a model's keys: alias -> canonical name."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict):
            for alias in extra.get("aliases", []):  # type: ignore[union-attr]
                found[str(alias)] = name
    return found
