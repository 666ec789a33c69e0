"""What is inside is bounded from the first byte decoded, not only in the engine."""

import asyncio
import time

import pytest
from encoded_images import encoded
from fakes import ScriptedProposer, ScriptedVerifier
from PIL import Image as PILImage
from serving import DOG, png

from secondlook.config.settings import BatchingSettings, ImageSettings
from secondlook.core.decoding import ImageDecoder
from secondlook.core.images import DEFAULT_LIMITS
from secondlook.core.types import Labelled
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.labeling import AdmissionControl
from secondlook_client.errors import Busy, DeadlineExceeded, DecodingFailed

LARGE = encoded(PILImage.new("RGB", (5000, 5000)), "PNG", compress_level=1)


def run(scene, limits=DEFAULT_LIMITS):
    """Run ``scene(admission)`` over an engine that takes two images at a time."""

    async def main():
        engine = Engine(
            Pipeline(ScriptedProposer(), ScriptedVerifier()), BatchingSettings(max_in_flight=2)
        )
        decoder = ImageDecoder(limits)
        admission = AdmissionControl(engine, decoder)
        try:
            await scene(admission)
            assert admission.in_flight() == 0
        finally:
            decoder.close()
            engine.close()

    asyncio.run(main())


def test_images_being_decoded_count():
    async def scene(admission):
        first = [asyncio.create_task(admission.label(png(), name, DOG)) for name in "ab"]
        while admission.in_flight() < 2:
            await asyncio.sleep(0)
        with pytest.raises(Busy) as caught:
            await admission.label(png(), "c", DOG)
        assert caught.value.retry_after_s > 0
        assert [labelled.name for labelled in await asyncio.gather(*first)] == ["a", "b"]

    run(scene)


def test_a_late_image_is_not_decoded():
    async def scene(admission):
        with pytest.raises(DeadlineExceeded, match="allow more time"):
            await admission.label(b"no image", "late", DOG, time.monotonic() - 0.01)

    run(scene)


def test_decoding_leaves_the_event_loop_free():
    async def scene(admission):
        task = asyncio.create_task(admission.label(LARGE, "x", DOG))
        longest, turn = 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(0.01)
            longest, turn = max(longest, time.perf_counter() - turn), time.perf_counter()
        assert task.result().width == 5000
        assert longest < 0.5

    run(scene)


def test_an_image_that_takes_too_long_is_refused_and_the_next_is_labelled():
    async def scene(admission):
        with pytest.raises(DecodingFailed, match=r"more than 0.1 s"):
            await admission.label(LARGE, "slow", DOG)
        assert (await admission.label(png(), "x", DOG)).width > 0

    run(scene, ImageSettings(max_decode_s=0.1))


def test_pixels_are_counted_until_the_answer_and_more_are_refused():
    async def scene(admission):
        results = await asyncio.gather(
            *(admission.label(LARGE, name, DOG) for name in "ab"), return_exceptions=True
        )
        assert any(isinstance(result, Labelled) for result in results)
        for result in results:  # either may have waited long enough for the other
            assert isinstance(result, (Labelled, Busy))
            if isinstance(result, Busy):
                assert result.retry_after_s > 0
                assert "max_decoded_bytes" in str(result)
        assert (await admission.label(LARGE, "c", DOG)).width == 5000  # all was given back

    run(scene, ImageSettings(max_decoded_bytes=2**20))


def test_a_caller_that_goes_away_takes_its_image_back():
    async def scene(admission):
        task = asyncio.create_task(admission.label(LARGE, "x", DOG))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await admission.label(LARGE, "y", DOG)).width == 5000

    run(scene, ImageSettings(max_decoded_bytes=2**20))
