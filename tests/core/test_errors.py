"""Errors name the thing, the value, the place and the way out; the class decides the exit code."""

from __future__ import annotations

import pytest

from attune.core import errors
from attune.core.errors import AttuneError, DataError, PlugError, Problems, RecipeError, did_you_mean, nearest


def test_text_has_place_and_way_out():
    assert str(RecipeError("no", place="recipe.yaml:3 train", fix="do this")) == "recipe.yaml:3 train: no\n  -> do this"
    assert str(RecipeError("no")) == "no"


def test_every_class_has_its_own_exit_code():
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, AttuneError) and one is not Problems]
    codes = {one.__name__: one.exit_code for one in classes}
    assert len(set(codes.values())) == len(codes)
    assert 0 not in codes.values()
    assert codes["RecipeError"] == 2
    assert 70 not in codes.values()
    assert 130 not in codes.values()


def test_several_problems_are_numbered_and_share_an_exit_code_when_they_agree():
    both = Problems([DataError("a", place="x.csv:1", fix="b"), DataError("c")], title="two problems:")
    assert str(both) == "two problems:\n  1. x.csv:1: a\n       -> b\n  2. c"
    assert both.exit_code == DataError.exit_code
    assert Problems([DataError("a"), PlugError("b")], title="").exit_code == RecipeError.exit_code
    assert [one["error"] for one in both.as_json()["problems"]] == ["DataError", "DataError"]
    assert both.as_json()["exit_code"] == 3


@pytest.mark.parametrize(("said", "meant"), [("acuracy", "accuracy"), ("ACCURACY", "accuracy"), ("f1-macro", "f1_macro"), ("zzz", None), ("", None)])
def test_nearest(said, meant):
    assert nearest(said, ["accuracy", "f1_macro", "mrr"]) == meant


def test_did_you_mean():
    assert did_you_mean("acuracy", ["accuracy", "mrr"]) == "did you mean 'accuracy'?"
    assert did_you_mean("zzz", ["mrr", "accuracy"]) == "choose one of: accuracy, mrr"
    assert did_you_mean("zzz", []) == "nothing can be named here"
