"""Every request of ours against the bounds that its proto declares."""

from collections.abc import Iterator

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.config.settings import Settings
from secondlook.datasets.query import DIGEST, SPLIT_NAME
from secondlook.datasets.snapshot import NAME
from secondlook.detector.manifest import MAX_TEXT
from secondlook.jobs.training import MAX_REPORT
from secondlook.server import bounds
from secondlook.server.bounds import declared, message_check, request_reader
from secondlook_client import ontology
from secondlook_client.errors import BadRequest
from secondlook_client.v1 import (
    browse_pb2,
    datasets_pb2,
    jobs_pb2,
    labeling_pb2,
    models_pb2,
    reviews_pb2,
    segmentation_pb2,
)

LABEL = "/secondlook.v1.LabelingService/Label"


def methods() -> list[MethodDescriptor]:
    files = (
        labeling_pb2,
        jobs_pb2,
        datasets_pb2,
        models_pb2,
        reviews_pb2,
        segmentation_pb2,
        browse_pb2,
    )
    services = [s for file in files for s in file.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods]


def fields_of(message: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """Every field that a request holds, however deep, with its path."""
    for field in message.fields:
        yield f"{path}{field.name}", field
        if field.message_type is not None:
            yield from fields_of(field.message_type, f"{path}{field.name}.")


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def request_class(method: MethodDescriptor):
    return message_factory.GetMessageClass(method.input_type)


REQUESTS = [
    (method, path, field) for method in methods() for path, field in fields_of(method.input_type)
]
BOUNDED = [
    (method, path, field)
    for method, path, field in REQUESTS
    if any(getattr(declared(field), name) for name in ("max_items", "max_chars", "max"))
]
each_field = pytest.mark.parametrize(
    ("method", "path", "field"), REQUESTS, ids=lambda part: getattr(part, "name", part)
)
each_bounded_field = pytest.mark.parametrize(
    ("method", "path", "field"), BOUNDED, ids=lambda part: getattr(part, "name", part)
)


@each_field
def test_every_text_list_and_content_has_a_bound(method, path, field) -> None:
    bound = declared(field)
    if field.is_repeated:
        assert bound.max_items
    if field.type == FieldDescriptor.TYPE_STRING:
        assert bound.max_chars
    if field.type == FieldDescriptor.TYPE_BYTES:
        assert bound.max_bytes or bound.setting in Settings.specs()


def put(request, path: str, value) -> None:
    """Set the field at ``path``; of lists on the way one element is added."""
    *parents, name = path.split(".")
    for parent in parents:
        child = getattr(request, parent)
        if hasattr(child, "add"):
            request = child.add()
        else:
            request = child
            request.SetInParent()
    if isinstance(value, list):
        field = request.DESCRIPTOR.fields_by_name[name]
        if field.message_type is not None:
            for _ in value:
                getattr(request, name).add()
        else:
            getattr(request, name).extend(value)
    else:
        setattr(request, name, value)


def values_at(field: FieldDescriptor, extra: int) -> Iterator[object]:
    """A value at each bound of the field, or ``extra`` above it."""
    bound = declared(field)
    if bound.max_items:
        one = "x" if field.type == FieldDescriptor.TYPE_STRING else 1
        yield [one] * (bound.max_items + extra)
    if bound.max_chars:
        text = "ß" * (bound.max_chars + extra)
        yield [text] if field.is_repeated else text
    if bound.max:
        yield bound.max + extra


def answer(method: MethodDescriptor, path: str, value):
    request = request_class(method)()
    put(request, path, value)
    read = request_reader(path_of(method), request_class(method).FromString)
    return read(request.SerializeToString())


@each_bounded_field
def test_what_is_at_its_bound_passes_and_one_more_is_refused(method, path, field) -> None:
    for value in values_at(field, 0):
        assert not isinstance(answer(method, path, value), BadRequest)
    for value in values_at(field, 1):
        found = answer(method, path, value)
        if declared(field).cut:
            assert not isinstance(found, BadRequest)
            continue
        assert isinstance(found, BadRequest)
        assert found.field.replace("[0]", "") == path
        assert str(found).startswith(f"{found.field}: expected at most ") and len(str(found)) < 200


@each_field
def test_no_text_holds_nul_and_no_number_is_beyond_a_database(method, path, field) -> None:
    strange: list[object] = []
    if field.type == FieldDescriptor.TYPE_STRING and not declared(field).cut:
        strange = [["a\0b"] if field.is_repeated else "a\0b"]
    if field.type == FieldDescriptor.TYPE_UINT64:
        strange = [[2**63]] if field.is_repeated else [2**63, 2**64 - 1]
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        strange = [float("nan"), float("inf"), -float("inf")]
    for value in strange:
        found = answer(method, path, value)
        assert isinstance(found, BadRequest) and found.field.replace("[0]", "") == path


def test_a_failure_deep_inside_has_its_whole_path() -> None:
    classes = [labeling_pb2.ClassSpec(name="a"), labeling_pb2.ClassSpec(phrases=["b", "c" * 401])]
    opening = labeling_pb2.StreamOpening(ontology=labeling_pb2.Ontology(classes=classes))
    check = message_check(labeling_pb2.LabelStreamRequest.DESCRIPTOR)
    for _ in range(2):  # the second time it is known
        found = check(labeling_pb2.LabelStreamRequest(opening=opening))
        assert str(found) == (
            "opening.ontology.classes[1].phrases[1]: expected at most 400 characters, got 401"
        )
        assert found.field == "opening.ontology.classes[1].phrases[1]"


def test_a_frame_s_name_is_cut_as_a_device_would_send_it_for_ever() -> None:
    frame = labeling_pb2.StreamFrame(sequence=1, image=b"x", name="a\0" + "b" * 5000)
    read = request_reader(
        "/secondlook.v1.LabelingService/LabelStream", labeling_pb2.LabelStreamRequest.FromString
    )
    found = read(labeling_pb2.LabelStreamRequest(frame=frame).SerializeToString())
    assert found.frame.name == "a\N{REPLACEMENT CHARACTER}" + "b" * 4094
    assert (found.frame.sequence, found.frame.image) == (1, b"x")


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field as it travels."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def unparsed(data: bytes) -> object:
    raise AssertionError("it was parsed")


EMPTY_CLASSES = b"\x0a\x00" * 2**19


@pytest.mark.parametrize(
    "data",
    [
        field(3, EMPTY_CLASSES),
        field(1, b"x" * 10**6) + field(3, EMPTY_CLASSES),
        field(3, b"") * 2**19,
        field(1, b"") * 2**19,
        b"\x28\x01" * 2**19,
        b"\x28" + b"\xff" * 2**20,
        field(15, b"y" * 2**20),
        b"\x0f" * 2**20,
    ],
    ids=["classes", "image and classes", "ontologies", "images", "numbers", "varint", "new", "end"],
)
def test_what_is_too_large_besides_its_image_is_not_even_parsed(data) -> None:
    found = request_reader(LABEL, unparsed)(data)
    assert isinstance(found, BadRequest) and "at most 524,288 bytes" in str(found)


def test_images_and_chunks_do_not_count() -> None:
    request = labeling_pb2.LabelRequest(image=b"x" * 10**7, name="n")
    read = request_reader(LABEL, labeling_pb2.LabelRequest.FromString)
    assert read(request.SerializeToString()) == request
    chunk = models_pb2.AddVersionRequest(chunk=models_pb2.ModelChunk(file="a", data=b"x" * 2**20))
    read = request_reader(
        "/secondlook.v1.ModelService/AddVersion", models_pb2.AddVersionRequest.FromString
    )
    assert read(chunk.SerializeToString()) == chunk
    chunk.chunk.data += b"x"
    assert read(chunk.SerializeToString()).field == "chunk.data"


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 2))
def test_measuring_ends_for_any_bytes(data, padding) -> None:
    large = bounds._large_fields(labeling_pb2.LabelStreamRequest.DESCRIPTOR)
    assert 0 <= bounds._large_bytes(data + b"x" * padding, large) <= len(data) + padding


@given(st.binary(max_size=3000), st.text(max_size=50), st.booleans())
def test_measuring_finds_the_image_wherever_it_is(image, name, framed) -> None:
    frame = labeling_pb2.StreamFrame(sequence=7, image=image, name=name)
    request = labeling_pb2.LabelStreamRequest(frame=frame) if framed else frame
    large = bounds._large_fields(request.DESCRIPTOR)
    assert bounds._large_bytes(request.SerializeToString(), large) == len(image)


def test_the_constants_of_the_code_are_the_bounds_of_the_protos() -> None:
    def bound(message, name):
        return declared(message.DESCRIPTOR.fields_by_name[name])

    spec = labeling_pb2.ClassSpec
    assert bound(labeling_pb2.Ontology, "classes").max_items == ontology.MAX_CLASSES
    assert bound(spec, "name").max_chars == bound(spec, "group").max_chars == ontology.MAX_NAME
    assert bound(spec, "phrases").max_items == ontology.MAX_PHRASES
    assert bound(spec, "phrases").max_chars == ontology.MAX_PHRASE
    assert bound(spec, "question").max_chars == ontology.MAX_QUESTION
    header = models_pb2.AddVersionHeader
    assert bound(header, "manifest_json").max_chars == MAX_TEXT
    assert bound(header, "report_json").max_chars == MAX_REPORT
    longest = "a" * bound(datasets_pb2.CreateSnapshotRequest, "name").max_chars
    assert NAME.fullmatch(longest) and not NAME.fullmatch(longest + "a")
    longest = "a" * bound(datasets_pb2.SplitShare, "name").max_chars
    assert SPLIT_NAME.fullmatch(longest) and not SPLIT_NAME.fullmatch(longest + "a")
    assert DIGEST.fullmatch("a" * bound(datasets_pb2.SnapshotQuery, "ontology").max_chars)


def test_other_people_s_requests_are_short() -> None:
    read = request_reader("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", unparsed)
    assert "at most 65,536 bytes" in str(read(b"x" * 70_000))
