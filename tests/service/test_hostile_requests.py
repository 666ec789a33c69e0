"""Bytes from anybody: never INTERNAL, never a traceback or path, and the server goes on."""

import random

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import png, serving

from secondlook_client import Client
from secondlook_client.v1 import labeling_pb2 as pb

LABEL = "/secondlook.v1.LabelingService/Label"
STREAM = "/secondlook.v1.LabelingService/LabelStream"
INFO = "/secondlook.v1.LabelingService/GetServerInfo"
EXPECTED = {"OK", "INVALID_ARGUMENT", "UNIMPLEMENTED"}

VALID = [
    pb.LabelRequest(image=png(), name="x", detail=pb.DETAIL_ALL).SerializeToString(),
    pb.LabelRequest(
        image=png(),
        ontology=pb.Ontology(
            classes=[
                pb.ClassSpec(name="a", phrases=["b"], question="c?", group="g", accept=0.5),
                pb.ClassSpec(name="b", phrases=["d"], view=pb.VIEW_IMAGE, group="g", reject=0.1),
            ]
        ),
    ).SerializeToString(),
    pb.LabelStreamRequest(opening=pb.StreamOpening(max_pending=3)).SerializeToString(),
    pb.LabelStreamRequest(frame=pb.StreamFrame(sequence=3, image=png())).SerializeToString(),
]


@st.composite
def mutated(draw):
    """A valid message with a few bytes changed, cut out or doubled."""
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.integers(0, 2))
        if kind == 0 and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == 1:
            del data[place : place + draw(st.integers(1, 9))]
        else:
            data[place:place] = data[place : place + 9]
    return bytes(data)


messages = st.one_of(st.binary(max_size=200), mutated())


@pytest.fixture(scope="module")
def server():
    with serving() as s:
        yield s
        with Client(s.address) as client:
            assert client.label(png()).labels, "the server did not survive"


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def _status(call):
    """The status of a raw call, with what may be said with it checked."""
    try:
        call()
        return "OK"
    except grpc.RpcError as failed:
        said = failed.details()
        for secret in ("Traceback", "/work", ".py", "Exception", "site-packages"):
            assert secret not in said, said
        assert dict(failed.trailing_metadata())["secondlook-reason"]
        return failed.code().name


@settings(max_examples=150)
@given(messages)
def test_any_bytes_as_a_request(channel, data):
    for method in (LABEL, INFO):
        assert (
            _status(lambda method=method: channel.unary_unary(method)(data, timeout=20)) in EXPECTED
        )


@settings(max_examples=80)
@given(st.lists(messages, max_size=5))
def test_any_bytes_as_a_stream(channel, parts):
    assert _status(lambda: list(channel.stream_stream(STREAM)(iter(parts), timeout=20))) in EXPECTED


@settings(max_examples=60)
@given(st.lists(messages, max_size=5))
def test_any_bytes_after_an_opening(channel, parts):
    parts = [VALID[2], *parts]
    assert _status(lambda: list(channel.stream_stream(STREAM)(iter(parts), timeout=20))) in EXPECTED


def test_any_bytes_as_a_image(channel):
    rng = random.Random(3)
    image = png(64, 64)
    for _ in range(150):
        data = bytearray(image)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        message = pb.LabelRequest(image=bytes(data[: rng.randint(0, len(data))]))
        call = channel.unary_unary(LABEL)
        assert _status(lambda m=message, c=call: c(m.SerializeToString(), timeout=20)) in EXPECTED


def test_an_unknown_method_is_told():
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/secondlook.v1.LabelingService/Nothing")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
