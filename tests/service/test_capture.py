"""Capture mode: what was acknowledged is in the store once, whatever broke in between."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fakes import ScriptedProposer
from flaky_line import FlakyLine
from serving import png, server_settings, serving
from sqlalchemy import select, update
from stored import stored_frames

from secondlook.store import Store
from secondlook.store.ingest import CapturedFrame, CaptureIngest
from secondlook.store.schema import images, runs
from secondlook_client import Client, RetryPolicy, SpoolLimits
from secondlook_client.errors import (
    DeadlineExceeded,
    InvalidInput,
    SecondlookError,
    StoreUnavailable,
)
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.spool import MAX_SEQUENCE
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

QUICK = RetryPolicy(first_s=0.02, longest_s=0.1)


def opening(stream_id: str = "gate", classes: tuple[str, ...] = ("dog",)) -> pb.LabelStreamRequest:
    ontology = pb.Ontology(classes=[pb.ClassSpec(name=name) for name in classes])
    return pb.LabelStreamRequest(
        opening=pb.StreamOpening(
            stream_id=stream_id,
            mode=pb.STREAM_MODE_CAPTURE,
            ontology=ontology if classes else None,
        )
    )


def frame(sequence: int, image: bytes | None = None, name: str = "") -> pb.LabelStreamRequest:
    image = png(shade=sequence % 256) if image is None else image
    return pb.LabelStreamRequest(frame=pb.StreamFrame(sequence=sequence, image=image, name=name))


def speak(address: str, *requests: pb.LabelStreamRequest) -> list[pb.LabelStreamResponse]:
    with grpc.insecure_channel(address) as channel:
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        return list(stub.LabelStream(iter(requests), timeout=30))


def told(responses: list[pb.LabelStreamResponse]) -> list[tuple[int, str]]:
    answers = [response.answer for response in responses[1:]]
    kinds = {"stored": lambda a: "again" if a.stored.already else "stored"}
    return [
        (a.sequence, kinds.get(a.WhichOneof("answer"), lambda a: a.failure.reason)(a))
        for a in answers
    ]


def kept(store: Store, stream_id: str = "gate") -> dict[int, bytes]:
    """The bytes of every frame in the store, by number."""
    rows = stored_frames(store, stream_id)
    by_number = {key: content for key, _, content in rows}
    assert len(by_number) == len(rows)
    return by_number


def test_frames_are_stored_in_order_and_once(store: Store) -> None:
    with serving(store=store) as s:
        first = speak(s.address, opening(), frame(3), frame(4, name="four"), frame(9))
        assert not first[0].opened.HasField("resume_after")
        assert told(first) == [(3, "stored"), (4, "stored"), (9, "stored")]
        again = speak(s.address, opening(), frame(4), frame(9), frame(10))
        assert again[0].opened.resume_after == 9
        assert told(again) == [(4, "again"), (9, "again"), (10, "stored")]
    assert kept(store) == {n: png(shade=n) for n in (3, 4, 9, 10)}


def test_a_number_names_one_frame_for_ever(store: Store) -> None:
    with serving(store=store) as s:
        speak(s.address, opening(), frame(1))
        found = speak(s.address, opening(), frame(1, png(shade=77)), frame(2))
        assert told(found) == [(1, "sequence_taken"), (2, "stored")]
        assert "number frames upwards" in found[1].answer.failure.message
    assert kept(store)[1] == png(shade=1)


@pytest.mark.parametrize("strange", [2**44, 2**48, 2**63 - 1])
def test_a_number_far_above_all_others_is_refused_alone(store: Store, strange: int) -> None:
    with serving(store=store) as s:
        found = speak(s.address, opening(), frame(1), frame(strange, b"x"), frame(2))
        assert told(found) == [(1, "stored"), (strange, "bad_sequence"), (2, "stored")]
        assert str(strange) in found[2].answer.failure.message
        assert speak(s.address, opening())[0].opened.resume_after == 2
    assert set(kept(store)) == {1, 2}


def poison(store: Store, number: int) -> None:
    """Store a frame as earlier versions did, whatever its number."""
    ingest = CaptureIngest(store.database, store.blobs, store.queue)
    opened = ingest.open("gate", None, lambda: (Ontology((ClassSpec("dog"),)), {}))
    ingest.add(opened, [CapturedFrame(number, "", b"a stranger's")])
    ingest.close()


def test_frames_do_not_end_up_in_a_stream_that_has_the_number_of_a_lost_one(store: Store) -> None:
    ingest = CaptureIngest(store.database, store.blobs, store.queue)
    opened = ingest.open("gate", None, lambda: (Ontology((ClassSpec("dog"),)), {}))
    with store.database.writing() as connection:
        connection.execute(update(runs).values(name="another"))
    with pytest.raises(StoreUnavailable, match="opened again"):
        ingest.add(opened, [CapturedFrame(1, "", b"bytes")])
    ingest.close()


@pytest.mark.parametrize("number", [2**63 - 1, 2**48, 2**48 - 1, 2**46 + 1])
def test_a_stream_that_was_poisoned_goes_on(store: Store, tmp_path: Path, number: int) -> None:
    poison(store, number)
    with serving(store=store) as s, Client(s.address, retry=QUICK) as client:
        opened = speak(s.address, opening())[0].opened
        assert opened.HasField("resume_after") == (number <= MAX_SEQUENCE)
        for start in range(2):
            with client.capture("gate", spool=tmp_path, classes=["dog"]) as capture:
                for n in range(3):
                    capture.send(png(shade=3 * start + n))
                capture.flush(timeout_s=30)
                assert (capture.state.stored, capture.state.refused) == (3, 0)
    by_number = kept(store)
    assert by_number.pop(number) == b"a stranger's"
    assert [by_number[key] for key in sorted(by_number)] == [png(shade=n) for n in range(6)]


def test_frames_whose_numbers_a_stranger_took_are_stored_under_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 10**9)  # numbers from 1,000 on
    with (
        serving(store=store) as s,
        Client(s.address, retry=QUICK) as client,
        client.capture("gate", spool=tmp_path, classes=["dog"]) as capture,
    ):
        capture.send(png(shade=1))
        capture.flush(timeout_s=30)
        speak(s.address, opening(), *(frame(n, b"x") for n in range(1001, 1030)))
        for shade in (2, 3, 4):
            capture.send(png(shade=shade))
        capture.flush(timeout_s=30)
        assert (capture.state.stored, capture.state.refused) == (4, 0)
    images_kept = [data for data in kept(store).values() if data != b"x"]
    assert sorted(images_kept) == sorted(png(shade=n) for n in (1, 2, 3, 4))


def test_a_device_with_a_clock_far_ahead_loses_no_frame(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(store=store) as s, Client(s.address, retry=QUICK) as client:
        speak(s.address, opening(), frame(7))
        monkeypatch.setattr("time.time_ns", lambda: 2**45 * 10**6)  # the year 3084
        with client.capture("gate", spool=tmp_path, classes=["dog"]) as capture:
            for n in range(5):
                capture.send(png(shade=10 + n))
            capture.flush(timeout_s=30)
            capture.send(png(shade=15))
            capture.flush(timeout_s=30)
            assert (capture.state.stored, capture.state.refused) == (6, 0)
    by_number = kept(store)
    assert sorted(by_number) == [7, *range(8, 14)]
    assert [by_number[n] for n in range(8, 14)] == [png(shade=10 + n) for n in range(6)]


def test_the_same_image_in_two_frames_and_two_streams_is_two_items(store: Store) -> None:
    image = png(shade=5)
    with serving(store=store) as s:
        speak(s.address, opening("a"), frame(1, image), frame(2, image))
        speak(s.address, opening("b"), frame(1, image))
    assert kept(store, "a") == {1: image, 2: image}
    assert kept(store, "b") == {1: image}
    with store.database.reading() as connection:
        assert len(connection.execute(select(images.c.id)).all()) == 1


def test_what_cannot_be_kept_fails_alone(store: Store) -> None:
    options = server_settings(max_image_bytes=2000)
    with serving(store=store, options=options) as s:
        found = speak(
            s.address, opening(), frame(1), frame(2, b"\xff\xd8\xff" + bytes(3000)), frame(3)
        )
    assert told(found) == [(1, "stored"), (2, "image_too_large"), (3, "stored")]


@pytest.mark.parametrize(
    ("requests", "status", "words"),
    [
        ((opening(""),), "INVALID_ARGUMENT", "needs a stream_id"),
        ((opening(classes=()),), "INVALID_ARGUMENT", "give the classes to label it with"),
        ((opening(), frame(5), frame(5)), "INVALID_ARGUMENT", "numbered above 5"),
        ((opening(), opening()), "INVALID_ARGUMENT", "opened once"),
    ],
)
def test_what_breaks_the_protocol_is_told(
    store: Store, requests: tuple[pb.LabelStreamRequest, ...], status: str, words: str
) -> None:
    with serving(store=store, ontology=None) as s, pytest.raises(grpc.RpcError) as failed:
        speak(s.address, *requests)
    assert failed.value.code().name == status
    assert words in failed.value.details()


def test_frames_before_a_broken_message_are_kept(store: Store) -> None:
    with serving(store=store) as s, pytest.raises(grpc.RpcError, match="numbered above 2"):
        speak(s.address, opening(), frame(1), frame(2), frame(2))
    assert set(kept(store)) == {1, 2}


def test_a_stream_belongs_to_its_classes(store: Store) -> None:
    with serving(store=store, ontology=None) as s:
        speak(s.address, opening(), frame(1))
        assert told(speak(s.address, opening(classes=()), frame(2))) == [(2, "stored")]
        with pytest.raises(grpc.RpcError, match="begun with other classes"):
            speak(s.address, opening(classes=("cat",)), frame(3))


def test_a_cancelled_stream_takes_no_more(store: Store) -> None:
    with serving(store=store) as s:
        speak(s.address, opening(), frame(1))
        store.queue.cancel("gate")
        with pytest.raises(grpc.RpcError) as refused:
            speak(s.address, opening(), frame(2))
    assert "was cancelled" in refused.value.details() and kept(store).keys() == {1}


def test_a_stop_is_no_end_of_the_stream(store: Store) -> None:
    stopped = threading.Event()

    def endless() -> Iterator[pb.LabelStreamRequest]:
        yield from (opening(), frame(1))
        stopped.wait(30)

    with serving(store=store) as s:
        stub = labeling_pb2_grpc.LabelingServiceStub(grpc.insecure_channel(s.address))
        responses = stub.LabelStream(endless(), timeout=30)
        assert told([next(responses), next(responses)]) == [(1, "stored")]
    with pytest.raises(grpc.RpcError) as ended:
        list(responses)
    stopped.set()
    assert dict(ended.value.trailing_metadata())["secondlook-reason"] == "shutting_down"


def test_a_server_without_a_store_says_how_to_get_one() -> None:
    with serving() as s, pytest.raises(grpc.RpcError, match="--data") as failed:
        speak(s.address, opening(), frame(1))
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_frames_are_labelled_behind_the_acknowledgement(store: Store) -> None:
    gate = threading.Event()
    with serving(ScriptedProposer(gate=gate), store=store) as s:
        found = speak(s.address, opening(), frame(1, b"no image at all"), frame(2), frame(3))
        assert told(found) == [(1, "stored"), (2, "stored"), (3, "stored")]
        assert store.queue.get("gate").done == 0
        gate.set()
        until(lambda: store.queue.get("gate").waiting == 0)
        job = store.queue.get("gate")
        assert (job.done, job.failed, job.closed) == (2, 1, False)
        assert told(speak(s.address, opening(), frame(4))) == [(4, "stored")]
        until(lambda: store.queue.get("gate").done == 3)
        (failure,) = store.queue.failures(job.run_id)
        assert (failure.key, failure.reason) == (1, "bad_image")


def test_a_bad_network_loses_nothing_and_doubles_nothing(store: Store, tmp_path: Path) -> None:
    rng = random.Random(11)
    sent: dict[int, bytes] = {}
    with (
        serving(store=store) as s,
        FlakyLine(s.address) as line,
        Client(line.address, retry=QUICK) as client,
        client.capture("gate", spool=tmp_path / "spool", classes=["dog"]) as capture,
    ):
        for n in range(150):
            image = png(shade=n % 256, width=20 + n)
            number = capture.send(image)
            assert number is not None
            sent[number] = image
            if rng.random() < 0.15:
                line.cut()
        capture.flush(timeout_s=60)
        state = capture.state
    assert kept(store) == sent
    assert (state.pending, state.refused, state.dropped) == (0, 0, 0)
    assert state.stored >= len(sent)
    assert list((tmp_path / "spool").iterdir()) == []


def test_frames_wait_in_the_spool_for_a_server(store: Store, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with serving(store=store) as gone:
        address = gone.address
    with (
        Client(address, retry=QUICK) as client,
        client.capture("gate", spool=spool, classes=["dog"]) as capture,
    ):
        numbers = [capture.send(png(shade=n)) for n in range(5)]
        with pytest.raises(SecondlookError, match="no secondlook server answers"):
            capture.flush(timeout_s=0.3)
        assert capture.state.pending == 5
    port = int(address.rsplit(":", 1)[1])
    back = serving(store=store, ontology=None, options=server_settings(port=port))
    with back, Client(address) as client:
        with client.capture("gate", spool=spool) as capture:  # the next start of the device
            numbers.append(capture.send(png(shade=5)))
            with pytest.raises(SecondlookError, match="give the classes to label it with"):
                capture.flush(timeout_s=0.3)
        with client.capture("gate", spool=spool, classes=["dog"]) as capture:
            capture.flush(timeout_s=30)
    assert sorted(kept(store)) == numbers


def test_what_the_server_never_takes_is_reported_and_the_rest_goes_on(
    store: Store, tmp_path: Path
) -> None:
    options = server_settings(max_image_bytes=2000)
    refused: list[tuple[int, str]] = []
    with (
        serving(store=store, options=options) as s,
        Client(s.address, retry=QUICK) as client,
        client.capture(
            "gate",
            spool=tmp_path / "spool",
            classes=["dog"],
            on_refused=lambda number, why: refused.append((number, why.reason)),
        ) as capture,
    ):
        capture.send(png())
        large = capture.send(bytes(3000))
        huge = capture.send(bytes(6 * 2**20))
        capture.send(png(shade=3))
        capture.flush(timeout_s=30)
        assert capture.state.refused == 2
    assert sorted(refused) == [(large, "image_too_large"), (huge, "message_too_large")]
    assert len(kept(store)) == 2


def test_a_device_says_what_is_wrong_instead_of_dying(tmp_path: Path) -> None:
    with serving() as s, Client(s.address, retry=QUICK) as client:
        with pytest.raises(InvalidInput, match="stream_id"):
            client.capture("", spool=tmp_path)
        with client.capture("gate", spool=tmp_path, limits=SpoolLimits(sync=False)) as capture:
            capture.send(png())
            with pytest.raises(SecondlookError, match="--data"):
                capture.flush(timeout_s=0.3)
            assert "--data" in str(capture.state.problem)
            assert capture.state.pending == 1


def test_flush_tells_how_many_are_on_their_way(store: Store, tmp_path: Path) -> None:
    class Slow:
        def put(self, content: bytes) -> str:
            time.sleep(0.5)
            return real.put(content)

    real = store.blobs
    store.blobs = Slow()  # type: ignore[assignment]  # a disk that takes its time
    with (
        serving(store=store) as s,
        Client(s.address) as client,
        client.capture("gate", spool=tmp_path / "spool", classes=["dog"]) as capture,
    ):
        capture.send(png())
        with pytest.raises(DeadlineExceeded, match="1 frames are still on their way"):
            capture.flush(timeout_s=0.2)
        capture.flush(timeout_s=20)
    store.blobs = real
    assert len(kept(store)) == 1


def until(true: object, timeout_s: float = 20.0) -> None:
    ends = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.02)
