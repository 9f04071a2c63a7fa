"""The conformance suite: what every plug of a kind must do, ours and yours alike. For people who write plugs.

import pytest
from attune.testing import conformance_cases

@pytest.mark.parametrize("case", conformance_cases("metrics", "my_metric"), ids=str)
def test_conformance(case, tmp_path):
    case.run(tmp_path)
"""

from attune.testing.bench import Bench, bench
from attune.testing.models import tiny_bert, tiny_llama
from attune.testing.suite import Broken, Case, check_plug, conformance_cases

__all__ = ["Bench", "Broken", "Case", "bench", "check_plug", "conformance_cases", "tiny_bert", "tiny_llama"]
