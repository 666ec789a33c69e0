"""Strangers' images in children: the same pixels as in process, within a budget."""

import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import sandboxed
from encoded_images import FORMATS, encoded, gradient
from PIL import Image as PILImage

from secondlook.config.settings import ImageSettings
from secondlook.core import images
from secondlook.core.decoding import BACKGROUND_SHARE, ImageDecoder, MemoryBudget
from secondlook.core.images import decode
from secondlook.core.sandbox import Sandbox, SandboxLimits
from secondlook.core.types import Image
from secondlook_client.errors import (
    BadImage,
    Busy,
    DeadlineExceeded,
    DecodingFailed,
    ImageTooLarge,
    ShuttingDown,
    Unavailable,
)

LARGE = PILImage.new("L", (7000, 7000))
NEVER = threading.Event()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(workers=2)
    yield made
    made.close()


@pytest.mark.parametrize(("form", "options"), FORMATS)
@pytest.mark.parametrize("size", [(53, 37), (1500, 1100)])
def test_pixels_are_those_of_decode(
    sandbox: Sandbox, form: str, options: dict, size: tuple[int, int]
) -> None:
    data = encoded(gradient(*size), form, **options)
    found, expected = ImageDecoder(sandbox=sandbox).submit(data, "a name").result(), decode(data)
    np.testing.assert_array_equal(found.pixels, expected.pixels, strict=True)
    assert (found.sha256, found.name) == (expected.sha256, "a name")


def test_refusals_are_those_of_decode(sandbox: Sandbox) -> None:
    data = encoded(gradient(), "PNG")
    decoder = ImageDecoder(ImageSettings(max_image_bytes=10_000, max_image_side=60), sandbox)
    wide = encoded(PILImage.new("RGB", (61, 1)), "PNG")
    for bad in (b"", b"no image", data[: len(data) // 2], bytes(10_001), wide):
        with pytest.raises((BadImage, ImageTooLarge)) as expected:
            decode(bad, limits=decoder.limits)
        with pytest.raises(expected.type) as caught:
            decoder.submit(bad).result()
        assert str(caught.value) == str(expected.value)
    assert decoder.budget.used == 0


def test_one_that_takes_too_long_is_given_up(sandbox: Sandbox) -> None:
    limits = ImageSettings(max_decode_s=0.1)
    decoder = ImageDecoder(limits, sandbox)
    slow = encoded(PILImage.new("RGB", (5000, 5000)), "PNG", compress_level=1)
    began = time.monotonic()
    with pytest.raises(DecodingFailed, match=r"took more than 0.1 s.*--max-decode-s"):
        decoder.submit(slow).result()
    assert time.monotonic() - began < 10
    assert decoder.budget.used == 0
    assert decoder.submit(encoded(gradient(), "PNG")).result().width == 53


@pytest.mark.parametrize(
    ("function", "args", "said"),
    [
        (sandboxed.crash, (), "made its decoder crash"),
        (sandboxed.fill_memory, (2**29,), "far more memory"),
    ],
)
def test_a_fault_in_a_decoder_costs_its_image_only(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., object],
    args: tuple[object, ...],
    said: str,
) -> None:
    decoder = ImageDecoder(sandbox=sandbox)
    with monkeypatch.context() as patched:
        request = pickle.dumps((function, args, SandboxLimits(10, 2**26)))
        patched.setattr(pickle, "dumps", lambda _: request)
        with pytest.raises(DecodingFailed, match=said) as caught:
            decoder.submit(b"some bytes").result()
        assert isinstance(caught.value, BadImage)
    assert decoder.submit(encoded(gradient(), "PNG")).result().width == 53


def test_memory_is_counted_until_the_pixels_are_freed(sandbox: Sandbox) -> None:
    decoder = ImageDecoder(sandbox=sandbox)
    for size in ((53, 37), (1500, 1100)):  # copied, and mapped
        image = decoder.submit(encoded(gradient(*size), "PNG")).result()
        crop = image.pixels[10:20, 10:20]
        assert decoder.budget.used == size[0] * size[1] * 3
        del image
        gc.collect()
        assert decoder.budget.used == size[0] * size[1] * 3  # as the crop shares them
        del crop
        gc.collect()
        assert decoder.budget.used == 0


def test_more_than_the_budget_is_refused_with_a_hint_before_it_is_decoded(
    sandbox: Sandbox,
) -> None:
    data = encoded(LARGE, "PNG")  # 49 MP: 196 MB while it is decoded, 147 MB then
    decoder = ImageDecoder(ImageSettings(max_decoded_bytes=200_000_000), sandbox)
    held = decoder.submit(data).result()
    assert decoder.budget.used == held.pixels.nbytes == 147_000_000
    with pytest.raises(Busy, match=r"147,000,000 bytes of memory of 200,000,000") as caught:
        decoder.submit(data).result()
    assert caught.value.retry_after_s > 0
    small = decoder.submit(encoded(gradient(), "PNG")).result()
    assert small.width == 53  # there is room for that
    del held, caught
    gc.collect()
    assert decoder.submit(data).result().width == 7000


def test_one_image_over_the_budget_is_decoded_alone(sandbox: Sandbox) -> None:
    decoder = ImageDecoder(ImageSettings(max_decoded_bytes=2**20), sandbox)
    held = decoder.submit(encoded(gradient(1500, 1100), "PNG")).result()
    with pytest.raises(Busy):
        decoder.submit(encoded(gradient(), "PNG")).result()
    assert held.width == 1500


def test_a_job_waits_for_room_and_leaves_some(sandbox: Sandbox) -> None:
    data = encoded(gradient(1500, 1100), "PNG")  # 11.6 MB while it is decoded, 5 MB then
    decoder = ImageDecoder(ImageSettings(max_decoded_bytes=16_000_000), sandbox)
    held = decoder.submit(data).result()
    found: list[Image] = []
    thread = threading.Thread(target=lambda: found.append(decoder.decode(data, "x", NEVER)))
    thread.start()
    second = decoder.submit(encoded(gradient(), "PNG")).result()  # others go ahead of it
    assert (held.width, second.width) == (1500, 53)
    assert not found
    del held, second
    gc.collect()
    thread.join(20)
    assert found[0].width == 1500


def test_a_job_that_stops_gives_up_waiting_and_decoding(sandbox: Sandbox) -> None:
    data = encoded(gradient(1500, 1100), "PNG")
    decoder = ImageDecoder(ImageSettings(max_decoded_bytes=2**20), sandbox)
    held = decoder.submit(data).result()
    stopping = threading.Event()
    threading.Timer(0.1, stopping.set).start()
    with pytest.raises(ShuttingDown, match="stays in the queue"):
        decoder.decode(data, "x", stopping)
    assert held.width == 1500


def test_the_budget() -> None:
    budget = MemoryBudget(100)
    assert budget.take(1000)  # alone
    assert not budget.take(1)
    assert not budget.room()
    budget.change(-950)
    assert not budget.take(51)
    assert not budget.take(int(100 * BACKGROUND_SHARE) - 50 + 1, background=True)
    assert budget.take(50)
    assert budget.used == 100


def test_late_cancelled_and_closed(sandbox: Sandbox) -> None:
    decoder = ImageDecoder(sandbox=sandbox)
    data = encoded(gradient(), "PNG")
    with pytest.raises(DeadlineExceeded, match="allow more time"):
        decoder.submit(data, deadline=time.monotonic() - 0.01).result()
    decoder.close()
    assert decoder.submit(data).cancelled()


def test_a_machine_without_room_for_a_process_is_no_fault_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox = Sandbox()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="cannot decode images at present"):
        ImageDecoder(sandbox=sandbox).submit(encoded(gradient(), "PNG")).result()
    sandbox.close()


def test_nothing_is_asked_in_process() -> None:
    assert images.sandbox.request_memory(10**15)
