"""Release -> endpoint: answers over HTTP with the approved release, takes a newer one without a failed request, remembers what was asked."""

from attune.stages.serve.app import make_app, run

__all__ = ["make_app", "run"]
