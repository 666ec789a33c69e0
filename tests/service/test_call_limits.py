"""Calls, messages and connections that are left half done take no place from others."""

import io
import time
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image as PILImage
from raw_calls import (
    HEALTH_CHECK,
    HEALTH_WATCH,
    LABEL,
    LABEL_STREAM,
    RawCall,
    is_closed,
    silent_connection,
)
from serving import png, server_settings, serving, wait_until

from secondlook.config.settings import BatchingSettings
from secondlook.server import call_limits, connections
from secondlook.server.app import EXTRA_CALLS
from secondlook_client import Client

CODES = {code.value[0]: code for code in grpc.StatusCode}
SMALL_IMAGES = {"max_image_bytes": 2**20}
"""With the rest of a request, a message has at most 5 MB then."""


def noise(width, height):
    """An image of about three bytes a pixel, encoded."""
    out = io.BytesIO()
    PILImage.effect_noise((width, height), 100).convert("RGB").save(out, "BMP")
    return out.getvalue()


def healthy(address):
    """Whether a new connection is served within 10 s: at the limit one may be turned away first."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True
        )
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("path", [LABEL, LABEL_STREAM, HEALTH_CHECK])
def test_calls_that_never_send_their_message_make_room_for_others(path):
    with serving(limits=BatchingSettings(max_in_flight=1)) as s, ExitStack() as stack:
        for _ in range(EXTRA_CALLS + 150):
            stack.enter_context(RawCall(s.address, path))
        assert healthy(s.address)
        with Client(s.address) as client:
            assert client.label(png()).labels
            with client.stream() as stream:
                stream.send(png())
                stream.finish()
                assert [answer.result.labels for answer in stream]


def test_a_call_whose_message_does_not_come_ends_after_its_time():
    with (
        serving(options=server_settings(receive_timeout_s=0.3)) as s,
        RawCall(s.address, LABEL) as nothing,
        RawCall(s.address, LABEL) as dripping,
        RawCall(s.address, LABEL_STREAM) as unopened,
    ):
        dripping.announce(1000)
        dripping.send(10)
        for call in (nothing, dripping, unopened):
            assert CODES[call.status()] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_may_wait_for_its_next_message_as_long_as_it_likes():
    options = server_settings(receive_timeout_s=0.2)
    with serving(options=options) as s, Client(s.address) as client, client.stream() as stream:
        with RawCall(s.address, LABEL) as other:  # its end shows that the time has passed
            assert other.status()
        stream.send(png())
        stream.finish()
        assert [answer.result.labels for answer in stream]


def test_unfinished_messages_are_bounded_in_bytes():
    options = server_settings(max_request_bytes=2**20, **SMALL_IMAGES)
    with serving(options=options) as s, ExitStack() as stack:
        most = s.server._limits._max_unfinished
        calls = [stack.enter_context(RawCall(s.address, LABEL)) for _ in range(4)]
        for call in calls:
            call.announce(4 * 2**20)
            call.send(3 * 2**20)
        wait_until(lambda: sum(call.ended() for call in calls) >= 2)
        wait_until(lambda: 2**20 < s.server._limits.unfinished_bytes() <= most)
        ended = {CODES[call.status()] for call in calls if call.ended()}
        assert ended == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        with Client(s.address) as client:
            assert client.label(png(400, 300)).labels
    assert s.server._limits.request_bytes.used == 0


def test_frames_of_a_stream_count_once_they_are_not_whole():
    options = server_settings(max_request_bytes=2**20, **SMALL_IMAGES)
    with serving(options=options) as s, ExitStack() as stack:
        calls = [stack.enter_context(RawCall(s.address, LABEL_STREAM)) for _ in range(4)]
        for call in calls:
            call.announce(4 * 2**20)
            call.send(3 * 2**20)
        wait_until(lambda: sum(call.ended() for call in calls) >= 2)
        assert s.server._limits.unfinished_bytes() <= s.server._limits._max_unfinished


def test_large_messages_that_arrive_whole_are_not_taken_for_unfinished_ones():
    options = server_settings(max_request_bytes=2**20, **SMALL_IMAGES)
    big = noise(500, 500)
    with serving(options=options) as s, Client(s.address) as client, client.stream():
        for _ in range(12):  # 11 MB in all, on a connection with a stream that stays open
            assert client.label(big).labels
        assert s.server._limits.unfinished_bytes() < 2**20


def test_health_watchers_are_bounded_and_checks_go_on():
    with serving() as s, ExitStack() as stack:
        watchers = [stack.enter_context(RawCall(s.address, HEALTH_WATCH)) for _ in range(40)]
        for watcher in watchers:
            watcher.send_whole(b"")
        wait_until(lambda: sum(watcher.ended() for watcher in watchers) == 40 - 32)
        refused = [watcher for watcher in watchers if watcher.ended()]
        assert {CODES[call.status()] for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert healthy(s.address)


def test_silent_and_idle_connections_make_room_and_the_log_tells_once(caplog, monkeypatch):
    monkeypatch.setattr(call_limits, "SCAN_S", 0.1)
    with serving(options=server_settings(max_connections=16)) as s, Client(s.address) as client:
        assert client.label(png()).labels
        silent = [silent_connection(s.address) for _ in range(60)]
        wait_until(lambda: sum(map(is_closed, silent)) >= 60 - 12)
        assert healthy(s.address)
        assert client.label(png(shade=9)).labels
        for connection in silent:
            connection.close()
    assert len([1 for record in caplog.records if "connections are open" in record.message]) == 1


def test_connections_that_say_nothing_are_closed_after_a_while(monkeypatch):
    monkeypatch.setattr("secondlook.server.app.HANDSHAKE_S", 0.3)
    with serving() as s:
        connection = silent_connection(s.address)
        began = time.monotonic()
        wait_until(lambda: is_closed(connection))
        assert time.monotonic() - began > 0.2
        connection.close()


def test_descriptors_are_kept_for_what_is_not_a_connection():
    assert connections.connection_budget(1000, 65_536) == 1000
    assert connections.connection_budget(1000, 1024) == 1024 - connections.RESERVED_DESCRIPTORS
    assert connections.connection_budget(1000, 64) == connections.MIN_CONNECTIONS


def test_honest_slow_senders_are_served_while_others_fill_the_places():
    with serving(limits=BatchingSettings(max_in_flight=1)) as s, ExitStack() as stack:
        slow = stack.enter_context(RawCall(s.address, LABEL))
        slow.announce(4_000_000)
        sent = slow.send(100_000)
        for _ in range(EXTRA_CALLS + 40):
            stack.enter_context(RawCall(s.address, LABEL))
            sent += slow.send(5_000)
        time.sleep(2 * call_limits.WATCH_S)
        for _ in range(20):
            stack.enter_context(RawCall(s.address, LABEL))
        assert slow.status(0.2) is None, (
            "the one that sends was ended in place of those that do not"
        )
    assert sent > 100_000
