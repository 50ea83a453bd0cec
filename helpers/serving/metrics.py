"""What the service counts about itself, for Prometheus; each service has a registry of its own."""

from __future__ import annotations

import gc

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms.

    Attributes:
        requests: Answered requests by method, path and status.
        seconds: Time to the end of an answer, by path.
        waiting: Requests in the queue.
        running: Requests being worked on.
        jobs: Pieces of work by how they ended: done, failed, cancelled or refused.
        images: Pictures made, by model.
        batch: Pictures in one evaluation of a network.
        evaluation: Seconds of one evaluation.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("course_requests", "Answered requests", ["method", "path", "status"], registry=registry)
        self.seconds = Histogram(
            "course_request_seconds", "Time to the end of an answer", ["path"], buckets=SECONDS, registry=registry
        )
        self.waiting = Gauge("course_waiting_requests", "Requests in the queue", registry=registry)
        self.running = Gauge("course_running_requests", "Requests being worked on", registry=registry)
        self.jobs = Counter("course_jobs", "Pieces of work by how they ended", ["outcome"], registry=registry)
        self.images = Counter("course_images", "Pictures made", ["model"], registry=registry)
        self.batch = Histogram(
            "course_batch_images", "Pictures in one evaluation of a network", buckets=SIZES, registry=registry
        )
        self.evaluation = Histogram(
            "course_evaluation_seconds", "Time of one evaluation", ["model"], buckets=SECONDS, registry=registry
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        if gc.isenabled():
            GCCollector(registry=registry)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
