"""Plugs are found by their files and entry points; listing reads source text and imports none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attune.core import catalog
from attune.core.errors import PlugError, Problems, RecipeError

GOOD = '''"""Counts words. Nothing else."""

from attune.core.contracts import Metric
from attune.core.keys import Keys, key


class WordsKeys(Keys):
    least: int = key(3, "shortest word that counts", aliases=("min", "shortest"), ge=1)
    only: str = key(..., "a required one")
    bare: float = 0.5


class Words(Metric):
    keys_type = WordsKeys
    requires = frozenset({"text-out", "embeds"})

    def contributions(self, truth, predictions, signature):
        return self.keys.least

    def value(self, totals):
        return totals
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty catalog; a file written into metrics/ is a plug of a module that can be imported."""
    (tmp_path / "metrics").mkdir()
    monkeypatch.setattr(catalog, "ROOM", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "metrics"))
    catalog._entries.cache_clear()
    catalog.load.cache_clear()
    real = catalog._read
    monkeypatch.setattr(catalog, "_read", lambda kind, name, file, module, origin: real(kind, name, file, name, origin))
    yield tmp_path / "metrics"
    catalog._entries.cache_clear()
    catalog.load.cache_clear()
    for path in (tmp_path / "metrics").glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_file_is_a_plug(room):
    (room / "words_of_test.py").write_text(GOOD)
    (room / "_helper.py").write_text("raise RuntimeError('never read')")
    [entry] = catalog.entries("metrics")
    assert (entry.name, entry.purpose, entry.requires, entry.origin) == ("words_of_test", "Counts words. Nothing else.", ("embeds", "text-out"), "attune")
    assert [(key.name, key.type, key.default, key.meaning, key.aliases) for key in entry.keys] == [
        ("least", "int", "3", "shortest word that counts", ("min", "shortest")),
        ("only", "str", "(required)", "a required one", ()),
        ("bare", "float", "0.5", "", ()),
    ]
    assert "words_of_test" not in sys.modules
    plug = catalog.build("metrics", {"name": "words_of_test", "only": "x", "min": 4})
    assert (plug.name, plug.keys.least, plug.keys.bare) == ("words_of_test", 4, 0.5)


@pytest.mark.parametrize(
    ("text", "what", "when"),
    [
        ("def broken(:\n", "cannot be read", "listed"),
        ("x = 1\n", "does not say what it is for", "listed"),
        ('"""Two."""\nfrom attune.core.contracts import Metric\n\nclass A(Metric):\n    pass\n\nclass B(Metric):\n    pass\n', "exactly one public class", "loaded"),
        ('"""None."""\n', "exactly one public class", "loaded"),
        ('"""Open."""\nfrom attune.core.contracts import Metric\n\nclass A(Metric):\n    pass\n', "leaves open: contributions, value", "loaded"),
        ('"""Needs."""\nimport a_package_that_is_not_there\n', "cannot be imported", "loaded"),
        ('"""Fails."""\n1 / 0\n', "fails while it is imported: ZeroDivisionError", "loaded"),
    ],
)
def test_a_broken_plug_is_an_error_that_names_its_file(room, text, what, when):
    (room / "broken_of_test.py").write_text(text)
    if when == "listed":
        with pytest.raises(PlugError) as caught:
            catalog.entries("metrics")
    else:
        assert [entry.name for entry in catalog.entries("metrics")] == ["broken_of_test"]
        with pytest.raises(PlugError) as caught:
            catalog.load("metrics", "broken_of_test")
    assert what in caught.value.what
    assert "broken_of_test.py" in caught.value.place
    assert caught.value.fix


def test_unknown_names_get_the_nearest():
    with pytest.raises(PlugError) as caught:
        catalog.build("metrics", "acuracy", "grade.metrics[0]")
    assert caught.value.place == "grade.metrics[0]"
    assert "did you mean 'accuracy'?" in caught.value.fix
    with pytest.raises(PlugError, match="no kind of plug 'metric'"):
        catalog.entries("metric")


def test_keys_of_a_plug_are_strict():
    with pytest.raises(Problems) as caught:
        catalog.build("methods", {"name": "lora", "rnk": 3, "dropout": 5}, "method")
    assert {one.place for one in caught.value.problems} == {"method.rnk", "method.dropout"}
    with pytest.raises(RecipeError, match="say the same thing"):
        catalog.build("methods", {"name": "lora", "rank": 3, "lora_r": 5})


@pytest.mark.parametrize("spec", [3, None, [], {}, {"nme": "lora"}, {"name": 3}])
def test_a_spec_that_is_none(spec):
    with pytest.raises(RecipeError, match="expected a plug's name"):
        catalog.build("methods", spec, "method")


def test_every_shipped_plug_is_listed_with_a_purpose_and_documented_keys():
    found = catalog.entries()
    assert len(found) > 30
    for entry in found:
        assert entry.purpose.endswith("."), entry.name
        for key in entry.keys:
            assert key.meaning, f"{entry.kind}/{entry.name}.{key.name}"


def test_what_the_source_says_is_what_the_class_has():
    for entry in catalog.entries():
        plug = catalog.load(entry.kind, entry.name)
        assert [key.name for key in entry.keys] == list(plug.keys_type.model_fields), entry.name
        assert set(entry.requires) == set(plug.requires), entry.name
        assert set(entry.traits) == set(getattr(plug, "traits", ())), entry.name


def test_listing_imports_no_plug_and_nothing_heavy():
    code = (
        "import sys\nfrom attune.core import catalog\nassert catalog.entries()\n"
        "bad = [m for m in sys.modules if m.startswith('attune.catalog.') or m.split('.')[0] in ('torch', 'transformers', 'sklearn', 'sqlalchemy', 'numpy', 'matplotlib')]\n"
        "print(bad)\nsys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
