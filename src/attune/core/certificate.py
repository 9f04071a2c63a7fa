"""The parity certificate: what was replayed of an exported form, against what, by which engine, and what came out, in one JSON file inside it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.agreement import compare
from attune.core.commit import MANIFEST, sha256_file
from attune.core.contracts import Export, Prediction, Row
from attune.core.conversation import question_of, shortened_question
from attune.core.errors import DataError, IntegrityError
from attune.core.parity import EXACT, NetworkVoice, constants_of, examine, metric_difference, other_constants, room_of
from attune.core.specialist import Specialist

CERTIFICATE = "certificate.json"
PACKAGES = "attune torch transformers peft tokenizers gguf onnxruntime onnxscript llama-cpp-python"
"""Distributions whose versions stand in a certificate, where they are installed."""
VERIFIED, UNVERIFIED = "verified", "unverified"


def replayed(plug: Export, folder: Path, specialist: Specialist, own: NetworkVoice | None, answers: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of an exported form; `disagreements` holds what is wrong with it, row by row.

    Args:
        plug: the format.
        folder: what it wrote.
        specialist: the release.
        own: the release's voice, for formats that can be heard token by token.
        answers: the release's answers to the golden rows.
        rows: the golden rows.
    """
    voice = plug.voice(folder) if own is not None else None
    if voice is None or own is None:
        figures = {"replayed_by": f"format '{plug.name}'", **compare(answers, plug.replay(folder, rows), rows)}
        stated = plug.constants(folder)
        figures["disagreements"] += [{"row_id": "", "why": why} for why in (other_constants(constants_of(specialist.model.body), stated) if stated else [])]
        return figures
    longest, most = room_of(specialist)
    limits = plug.limits() or EXACT
    rows = [{**row, "prompt": shortened_question(specialist, question_of(row), longest, row.get("tools"))[0]} for row in rows]
    try:
        figures, mine, theirs = examine(own, voice, rows, longest=longest, most=most, limits=limits, first=specialist.tokenizer.bos_token_id)
    finally:
        voice.close()
    figures = {"replayed_by": voice.engine, **figures}
    metric = metric_difference(catalog.build("metrics", specialist.task.defaults.main_metric), specialist.task, specialist.signature, rows, mine, theirs)
    if metric is not None:
        figures["metric"] = metric
        if not metric["difference"] <= limits.metric:
            figures["disagreements"].append({"row_id": "", "why": f"its {metric['name']} on the golden rows is {metric['exported']:.3f}, the tuned model's is {metric['tuned']:.3f}"})
    return figures


def certificate(plug: Export, folder: Path, specialist: Specialist, figures: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    """What stands in the certificate beside the figures: the verdict in words, versions, hashes of the files and of the chat template."""
    caveat = plug.caveat(folder)
    agreed = f"answers {figures['rows']} golden rows as the release does"
    if "token_agreement" in figures:
        agreed += f": {figures['token_agreement']:.1%} of {figures['answer_tokens']} tokens the same, {figures['divergence_mean']:.1e} nats apart"
    return {
        "status": UNVERIFIED if caveat else VERIFIED,
        "words": f"unverified: {caveat}. What was replayed {agreed}." if caveat else f"verified: it {agreed}, replayed by {figures['replayed_by']}.",
        "golden": golden,
        "chat_template_sha256": specialist.signature.get("chat_template_sha256"),
        "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST},
        "versions": {"python": platform.python_version(), **{name: found for name in PACKAGES.split() if (found := _version(name))}},
        **figures,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def golden_file(path: Path, specialist: Specialist) -> list[Row]:
    """Golden rows that a person gives: JSON lines, each a text or an object with the task's input (and its right answer, where known)."""
    task = specialist.task
    rows: list[Row] = []
    targets = [role.name for role in task.roles if role.target]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error}", place=str(path), fix="give a file of JSON lines") from error
    entry = next(role.name for role in task.roles if not role.target)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            said = json.loads(line)
        except ValueError as error:
            raise DataError(f"this line is not JSON: {error}", place=place, fix='write a text in quotes, or an object like {"prompt": "..."}') from error
        payload = {entry: said} if isinstance(said, str) else said
        if not isinstance(payload, dict):
            raise DataError(f"{line[:60]!r} is neither a text nor an object", place=place, fix='write a text in quotes, or an object like {"prompt": "..."}')
        row = task.request(payload)
        task.require_known(row, specialist.signature)
        rows.append({"row_id": place, **row, **{name: payload[name] for name in targets if name in payload}})
    if not rows:
        raise IntegrityError(f"'{path}' holds no golden rows", place=str(path), fix="write one row a line")
    return rows
