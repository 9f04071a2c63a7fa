"""A metric is a function of sums over rows, and better answers do not get a worse value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.contracts import Prediction, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from attune.testing.suite import Subject

PER_TASK = True


def _contributions(subject: Subject, answers: list[Prediction] | None = None) -> np.ndarray:
    """Contributions of the test rows; default: right answers and wrong ones in turn."""

    if answers is None:
        right, wrong = (_answers(subject, right=one) for one in (True, False))
        answers = [(right if number % 2 else wrong)[number] for number in range(len(right))]
    return _graded(subject, _rows(subject), answers)


def _rows(subject: Subject) -> list[Row]:
    """The bench's test rows, with the columns of the metric's own example where it has one."""
    example = subject.plug.example()
    return [{**row, **(example[0] if example else {})} for row in subject.bench.test]


def _answers(subject: Subject, *, right: bool) -> list[Prediction]:
    example, bench = subject.plug.example(), subject.bench
    if example is None:
        return bench.answers(bench.test, right=right)
    return [Prediction(example[1 if right else 2]) for _ in bench.test]


def _graded(subject: Subject, rows: Sequence[Row], answers: Sequence[Prediction]) -> np.ndarray:
    bench = subject.bench
    found: np.ndarray = subject.plug.of_rows(rows, [bench.task.truth(row) for row in rows], answers, bench.signature)
    return found


def check_contributions_are_a_row_each(subject: Subject) -> None:
    """float64 [n, k], finite; no rows give [0, k] or at least nothing to fail on."""
    import numpy as np

    found = _contributions(subject)
    assert found.ndim == 2, f"contributions have shape {found.shape}, not [n, k]"
    assert found.shape[0] == len(subject.bench.test), f"contributions have shape {found.shape}, not [n, k]"
    assert found.dtype == np.float64, f"contributions are {found.dtype}, not float64"
    assert np.isfinite(found).all(), "contributions are not finite"


def check_value_takes_any_number_of_sums(subject: Subject) -> None:
    """`value` maps sums [k] to one number and [b, c, k] to [b, c], each as if it were alone."""
    import numpy as np

    plug, found = subject.plug, _contributions(subject)
    sums = np.stack([found.sum(0), found[:3].sum(0), found[3:].sum(0), 2 * found.sum(0)])
    alone = np.array([float(plug.value(one)) for one in sums])
    assert np.shape(plug.value(sums[0])) == (), "a single sum does not give a single number"
    together = np.asarray(plug.value(sums.reshape(2, 2, -1)))
    assert together.shape == (2, 2), f"sums [2, 2, k] give values of shape {together.shape}"
    assert np.allclose(together.ravel(), alone, equal_nan=True), "many sums at once give other values than one by one"


def check_rows_count_by_their_weight_only(subject: Subject) -> None:
    """A row's contribution does not depend on the other rows, so that resampling rows is resampling sums."""
    import numpy as np

    bench = subject.bench
    right, wrong = (_answers(subject, right=one) for one in (True, False))
    answers, rows = [(right if number % 2 else wrong)[number] for number in range(len(bench.test))], _rows(subject)
    whole = _contributions(subject, answers)
    for number in range(len(rows)):
        (alone,) = _graded(subject, rows[number : number + 1], answers[number : number + 1])
        assert np.allclose(alone, whole[number], equal_nan=True), f"row {number} contributes otherwise when it is alone"


def check_right_answers_beat_wrong_ones(subject: Subject) -> None:
    """All right answers get a better value than all wrong ones that are sure of themselves."""
    plug = subject.plug
    right, wrong = (float(plug.value(_contributions(subject, _answers(subject, right=one)).sum(0))) for one in (True, False))
    assert right == right, "the value is not a number when every answer is right"
    worse = plug.neutral or wrong != wrong or (wrong < right if plug.higher_is_better else wrong > right)
    assert worse, f"{right} with right answers, {wrong} with wrong ones, and higher_is_better is {plug.higher_is_better}"


def check_breakdown_is_named_numbers(subject: Subject) -> None:
    """`breakdown` gives text -> number, from one sum."""
    found = subject.plug.breakdown(_contributions(subject).sum(0), subject.bench.signature)
    assert all(isinstance(name, str) and isinstance(value, float) for name, value in found.items()), f"{found} is not text -> float"
