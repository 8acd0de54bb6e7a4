"""What the service counts, in the format of Prometheus; numbers alone, nothing of a patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The service's own registry of metrics: two services in one process do not meet."""

    def __init__(self, waiting: Callable[[], int], jobs: Callable[[], int]) -> None:
        self._all = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._all}
        self.requests = Counter(
            "ctune_requests", "Requests by route and status.", ("route", "status"), **kept
        )
        self.seconds = Histogram(
            "ctune_request_seconds", "Seconds a request took.", ("route",), buckets=_SECONDS, **kept
        )
        self.stages = Counter("ctune_stage_seconds", "Seconds by stage of a prediction.", ("stage",), **kept)
        self.volumes = Counter("ctune_class_volumes", "CTs segmented, by class.", ("class_name",), **kept)
        self.ml = Counter("ctune_class_ml", "Volume found, in mL, by class.", ("class_name",), **kept)
        self.swaps = Counter("ctune_swaps", "Models put in the place of another.", **kept)
        Gauge("ctune_queue_length", "Volumes that wait.", **kept).set_function(waiting)
        Gauge("ctune_jobs_waiting", "Jobs that wait.", **kept).set_function(jobs)

    def predicted(self, about: Mapping[str, Any]) -> None:
        """Count one answer of ``segment``."""
        for stage, seconds in about["seconds"].items():
            self.stages.labels(stage).inc(seconds)
        for name, ml in about["volumes_ml"].items():
            self.volumes.labels(name).inc()
            self.ml.labels(name).inc(ml)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._all)
