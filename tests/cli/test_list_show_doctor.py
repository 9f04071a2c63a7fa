"""Looking around: plugs from their source, and whether the machine is fit; every look of the doctor has a planted fault that it must find."""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from attune.cli import health
from attune.core import catalog, offline


@pytest.mark.parametrize("kind", sorted(catalog.KINDS))
def test_every_kind_is_listed_with_keys_and_defaults(attune, kind):
    answer = attune("list", kind)
    assert answer.code == 0
    for entry in catalog.entries(kind):
        assert entry.name in answer.out
        for key in entry.keys:
            assert f"{key.name} = {key.default}" in " ".join(answer.out.split()) or key.name in answer.out


def test_one_of_a_kind_is_the_kind(attune):
    assert attune("list", "metric").out == attune("list", "metrics").out


def test_the_list_as_a_document(attune):
    found = {(one["kind"], one["name"]): one for one in attune("list", "--json").json}
    lora = found["methods", "lora"]
    assert {key["name"]: key["default"] for key in lora["keys"]}["rank"] == "16"
    assert "lora_r" in next(key for key in lora["keys"] if key["name"] == "rank")["aliases"]
    assert lora["purpose"]


def test_a_plug_is_shown_whole(attune):
    answer = attune("show", "lora")
    assert answer.code == 0
    for said in ("rank", "16", "lora_r", "methods", "lora.py"):
        assert said in answer.out
    assert attune("show", "methods/lora").out == answer.out
    assert "it has no keys" in attune("show", "majority").out


def test_a_name_that_two_kinds_have_shows_both(attune, monkeypatch):
    entries = catalog.entries()
    twins = [entries[0], next(one for one in entries if one.kind != entries[0].kind)]
    from dataclasses import replace

    monkeypatch.setattr("attune.core.catalog.entries", lambda kind=None: [replace(one, name="twin") for one in twins])
    assert len(attune("show", "twin", "--json").json) == 2


# ---------------------------------------------------------------- doctor


def states(attune, *arguments):
    answer = attune("doctor", "--json", *arguments)
    return answer, {one["name"]: one for one in answer.json["findings"]}


def test_this_machine_is_fit(attune):
    answer, found = states(attune)
    assert answer.code == 0
    assert answer.json["fit"] is True
    for name in ("python", "packages", "torch", "precision", "offline", "base model", "plugs"):
        assert found[name]["state"] == "ok", found[name]
    assert found["workspace"]["state"] == "note"


def test_two_packages_that_contradict_each_other_are_named_with_the_fix(attune, monkeypatch):
    real = health._installed()
    monkeypatch.setattr(health, "_installed", lambda: {**real, "tokenizers": "0.1.0"})
    answer, _ = states(attune)
    assert answer.code == 7
    wrong = [one for one in answer.json["findings"] if one["state"] == "fault"]
    assert any(one["found"].startswith("transformers ") for one in wrong)
    assert all("needs tokenizers" in one["found"] and "installed: 0.1.0" in one["found"] for one in wrong)
    assert all(one["fix"].startswith("pip install 'tokenizers") for one in wrong)


def test_a_missing_package_of_ours_is_a_fault(attune, monkeypatch):
    real = health._installed()
    monkeypatch.setattr(health, "_installed", lambda: {name: version for name, version in real.items() if name != "ftfy"})
    answer, _ = states(attune)
    assert answer.code == 7
    assert any(one["state"] == "fault" and "ftfy" in one["found"] and "installed: nothing" in one["found"] for one in answer.json["findings"])


def test_the_lock(attune, tmp_path):
    version = importlib.metadata.version("numpy")
    lock = tmp_path / "some.lock"
    lock.write_text(f"# a comment\nnumpy=={version}\n")
    _, found = states(attune, "--lock", str(lock))
    assert found["lock"]["state"] == "ok"
    lock.write_text("numpy==1.0.0\nno-such-package==2\n")
    answer, found = states(attune, "--lock", str(lock))
    assert answer.code == 0
    assert found["lock"]["state"] == "note"
    assert f"numpy {version} instead of 1.0.0" in found["lock"]["found"]
    assert "no-such-package missing instead of 2" in found["lock"]["found"]
    answer, found = states(attune, "--lock", str(tmp_path / "nothing.lock"))
    assert answer.code == 7
    assert "there is no file" in found["lock"]["found"]


def test_a_companion_built_for_another_torch_is_found(attune, monkeypatch, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    real = health._installed()
    monkeypatch.setattr(health, "_installed", lambda: {**real, "torchvision": "0.28.0"})
    answer, found = states(attune)
    assert answer.code == 7
    assert "operator torchvision::nms does not exist" in found["torchvision"]["found"]
    assert "pip uninstall torchvision" in found["torchvision"]["fix"]
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    answer, found = states(attune)
    assert (answer.code, found["torchvision"]["state"]) == (0, "ok")


def test_a_graphics_card_is_told_and_what_does_not_use_it(attune, monkeypatch):
    import torch

    assert "graphics card" not in states(attune)[1] or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    answer, found = states(attune)
    assert (answer.code, found["graphics card"]["state"]) == (0, "note")
    assert found["graphics card"]["found"] == "card 0: training works on the processor"


def test_a_switch_that_was_turned_is_found(attune, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    answer, found = states(attune)
    assert answer.code == 7
    assert "HF_HUB_OFFLINE" in found["offline"]["found"]
    assert offline.SWITCHES["HF_HUB_OFFLINE"] == "1"


def test_a_missing_base_model_is_found(attune, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\ntask: text_classification\nbase_model: package:no_such_package\ndata: {path: a.csv}\n")
    answer, found = states(attune, "--recipe", ".")
    assert answer.code == 7
    assert "no_such_package" in found["base_model"]["found"]
    assert "pip install" in found["base_model"]["fix"]


def test_little_room_is_told(attune, monkeypatch):
    monkeypatch.setattr(health, "LOW_DISK", 1 << 60)
    answer, found = states(attune)
    assert answer.code == 0
    assert found["disk"]["state"] == "note"
    assert found["disk"]["fix"]


def test_a_broken_plug_is_found(attune, monkeypatch):
    from attune.core.errors import PlugError

    real = catalog.load

    def load(kind, name):
        if name == "linear":
            raise PlugError("rival 'linear' cannot be imported", place="linear.py", fix="install what it needs")
        return real(kind, name)

    monkeypatch.setattr(catalog, "load", load)
    answer, found = states(attune)
    assert answer.code == 7
    assert found["plug"]["fix"] == "install what it needs"
