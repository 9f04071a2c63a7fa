"""Several processes write at once: nothing is lost, nobody is told 'locked', and the audit chain holds."""

from __future__ import annotations

import subprocess
import sys

from attune.core.ledger import Ledger
from attune.core.records import DatasetVersion
from tests.conftest import REPOSITORY

WRITERS, EACH = 4, 50

PROGRAM = """
import sys
from attune.core.ledger import Ledger
from attune.core.records import now
from tests.core.test_ledger import dataset
url, writer, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ledger = Ledger(url)  # every process finds an empty database at the same moment
for number in range(each):
    ledger.add(dataset(digest=f"{writer}-{number}"))
    ledger.audit(f"writer-{writer}", "did", f"{writer}-{number}")
    ledger.add(dataset(digest=f"shared-{number}"))
    ledger.use_test_rows("claims", "dataset-shared", ["shared", f"{writer}-{number}"], "test")
    ledger.log_requests([{"id": f"{writer}-{number}", "specialist": "claims", "release_id": "r", "at": now(), "input": "{}", "output": "1", "confidence": None}])
    ledger.find(type(dataset()), "claims") if number % 10 == 0 else None
ledger.close()
"""


def test_concurrent_writers_lose_nothing(ledger_url):
    running = [subprocess.Popen([sys.executable, "-c", PROGRAM, ledger_url, str(writer), str(EACH)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) for writer in range(WRITERS)]
    told = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * WRITERS, told
    ledger = Ledger(ledger_url)
    expected = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(EACH)}
    kept = [record.rows_digest for record in ledger.find(DatasetVersion)]
    assert sorted(kept) == sorted(expected | {f"shared-{number}" for number in range(EACH)})  # equal content once
    assert {row["id"] for row in ledger.requests("claims")} == expected
    assert ledger.use_test_rows("claims", "dataset-shared", ["shared"], "test") == WRITERS * EACH + 1
    log = ledger.audit_log()
    assert {event["subject"] for event in log if event["action"] == "did"} == expected
    assert len(log) == len(kept) + len(expected) + WRITERS * EACH + 1
    ledger.verify_audit()
    ledger.close()
