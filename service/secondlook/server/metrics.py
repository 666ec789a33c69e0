"""Metrics for Prometheus; always counted, served only when a port is given."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from secondlook.cascade.router import RoutingEvent
from secondlook.core.types import Decoy, Labelled
from secondlook.evaluation.precision_monitor import EVIDENCE
from secondlook.jobs.guarantee_checks import ChecksStatus
from secondlook.labeling.encoding_cache import EncodingCacheStats
from secondlook.server.addresses import explain_metrics_failure
from secondlook.server.client_limits import ClientUsage
from secondlook.store.queue import QueueDepth
from secondlook_client.errors import BadSetting, SecondlookError, StorageFull, Unavailable
from secondlook_client.values import Answer

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
SCRAPES, SCRAPE_TIMEOUT_S = 8, 5.0
"""Connections to the metrics at the same time, and how long one may say nothing."""
GUARANTEE_GAUGES = {
    "holds": "1 while boxes are accepted under the guarantee, 0 once it no longer holds.",
    "checked": "Accepted boxes that people checked.",
    "wrong": "Of these wrong or unsure.",
    "evidence": f"Against the guarantee, which ends when it reaches {EVIDENCE:g}.",
    "waiting": "Checks that wait for an answer.",
    "share": "Of the accepted boxes that is checked at present, from 0 to 1.",
}
"""Of the guarantees of running jobs, by field of ``ChecksStatus``."""
CLIENT_FIGURES = {
    "images": ("total_images", CounterMetricFamily, "Images taken."),
    "images_in_flight": ("images", GaugeMetricFamily, "Images under way."),
    "bytes_in_flight": ("bytes", GaugeMetricFamily, "Bytes of requests under way."),
    "streams": ("streams", GaugeMetricFamily, "Open streams."),
    "verifier_seconds": ("verifier_s", GaugeMetricFamily, "Of the verifier, this day (UTC)."),
}
"""Of each client, by field of ``ClientUsage``."""
MAX_CLIENTS_SHOWN = 50
"""Clients in the metrics: those with most images."""
HTTP_STATUS = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
"""Of a refused scrape."""
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
        self._answers = Counter(
            "secondlook_answers",
            "Questions put to the verifier, by outcome: answered, abstained, or why it failed.",
            ("outcome",),
            registry=self.registry,
        )
        self._decoys = Counter(
            "secondlook_decoys",
            "Decoys, whose answer is known to be no, by kind and by what the verifier said.",
            ("kind", "reply"),
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

        self._limited = Counter(
            "secondlook_limited",
            "Calls and connections ended or refused by limits, by what they were and why.",
            ("what", "why"),
            registry=self.registry,
        )
        self._connections = Gauge(
            "secondlook_connections", "Open connections of clients.", registry=self.registry
        )
        self._unfinished = Gauge(
            "secondlook_unfinished_bytes",
            "Bytes of messages that have not arrived whole.",
            registry=self.registry,
        )
        self._ready = Gauge(
            "secondlook_ready",
            "1 where a part that calls need is there, 0 where it is away.",
            ("part",),
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

    def questions_answered(self, answers: Sequence[Answer]) -> None:
        """For ``Pipeline.observe_answers``: the verifier answered these, or failed."""
        for answer in answers:
            abstained = "abstained" if answer.p_yes is None else "answered"
            outcome = (answer.reason or "failed") if answer.error else abstained
            self._answers.labels(outcome).inc()

    def decoys_answered(self, decoys: Sequence[Decoy]) -> None:
        """For ``Pipeline.observe_decoys``: the verifier answered these decoys, or failed."""
        for decoy in decoys:
            self._decoys.labels(decoy.kind.value, decoy.said.value).inc()

    def frame_answered(self, answer: str) -> None:
        """A frame was ``labelled``, ``failure`` or ``dropped``."""
        self._frames.labels(answer).inc()

    def watch_depth(self, depth: Callable[[], int]) -> None:
        """``depth()`` is asked at each scrape."""
        self._depth.set_function(depth)

    def call_limited(self, what: str, why: str) -> None:
        """A limit ended or refused something."""
        self._limited.labels(what, why).inc()

    def watch_connections(
        self, connections: Callable[[], int], unfinished_bytes: Callable[[], int]
    ) -> None:
        """Both are asked at each scrape."""
        self._connections.set_function(connections)
        self._unfinished.set_function(unfinished_bytes)

    def watch_guarantees(self, checks: Callable[[], Sequence[ChecksStatus]]) -> None:
        """``checks()`` is asked at each scrape."""
        self.registry.register(_GuaranteeCollector(checks))

    def watch_jobs(self, depth: Callable[[], QueueDepth]) -> None:
        """``depth()`` is asked at each scrape."""
        self.registry.register(_JobCollector(depth))

    def watch_encodings(self, stats: Callable[[], EncodingCacheStats]) -> None:
        """``stats()`` is asked at each scrape."""
        self.registry.register(_EncodingCollector(stats))

    def watch_clients(self, busiest: Callable[[int], Sequence[ClientUsage]]) -> None:
        """``busiest(most)`` is asked at each scrape."""
        self.registry.register(_ClientCollector(busiest))

    def part_is_ready(self, part: str, ready: bool) -> None:
        """Whether ``models`` or ``store`` are there."""
        self._ready.labels(part).set(ready)

    def serve(
        self,
        host: str,
        port: int,
        tls: Callable[[], ssl.SSLContext] | None = None,
        authorize: Callable[[Sequence[str]], None] | None = None,
    ) -> "MetricsEndpoint":
        """Answer scrapes over HTTP at ``/metrics``; port 0 picks a free one.

        ``tls`` is asked at each connection. ``authorize`` raises a ``SecondlookError`` for
        ``Authorization`` headers that do not suffice. Raises ``BadSetting`` when the port cannot
        be had.
        """
        try:
            httpd = _ScrapeServer(host, port, self.registry, tls, authorize)
        except OSError as cause:
            why = cause.strerror or str(cause)
            raise BadSetting(explain_metrics_failure(host, port, why)) from cause
        return MetricsEndpoint(httpd)


class _GuaranteeCollector(Collector):
    """Reads at each scrape how the guarantees of running jobs stand; nothing while the database is
    unavailable."""

    def __init__(self, checks: Callable[[], Sequence[ChecksStatus]]) -> None:
        self._checks = checks

    def describe(self) -> Iterator[Metric]:
        """The families, without asking the database."""
        yield from self._families().values()

    def collect(self) -> Iterator[Metric]:
        """One sample of each family for each guarantee."""
        families = self._families()
        try:
            found = self._checks()
        except (Unavailable, StorageFull):
            found = ()
        for status in found:
            for name, family in families.items():
                family.add_metric([status.name], float(getattr(status, name)))
        yield from families.values()

    def _families(self) -> dict[str, GaugeMetricFamily]:
        return {
            name: GaugeMetricFamily(f"secondlook_guarantee_{name}", told, labels=["guarantee"])
            for name, told in GUARANTEE_GAUGES.items()
        }


class _JobCollector(Collector):
    """Reads at each scrape how much is to be done, which all servers of a store tell alike; nothing
    while the database is unavailable."""

    def __init__(self, depth: Callable[[], QueueDepth]) -> None:
        self._depth = depth

    def describe(self) -> Iterator[Metric]:
        """The families, without asking the database."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        """Jobs by state, and their images."""
        jobs, images = self._families()
        with suppress(Unavailable, StorageFull):
            depth = self._depth()
            jobs.add_metric(["waiting"], depth.waiting)
            jobs.add_metric(["running"], depth.running)
            images.add_metric([], depth.images)
        yield from (jobs, images)

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        told = "Jobs with something to do: waiting for a server, or running. Of all servers."
        return (
            GaugeMetricFamily("secondlook_jobs", told, labels=["state"]),
            GaugeMetricFamily("secondlook_jobs_images", "Images that these still have to label."),
        )


class _EncodingCollector(Collector):
    """Reads at each scrape how the cache of encoded images does."""

    def __init__(self, stats: Callable[[], EncodingCacheStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Hits and misses of clicks and openings, and what is in memory."""
        now = self._stats()
        yield CounterMetricFamily(
            "secondlook_encodings_hits", "Encoded images found in memory.", value=now.hits
        )
        yield CounterMetricFamily(
            "secondlook_encodings_misses", "Images that had to be encoded.", value=now.misses
        )
        yield GaugeMetricFamily(
            "secondlook_encodings_bytes", "Memory of encoded images.", value=now.nbytes
        )


class _ClientCollector(Collector):
    """Reads at each scrape what the busiest clients do."""

    def __init__(self, busiest: Callable[[int], Sequence[ClientUsage]]) -> None:
        self._busiest = busiest

    def collect(self) -> Iterator[Metric]:
        """What ``CLIENT_FIGURES`` says of each."""
        found = self._busiest(MAX_CLIENTS_SHOWN)
        for name, (figure, family, told) in CLIENT_FIGURES.items():
            metric = family(f"secondlook_client_{name}", told, labels=["client"])
            for client in found:
                metric.add_metric([client.name], float(getattr(client, figure)))
            yield metric


class _ScrapeServer(ThreadingHTTPServer):
    """Answers scrapes, a few connections at a time: one more ends the oldest one."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        tls: Callable[[], ssl.SSLContext] | None,
        authorize: Callable[[Sequence[str]], None] | None,
    ) -> None:
        self._tls = tls
        self._open: dict[socket.socket, None] = {}
        """In the order in which they were accepted."""
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        own = {"registry": registry, "authorize": staticmethod(authorize or (lambda headers: None))}
        handler = type("ScrapeHandler", (_SilentScrapeHandler,), own)
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to answer one connection, in a thread of its own."""
        with self._lock:
            if len(self._open) >= SCRAPES:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection, in its thread; with TLS after the handshake."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(SCRAPE_TIMEOUT_S)
        encrypted = self._tls().wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        )
        with self._lock:  # the plain socket is not its own any more
            self._open.pop(request, None)
            self._open[encrypted] = None
        try:
            encrypted.do_handshake()
            super().finish_request(encrypted, client_address)
        finally:
            self.shutdown_request(encrypted)

    def shutdown_request(self, request: Any) -> None:
        """End one connection; called in its thread."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to tell of."""


class _SilentScrapeHandler(MetricsHandler):
    timeout = SCRAPE_TIMEOUT_S
    """Seconds that a client may say nothing."""
    authorize: Callable[[Sequence[str]], None]

    def do_GET(self) -> None:  # noqa: N802 (the base class's spelling)
        """Answer a scrape, or refuse it."""
        try:
            self.authorize(self.headers.get_all("Authorization") or [])
        except SecondlookError as refusal:
            self.send_error(HTTP_STATUS.get(refusal.status, 503), explain=str(refusal))
            return
        super().do_GET()


class MetricsEndpoint:
    """The HTTP server of the metrics."""

    def __init__(self, httpd: _ScrapeServer) -> None:
        self._httpd = httpd
        self.port: int = httpd.server_port
        threading.Thread(target=httpd.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop answering; returns when the port is free."""
        self._httpd.shutdown()
        self._httpd.server_close()
