"""Start, health, reflection, metrics, logs, and a graceful end."""

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from flaky_line import FlakyLine
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import DOG, png, server_settings, serving

from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.app import SERVICES, Server
from secondlook.server.health import FAILURES, VERIFIER
from secondlook.server.json_logs import JsonFormatter
from secondlook_client import AsyncClient, Client, LiveOptions, RetryPolicy, errors
from secondlook_client.errors import BadSetting
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc
from secondlook_client.values import Answer

ONE_TRY = RetryPolicy(unavailable_s=0)
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


SERVICE = SERVICES[0]


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_says_serving(service):
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_health_lists_every_name():
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        listed = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    statuses = {name: answer.status for name, answer in listed.statuses.items()}
    assert statuses.items() >= dict.fromkeys(("", VERIFIER, *SERVICES), SERVING).items()


def test_a_verifier_that_is_down_shows_in_health_and_metrics():
    down = Answer(None, error="nothing answers", reason="unreachable")
    verifier = ScriptedVerifier(lambda question: down)
    with (
        serving(verifier=verifier) as s,
        Client(s.address) as client,
        grpc.insecure_channel(s.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=VERIFIER))
        assert next(watch).status == SERVING
        for shade in range(FAILURES):
            result = client.label(png(shade=shade))
            assert not result.labels and result.judgements
        assert next(watch).status == NOT_SERVING
        assert stub.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status == SERVING
        verifier.script = 1.0
        assert client.label(png(shade=99)).labels
        assert next(watch).status == SERVING
        watch.cancel()
        counted = s.metrics.registry.get_sample_value
        name = "secondlook_answers_total"
        assert counted(name, {"outcome": "unreachable"}) == verifier.calls - 1
        assert counted(name, {"outcome": "answered"}) == 1


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_is_served_as_v1_too(version):
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    asked = reflection_pb2.ServerReflectionRequest
    requests = [asked(list_services=""), asked(file_containing_symbol=path[1:].replace("/", "."))]
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        call = channel.stream_stream(
            path, asked.SerializeToString, reflection_pb2.ServerReflectionResponse.FromString
        )
        listed, described = call(iter(requests))
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, f"grpc.reflection.{version}.ServerReflection"} <= names
    (file,) = described.file_descriptor_response.file_descriptor_proto
    assert f"grpc.reflection.{version}".encode() in file


def test_reflection_lists_and_describes_the_service():
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, described = stub.ServerReflectionInfo(iter(requests))
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"secondlook.v1.LabelingService", "grpc.health.v1.Health"}
    proto, *_ = described.file_descriptor_response.file_descriptor_proto
    assert b"LabelStream" in proto


@pytest.mark.parametrize(
    ("symbol", "known"), [("Label", True), ("LabelStream", True), ("Nonsense", False), ("", False)]
)
def test_reflection_finds_a_method(symbol, known):
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{SERVICE}.{symbol}")
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([request]))
    wanted = "file_descriptor_response" if known else "error_response"
    assert answer.WhichOneof("message_response") == wanted


def test_stopping_says_so_refuses_the_new_and_finishes_the_accepted():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)

    async def main(engine):
        async with (
            Server(engine, DOG) as server,
            AsyncClient(server.address, retry=ONE_TRY) as client,
        ):
            accepted = asyncio.create_task(client.label(png(), name="accepted"))
            stream = client.stream(options=LiveOptions(server_pending=4))
            while not stream.connected:
                await asyncio.sleep(0.01)
            for _ in range(2):
                stream.send(png(), name="streamed")
            while engine.depth() < 3:
                await asyncio.sleep(0.01)
            watch = _watch(server.address)
            assert await anext(watch) == SERVING
            stop = asyncio.create_task(server.stop())
            assert await anext(watch) == NOT_SERVING
            with pytest.raises(errors.ShuttingDown) as caught:
                await client.label(png(), name="new")
            assert caught.value.reason == "shutting_down" and caught.value.retry_after_s
            assert not stop.done() and not accepted.done()
            gate.set()
            assert (await accepted).labels
            for _ in range(2):
                assert (await anext(stream)).result.name == "streamed"
            await stop
            await stream.close()
            await watch.aclose()
            with pytest.raises(errors.Unavailable):
                await client.label(png())

    engine = Engine(Pipeline(proposer, ScriptedVerifier()))
    asyncio.run(main(engine))
    engine.close()
    assert "new" not in proposer.seen


def test_clients_of_a_server_that_still_finishes_go_to_another_one():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)

    async def main(engine, address):
        async with Server(engine, DOG) as server:
            with FlakyLine(f"{address},{server.address}") as line:
                async with AsyncClient(line.address) as client:
                    accepted = asyncio.create_task(client.label(png(), name="accepted"))
                    while not engine.depth():
                        await asyncio.sleep(0.01)
                    stop = asyncio.create_task(server.stop())
                    assert (await client.label(png(shade=9), name="new")).labels
                    assert not stop.done() and not accepted.done()
                    gate.set()
                    assert (await accepted).labels
                    await stop

    engine = Engine(Pipeline(proposer, ScriptedVerifier()))
    with serving() as other:
        asyncio.run(main(engine, other.address))
    engine.close()
    assert (proposer.seen, other.proposer.seen) == (["accepted"], ["new"])


async def _watch(address):
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async for response in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE)):
            yield response.status


def test_what_is_not_finished_in_the_grace_is_cancelled():
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    with ThreadPoolExecutor(1) as pool:
        with serving(proposer, options=server_settings(grace_s=0.2)) as s:
            client = Client(s.address, retry=ONE_TRY)
            stuck = pool.submit(client.label, png(), timeout_s=20)
            assert proposer.started.wait(10)
            threading.Timer(0.8, gate.set).start()
        assert isinstance(stuck.exception(timeout=10), errors.SecondlookError)
        client.close()


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from fakes import ScriptedProposer, ScriptedVerifier
from serving import DOG
from secondlook.labeling.engine import Engine
from secondlook_client.errors import BadSetting
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.app import serve
from secondlook.server.json_logs import configure
configure("info")
engine = Engine(Pipeline(ScriptedProposer(delay_s=0.5), ScriptedVerifier()))
serve(engine, DOG, ready=lambda server: print(server.address, flush=True))
engine.close()
print("ended in order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_order(number):
    script = SCRIPT.format(tests=str(Path(__file__).parents[1] / "support"))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        with Client(address) as client, ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(client.label, png())
            time.sleep(0.2)
            process.send_signal(number)
            assert accepted.result(timeout=20).labels
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0 and out.strip() == "ended in order"
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines[0]["message"] == "serving" and lines[0]["address"] == address
    assert lines[-1]["message"] == "stopped"
    (call,) = [line for line in lines if line["message"] == "call"]
    assert (call["method"], call["reason"]) == ("Label", "ok") and call["ms"] > 400


def test_metrics_count_calls_batches_outcomes_and_frames():
    options = server_settings(metrics_port=0)
    with serving(options=options) as s, Client(s.address) as client:
        client.label(png())
        with pytest.raises(errors.BadImage):
            client.label(b"nothing")
        with client.stream() as stream:
            stream.send(png())
            stream.finish()
            assert len(list(stream)) == 1
        url = f"http://127.0.0.1:{s.server.metrics_port}/metrics"
        ends = time.monotonic() + 10
        while 'method="LabelStream"' not in (text := _get(url)):  # counted just after its last word
            assert time.monotonic() < ends
            time.sleep(0.02)
    for line in (
        'secondlook_calls_total{method="Label",reason="ok"} 1.0',
        'secondlook_calls_total{method="Label",reason="bad_image"} 1.0',
        'secondlook_calls_total{method="LabelStream",reason="ok"} 1.0',
        'secondlook_call_seconds_count{method="Label"} 2.0',
        'secondlook_batch_size_count{stage="propose"} 2.0',
        'secondlook_batch_size_count{stage="verify"} 2.0',
        'secondlook_judgements_total{outcome="accept"} 2.0',
        'secondlook_frames_total{answer="labelled"} 1.0',
        "secondlook_images_in_flight 0.0",
    ):
        assert line in text
    with pytest.raises(OSError):
        _get(url)


def _get(url):
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()


def test_metrics_are_off_unless_asked_for_and_a_taken_port_is_told():
    with serving() as s:
        assert s.server.metrics_port is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = server_settings(metrics_port=taken.getsockname()[1])
        with pytest.raises(BadSetting, match="choose another metrics port"):
            serving(options=options).__enter__()


def test_it_listens_on_loopback_unless_told_otherwise(caplog):
    caplog.set_level(logging.WARNING)
    with serving() as s:
        assert s.address.startswith("127.0.0.1:")
    assert not caplog.records
    with serving(options=server_settings(host="0.0.0.0", insecure=True)):
        assert any("--insecure" in record.message for record in caplog.records)


def test_each_error_of_the_service_travels_as_its_own_status():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SecondlookError)
    ]
    assert len(kinds) > 12
    box = [((0, 0, 9, 9), {"dog": 0.9})]

    def script(image, phrases):
        kind = getattr(errors, image.name, None)
        if kind is not None:
            raise kind("cause; way out")
        return box

    with serving(ScriptedProposer(script)) as s, grpc.insecure_channel(s.address) as channel:
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        for kind in kinds:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Label(pb.LabelRequest(image=png(), name=kind.__name__), timeout=10)
            assert caught.value.code().name == kind.status, kind
            assert caught.value.details() == "cause; way out"
            trailing = dict(caught.value.trailing_metadata())
            assert trailing["secondlook-reason"] == kind("x").reason
            typed = errors.from_status(
                caught.value.code().name, caught.value.details(), trailing, s.address
            )
            assert typed.reason == kind("x").reason
            assert type(typed) is not errors.SecondlookError


def test_log_lines_are_json_whatever_is_in_them():
    record = logging.makeLogRecord(
        {"name": "n", "levelname": "INFO", "msg": "a\n%s", "args": ("ü",), "thing": object()}
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert read["message"] == "a\nü" and "object" in read["thing"] and read["level"] == "info"
