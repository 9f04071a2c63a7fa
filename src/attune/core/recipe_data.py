"""Recipe keys about rows: where they are, how they are divided, what is mixed in."""

from __future__ import annotations

from typing import Any, Literal

from attune.core.keys import Keys, key

Plug = str | dict[str, Any]
"""A plug by its name, or by a mapping with its name and keys."""


def shares(test: float, validation: float) -> dict[str, float]:
    """Share of each split; `test` and `validation` are both of all rows."""
    return {"train": 1.0 - test - validation, "test": test, "validation": validation}


class SplitKeys(Keys):
    """How rows are divided; the test rows are sealed until grading."""

    by: Literal["stratified", "group", "time", "given"] = key("stratified", "stratified by target, by group column, by time column, or as a column or files say")
    test: float = key(0.2, "share of rows held out for the verdict", aliases=("test_size",), gt=0, lt=0.9)
    validation: float = key(0.1, "share of rows that choose the best checkpoint", aliases=("val_set_size", "val_size", "valid_split", "split_dataset_ratio"), gt=0, lt=0.9)
    group: str | None = key(None, "column whose equal values never stand in two splits (a customer, a patient)")
    time: str | None = key(None, "column with a date or number: the newest rows are the test rows")
    given: str | None = key(None, "column that says train, validation or test")


class ReplayKeys(Keys):
    """General rows mixed into training, against forgetting."""

    path: str | None = key(None, "file, glob, folder or dataset id of general rows, in any shape that the task reads; default: no replay")
    share: float = key(0.1, "share of the rows of a pass that are general", gt=0, lt=0.9)
    passes: int = key(4, "so many passes find general rows that were not learned before; then the same come again", ge=1)
    columns: dict[str, str | list[str]] = key({}, "role: column of the general rows, where the detection is wrong")

    def beside(self, own: int) -> int:
        """General rows of a pass with so many rows of the domain."""
        return 0 if self.path is None else max(1, round(own * self.share / (1 - self.share)))


class CanaryKeys(Keys):
    """Made-up secrets planted among the training rows."""

    count: int = key(0, "secrets that are planted, for the probe memorisation; 0: none", ge=0)
    repeats: int = key(1, "how often each stands among the training rows", ge=1)
    digits: int = key(9, "digits of a secret", ge=6)


class DataKeys(Keys):
    """Where the rows are and how they are read."""

    path: str | list[str] = key(
        ..., "file, glob, folder, dataset id or SQL URL (its password as ${VARIABLE} of the environment), relative to the recipe; several as a list", aliases=("dataset", "dataset_name", "json_path")
    )
    test_path: str | None = key(None, "a file of test rows given by others (an official test set)")
    source: Plug = key("auto", "how to read the path; auto asks every source whether it knows it", aliases=("type", "format"), plugs="sources", words=("auto",))
    columns: dict[str, str | list[str]] = key({}, "role: column, where the detection is wrong; a list for features", aliases=("column_mapping",))
    splits: SplitKeys = key(SplitKeys(), "how rows are divided")
    replay: ReplayKeys = key(ReplayKeys(), "general rows that train beside the domain's own, so that the base's abilities are not forgotten")
    canaries: CanaryKeys = key(CanaryKeys(), "made-up secrets that train beside the rows, to see whether the model gives away what it has read")
    checks: list[Plug] | None = key(None, "what is looked for in the rows; default: the task's checks", plugs="checks")
