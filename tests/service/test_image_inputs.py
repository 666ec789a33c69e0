"""Every call of the client takes every kind of image: path, bytes, array, Pillow image."""

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from serving import serving

from secondlook.store import open_store
from secondlook_client import AsyncClient, Client, LiveOptions
from secondlook_client.errors import BadImage
from secondlook_client.images import ImageInput
from secondlook_client.values import LabelResult

WIDE = LiveOptions(max_pending=100, max_in_flight=8, server_pending=32)
Ask = Callable[[Client, list[ImageInput], Path], list[LabelResult]]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        open_store(tmp_path_factory.mktemp("kept")) as store,
        serving(store=store) as running,
    ):
        yield running.address


@pytest.fixture
def images(tmp_path: Path) -> list[ImageInput]:
    """The same colours in every kind; each is one pixel wider than the one before."""

    def pixels(width: int) -> np.ndarray:
        return np.full((30, width, 3), (200, 100, 50), np.uint8)

    encoded = io.BytesIO()
    PILImage.fromarray(pixels(41)).save(encoded, "PNG")
    PILImage.fromarray(pixels(40)).save(tmp_path / "a.png")
    return [
        tmp_path / "a.png", encoded.getvalue(), pixels(42), PILImage.fromarray(pixels(43)),
    ]  # fmt: skip


def singly(client: Client, images: list[ImageInput], tmp_path: Path) -> list[LabelResult]:
    return [client.label(image, classes=["dog"]) for image in images]


def in_an_event_loop(client: Client, images: list[ImageInput], tmp_path: Path) -> list[LabelResult]:
    async def run() -> list[LabelResult]:
        async with AsyncClient(client.address) as there:
            return [await there.label(image, classes=["dog"]) for image in images]

    return asyncio.run(run())


def many(client: Client, images: list[ImageInput], tmp_path: Path) -> list[LabelResult]:
    found = dict(client.label_many(enumerate(images), classes=["dog"]))
    return [found[place] for place in range(len(images))]


def streamed(client: Client, images: list[ImageInput], tmp_path: Path) -> list[LabelResult]:
    found = client.label_stream(images, classes=["dog"], options=WIDE)
    return [one.result for one in sorted(found, key=lambda one: one.sequence)]


def streamed_in_an_event_loop(
    client: Client, images: list[ImageInput], tmp_path: Path
) -> list[LabelResult]:
    async def run() -> list[LabelResult]:
        async with AsyncClient(client.address) as there:
            stream = there.label_stream(images, classes=["dog"], options=WIDE)
            return [one.result async for one in stream]

    return sorted(asyncio.run(run()), key=lambda result: result.width)


def captured(client: Client, images: list[ImageInput], tmp_path: Path) -> list[LabelResult]:
    spool = tmp_path / "spool"
    with client.capture("gate", spool=spool, classes=["dog"]) as capture:
        for image in images:
            capture.send(image)
        capture.flush(timeout_s=30)
    return results(client, "gate", len(images))


def uploaded(client: Client, images: list[ImageInput], tmp_path: Path) -> list[LabelResult]:
    client.jobs.create("street", classes=["dog"])
    for _, kept in client.jobs.upload("street", enumerate(images), number=lambda place: place):
        assert not isinstance(kept, Exception)
    client.jobs.finish("street")
    return results(client, "street", len(images))


def results(client: Client, job: str, count: int) -> list[LabelResult]:
    found = []
    for result in client.jobs.results(job, follow=True):
        found.append(result.result)
        if len(found) == count:
            break
    return sorted(found, key=lambda result: result.width)


ASKS: list[Ask] = [
    singly, in_an_event_loop, many, streamed, streamed_in_an_event_loop, captured, uploaded,
]  # fmt: skip


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
def test_every_kind_of_image_is_taken(
    address: str, images: list[ImageInput], tmp_path: Path, ask: Ask
) -> None:
    with Client(address) as client:
        found = ask(client, images, tmp_path)
    assert [(result.width, result.height) for result in found] == [
        (40, 30), (41, 30), (42, 30), (43, 30),
    ]  # fmt: skip
    assert all(result.judgements for result in found)


def test_what_is_no_image_fails_before_anything_is_sent(address: str, tmp_path: Path) -> None:
    wrong = np.zeros((30, 40, 3), np.float32)
    with Client(address) as client:
        with pytest.raises(BadImage, match="uint8 pixels"):
            client.label(wrong)
        ((_, failure),) = client.label_many([("a", wrong)])
        assert isinstance(failure, BadImage)
        with client.stream() as stream, pytest.raises(BadImage, match="uint8 pixels"):
            stream.send(wrong)
        with (
            client.capture("wrong", spool=tmp_path / "spool") as capture,
            pytest.raises(BadImage, match="uint8 pixels"),
        ):
            capture.send(wrong)
        assert capture.state.pending == 0
