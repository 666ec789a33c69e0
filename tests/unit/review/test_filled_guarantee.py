"""Boxes that were filled in where a track was not found are guaranteed by themselves, or not."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from frozen import drawn, encoded, entries_of, stored

from secondlook.config.settings import ImageSettings
from secondlook.core.frame_names import FrameAddress, frame_address
from secondlook.core.types import Image
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.evaluation.guarantee import Promise, Terms
from secondlook.evaluation.matching import TrueBox
from secondlook.jobs.answer_log import AnswerLog
from secondlook.jobs.tracking import track_run
from secondlook.labeling.pipeline import Pipeline
from secondlook.review.certificate_page import write_certificate
from secondlook.review.guarantees import (
    GuaranteeRequest,
    GuaranteeStatus,
    apply_guarantee,
    create_guarantee,
    job_under,
)
from secondlook.review.oracle import Oracle
from secondlook.review.redecide import redecide
from secondlook.store import Store
from secondlook_client.errors import InvalidInput
from secondlook_client.values import BoxKind, Judgement, Outcome

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FRAMES, STEP_MS = 63, 200
DOG = (10.0, 10.0, 40.0, 50.0)
TERMS = Terms(0.8, 0.8, 9, Promise.RUN)
FOUND, FILLED = range(2)


def is_missed(name: str) -> bool:
    """Whether the dog is not found in a frame: in each fourth one."""
    return frame_address(name).ms // STEP_MS % 4 == 3


def street(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """A dog that stands still."""
    if is_missed(image.name):
        return []
    return [(DOG, {"dog": 0.6 + frame_address(image.name).ms / STEP_MS / 200})]


def truth(there: Callable[[str], bool]) -> Oracle:
    """A person who sees the dog in some frames."""
    names = [FrameAddress("a.mp4", STEP_MS * number).name for number in range(FRAMES)]
    boxes = {name: [TrueBox("dog", DOG)] if there(name) else [] for name in names}
    return Oracle(boxes, frozenset({"dog", "cat"}), "truth.json")


@pytest.fixture
def tracks(store: Store, tmp_path: Path) -> str:
    """Name of a run in which each fourth box was filled in."""
    clip = {}
    for number in range(FRAMES):
        pixels = drawn(0).copy()
        pixels.putpixel((number, 63), (255, 255, 255))
        clip[FrameAddress("a.mp4", STEP_MS * number).name] = encoded(pixels, "PNG")
    stored(store, "r", clip, script=street)
    keys = {key for _, key, _ in store.results.names(store.results.run("r").id)}
    pipeline = Pipeline(ScriptedProposer(street), ScriptedVerifier({"Dog?": 0.95, "Cat?": 0.1}))
    log = AnswerLog(tmp_path / "answers.jsonl")
    return track_run(store, pipeline, "r", keys, 5, log, fill_gaps=True).run.name


def made(
    store: Store, run: str, name: str, there: Callable[[str], bool], **changes: object
) -> GuaranteeStatus:
    request = GuaranteeRequest(run, TERMS, **{"filled": True, **changes})
    return create_guarantee(store, name, request, None, truth(there))


def boxes_of(store: Store, run: str) -> dict[str, Judgement]:
    """By frame, its only box that nobody has answered."""
    page = store.results.page(store.results.run(run).id, 0, 1000)
    found = {one.labelled.name: one.labelled.judgements for one in page}
    return {name: box for name, (box,) in found.items() if "oracle" not in box.reason}


def test_filled_boxes_are_labels_only_by_answers_about_filled_boxes(
    store: Store, tracks: str, tmp_path: Path
) -> None:
    everywhere = made(store, tracks, "both", lambda name: True)
    results = everywhere.certificate.results
    assert [one.class_name for one in results] == ["", "all classes (filled)"]
    assert all(one.holds for one in results) and results[FILLED].answers <= TERMS.budget
    assert apply_guarantee(store, "both").classes == ("dog", "cat")
    of_gaps = {n: box for n, box in boxes_of(store, "both").items() if is_missed(n)}
    reached = [box for box in of_gaps.values() if box.outcome is Outcome.ACCEPT]
    assert len(reached) > 2 and results[FILLED].accepted >= len(reached)
    for box in of_gaps.values():
        assert (box in reached) == (box.probability >= results[FILLED].threshold)
        assert box.reason.startswith("filled between") and "guaranteed from there" in box.reason
    create_snapshot(store, "s", Query(guarantee="both"))
    labels = [entry for entry in entries_of(store) if entry.of(BoxKind.LABEL)]
    assert sum(is_missed(entry.name) for entry in labels) == results[FILLED].accepted
    page = write_certificate(tmp_path / "page.html", store, everywhere, 5, ImageSettings())
    assert "all classes (filled)" in page.read_text()

    # The same answers without --filled say nothing of filled boxes, and neither do thresholds.
    made(store, tracks, "found", lambda name: True, filled=False)
    apply_guarantee(store, "found")
    redecide(store, "both", "again", store.results.run("both").ontology)
    for run in ("found", "again"):
        left = [box for name, box in boxes_of(store, run).items() if is_missed(name)]
        assert left and {box.outcome for box in left} == {Outcome.UNSURE}, run


def test_wrong_filled_boxes_are_refused_and_right_found_ones_are_not(
    store: Store, tracks: str
) -> None:
    found, filled = made(store, tracks, "g", lambda name: not is_missed(name)).certificate.results
    assert found.holds and not filled.holds
    assert "wrong or unsure, too many to be sure of 0.8" in filled.reason
    assert "more answers would hardly help" in filled.reason
    apply_guarantee(store, "g")
    for name, box in boxes_of(store, "g").items():
        assert (box.outcome is Outcome.ACCEPT) == (not is_missed(name))

    # And the other way round: filled boxes that are right lend nothing to found ones.
    found, filled = made(store, tracks, "h", is_missed, classes=("dog",)).certificate.results
    assert (found.class_name, filled.class_name) == ("dog", "dog (filled)")
    assert filled.holds and not found.holds
    apply_guarantee(store, "h")
    for name, box in boxes_of(store, "h").items():
        assert (box.outcome is Outcome.ACCEPT) == is_missed(name)
    request = GuaranteeRequest("r", TERMS, filled=True)
    with pytest.raises(InvalidInput, match="no box that was filled in; label the video with"):
        create_guarantee(store, "i", request, None)
    with pytest.raises(InvalidInput, match="'h' is about boxes that were filled in"):
        job_under(store, "h", None, lambda _: {}, ("", ""))
