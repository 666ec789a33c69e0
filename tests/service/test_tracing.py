"""One trace from a client to the server of its verifier, over loopback."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ollama_server import Behaviour, FakeOllama
from serving import png, serving

from secondlook.config.settings import ModelSettings
from secondlook.labeling.batcher import Batcher
from secondlook.models import ollama
from secondlook_client import AsyncClient, Client, tracing

trace = pytest.importorskip("opentelemetry.trace")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)

LABEL = "secondlook.v1.LabelingService/Label"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What is finished while the test runs, client and server alike."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture
def model_server() -> Iterator[FakeOllama]:
    running = FakeOllama(Behaviour())
    yield running
    running.close()


def lines(exporter: InMemorySpanExporter) -> set[str]:
    """Each span as the names from its root to itself, with the kinds of the two ends of a call."""
    by_id = {one.context.span_id: one for one in exporter.get_finished_spans()}

    def path(span: ReadableSpan) -> str:
        kind = span.kind.name.lower()
        name = span.name if kind == "internal" else f"{span.name} ({kind})"
        return f"{path(by_id[span.parent.span_id])} > {name}" if span.parent else name

    return {path(one) for one in by_id.values()}


def test_a_trace_leads_from_the_client_to_the_server_of_the_verifier(
    spans: InMemorySpanExporter, model_server: FakeOllama
) -> None:
    verifier = ollama.load(f"moondream@{model_server.url}", ModelSettings())
    spans.clear()
    asked = len(model_server.traceparents)
    with serving(verifier=verifier) as running, Client(running.address) as client:
        client.label(png())
    server = f"{LABEL} (client) > {LABEL} (server)"
    assert lines(spans) == {
        f"{LABEL} (client)",
        server,
        *(f"{server} > {name}" for name in ("wait propose", "propose", "wait verify", "verify")),
        f"{server} > verify > POST api/chat (client)",
    }
    finished = {one.name: one for one in spans.get_finished_spans()}
    assert len({one.context.trace_id for one in finished.values()}) == 1
    told = finished["POST api/chat"].context
    (passed_on,) = model_server.traceparents[asked:]
    assert passed_on.startswith(f"00-{told.trace_id:032x}-{told.span_id:016x}-")
    waited, worked = finished["wait verify"], finished["verify"]
    assert waited.end_time == worked.start_time
    assert worked.start_time <= finished["POST api/chat"].start_time


def test_the_client_of_event_loops_is_traced_too(spans: InMemorySpanExporter) -> None:
    async def label(address: str) -> None:
        async with AsyncClient(address) as client:
            await client.label(png())

    with serving() as running:
        asyncio.run(label(running.address))
    assert f"{LABEL} (client) > {LABEL} (server) > propose" in lines(spans)


def test_a_batch_has_a_span_in_each_trace_and_links_to_where_its_calls_are(
    spans: InMemorySpanExporter,
) -> None:
    tracer = trace.get_tracer("test")

    def run(items: Sequence[str]) -> Sequence[str]:
        with tracer.start_as_current_span("call"):
            return items

    batcher: Batcher[str, str] = Batcher("verify", run, max_batch=3, max_wait_s=5, max_queue=9)
    futures = [batcher.submit("untraced")]
    for name in ("first", "second"):
        with tracer.start_as_current_span(name):
            futures.append(batcher.submit(name))
    wait(futures)
    batcher.close()
    assert {"first > verify > call", "second > verify", "second > wait verify"} < lines(spans)
    batches = {
        one.parent.span_id: one for one in spans.get_finished_spans() if one.name == "verify"
    }
    ids = {one.name: one.context.span_id for one in spans.get_finished_spans()}
    first, second = batches[ids["first"]], batches[ids["second"]]
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert second.attributes == {"secondlook.batch_size": 3}


def test_a_program_that_does_not_trace_sends_nothing(model_server: FakeOllama) -> None:
    with tracing.client_span("call") as headers:
        assert headers == {}
    assert tracing.queued() is None
    ollama.load(f"moondream@{model_server.url}", ModelSettings())
    assert model_server.requests
    assert not model_server.traceparents


def test_spans_are_sent_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    assert not tracing.export("secondlook")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", trace.Once())
    assert tracing.export("secondlook")
    with tracing.client_span("call", "host:1"):
        pass
    trace.get_tracer_provider().shutdown()
    collector.shutdown()
    collector.server_close()
    (path, body), *_ = received
    sent = trace_service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans[0]
    names = {one.key: one.value.string_value for one in sent.resource.attributes}
    assert (path, names["service.name"]) == ("/v1/traces", "secondlook")
    assert [one.name for one in sent.scope_spans[0].spans] == ["call"]
