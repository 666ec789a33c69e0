"""What is inside is bounded from the first byte decoded, not only in the engine."""

import asyncio
import threading
import time

import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from serving import DOG, png

from secondlook.core import images
from secondlook.core.errors import Busy, DeadlineExceeded
from secondlook.labeling.engine import Engine, EngineLimits
from secondlook.labeling.pipeline import Pipeline
from secondlook.server import labeling as intake_module
from secondlook.server.labeling import Intake


def run(scene):
    """Run ``scene(intake)`` over an engine that takes two images at a time."""

    async def main():
        engine = Engine(
            Pipeline(ScriptedProposer(), ScriptedVerifier()), EngineLimits(max_images=2)
        )
        intake = Intake(engine, images.DEFAULT_LIMITS, decode_threads=1)
        try:
            await scene(intake)
            assert intake.inside() == 0
        finally:
            intake.close()
            engine.close()

    asyncio.run(main())


def test_images_being_decoded_count(monkeypatch):
    gate, decoded = threading.Event(), []

    def slow(data, name, limits):
        assert gate.wait(20)
        decoded.append(name)
        return images.decode(data, name, limits)

    monkeypatch.setattr(intake_module, "decode", slow)

    async def scene(intake):
        first = [asyncio.create_task(intake.label(png(), name, DOG)) for name in "ab"]
        while intake.inside() < 2:
            await asyncio.sleep(0.005)
        with pytest.raises(Busy) as caught:
            await intake.label(png(), "c", DOG)
        assert caught.value.retry_after_s > 0
        gate.set()
        assert [labelled.name for labelled in await asyncio.gather(*first)] == ["a", "b"]
        assert decoded == ["a", "b"]

    run(scene)


def test_a_late_image_is_not_decoded(monkeypatch):
    monkeypatch.setattr(intake_module, "decode", lambda *_: pytest.fail("it was decoded"))

    async def scene(intake):
        with pytest.raises(DeadlineExceeded, match="allow more time"):
            await intake.label(png(), "late", DOG, time.monotonic() - 0.01)

    run(scene)


def test_decoding_leaves_the_event_loop_free(monkeypatch):
    def slow(data, name, limits):
        time.sleep(0.5)
        return images.decode(data, name, limits)

    monkeypatch.setattr(intake_module, "decode", slow)

    async def scene(intake):
        task = asyncio.create_task(intake.label(png(), "x", DOG))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 5

    run(scene)
