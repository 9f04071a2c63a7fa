"""Checkpoint -> scorecard: the tuned model and its rivals on the sealed test rows, with intervals, paired tests, probes and one verdict."""

from attune.stages.grade.stage import check, inputs, run

__all__ = ["check", "inputs", "run"]
