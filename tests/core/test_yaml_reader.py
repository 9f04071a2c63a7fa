"""Recipes are read strictly: what a person wrote is what is understood, and what cannot be meant is an error with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.core.errors import RecipeError
from attune.core.yaml_reader import MAX_BYTES, dump_yaml, parse_value, read_yaml, read_yaml_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.5e+3", 1500.0),
        ("3", 3),
        ("-7", -7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        (".5", 0.5),
        ("no", "no"),
        ("off", "off"),
        ("on", "on"),
        ("y", "y"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-01-05", "2026-01-05"),
        ("2026-01-05 10:00:00", "2026-01-05 10:00:00"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("a#b", "a#b"),
        ("[1, two, {three: 3}]", [1, "two", {"three": 3}]),
        ("!!str 7", "7"),
        ("=", "="),
    ],
)
def test_values_follow_yaml_1_2(text, value):
    read = read_yaml(f"key: {text}\n", "recipe.yaml")[0]["key"]
    assert read == value
    assert type(read) is type(value)


def test_version_directive_does_not_bring_back_yaml_1_1():
    assert read_yaml("%YAML 1.1\n---\na: no\n", "recipe.yaml")[0] == {"a": "no"}


def test_every_key_and_item_remembers_its_line():
    text = "name: x\ndata:\n  path: a.csv\n\n  splits:\n    test: 0.2\ngates:\n  - metric: a\n  - metric: b\n"
    _, lines = read_yaml(text, "recipe.yaml")
    assert lines == {"name": 1, "data": 2, "data.path": 3, "data.splits": 5, "data.splits.test": 6, "gates": 7, "gates.0": 8, "gates.0.metric": 8, "gates.1": 9, "gates.1.metric": 9}


@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' stands twice, first on line 1", "remove one"),
        ("a:\n  b: 1\n  b: 2\n", 3, "key 'b' stands twice", "remove one"),
        ("a: {b: 1, b: 2}\n", 1, "key 'b' stands twice", "remove one"),
        ("a:\n\tb: 1\n", 2, "not YAML", "spaces, not with tabs"),
        ("a: b: c\n", 1, "not YAML", "needs quotes"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML", "one recipe in a file"),
        ("a: [1, 2\n", 1, "not YAML", "quotes"),
        ('a: "open\n', 1, "not YAML", "quotes"),
        ("a: *nobody\n", 1, "nobody", "line"),
        ("a: 1\n5: x\n", 2, "key 5 is not text", "quote it: '5'"),
        ("a: 1\ntrue: x\n", 2, "key True is not text", "quote it"),
        ("? [a, b]\n: x\n", 1, "is not text", "plain name"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag '!!python/object/apply:os.system' is not allowed", "remove the tag"),
        ("a: !env HOME\n", 1, "tag '!env' is not allowed", "remove the tag"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", 3, "merge keys", "write the keys out"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_line(text, line, what, fix):
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "recipe.yaml")
    assert caught.value.place == f"recipe.yaml:{line}"
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "a: \x07bell\n",
        "&a [*a]\n",
        "a: &a {b: *a}\n",
        "a: " + "[" * 3000,
        "a: " + "[" * 40 + "]" * 40,
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
        "- a list\n",
        "only text\n",
    ],
    ids=["control character", "list in itself", "mapping in itself", "unclosed depth", "depth", "a billion aliases", "list", "text"],
)
def test_hostile_texts_end_in_an_error_not_in_a_crash(text):
    with pytest.raises(RecipeError):
        read_yaml(text, "recipe.yaml")


def test_a_few_aliases_are_fine():
    assert read_yaml("a: &x [1, 2]\nb: *x\n", "recipe.yaml")[0] == {"a": [1, 2], "b": [1, 2]}


def test_an_empty_file_is_an_empty_mapping():
    assert read_yaml("# nothing yet\n", "recipe.yaml") == ({}, {})


def test_files(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("\ufeffname: Büro\n".encode())
    assert read_yaml_file(path)[0] == {"name": "Büro"}
    path.write_bytes("name: B\xfcro\n".encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_yaml_file(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="give the recipe, not the data"):
        read_yaml_file(path)
    with pytest.raises(RecipeError, match="there is no file"):
        read_yaml_file(tmp_path / "nothing.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        read_yaml_file(tmp_path)


def test_values_of_set():
    assert parse_value("3") == 3
    assert parse_value("[a, b]") == ["a", "b"]
    assert parse_value("{text: body}") == {"text": "body"}
    assert parse_value("") is None
    assert parse_value("a/b c.csv") == "a/b c.csv"
    with pytest.raises(RecipeError) as caught:
        parse_value("[1", "--set data.path")
    assert caught.value.place.startswith("--set data.path")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029\ufeff\ufffe\uffff"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from("abcdefg_"), min_size=1, max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.sampled_from("abcdefg_"), min_size=1, max_size=8), PLAIN, max_size=5))
def test_what_is_written_is_read_back(value):
    assert read_yaml(dump_yaml(value), "recipe.yaml")[0] == value
