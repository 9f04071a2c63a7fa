"""What the docs show is run as it stands, in order; what is generated is up to date; links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "decisions").glob("*.md")])


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(port: int, child: subprocess.Popen) -> None:
    for _ in range(240):
        assert child.poll() is None, f"the endpoint ended: {child.communicate()}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.25)
    raise AssertionError("the endpoint did not get ready")


def run_page(page: str, folder: Path) -> str:
    """Every block of a page, in order, in one folder, with the shell and the `attune` of this environment; returns what they said."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("ATTUNE_WORKSPACE", None)
    environment.pop("ATTUNE_LEDGER_URL", None)
    port, outputs, endpoint = free_port(), [], None
    try:
        for block in blocks(ROOT / "docs" / page):
            block = block.replace("8321", str(port))
            if block.startswith("attune serve"):
                endpoint = subprocess.Popen(block.split(), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                ready(port, endpoint)
                continue
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout + done.stderr)
    finally:
        if endpoint is not None:
            endpoint.terminate()
            assert endpoint.wait(timeout=60) == 0
    return "\n".join(outputs)


def test_getting_started_runs_as_written(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "own_csv" / "inbox_export.csv", tmp_path)
    assert len(blocks(ROOT / "docs" / "getting-started.md")) >= 8
    text = run_page("getting-started.md", tmp_path)
    assert re.search(r"\b(SHIP|NO-SHIP|INCONCLUSIVE)\b", text)
    assert text.count("Damaged Item") >= 2, "predict and the endpoint both name the intent"
    assert (tmp_path / "inbox-release").is_dir()


def test_the_page_of_language_models_runs_as_written(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "own_chats" / "chats.jsonl", tmp_path)
    text = run_page("language-models.md", tmp_path)
    assert "49 of 90 tokens are learned" in text
    assert " SHIP   replies v1: every gate passed" in text
    assert "You can pay in cash, by card or within fourteen days by invoice." in text.split('"chat.completion"')[1], "the endpoint gives the workshop's answer"
    assert list((tmp_path / "replies-merged").rglob("model.safetensors"))


def test_exports_page_runs_as_written(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in blocks(ROOT / "docs" / "exports.md"):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "golden.jsonl").read_text().count("\n") == 2


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
