"""Spans of OpenTelemetry, from a client's call to the question that a verifier is sent.

    secondlook.v1.LabelingService/Label     client: one try of a call
    └── secondlook.v1.LabelingService/Label server: the call
        ├── wait propose, wait verify       in a queue, until a batch takes the image
        ├── propose                         the batch that the image is in
        └── verify                          likewise; a batch with images of other traces has a span
            └── POST api/chat               in each, linked to the first one's, which has the calls
                                            to a model's server

A program that traces has imported ``opentelemetry.trace`` and set a provider up. As long as nobody
did, each function here returns at once: it costs a few microseconds, and no import. ``export``
sets one up for the commands.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables of the standard, either of which turns the export on."""
NAME = "secondlook"
"""Of the instrumentation."""

Metadata = Sequence[tuple[str, str | bytes]]
"""As gRPC has it."""


def export(service: str) -> bool:
    """Send the spans of this process to the collector that the environment names, if any.

    Everything else is as the standard's ``OTEL_*`` variables say: headers, sampling, resource
    attributes. ``service`` is the name unless ``OTEL_SERVICE_NAME`` gives one. What is finished
    when the process ends is sent then. Returns whether spans are sent; raises ``ImportError``
    without ``secondlook[tracing]``.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


@contextmanager
def client_span(
    name: str, address: str = "", **attributes: str | int
) -> Iterator[Mapping[str, str]]:
    """A call to another service, which takes the headers that are yielded; empty without a trace.

    ``address`` is that of the server, as it may be shown.
    """
    trace = _api()
    if trace is None:
        yield {}
        return
    from opentelemetry import propagate

    kept = {**attributes, **({"server.address": address} if address else {})}
    headers: dict[str, str] = {}
    with trace.get_tracer(NAME).start_as_current_span(
        name, kind=trace.SpanKind.CLIENT, attributes=kept
    ):
        propagate.inject(headers)
        yield headers


@contextmanager
def server_span(name: str, metadata: Callable[[], Metadata | None]) -> Iterator[None]:
    """A call from another program: its trace goes on, if what ``metadata`` returns names one."""
    trace = _api()
    if trace is None:
        yield
        return
    from opentelemetry import propagate

    headers = {key: value for key, value in metadata() or () if isinstance(value, str)}
    with trace.get_tracer(NAME).start_as_current_span(
        name, propagate.extract(headers), kind=trace.SpanKind.SERVER
    ):
        yield


@dataclass(frozen=True)
class QueuedTrace:
    """The span under which something waits in a queue, and since when."""

    context: Any
    since_ns: int


def queued() -> QueuedTrace | None:
    """The current span, for what begins to wait now; None without one that is recorded."""
    trace = _api()
    if trace is None or not trace.get_current_span().is_recording():
        return None
    from opentelemetry import context

    return QueuedTrace(context.get_current(), time.time_ns())


@contextmanager
def continued(waiting: QueuedTrace | None) -> Iterator[None]:
    """What is done inside is under the span that ``waiting`` came from, in any thread."""
    if waiting is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(waiting.context)
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def batch_spans(name: str, items: Sequence[QueuedTrace | None]) -> Iterator[None]:
    """A batch of what waited: for each item how long, and a span of the batch in its own trace.

    What is done inside is under the first one; the others have a link to it.
    """
    traced = [item for item in items if item is not None]
    trace = _api()
    if not traced or trace is None:
        yield
        return
    tracer, began_ns = trace.get_tracer(NAME), time.time_ns()
    spans: list[Any] = []
    for item in traced:
        waited = tracer.start_span(f"wait {name}", item.context, start_time=item.since_ns)
        waited.end(began_ns)
        links = [trace.Link(first.get_span_context()) for first in spans[:1]]
        size = {"secondlook.batch_size": len(items)}
        own = tracer.start_span(
            name, item.context, links=links, attributes=size, start_time=began_ns
        )
        spans.append(own)
    with ExitStack() as entered:
        for own in reversed(spans):  # the first one last: it is the current one then
            entered.enter_context(trace.use_span(own, end_on_exit=True))
        yield


def _api() -> Any:
    """``opentelemetry.trace`` in a program that traces; None in any other."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace
