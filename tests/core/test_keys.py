"""Keys remember what was read, so that a setting without effect can be told."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from attune.core.keys import Keys, aliases_of, groups_of, key, plugs_of


class Inner(Keys):
    depth: int = key(1, "how deep", aliases=("level",), ge=0)
    width: int = key(2, "how wide")


class Outer(Keys):
    rate: float = key(0.1, "how fast", aliases=("lr", "speed"), gt=0)
    inner: Inner = key(Inner(), "nested")
    many: list[Inner] = key([], "a list of groups")
    method: str = key("full", "a plug", plugs="methods")


def test_reading_a_key_counts():
    keys = Outer.model_validate({"rate": 0.5, "inner": {"depth": 3}, "many": [{"width": 4}, {"depth": 1}]})
    assert keys.unread() == ["inner.depth", "many", "rate"]
    assert keys.rate == 0.5
    assert keys.unread() == ["inner.depth", "many"]
    assert keys.inner.depth == 3
    assert keys.unread() == ["many"]
    assert keys.many[0].width == 4
    assert keys.unread() == ["many.1.depth"]
    assert keys.many[1].depth == 1
    assert keys.unread() == []


def test_touching_a_group_does_not_count_for_what_is_inside():
    keys = Outer.model_validate({"inner": {"depth": 3, "width": 4}})
    assert keys.inner.width == 4
    assert keys.unread() == ["inner.depth"]


def test_defaults_are_never_unread():
    assert Outer().unread() == []


def test_showing_keys_does_not_count_as_reading():
    keys = Outer.model_validate({"rate": 0.5})
    keys.model_dump(mode="json")
    repr(keys)
    assert keys == Outer.model_validate({"rate": 0.5})
    assert keys.unread() == ["rate"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "0.1", 0, -1, True, None])
def test_numbers_are_numbers_and_finite(value):
    with pytest.raises(ValidationError):
        Outer.model_validate({"rate": value})


def test_whole_numbers_serve_as_numbers_but_not_the_other_way():
    assert Outer.model_validate({"rate": 1}).rate == 1
    with pytest.raises(ValidationError):
        Inner.model_validate({"depth": 1.0})


def test_keys_cannot_be_changed():
    with pytest.raises(ValidationError):
        Outer().rate = 2


def test_facts_of_the_declaration():
    assert aliases_of(Outer) == {"lr": "rate", "speed": "rate"}
    assert groups_of(Outer) == {"inner": Inner}
    assert plugs_of(Outer.model_fields["method"]) == "methods"
    assert plugs_of(Outer.model_fields["rate"]) == ""
