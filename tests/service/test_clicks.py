"""Clicks over gRPC: opened, clicked, mended, chosen, saved; opened again by itself; refused."""

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from fakes import ScriptedSegmenter, object_and_parts
from frozen import DOG_BOX, photos, stored
from random_messages import MessageMaker
from serving import Serving, png, server_settings, serving, wait_until

from secondlook.labeling.segmenter import ImageEncoding, SegmentationPrompt
from secondlook.store import Store, open_store
from secondlook_client import AsyncClient, Client, RetryPolicy, wire
from secondlook_client.errors import InvalidInput, NotFound, NotReady, NotSupported
from secondlook_client.masks import Mask
from secondlook_client.v1 import labeling_pb2, segmentation_pb2_grpc
from secondlook_client.v1 import segmentation_pb2 as pb

PNG = png(60, 40)
SHA256 = hashlib.sha256(PNG).hexdigest()
SERVICE = "/secondlook.v1.SegmentationService"


@pytest.fixture
def running() -> Iterator[Serving]:
    """A server without a store, whose segmenter answers as ``object_and_parts``."""
    with serving(segmenter=ScriptedSegmenter(object_and_parts)) as server:
        yield server


@pytest.fixture
def client(running: Serving) -> Iterator[Client]:
    with Client(running.address) as connected:
        yield connected


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """A store, of which it does not matter what it is made of."""
    with open_store(tmp_path / "data") as opened:
        yield opened


def segmenter_of(running: Serving) -> ScriptedSegmenter:
    found = running.engine.pipeline.segmenter
    assert isinstance(found, ScriptedSegmenter)
    return found


def stub_of(running: Serving) -> segmentation_pb2_grpc.SegmentationServiceStub:
    return segmentation_pb2_grpc.SegmentationServiceStub(grpc.insecure_channel(running.address))


def figure(running: Serving, name: str) -> float:
    return running.metrics.registry.get_sample_value(f"secondlook_encodings_{name}") or 0.0


def test_an_object_is_outlined_click_by_click(client: Client, running: Serving) -> None:
    clicks = client.segmentation.open(PNG)
    opened = clicks.image
    assert (opened.sha256, opened.width, opened.height) == (SHA256, 60, 40)
    assert opened.segmenter == "scripted@s0" and clicks.mask is None and clicks.candidates == ()
    first = clicks.click(20, 20)
    whole, part, speck = clicks.candidates
    assert first == whole.mask == clicks.mask
    assert (whole.quality, whole.stability, whole.model) == (0.9, 0.9, "scripted@s0")
    assert [one.mask.area for one in (part, speck)] == [9, 1]
    assert clicks.choose("smallest") == part.mask == clicks.mask, "a speck is not sensible"
    mended = clicks.click(40, 20)
    last = segmenter_of(running).prompts[-1]
    assert list(last.inside) == [(20, 20), (40, 20)]
    assert last.previous is not None and (last.previous == part.mask.to_array()).all()
    assert mended.to_array()[19:22, 19:22].all()
    clicks.click(30, 5, inside=False)
    assert list(segmenter_of(running).prompts[-1].outside) == [(30, 5)]
    assert clicks.undo() == mended
    assert clicks.undo() == part.mask, "with the candidate that was chosen"
    assert clicks.undo() is None and clicks.undo() is None
    boxed = clicks.box(10, 10, 30, 30)
    assert boxed.box == (10, 10, 30, 30) and segmenter_of(running).prompts[-1].previous is None
    clicks.reset()
    assert clicks.mask is None and clicks.state.clicks == ()
    assert segmenter_of(running).encoded == [""], "encoded once"
    assert (figure(running, "hits_total"), figure(running, "misses_total")) == (4, 1)
    assert figure(running, "bytes") == 60 * 40


def test_a_mask_that_is_there_already_is_mended(client: Client, running: Serving) -> None:
    clicks = client.segmentation.open(PNG)
    before = Mask.from_runs(60, 40, [0, 40, 2360])
    clicks.start_from(before)
    assert clicks.mask == before
    mended = clicks.click(30, 20)
    previous = segmenter_of(running).prompts[-1].previous
    assert previous is not None and (previous == before.to_array()).all()
    assert mended.to_array()[:, 0].all() and clicks.undo() == before


def test_known_clicks_are_one_call(client: Client, running: Serving) -> None:
    clicks = client.segmentation.open(PNG)
    clicks.prompt((5, 5, 50, 30), inside=[(20, 20), (21, 21)], outside=[(1, 1)])
    (prompt,) = segmenter_of(running).prompts
    assert (prompt.box, list(prompt.inside), list(prompt.outside)) == (
        (5, 5, 50, 30),
        [(20, 20), (21, 21)],
        [(1, 1)],
    )


@pytest.mark.parametrize("which", [1, -1, "largest", True + 1])
def test_what_cannot_be_chosen(client: Client, which: int | str) -> None:
    clicks = client.segmentation.open(PNG)
    with pytest.raises(InvalidInput, match="click on the object first"):
        clicks.choose(which)
    clicks.box(10, 10, 30, 30)
    with pytest.raises(InvalidInput, match="from 0 to 0, best or smallest"):
        clicks.choose(which)


def test_an_image_that_the_server_lost_is_opened_again() -> None:
    # A scripted encoding takes a byte a pixel, so the smallest cache holds one of these.
    options = server_settings(encoding_cache_bytes=2**20)
    large = [png(1000, 700, shade) for shade in (50, 200)]
    segmenter = ScriptedSegmenter()
    with (
        serving(segmenter=segmenter, options=options) as running,
        Client(running.address) as client,
    ):
        one, other = (client.segmentation.open(content) for content in large)
        assert len(segmenter.encoded) == 2 and figure(running, "bytes") == 700_000
        masks = [clicks.click(500, 500) for clicks in (one, other, one)]
        assert masks[0] == masks[2] and len(segmenter.encoded) == 5
        with pytest.raises(NotFound) as lost:
            client.segmentation.open(sha256=other.image.sha256)
        assert lost.value.reason == "image_not_open"
        with pytest.raises(NotReady, match="raise its encoding_cache_bytes"):
            client.segmentation.open(png(1100, 1000))


def test_a_server_that_was_started_again_costs_one_encoding() -> None:
    with serving(segmenter=ScriptedSegmenter()) as before:
        port = int(before.address.rpartition(":")[2])
        client = Client(before.address, retry=RetryPolicy(unavailable_s=30))
        clicks = client.segmentation.open(PNG)
        first = clicks.click(20, 20)
    segmenter = ScriptedSegmenter(object_and_parts)
    with client, serving(segmenter=segmenter, options=server_settings(port=port)):
        clicks.click(30, 20)
        assert len(segmenter.encoded) == 1
        previous = segmenter.prompts[-1].previous
        assert previous is not None and (previous == first.to_array()).all()


def test_an_image_of_the_store_is_named_by_its_hash_and_saved(store: Store) -> None:
    images = photos(2)
    stored(store, "street", images)
    sha256 = hashlib.sha256(images["f0/000.jpg"]).hexdigest()
    segmenter = ScriptedSegmenter()
    with serving(store=store, segmenter=segmenter) as running, Client(running.address) as client:
        clicks = client.segmentation.open(sha256=sha256)
        mask = clicks.box(10, 6, 38, 34)
        kept = clicks.save("dog", person="ada", answer="right", box=DOG_BOX)
        assert (kept.mask, kept.person, kept.answer) == (mask, "ada", "right")
        (found,) = (
            one.result for one in client.jobs.results("street") if one.result.sha256 == sha256
        )
        (dog,) = found.labels
        assert dog.segmentation is not None and dog.mask == mask and dog.box == mask.box
        assert (dog.segmentation.model, dog.segmentation.quality) == ("person:ada", 1.0)
        clicks.reset()
        clicks.click(60, 50)
        missing = clicks.save("cat", person="ada", note="small")
        assert clicks.mask and missing.box == clicks.mask.box and missing.note == "small"
        (again,) = (
            one.result for one in client.jobs.results("street") if one.result.sha256 == sha256
        )
        assert [(one.class_name, one.mask) for one in again.labels] == [
            ("dog", mask),
            ("cat", clicks.mask),
        ]
        clicks.save("dog", person="bob", answer="wrong", box=dog.box)
        reviews = list(client.reviews.list(image=sha256))
        assert [one.mask for one in reviews] == [mask, clicks.mask, clicks.mask]
        assert client.reviews.add(reviews) == reviews, "given again they are the same"
        assert len(segmenter.encoded) == 1


def test_what_cannot_be_saved(kept: Store) -> None:
    segmenter = ScriptedSegmenter()
    with (
        serving(store=kept, segmenter=segmenter) as running,
        Client(running.address) as client,
    ):
        clicks = client.segmentation.open(PNG)
        with pytest.raises(InvalidInput, match="click on the object first"):
            clicks.save("dog", person="ada")
        clicks.click(20, 20)
        with pytest.raises(InvalidInput, match="give its box"):
            clicks.save("dog", person="ada", answer="right")
        with pytest.raises(NotFound, match="no image"):
            clicks.save("dog", person="ada")
        with pytest.raises(InvalidInput, match="a person of 1 to"):
            clicks.save("dog", person="")


def test_without_a_segmenter_or_an_image() -> None:
    with serving() as running, Client(running.address) as client:
        with pytest.raises(NotSupported, match="--segmenter"):
            client.segmentation.open(PNG)
        with pytest.raises(InvalidInput, match="give an image, or the sha256"):
            client.segmentation.open()


def test_the_same_in_an_event_loop(running: Serving) -> None:
    async def outline() -> tuple[Mask, Mask, Mask | None]:
        async with AsyncClient(running.address) as client:
            clicks = await client.segmentation.open(PNG)
            first = await clicks.click(20, 20)
            boxed = await clicks.box(10, 10, 30, 30)
            return first, boxed, clicks.undo()

    first, boxed, undone = asyncio.run(outline())
    assert boxed.box == (10, 10, 30, 30) and undone == first and first.area > 50


def test_people_who_open_one_image_at_once_wait_for_one_encoding(running: Serving) -> None:
    segmenter, gate = segmenter_of(running), threading.Event()
    encode = segmenter.encode

    def slow(images: Sequence[object]) -> list[ImageEncoding]:
        assert gate.wait(20)
        return encode(images)  # type: ignore[arg-type]

    segmenter.encode = slow  # type: ignore[method-assign]
    stub = stub_of(running)
    calls = [stub.OpenImage.future(pb.OpenImageRequest(image=PNG)) for _ in range(6)]
    gate.set()
    assert {call.result(20).sha256 for call in calls} == {SHA256}
    assert len(segmenter.encoded) == 1 and figure(running, "misses_total") == 1


def test_clicks_that_nobody_waits_for_are_not_answered(running: Serving) -> None:
    segmenter, gate, begun = segmenter_of(running), threading.Event(), []
    stub = stub_of(running)
    stub.OpenImage(pb.OpenImageRequest(image=PNG))
    segment = segmenter.segment

    def slow(encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]) -> object:
        begun.append(prompts)
        assert gate.wait(20)
        return segment(encoding, prompts)

    segmenter.segment = slow  # type: ignore[method-assign]
    request = pb.SegmentRequest(sha256=SHA256, clicks=[pb.Click(x=9, y=9, inside=True)])
    blocking = [stub.Segment.future(request, timeout=20) for _ in range(2)]
    wait_until(lambda: len(begun) == 2)
    waiting = [stub.Segment.future(request, timeout=20) for _ in range(5)]
    late = stub.Segment.future(request, timeout=0.2)
    refused = [stub.Segment.future(request, timeout=20) for _ in range(100)]
    assert late.exception(20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: any(call.done() for call in refused))
    (busy, *_) = [call.exception() for call in refused if call.done()]
    assert busy.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "try again" in busy.details()
    for call in [*waiting, *refused]:
        call.cancel()
    cancelled = {"method": "Segment", "reason": "cancelled"}
    count = running.metrics.registry.get_sample_value
    wait_until(lambda: (count("secondlook_calls_total", cancelled) or 0) >= 62)
    gate.set()
    assert all(len(call.result(20).candidates) == 3 for call in blocking)
    stub.Segment(request, timeout=20)
    assert len(begun) == 3, "cancelled ones were computed"


def requests() -> list[tuple[pb.SegmentRequest, str]]:
    """What is refused, and a part of the sentence."""
    inside = pb.Click(x=9, y=9, inside=True)

    def request(**given: object) -> pb.SegmentRequest:
        return pb.SegmentRequest(**{"sha256": SHA256, **given})  # type: ignore[arg-type]

    def previous(width: int, height: int, counts: str) -> pb.SegmentRequest:
        return request(previous=labeling_pb2.Mask(width=width, height=height, counts=counts))

    box = labeling_pb2.Box
    return [
        (request(), "expected a box, a click on the object, or a mask to mend"),
        (request(clicks=[pb.Click(x=9, y=9)]), "expected a box, a click on the object"),
        (request(clicks=[pb.Click(x=60, y=9, inside=True)]), "expected a point of the image"),
        (request(clicks=[inside, pb.Click(x=9, y=-1)]), "clicks[1]: expected a point"),
        (request(clicks=[pb.Click(x=float("nan"), y=9)]), "a finite number"),
        (request(clicks=[pb.Click(x=9, y=float("inf"))]), "a finite number"),
        (request(clicks=[inside] * 65), "at most 64 items"),
        (request(clicks=[inside] * 100_000), "at most"),
        (request(clicks=[inside] * 200_000), "expected a request of at most"),
        (request(box=box(x1=5, y1=5, x2=5, y2=9)), "expected x1 y1 x2 y2"),
        (request(box=box(x1=70, y1=5, x2=90, y2=9)), "on the image, which has 60×40"),
        (request(box=box(x1=float("nan"), y1=5, x2=9, y2=9)), "a finite number"),
        (request(sha256="../../etc/passwd", clicks=[inside]), "64 hex digits"),
        (request(sha256="a" * 65, clicks=[inside]), "at most 64 characters"),
        (request(sha256="", clicks=[inside]), "64 hex digits"),
        (previous(40, 60, "PS2"), "does not fill"),
        (previous(61, 40, Mask.from_runs(61, 40, [9, 2431]).counts), "a mask of the image's 60×40"),
        (previous(0, 0, ""), "at least one pixel"),
        (previous(65535, 65535, "0"), "at most 268,435,456"),
        (previous(60, 40, "~~~"), "characters that none has"),
        (previous(60, 40, "ooooooooo"), "ends in the middle"),
        (previous(60, 40, "01" * 500_000), "does not fill"),
        (previous(60, 40, "0" * 2**20 + "0"), "at most 1,048,576 characters"),
    ]


def test_hostile_clicks_are_refused_with_a_sentence(running: Serving) -> None:
    stub = stub_of(running)
    stub.OpenImage(pb.OpenImageRequest(image=PNG))
    for request, words in requests():
        with pytest.raises(grpc.RpcError) as refused:
            stub.Segment(request, timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, request
        assert words in refused.value.details(), (words, refused.value.details())
    sound = pb.SegmentRequest(sha256=SHA256, clicks=[pb.Click(x=59, y=39, inside=True)])
    assert stub.Segment(sound).candidates, "the server serves on"


def test_hostile_images_are_refused(kept: Store) -> None:
    options = server_settings(max_image_pixels=3000, max_image_bytes=2000)
    with serving(segmenter=ScriptedSegmenter(), options=options, store=kept) as running:
        stub = stub_of(running)
        for request, code, words in (
            (pb.OpenImageRequest(), "INVALID_ARGUMENT", "got neither"),
            (pb.OpenImageRequest(image=b"no image"), "INVALID_ARGUMENT", "image"),
            (pb.OpenImageRequest(image=png(61, 50)), "INVALID_ARGUMENT", "pixels"),
            (pb.OpenImageRequest(image=bytes(2001)), "INVALID_ARGUMENT", "2,000"),
            (pb.OpenImageRequest(sha256="x"), "INVALID_ARGUMENT", "64 hex digits"),
            (pb.OpenImageRequest(sha256="a" * 64), "NOT_FOUND", "neither in the store"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.OpenImage(request, timeout=20)
            assert refused.value.code().name == code and words in refused.value.details()
        assert stub.OpenImage(pb.OpenImageRequest(image=PNG)).width == 60


def test_random_requests_never_break_the_server(running: Serving) -> None:
    sound = pb.SegmentRequest(
        sha256=SHA256,
        box=labeling_pb2.Box(x2=9, y2=9),
        clicks=[pb.Click(x=3, y=3, inside=True)],
        previous=wire.mask_message(Mask.from_runs(60, 40, [10, 50, 2340])),
    )
    maker, statuses = MessageMaker(7, [PNG]), Counter[str]()
    with grpc.insecure_channel(running.address) as channel:
        channel.unary_unary(f"{SERVICE}/OpenImage")(
            pb.OpenImageRequest(image=PNG).SerializeToString(), timeout=20
        )
        for _ in range(200):
            try:
                request = maker.encoded(maker.altered(sound))
                channel.unary_unary(f"{SERVICE}/Segment")(request, timeout=20)
                statuses["OK"] += 1
            except grpc.RpcError as failure:
                statuses[failure.code().name] += 1
    assert statuses.keys() <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}, statuses
    assert min(statuses["OK"], statuses["INVALID_ARGUMENT"]) > 20
