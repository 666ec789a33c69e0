"""Tracks as MOTChallenge, CVAT for video and COCO have them: what is written can be read back."""

import configparser
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import boxes, judged, result
from strange_names import NAMES

from secondlook.core.frame_names import FrameAddress
from secondlook.datasets.export import FORMATS
from secondlook.datasets.writers import UNSPLIT, Labels, write_format
from secondlook.datasets.writers.sequences import UNTRACKED
from secondlook_client.values import Judgement, LabelResult, Outcome

CLASSES = ("dog", 'été: <&> "')
Box = tuple[float, float, float, float]
Images = Sequence[tuple[str, LabelResult]]


def tracked(
    track: int, box: Box, name: str = "dog", outcome: Outcome = Outcome.ACCEPT
) -> Judgement:
    return replace(judged(name, box, outcome), track=track)


def frames_of(clip: str, *judgements: Sequence[Judgement]) -> list[tuple[str, LabelResult]]:
    """Frames of a clip, five a second."""
    return [
        (FrameAddress(clip, 200 * place).name, result(*found))
        for place, found in enumerate(judgements)
    ]


def written(name: str, out: Path, images: Images, notes: list[str] | None = None) -> Path:
    labels = Labels(CLASSES, lambda: iter(images), lambda _name, _result, path: path.touch())
    return write_format(name, {UNSPLIT: labels}, out, notes)


def read_mot(folder: Path) -> set[tuple[int, int, str, Box, bool]]:
    """(frame from 0, track, class, box, counts) of every line."""
    names = (folder / "gt/labels.txt").read_text().splitlines()
    found = set()
    for line in (folder / "gt/gt.txt").read_text().splitlines():
        frame, track, x, y, width, height, counts, class_, _ = map(float, line.split(","))
        box = x, y, round(x + width, 2), round(y + height, 2)
        found.add((int(frame) - 1, int(track), names[int(class_) - 1], box, counts == 1))
    return found


def read_cvat(path: Path) -> set[tuple[int, int, str, Box]]:
    """(frame, object, class, box) of every box that is not outside."""
    found = set()
    for track in ElementTree.parse(path).iter("track"):
        for box in track.iter("box"):
            x1, y1, x2, y2 = (float(box.get(edge, "")) for edge in ("xtl", "ytl", "xbr", "ybr"))
            if box.get("outside") == "0":
                key = int(box.get("frame", "")), int(track.get("group_id", ""))
                found.add((*key, track.get("label", ""), (x1, y1, x2, y2)))
    return found


@st.composite
def videos(draw: st.DrawFn) -> list[tuple[str, LabelResult]]:
    """Two clips with a box of each of some tracks in each frame."""
    images = []
    for clip in ("a.mp4", "sub/b.mp4"):
        frames = []
        for _ in range(draw(st.integers(1, 4))):
            numbers = draw(st.sets(st.integers(1, 5), max_size=3))
            frames.append([
                tracked(number, draw(boxes()), draw(st.sampled_from(CLASSES)), draw(outcomes))
                for number in sorted(numbers)
            ])  # fmt: skip
        images += frames_of(clip, *frames)
    return images


outcomes = st.sampled_from(Outcome)


def near(box: Box) -> Box:
    x1, y1, x2, y2 = (round(edge, 2) for edge in box)
    return x1, y1, x2, y2


@settings(max_examples=25)
@given(videos())
def test_every_tracked_box_comes_back(images: list[tuple[str, LabelResult]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mot, cvat = (written(name, Path(folder), images) for name in ("mot", "cvat-video"))
        for clip, place in (("a.mp4", "a.mp4"), ("sub/b.mp4", "sub__b.mp4")):
            frames = [found for name, found in images if name.startswith(f"{clip}@")]
            every = [(at, one) for at, found in enumerate(frames) for one in found.judgements]
            expected = {
                (at, one.track, one.class_name, one.outcome): near(one.box)
                for at, one in every
                if one.outcome is not Outcome.REJECT
            }
            in_mot = read_mot(mot / UNSPLIT / place)
            assert len(in_mot) == len(expected)
            for at, track, name, box, counts in in_mot:
                outcome = Outcome.ACCEPT if counts else Outcome.UNSURE
                assert box == pytest.approx(expected[at, track, name, outcome], abs=0.011)
            in_cvat = read_cvat(cvat / UNSPLIT / place / "annotations.xml")
            assert in_cvat == {
                (at, track, name, box)
                for (at, track, name, outcome), box in expected.items()
                if outcome is Outcome.ACCEPT
            }


def test_a_sequence_says_its_rate_size_and_length(tmp_path: Path) -> None:
    images = frames_of("a.mp4", *[[tracked(1, (1, 2, 30, 40))]] * 6)
    folder = written("mot", tmp_path, images) / UNSPLIT / "a.mp4"
    ini = configparser.ConfigParser()
    ini.read(folder / "seqinfo.ini")
    facts = dict(ini["Sequence"])
    assert facts["framerate"] == "5" and facts["seqlength"] == "6" and facts["imwidth"] == "320"
    assert sorted(path.name for path in (folder / "img1").iterdir())[-1] == "000006.jpg"
    assert (folder / "gt/gt.txt").read_text().startswith("1,1,1.00,2.00,29.00,38.00,1,1,1\n")


def test_a_track_is_in_a_frame_of_mot_once_and_in_cvat_for_each_class(tmp_path: Path) -> None:
    box = (1.0, 2.0, 30.0, 40.0)
    both = [tracked(4, box, CLASSES[1]), tracked(4, box, CLASSES[0])]
    unsure = [tracked(4, box, CLASSES[0], Outcome.UNSURE), tracked(4, box, CLASSES[1])]
    images = frames_of("a.mp4", both, unsure)
    found = read_mot(written("mot", tmp_path, images) / UNSPLIT / "a.mp4")
    assert sorted(found) == [(0, 4, CLASSES[0], box, True), (1, 4, CLASSES[1], box, True)]
    xml = written("cvat-video", tmp_path, images) / UNSPLIT / "a.mp4/annotations.xml"
    assert {(frame, name) for frame, _, name, _ in read_cvat(xml)} == {
        (0, CLASSES[0]),
        (0, CLASSES[1]),
        (1, CLASSES[1]),
    }


def test_in_cvat_an_object_is_outside_where_it_has_no_label(tmp_path: Path) -> None:
    one = [tracked(1, (1, 2, 3, 4))]
    xml = written("cvat-video", tmp_path, frames_of("a.mp4", one, [], [], one, []))
    (track,) = ElementTree.parse(xml / UNSPLIT / "a.mp4/annotations.xml").iter("track")
    shown = [(box.get("frame"), box.get("outside")) for box in track.iter("box")]
    assert shown == [("0", "0"), ("1", "1"), ("3", "0"), ("4", "1")]


@pytest.mark.parametrize("name", ["mot", "cvat-video"])
def test_labels_without_a_track_are_left_out_and_told(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    images = [("a.jpg", result(judged("dog"))), ("b.jpg", result())]
    folder = written(name, tmp_path, images, notes) / UNSPLIT / "images"
    assert notes == [UNTRACKED]
    assert [*folder.rglob("0*.jpg")] != [] and name not in FORMATS
    assert "30" not in "".join(path.read_text() for path in folder.rglob("gt.txt"))


@pytest.mark.parametrize("name", ["mot", "cvat-video"])
def test_any_names_can_be_written(tmp_path: Path, name: str) -> None:
    images = [(one, result(tracked(1, (4, 5, 20, 25)))) for one in NAMES]
    folder = written(name, tmp_path, images)
    assert len([*folder.rglob("0*.*")]) == len(NAMES)


def test_coco_has_the_track_of_a_label(tmp_path: Path) -> None:
    images = [("a.jpg", result(tracked(3, (1, 2, 30, 40)), judged("dog")))]
    coco = json.loads(
        (written("coco", tmp_path, images) / "annotations/instances_default.json").read_text()
    )
    one, other = coco["annotations"]
    assert one["track_id"] == one["attributes"]["track_id"] == 3
    assert "track_id" not in other and "track_id" not in other["attributes"]
