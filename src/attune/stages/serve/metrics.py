"""What the endpoint counts, for Prometheus. Labels are routes, statuses and release ids; nothing that a client sent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from attune.core.records import Release

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one endpoint, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("attune_requests", "Requests by route and status", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("attune_request_seconds", "Time from first byte to answer, seconds", ["route"], buckets=SECONDS, registry=self.registry)
        self.in_flight = Gauge("attune_in_flight", "Requests in hand", registry=self.registry)
        self.rows = Counter("attune_rows", "Rows answered by the model", registry=self.registry)
        self.batches = Counter("attune_batches", "Calls of the model; rows / batches is the mean batch", registry=self.registry)
        self.release = Gauge("attune_release", "1 for the release that answers", ["release", "version"], registry=self.registry)
        self.swaps = Counter("attune_swaps", "Times another release was taken", registry=self.registry)
        self.refused = Counter("attune_releases_refused", "Approved releases that failed verification or the smoke test", registry=self.registry)
        self.logged = Counter("attune_logged_rows", "Rows written to the request log", registry=self.registry)
        self.not_logged = Counter("attune_unlogged_rows", "Rows drawn for the request log that could not be written in time", registry=self.registry)

    def taken(self, release: Release) -> None:
        """Another release answers from now on."""
        self.release.clear()
        self.release.labels(release=release.id, version=str(release.version)).set(1)

    def text(self) -> bytes:
        """Prometheus' text form."""
        return generate_latest(self.registry)
