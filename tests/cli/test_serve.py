"""What `attune serve` tells people to try."""

from __future__ import annotations

import pytest

from attune.cli.verbs.serve import example_of
from attune.core import catalog


@pytest.mark.parametrize("name", [entry.name for entry in catalog.entries("tasks")])
def test_what_is_told_to_try_is_a_row_of_the_task(name):
    task = catalog.build("tasks", name)
    item = example_of(task)
    first = next(role.name for role in task.roles if not role.target)
    row = task.request({first: item} if isinstance(item, str) else item)
    assert all(row[role.name] for role in task.roles if role.required and not role.target)


def test_a_judge_of_answers_is_asked_with_an_answer():
    assert example_of(catalog.build("tasks", "reward")) == {"prompt": "a prompt", "completion": "a completion"}
    assert example_of(catalog.build("tasks", "text_classification")) == "a text"
