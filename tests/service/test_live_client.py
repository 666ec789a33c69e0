"""The client's live stream: each frame reported once, whatever happens to server and line."""

import asyncio
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest
from fakes import ScriptedProposer
from flaky_line import FlakyLine
from serving import png, server_settings, serving

from secondlook.config.settings import BatchingSettings
from secondlook.server.app import max_message_bytes
from secondlook_client import AsyncClient, Client, LiveOptions, RetryPolicy, errors

QUICK = RetryPolicy(first_s=0.02, longest_s=0.2, unavailable_s=20)
WIDE = LiveOptions(max_pending=100, max_in_flight=8, server_pending=32)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """A server that stops does not wait for the streams that are open."""
    monkeypatch.setattr("secondlook.server.app.CLOSE_S", 0.05)


def drain(stream):
    return list(stream)


def kind(found):
    """Which of the three a report is; it must be exactly one."""
    told = [k for k in ("result", "error", "dropped") if getattr(found, k)]
    assert len(told) == 1, found
    return told[0]


def test_frames_come_back_with_their_keys():
    with serving() as s, Client(s.address) as client, client.stream(options=WIDE) as stream:
        numbers = [stream.send(png(), key=f"k{i}", name=f"n{i}") for i in range(20)]
        stream.finish()
        found = drain(stream)
    assert sorted(f.sequence for f in found) == numbers == list(range(20))
    assert all(kind(f) == "result" and f.key == f"k{f.sequence}" for f in found)
    assert all(f.result.name == f"n{f.sequence}" for f in found)


def frames(count):
    """Arrays of different shades."""
    return [np.full((30, 40, 3), shade, np.uint8) for shade in range(count)]


def test_label_stream_reports_every_frame_with_itself_as_the_key():
    sent = frames(20)
    with serving() as s, Client(s.address) as client:
        found = list(client.label_stream(iter(sent), options=WIDE))
    assert sorted(f.sequence for f in found) == list(range(20))
    assert all(kind(f) == "result" and f.key is sent[f.sequence] for f in found)


def test_label_stream_shows_results_while_the_camera_runs():
    def camera():
        yield from frames(2)
        deadline = time.monotonic() + 20
        while not shown and time.monotonic() < deadline:
            time.sleep(0.01)
            yield frames(1)[0]

    shown = []
    with serving() as s, Client(s.address) as client:
        for found in client.label_stream(camera()):
            if found.result:
                shown.append(found.sequence)
    assert shown, "else the camera would have stopped by the clock, and nothing been shown"


def test_leaving_label_stream_hangs_up_and_a_broken_camera_is_told():
    def camera():
        yield frames(1)[0]
        raise OSError("the camera is gone")

    with serving() as s, Client(s.address) as client:
        for _ in client.label_stream(iter(frames(50)), options=WIDE):
            break
        with pytest.raises(OSError, match="the camera is gone"):
            list(client.label_stream(camera()))
        names = {thread.name for thread in threading.enumerate()}
    assert "secondlook-stream" not in names


def test_the_async_label_stream_does_the_same():
    async def camera():
        for frame in frames(12):
            yield frame
            await asyncio.sleep(0.001)

    async def run(address):
        async with AsyncClient(address) as client:
            for source in (camera(), iter(frames(12))):
                found = [f async for f in client.label_stream(source, options=WIDE)]
                assert sorted(f.sequence for f in found) == list(range(12))
                assert all(kind(f) == "result" for f in found)

    with serving() as s:
        asyncio.run(run(s.address))


def test_a_bad_frame_fails_alone():
    with serving() as s, Client(s.address) as client, client.stream(options=WIDE) as stream:
        for data in (png(), b"nothing", png()):
            stream.send(data)
        stream.finish()
        found = {f.sequence: f for f in drain(stream)}
    assert [kind(found[n]) for n in range(3)] == ["result", "error", "result"]
    assert isinstance(found[1].error, errors.BadImage) and found[1].error.reason == "bad_image"


def test_sending_never_waits_and_the_newest_win():
    gate = threading.Event()
    options = LiveOptions(max_pending=2, max_in_flight=2, server_pending=1)
    with (
        serving(ScriptedProposer(gate=gate)) as s,
        Client(s.address) as client,
        client.stream(options=options) as stream,
    ):
        image = png()
        slowest = 0.0
        for _ in range(500):
            started = time.perf_counter()
            stream.send(image)
            slowest = max(slowest, time.perf_counter() - started)
        assert slowest < 0.2  # the machine may be busy; a wait for the gate would be for ever
        gate.set()
        stream.finish()
        found = drain(stream)
    assert sorted(f.sequence for f in found) == list(range(500))
    assert {f.sequence for f in found if kind(f) == "result"} >= {498, 499}
    assert {f.dropped for f in found if f.dropped} <= {"superseded", "not_connected"}


def test_a_stream_that_nobody_reads_says_so():
    gate = threading.Event()
    options = LiveOptions(max_unread=10)
    with (
        serving(ScriptedProposer(gate=gate)) as s,
        Client(s.address) as client,
        client.stream(options=options) as stream,
    ):
        with pytest.raises(errors.ResultsUnread, match="ready"):
            for _ in range(100):
                stream.send(png())
        assert len(stream.ready()) >= 10
        stream.send(png())
        gate.set()


def test_a_refused_opening_ends_the_stream_with_its_error():
    with (
        serving() as s,
        FlakyLine("127.0.0.1:1") as line,
        Client(line.address, retry=QUICK) as client,
        client.stream(classes=["a.b"]) as stream,
    ):
        stream.send(png())
        line.target = s.address
        assert isinstance(next(stream).error, errors.BadOntology)
        with pytest.raises(errors.BadOntology):
            next(stream)
        with pytest.raises(errors.BadOntology):
            stream.send(png())


def test_closing_reports_what_was_left():
    gate = threading.Event()
    with serving(ScriptedProposer(gate=gate)) as s, Client(s.address) as client:
        stream = client.stream(options=WIDE)
        for _ in range(5):
            stream.send(png())
        assert s.proposer.started.wait(10)
        stream.close()
        found = drain(stream)
        assert sorted(f.sequence for f in found) == list(range(5))
        assert {f.dropped for f in found} == {"closed"}
        with pytest.raises(errors.Cancelled):
            stream.send(png())
        gate.set()


def test_an_oversize_frame_fails_alone():
    options = server_settings(max_image_bytes=10_000)
    huge = b"x" * (max_message_bytes(options.images) + 1)
    with (
        serving(options=options) as s,
        Client(s.address, retry=QUICK) as client,
        client.stream(options=WIDE) as stream,
    ):
        for data in (png(), huge, png()):
            stream.send(data)
        stream.finish()
        found = {f.sequence: f for f in drain(stream)}
    assert [kind(found[n]) for n in range(3)] == ["result", "error", "result"]
    assert isinstance(found[1].error, errors.MessageTooLarge)


def test_the_stream_outlives_a_restart_of_the_server():
    with FlakyLine("127.0.0.1:1") as line, Client(line.address, retry=QUICK) as client:
        stream = client.stream(options=LiveOptions(max_pending=4, server_pending=4))
        found, sent = [], 0
        for life in range(3):
            with serving(ScriptedProposer(delay_s=0.002)) as s:
                line.target = s.address
                ends, answered = time.monotonic() + 20, 0
                while answered < 10:
                    assert time.monotonic() < ends, f"no answers in life {life}"
                    stream.send(png(), key=life)
                    sent += 1
                    time.sleep(0.005)
                    new = stream.ready()
                    answered += sum(f.result is not None and f.key == life for f in new)
                    found += new
        with serving() as s:
            line.target = s.address
            stream.finish()
            found += drain(stream)
        stream.close()
    assert Counter(f.sequence for f in found) == Counter(range(sent))
    assert {kind(f) for f in found} <= {"result", "dropped"}


@pytest.mark.parametrize("seed", range(4))
def test_a_line_that_is_cut_at_random_loses_no_report(seed):
    rng = random.Random(seed)
    with (
        serving(ScriptedProposer(delay_s=0.002)) as s,
        FlakyLine(s.address) as line,
        Client(line.address, retry=QUICK) as client,
        client.stream(options=LiveOptions(max_pending=3)) as stream,
    ):
        found = []
        for _ in range(150):
            stream.send(png())
            found += stream.ready()
            if rng.random() < 0.04:
                line.cut()
            time.sleep(rng.random() * 0.01)
        stream.finish()
        found += drain(stream)
    assert Counter(f.sequence for f in found) == Counter(range(150))
    assert max(found, key=lambda f: f.sequence).result, "the newest was not cut off twice"
    assert not any(f.error for f in found)


def test_finishing_without_a_server_ends_after_the_patience():
    patience = RetryPolicy(first_s=0.02, unavailable_s=0.3)
    with Client("127.0.0.1:1", retry=patience) as client, client.stream() as stream:
        assert not stream.connected
        for _ in range(5):
            stream.send(png())
        assert [f.dropped for f in stream.ready()] == ["not_connected"] * 3
        stream.finish()
        left = [next(stream), next(stream)]
        assert all(isinstance(f.error, errors.Unavailable) for f in left)
        with pytest.raises(errors.Unavailable):
            next(stream)


def test_a_frame_waits_for_the_server_however_often_the_line_fails():
    with (
        FlakyLine("127.0.0.1:1") as line,
        Client(line.address, retry=QUICK) as client,
        client.stream() as stream,
    ):
        stream.send(png())
        time.sleep(0.4)  # several tries
        assert not stream.connected and stream.ready() == []
        with serving() as s:
            line.target = s.address
            assert next(stream).result
            assert stream.connected


def test_the_async_stream_does_the_same():
    async def run(address, line):
        rng = random.Random(5)
        async with (
            AsyncClient(address, retry=QUICK) as client,
            client.stream(options=LiveOptions(max_pending=3)) as stream,
        ):
            found = []
            for n in range(150):
                stream.send(b"nothing" if n == 149 else png(), key=n)
                found += stream.ready()
                if rng.random() < 0.04:
                    line.cut()
                await asyncio.sleep(rng.random() * 0.01)
            stream.finish()
            found += [f async for f in stream]
        assert Counter(f.sequence for f in found) == Counter(range(150))
        assert any(kind(f) == "result" for f in found)
        assert [f.key for f in found if f.error] == [149]

    limits = BatchingSettings(batching_window_ms=1)
    with serving(ScriptedProposer(delay_s=0.002), limits=limits) as s, FlakyLine(s.address) as line:
        asyncio.run(run(line.address, line))


def test_the_async_stream_reports_refusals_and_leftovers():
    async def run(address):
        async with AsyncClient(address, retry=QUICK) as client:
            async with client.stream(classes=[]) as refused:
                try:
                    refused.send(png())
                except errors.BadOntology:
                    pass  # the refusal was there before the frame
                else:
                    assert isinstance((await anext(refused)).error, errors.BadOntology)
                with pytest.raises(errors.BadOntology):
                    await anext(refused)
            stream = client.stream()
            stream.send(png())
            await stream.close()
            assert [f.dropped async for f in stream] == ["closed"]
            with pytest.raises(errors.Cancelled):
                stream.send(png())

    with serving() as s:
        asyncio.run(run(s.address))


def test_a_stream_ends_with_its_client():
    with serving() as s:
        client = Client(s.address, retry=QUICK)
        stream = client.stream()
        stream.send(png())
        assert next(stream).result
        client.close()
        with pytest.raises(errors.Cancelled):
            list(stream)
        with pytest.raises(errors.Cancelled):
            stream.send(png())
        stream.close()


def test_an_async_stream_ends_with_its_client():
    async def run(address):
        client = AsyncClient(address, retry=QUICK)
        stream = client.stream()
        stream.send(png())
        assert (await anext(stream)).result
        await client.close()
        with pytest.raises(errors.Cancelled):
            await anext(stream)
        await stream.close()

    with serving() as s:
        asyncio.run(run(s.address))
