"""Bytes from anybody: never INTERNAL, never a traceback or path, and the server goes on."""

import random

import grpc
import pytest
from fakes import ScriptedProposer
from google.protobuf import message_factory
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import png, serving

from secondlook.server.bounds import declared
from secondlook_client import Client
from secondlook_client.errors import Busy
from secondlook_client.v1 import (
    browse_pb2,
    datasets_pb2,
    jobs_pb2,
    models_pb2,
    reviews_pb2,
    segmentation_pb2,
)
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


def texts_and_numbers(message, path=()):
    """Every field of a request that may hold what no database takes, by its path."""
    for field in message.fields:
        here = (*path, field)
        if field.message_type is not None:
            yield from texts_and_numbers(field.message_type, here)
        elif field.type in (field.TYPE_STRING, field.TYPE_UINT64):
            yield here


def request_with(method, path, value):
    """A request whose only field is the one at ``path``; of lists it is the first element."""
    request = inside = message_factory.GetMessageClass(method.input_type)()
    for field in path[:-1]:
        inside = getattr(inside, field.name)
        inside = inside.add() if field.is_repeated else inside
    if path[-1].is_repeated:
        getattr(inside, path[-1].name).append(value)
    else:
        setattr(inside, path[-1].name, value)
    return request.SerializeToString()


STRANGE = [
    (method, path)
    for file in (
        pb,
        jobs_pb2,
        datasets_pb2,
        models_pb2,
        reviews_pb2,
        segmentation_pb2,
        browse_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    for path in texts_and_numbers(method.input_type)
    if not declared(path[-1]).cut
]


def call_of(channel, method):
    """The raw call of a method, whatever streams."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.client_streaming and method.server_streaming:
        return lambda data: list(channel.stream_stream(path)(iter([data]), timeout=20))
    if method.client_streaming:
        return lambda data: channel.stream_unary(path)(iter([data]), timeout=20)
    if method.server_streaming:
        return lambda data: list(channel.unary_stream(path)(data, timeout=20))
    return lambda data: channel.unary_unary(path)(data, timeout=20)


def test_what_no_database_takes_is_refused_by_its_name(served, caplog):
    s, _ = served
    with grpc.insecure_channel(s.address) as channel:
        for method, path in STRANGE:
            text = path[-1].type == path[-1].TYPE_STRING
            for value in ("a\0b", "x" * 3_000_000) if text else (2**63, 2**64 - 1):
                data = request_with(method, path, value)
                with pytest.raises(grpc.RpcError) as refused:
                    call_of(channel, method)(data)
                words = refused.value.details()
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, words
                assert len(words) < 200
                assert path[-1].name in words or "expected a request of at most" in words
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_other_people_s_services_refuse_bytes_that_are_no_message(channel, caplog, path):
    with pytest.raises(grpc.RpcError) as refused:
        if "reflection" in path:
            list(channel.stream_stream(path)(iter([b"\xff\xfe"]), timeout=20))
        else:
            channel.unary_unary(path)(b"\xff\xfe", timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message of this method" in refused.value.details()
    assert not [record for record in caplog.records if record.exc_info]


def test_an_error_carries_what_google_rpc_defines(channel):
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(LABEL)(pb.LabelRequest(name="a\0").SerializeToString(), timeout=20)
    trailing = dict(refused.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert status.message == refused.value.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("BAD_REQUEST", "secondlook")
    assert info.metadata["request_id"] == trailing["secondlook-request-id"]
    (violation,) = bad.field_violations
    assert violation.field == "name" and "NUL" in violation.description


def test_a_retry_hint_travels_as_retry_info():

    def full(image, phrases):
        raise Busy("come back", retry_after_s=1.5)

    message = pb.LabelRequest(image=png()).SerializeToString()
    with (
        serving(ScriptedProposer(full)) as s,
        grpc.insecure_channel(s.address) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(LABEL)(message, timeout=20)
    trailing = dict(refused.value.trailing_metadata())
    assert trailing["secondlook-retry-after-ms"] == "1500"
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry) and retry.retry_delay.ToMilliseconds() == 1500


def test_long_words_are_cut_so_that_the_answer_can_travel(channel):
    """A call whose trailers are over 8 KiB is dropped by its client with another error."""
    name = "👩" * 120
    classes = [pb.ClassSpec(name=name, group=name)]
    message = pb.LabelRequest(image=png(), ontology=pb.Ontology(classes=classes))
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(LABEL)(message.SerializeToString(), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(refused.value.trailing_metadata())["secondlook-reason"] == "bad_ontology"
    assert (
        refused.value.details().startswith("contrast group '👩") and "…" in refused.value.details()
    )


def test_an_unknown_method_is_told():
    with serving() as s, grpc.insecure_channel(s.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/secondlook.v1.LabelingService/Nothing")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
