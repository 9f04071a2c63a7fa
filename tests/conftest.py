"""What every test runs under: no network but loopback (also in the programs it starts), no settings of the user's own shell."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

GUARD = Path(__file__).resolve().parent / "network_guard"
REPOSITORY = Path(__file__).resolve().parent.parent

# Before anything else is imported: settings of a developer's shell must not decide a test.
for _name in ("ATTUNE_WORKSPACE", "ATTUNE_LEDGER_URL", "ATTUNE_ONLINE", "ATTUNE_ACTOR"):
    os.environ.pop(_name, None)

_report = Path(tempfile.mkdtemp(prefix="attune-test-network-")) / "report.txt"
os.environ["ATTUNE_TEST_NETWORK_REPORT"] = str(_report)
os.environ["PYTHONPATH"] = os.pathsep.join([str(GUARD), *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, str(GUARD))
sys.modules.pop("sitecustomize", None)  # the system may have one of its own
importlib.import_module("sitecustomize")
sys.path.remove(str(GUARD))

import attune  # noqa: E402, F401  (sets the offline switches before transformers can be imported by a test)


def pytest_unconfigure() -> None:
    shutil.rmtree(_report.parent, ignore_errors=True)


def _attempts() -> list[str]:
    return _report.read_text(encoding="utf-8").splitlines() if _report.exists() else []


@pytest.fixture(autouse=True)
def loopback_only() -> Iterator[None]:
    """Fails a test that reached for anything but loopback, even when the refusal was caught; programs it started count too."""
    before = len(_attempts())
    yield
    after = _attempts()[before:]
    if after:
        pytest.fail("the test reached for the network:\n" + "\n".join(after), pytrace=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights and data sets that developers may have beside the repository; tests that need it skip without it."""
    folder = Path(os.environ.get("ATTUNE_TEST_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder.name}/ beside the repository (or ATTUNE_TEST_SHARED)")
    return folder


@pytest.fixture(params=["lines as they are", "lines filled up"])
def any_length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test twice: with lines of tokens as long as their rows, and filled up as on processors that write each matrix product anew (`core.recurring`)."""
    from attune.core import recurring

    monkeypatch.setattr(recurring, "missing", lambda length, _kind: -length % recurring.LENGTH if request.param == "lines filled up" else 0)
