"""Requests and feedback -> windows, alarms, and a written wish for another cycle. It never starts training."""

from attune.stages.watch.examine import run

__all__ = ["run"]
