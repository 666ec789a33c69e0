"""What is inside is bounded from the first byte decoded, not only in the engine."""

import asyncio
import threading
import time

import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from serving import DOG, png

from secondlook.config.settings import BatchingSettings
from secondlook.core import images
from secondlook.labeling import pipeline
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.labeling import AdmissionControl
from secondlook_client.errors import Busy, DeadlineExceeded


def run(scene):
    """Run ``scene(admission)`` over an engine that takes two images at a time."""

    async def main():
        engine = Engine(
            Pipeline(ScriptedProposer(), ScriptedVerifier()), BatchingSettings(max_in_flight=2)
        )
        admission = AdmissionControl(engine, images.DEFAULT_LIMITS, decode_threads=1)
        try:
            await scene(admission)
            assert admission.in_flight() == 0
        finally:
            admission.close()
            engine.close()

    asyncio.run(main())


def test_images_being_decoded_count(monkeypatch):
    gate, decoded = threading.Event(), []

    def slow(data, name, limits):
        assert gate.wait(20)
        decoded.append(name)
        return images.decode(data, name, limits)

    monkeypatch.setattr(pipeline, "decode", slow)

    async def scene(admission):
        first = [asyncio.create_task(admission.label(png(), name, DOG)) for name in "ab"]
        while admission.in_flight() < 2:
            await asyncio.sleep(0.005)
        with pytest.raises(Busy) as caught:
            await admission.label(png(), "c", DOG)
        assert caught.value.retry_after_s > 0
        gate.set()
        assert [labelled.name for labelled in await asyncio.gather(*first)] == ["a", "b"]
        assert decoded == ["a", "b"]

    run(scene)


def test_a_late_image_is_not_decoded(monkeypatch):
    monkeypatch.setattr(pipeline, "decode", lambda *_: pytest.fail("it was decoded"))

    async def scene(admission):
        with pytest.raises(DeadlineExceeded, match="allow more time"):
            await admission.label(png(), "late", DOG, time.monotonic() - 0.01)

    run(scene)


def test_decoding_leaves_the_event_loop_free(monkeypatch):
    def slow(data, name, limits):
        time.sleep(0.5)
        return images.decode(data, name, limits)

    monkeypatch.setattr(pipeline, "decode", slow)

    async def scene(admission):
        task = asyncio.create_task(admission.label(png(), "x", DOG))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 5

    run(scene)
