"""Who is admitted, and what those who are not are told; no model runs."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config.settings import BatchingSettings
from secondlook.core.decoding import ImageDecoder
from secondlook.core.images import DEFAULT_LIMITS
from secondlook.labeling.engine import MAX_HINT_S, MIN_HINT_S, Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.server.labeling import OPTIMISM, AdmissionControl
from secondlook_client.errors import Busy


class RatedEngine(Engine):
    """Says how long an image takes."""

    image_s: float | None = None

    def seconds_for(self, images: float) -> float | None:
        """At the rate that the test chose."""
        return None if self.image_s is None else images * self.image_s


@contextmanager
def admission(
    image_s: float | None = None, **batching: float
) -> Iterator[tuple[AdmissionControl, RatedEngine]]:
    settings = BatchingSettings(**batching)  # type: ignore[arg-type]
    engine = RatedEngine(Pipeline(ScriptedProposer(), ScriptedVerifier()), settings)
    engine.image_s = image_s
    decoder = ImageDecoder(DEFAULT_LIMITS)
    try:
        yield AdmissionControl(engine, decoder), engine
    finally:
        decoder.close()
        engine.close()


@given(
    batch=st.integers(1, 100),
    max_in_flight=st.integers(1, 500),
    image_s=st.none() | st.floats(0.0001, 100),
    queue_s=st.floats(0, 10),
)
def test_places_keep_batches_full_and_wait_no_longer_than_allowed(
    batch: int, max_in_flight: int, image_s: float | None, queue_s: float
) -> None:
    limits = {"propose_batch": batch, "verify_batch": batch, "max_queue_s": queue_s}
    with admission(image_s, max_in_flight=max_in_flight, **limits) as (control, _):
        full = min(2 * batch, max_in_flight)
        assert full <= control.places <= max_in_flight
        waiting = control.places - full
        assert waiting * (image_s or 0) <= queue_s + 1e-6
        if image_s is None:
            assert not waiting


@pytest.mark.parametrize(("decode_s", "more"), [(0.0, 0), (0.05, 5), (10.0, 8)])
def test_images_being_decoded_at_the_measured_rate_have_places_too(
    decode_s: float, more: int
) -> None:
    with admission(0.01) as (control, engine):
        control._decode_s = decode_s
        assert control.places == engine.working_set + more


def test_one_call_more_is_refused_and_told_when_its_turn_comes() -> None:
    with admission(0.2) as (control, _), ExitStack() as stack:
        for _ in range(control.places):
            stack.enter_context(control.admitted())
        hints = []
        for _ in range(40):
            with pytest.raises(Busy, match="as many as keep the models busy") as refused:
                stack.enter_context(control.admitted())
            hints.append(refused.value.retry_after_s)
        for turn, hint in enumerate(hints, 1):  # 5 images a second: each one's turn in a queue
            assert hint == pytest.approx(OPTIMISM * 0.2 * turn, rel=0.3, abs=0.1)
        assert control.in_flight() == control.places
    assert control.in_flight() == 0


@given(st.none() | st.floats(0.00001, 1000), st.integers(1, 400))
def test_hints_are_bounded_whatever_the_rate(image_s: float | None, refused: int) -> None:
    with admission(image_s) as (control, _), ExitStack() as stack:
        for _ in range(control.places):
            stack.enter_context(control.admitted())
        for _ in range(refused):
            with pytest.raises(Busy) as caught:
                stack.enter_context(control.admitted())
            hint_s = caught.value.retry_after_s
            assert hint_s and 0.7 * MIN_HINT_S <= hint_s <= 1.3 * MAX_HINT_S


def test_a_call_whose_deadline_comes_first_is_refused_while_others_wait() -> None:
    with admission(1.0) as (control, engine), ExitStack() as stack:
        soon = time.monotonic() + 5.0
        for _ in range(engine.working_set // 2):
            stack.enter_context(control.admitted(soon))  # a batch is tried, whatever was measured
        with pytest.raises(Busy, match="allow more time"):
            stack.enter_context(control.admitted(soon))
        stack.enter_context(control.admitted(time.monotonic() + 60))
        stack.enter_context(control.admitted(None))


def test_frames_and_kept_images_take_no_place_of_calls() -> None:
    with admission() as (control, _), ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(control.admitted_kept())
            stack.enter_context(control.admitted_frame())
        for _ in range(control.places):
            stack.enter_context(control.admitted())
        assert control.in_flight() == 20 + control.places


def test_all_together_are_at_most_what_may_be_in_flight() -> None:
    with admission(max_in_flight=5) as (control, _), ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(control.admitted_frame())
        for _ in range(2):
            stack.enter_context(control.admitted())
        with pytest.raises(Busy):
            stack.enter_context(control.admitted())
        with pytest.raises(Busy):
            stack.enter_context(control.admitted_frame())
