"""``LabelStream`` as the protocol says it, spoken by a bare stub: each frame answered once."""

import random
import threading
import time
from collections import Counter

import grpc
import pytest
from fakes import ScriptedProposer
from serving import png, serving

from secondlook.config.settings import BatchingSettings
from secondlook.server.streams import CONCURRENT_FRAMES
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

OPENING = pb.LabelStreamRequest(opening=pb.StreamOpening(mode=pb.STREAM_MODE_LIVE))


def frame(sequence, image=None, name=""):
    image = png() if image is None else image
    return pb.LabelStreamRequest(frame=pb.StreamFrame(sequence=sequence, image=image, name=name))


def opening(**fields):
    return pb.LabelStreamRequest(opening=pb.StreamOpening(**fields))


def speak(address, requests, timeout=30):
    """All responses to ``requests``; raises the RpcError that ended the stream."""
    with grpc.insecure_channel(address) as channel:
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        return list(stub.LabelStream(iter(requests), timeout=timeout))


def answers(responses):
    assert responses[0].HasField("opened")
    assert all(response.HasField("answer") for response in responses[1:])
    return [response.answer for response in responses[1:]]


@pytest.mark.parametrize("seed", range(8))
def test_random_bursts_are_answered_exactly_once(seed):
    rng = random.Random(seed)
    bad = {n for n in range(80) if rng.random() < 0.15}
    pending = rng.choice([1, 2, 5, 32])

    def requests():
        yield opening(max_pending=pending)
        number = 0
        for n in range(80):
            number += rng.choice([1, 1, 1, 7])
            numbers[number] = n
            yield frame(number, b"not an image" if n in bad else None, name=str(n))
            if rng.random() < 0.2:
                time.sleep(rng.random() * 0.02)

    numbers = {}
    with serving(ScriptedProposer(delay_s=0.003)) as s:
        found = answers(speak(s.address, requests()))
    assert Counter(a.sequence for a in found) == Counter(list(numbers))
    for answer in found:
        n = numbers[answer.sequence]
        kind = answer.WhichOneof("answer")
        if kind == "labelled":
            assert answer.labelled.name == str(n) and n not in bad
        elif kind == "failure":
            assert answer.failure.reason == "bad_image" and n in bad
        else:
            assert answer.dropped.reason == pb.DROP_REASON_SUPERSEDED


def test_the_newest_win_and_at_most_max_pending_wait():
    gate = threading.Event()
    sent = 30

    def requests():
        yield opening(max_pending=3)
        for n in range(sent):
            yield frame(n)
        assert dropped.wait(20)
        gate.set()

    dropped = threading.Event()
    with (
        serving(ScriptedProposer(gate=gate), limits=BatchingSettings(batching_window_ms=0)) as s,
        grpc.insecure_channel(s.address) as channel,
    ):
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        kinds = {}
        for response in stub.LabelStream(requests(), timeout=30):
            if response.HasField("answer"):
                kinds[response.answer.sequence] = response.answer.WhichOneof("answer")
            else:
                assert response.opened.max_pending == 3
            if list(kinds.values()).count("dropped") == sent - 3 - CONCURRENT_FRAMES:
                dropped.set()
    kept = [n for n, kind in kinds.items() if kind == "labelled"]
    assert len(kinds) == sent and len(kept) == 3 + CONCURRENT_FRAMES
    assert set(kept) >= {sent - 3, sent - 2, sent - 1}


def test_frames_are_dropped_with_the_reason_when_others_fill_the_server():
    gate = threading.Event()
    limits = BatchingSettings(max_in_flight=1, propose_batch=1)
    with (
        serving(ScriptedProposer(gate=gate), limits=limits) as s,
        grpc.insecure_channel(s.address) as channel,
    ):
        stub = labeling_pb2_grpc.LabelingServiceStub(channel)
        other = stub.Label.future(pb.LabelRequest(image=png()))
        assert s.proposer.started.wait(10)
        (answer,) = answers(speak(s.address, [OPENING, frame(1)]))
        assert answer.dropped.reason == pb.DROP_REASON_SERVER_BUSY
        gate.set()
        other.result(timeout=10)


def test_a_fault_of_the_model_fails_the_frame_and_not_the_stream():
    def script(image, phrases):
        if image.name == "fatal":
            raise RuntimeError("/secret/path")
        return [((0, 0, 9, 9), {"dog": 0.9})]

    with serving(ScriptedProposer(script)) as s:
        found = answers(
            speak(s.address, [opening(max_pending=9), frame(1, name="fatal"), frame(2)])
        )
    by_number = {a.sequence: a for a in found}
    assert by_number[1].failure.reason == "internal"
    assert "secret" not in by_number[1].failure.message
    assert by_number[2].labelled.judgements


def test_detail_and_ontology_of_the_opening_hold_for_every_frame():
    asked = pb.Ontology(classes=[pb.ClassSpec(name="cat", reject=0.99, accept=1.0)])
    with serving() as s:
        s.verifier.script = 0.5
        first = opening(ontology=asked, detail=pb.DETAIL_ALL)
        (answer,) = answers(speak(s.address, [first, frame(1)]))
        assert [j.class_name for j in answer.labelled.judgements] == ["cat"]
        assert answer.labelled.judgements[0].outcome == pb.OUTCOME_REJECT
        first = opening(ontology=asked, detail=pb.DETAIL_LABELS)
        (answer,) = answers(speak(s.address, [first, frame(1)]))
        assert not answer.labelled.judgements


BREACHES = [
    ([], "INVALID_ARGUMENT", "bad_request", "opening"),
    ([frame(1)], "INVALID_ARGUMENT", "bad_request", "opening"),
    ([pb.LabelStreamRequest()], "INVALID_ARGUMENT", "bad_request", "opening"),
    ([OPENING, OPENING], "INVALID_ARGUMENT", "bad_request", "once"),
    ([OPENING, pb.LabelStreamRequest()], "INVALID_ARGUMENT", "bad_request", "frame"),
    ([OPENING, frame(2), frame(2)], "INVALID_ARGUMENT", "bad_request", "above 2"),
    ([opening(max_pending=33)], "INVALID_ARGUMENT", "bad_request", "32"),
    ([opening(mode=9)], "INVALID_ARGUMENT", "bad_request", "live"),
    ([opening(stream_id="x" * 200)], "INVALID_ARGUMENT", "bad_request", "stream_id"),
    ([opening(ontology=pb.Ontology())], "INVALID_ARGUMENT", "bad_ontology", "no class"),
    ([opening(detail=9)], "INVALID_ARGUMENT", "bad_request", "detail"),
    (
        [opening(mode=pb.STREAM_MODE_CAPTURE, stream_id="gate")],
        "UNIMPLEMENTED",
        "not_supported",
        "capture",
    ),
]


@pytest.mark.parametrize(("requests", "status", "reason", "says"), BREACHES)
def test_a_breach_of_the_protocol_is_refused_in_words(requests, status, reason, says):
    with serving() as s:
        with pytest.raises(grpc.RpcError) as caught:
            speak(s.address, requests)
        assert caught.value.code().name == status and says in caught.value.details()
        assert dict(caught.value.trailing_metadata())["secondlook-reason"] == reason
        assert answers(speak(s.address, [OPENING, frame(1)]))[0].labelled.judgements


def test_a_client_that_goes_away_leaves_nothing_behind():
    gate = threading.Event()
    limits = BatchingSettings(propose_batch=1)
    with serving(ScriptedProposer(gate=gate), limits=limits) as s:
        with grpc.insecure_channel(s.address) as channel:
            stub = labeling_pb2_grpc.LabelingServiceStub(channel)
            call = stub.LabelStream(iter([opening(max_pending=9), *map(frame, range(8))]))
            assert next(call).HasField("opened")
            assert s.proposer.started.wait(10)
            call.cancel()
        ends = time.monotonic() + 10
        gate.set()
        while s.engine.depth():
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert sum(s.proposer.batches) <= CONCURRENT_FRAMES
