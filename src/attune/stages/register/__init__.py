"""Scorecard -> release: versions, lineage, who approved what, and the forms a release leaves in."""

from attune.core.exporting import export
from attune.stages.register.approval import promote, rollback
from attune.stages.register.lineage import lineage
from attune.stages.register.stage import inputs, run

__all__ = ["export", "inputs", "lineage", "promote", "rollback", "run"]
