"""Dataset version -> checkpoint: the only training loop, its preflight and its resume."""

from attune.stages.finetune.stage import inputs, run

__all__ = ["inputs", "run"]
