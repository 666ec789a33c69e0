"""Metrics for Prometheus; always counted, served only when a port is given."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from secondlook.cascade.router import RoutingEvent
from secondlook.core.types import Labelled
from secondlook_client.errors import BadSetting

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
AGREEMENTS = (0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The counters of one server, in a registry of their own. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "secondlook_calls",
            "Calls ended, by method and reason (ok, or why they failed).",
            ("method", "reason"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "secondlook_call_seconds",
            "From a call's arrival to its end; streams are left out.",
            ("method",),
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self._batches = Histogram(
            "secondlook_batch_size",
            "Images that went through a stage together.",
            ("stage",),
            buckets=BATCH_SIZES,
            registry=self.registry,
        )
        self._stages = Histogram(
            "secondlook_batch_seconds",
            "Time of one batch in a stage.",
            ("stage",),
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self._depth = Gauge(
            "secondlook_images_in_flight",
            "Images waiting or being worked on.",
            registry=self.registry,
        )
        self._outcomes = Counter(
            "secondlook_judgements",
            "Boxes judged, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._frames = Counter(
            "secondlook_frames",
            "Frames of streams, by what became of them.",
            ("answer",),
            registry=self.registry,
        )

        self._images = Counter(
            "secondlook_images",
            "Images labelled, by who did it: teachers, student, or audit (teachers, compared).",
            ("path",),
            registry=self.registry,
        )
        self._agreement = Histogram(
            "secondlook_audit_agreement",
            "F1 of a student's labels against its teachers' on each audited image.",
            buckets=AGREEMENTS,
            registry=self.registry,
        )
        self._trusted = Gauge(
            "secondlook_student_trusted",
            "Jobs and streams on which the student labels alone what it is certain of.",
            registry=self.registry,
        )
        self._watched = Gauge(
            "secondlook_student_watched",
            "Jobs and streams on which the student is or could be trusted.",
            registry=self.registry,
        )

    def call_ended(self, method: str, reason: str, seconds: float, streaming: bool) -> None:
        """A call of ``method`` ended; ``reason`` is ``ok`` or the error's."""
        self._calls.labels(method, reason).inc()
        if not streaming:
            self._latency.labels(method).observe(seconds)

    def batch_done(self, stage: str, size: int, seconds: float) -> None:
        """For ``Engine(observe=...)``: a stage ran a batch."""
        self._batches.labels(stage).observe(size)
        self._stages.labels(stage).observe(seconds)

    def passed(self, passed: RoutingEvent) -> None:
        """For ``Cascade``: an image was labelled."""
        self._images.labels(passed.path.value).inc()
        if passed.agreement is not None:
            self._agreement.observe(passed.agreement)
        self._trusted.set(passed.trusted)
        self._watched.set(passed.watched)

    def judged(self, labelled: Labelled) -> None:
        """An image was labelled."""
        for judgement in labelled.judgements:
            self._outcomes.labels(judgement.decision.outcome.value).inc()

    def frame_answered(self, answer: str) -> None:
        """A frame was ``labelled``, ``failure`` or ``dropped``."""
        self._frames.labels(answer).inc()

    def watch_depth(self, depth: Callable[[], int]) -> None:
        """``depth()`` is asked at each scrape."""
        self._depth.set_function(depth)

    def serve(self, host: str, port: int) -> "MetricsEndpoint":
        """Answer scrapes over HTTP at ``/metrics``; port 0 picks a free one.

        Raises ``BadSetting`` when the port cannot be had.
        """
        try:
            httpd, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as cause:
            raise BadSetting(
                f"metrics cannot listen on {host}:{port} ({cause.strerror or cause}); "
                "choose another metrics port or leave it out"
            ) from cause
        return MetricsEndpoint(httpd)


class MetricsEndpoint:
    """The HTTP server of the metrics."""

    def __init__(self, httpd: Any) -> None:
        self._httpd = httpd
        self.port: int = httpd.server_port

    def close(self) -> None:
        """Stop answering; returns when the port is free."""
        self._httpd.shutdown()
        self._httpd.server_close()
