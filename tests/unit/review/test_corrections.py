"""What people do in another program, and say here, is lost in neither direction."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedSegmenter
from stored import ANSWERS, image_of, labelled, review_box, stored_run

from secondlook.datasets.corrected_sets import open_corrected
from secondlook.datasets.export import export
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.review.corrections import Corrector, ShownImage
from secondlook.review.review_files import import_corrections
from secondlook.store import Store, open_store
from secondlook.store.runs import Run
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask
from secondlook_client.values import Judgement, Outcome, Review, WrongReason

FORMATS = ("label-studio", "cvat", "fiftyone")
DOG = (20, 5, 39, 25)
MASK = Mask.from_array(np.pad(np.ones((9, 12), bool), ((15, 6), (22, 6))))


pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def blank(tmp_path: Path, database_url: str) -> Path:
    """The folder of another store, in which nothing is yet."""
    return Path(shutil.copytree(tmp_path / "data", tmp_path / "other"))


@pytest.fixture
def run(blank: Path, store: Store) -> Store:
    """Two images with masks and a dog in doubt, in a run `first`, without reviews."""
    return labelled_into(store, "ab")


def labelled_into(store: Store, names: str, **answers: float) -> Store:
    segmenter, told = ScriptedSegmenter(), {**ANSWERS, **answers}
    found = [labelled(name, answers=told, segmenter=segmenter) for name in names]
    stored_run(store, "first", found)
    return store


@pytest.fixture
def reviewed(run: Store) -> Store:
    """The same, and people said everything that can be said."""
    a, b = image_of(run, "a"), image_of(run, "b")
    review_box(run, a, "dog", DOG, "right", "Ann", "ä <b>\n", mask=MASK)
    why = {"reason": WrongReason.OUTLINE, "new_box": (1.5, 1, 12.25, 22)}
    review_box(run, a, "glasses on", (1, 1, 12, 20), "wrong", "Ben", seconds=2.5, **why)
    review_box(run, b, "dog", (3, 3, 17, 19.5), "missing", "Ben")
    back = review_box(run, b, "dog", DOG, "right", "Ann")
    run.reviews.undo(back.id, "Ann")
    review_box(run, b, "dog", DOG, "unsure", "Cy")
    review_box(run, b, "", None, "complete", "Ben")
    return run


@pytest.fixture
def other(blank: Path) -> Iterator[Store]:
    """Another store with the same images and run, without the reviews."""
    with open_store(blank) as store:
        yield labelled_into(store, "ab")


def exported(store: Store, out: Path, name: str) -> Path:
    """The folder of a format with the labels of the run."""
    create_snapshot(store, "s", Query(("first",)))
    folder = export(store, "s", out, [name]) / name
    if name != "label-studio":
        return folder
    file = folder / "tasks.json"
    tasks = json.loads(file.read_text())
    for task in tasks:
        task["annotations"] = [{"result": task["predictions"][0]["result"], "completed_by": 9}]
    file.write_text(json.dumps(tasks))
    return file


def imported(store: Store, path: Path, **options: bool) -> tuple[int, int]:
    found = [import_corrections(store, "first", s, "Eve", **options) for s in open_corrected(path)]
    return sum(new for new, _ in found), sum(known for _, known in found)


def said(store: Store) -> list[Review]:
    """Every review by its time, with the time of another one instead of its number."""
    every = store.reviews.history()
    when = {one.id: int(1e6 * one.created_at) for one in every} | {None: None}
    told = [
        replace(one, id=0, undoes=when[one.undoes], undone_by=when[one.undone_by]) for one in every
    ]
    return sorted(told, key=lambda one: one.created_at)


def labels(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Labels and unsure boxes of each image, with reviews, all scores and masks."""
    return {
        one.labelled.name: [
            (j.class_name, j.box, j.score, j.p_yes, j.outcome, j.probability, j.segmentation)
            for j in one.labelled.judgements
            if j.outcome is not Outcome.REJECT
        ]
        for one in store.results.page(store.results.run("first").id)
    }


@pytest.mark.parametrize("name", FORMATS)
def test_reviews_boxes_and_scores_survive_the_way_there_and_back(
    name: str, reviewed: Store, other: Store, tmp_path: Path
) -> None:
    path = exported(reviewed, tmp_path / "out", name)
    before, stands = said(reviewed), labels(reviewed)
    assert labels(other) != stands
    added, _ = imported(other, path, changes_only=True)
    if name == "label-studio":  # what was in doubt was handed in as a label
        extra = [one for one in said(other) if one not in before]
        assert {(one.answer.value, one.person) for one in extra} == {
            ("right", "Label Studio user 9")
        }
    else:
        assert added >= len(before) - 1 and said(other) == before
        assert labels(other) == stands
        assert imported(reviewed, path, changes_only=True)[0] == 0
    assert [one for one in said(other) if one in before] == before
    assert imported(other, path, changes_only=True)[0] == 0, "it is kept once"


@pytest.mark.parametrize("name", FORMATS)
def test_an_untouched_box_is_right_unless_only_changes_count(
    name: str, run: Store, tmp_path: Path
) -> None:
    path = exported(run, tmp_path / "out", name)
    unsure = 2 if name == "label-studio" else 0
    assert imported(run, path, changes_only=True)[0] == unsure
    assert imported(run, path)[0] == 2
    person = "Label Studio user 9" if name == "label-studio" else "Eve"
    assert {(one.person, one.answer.value) for one in run.reviews.history()} == {(person, "right")}


def edited(image: ShownImage, *changes: str) -> list:
    """The boxes of an image as another program gives them back after some changes."""
    from secondlook.datasets.label_fields import CorrectedBox

    found = []
    for at, one in enumerate(image.judgements):
        if one.outcome is Outcome.REJECT:
            continue
        box = CorrectedBox(one, f"{image.cursor}.{at}", one.mask is not None)
        if one.class_name == "dog":
            if "delete" in changes:
                continue
            if "class" in changes:
                box = replace(box, judgement=replace(one, class_name="glasses off"))
            if "move" in changes:
                x1, y1, x2, y2 = box.judgement.box
                moved = replace(box.judgement, box=(x1 - 9, y1, x2 - 9, y2))
                box = replace(box, judgement=moved)
            if "paint" in changes and one.segmentation:
                outlined = replace(one.segmentation, mask=MASK)
                painted = replace(box.judgement, segmentation=outlined, box=MASK.box)
                box = replace(box, judgement=painted, mask_as_exported=False)
            if "doubt" in changes:
                doubt = replace(box.judgement.decision, outcome=Outcome.UNSURE)
                box = replace(box, judgement=replace(box.judgement, decision=doubt))
        found.append(box)
    if "add" in changes:
        new = replace(
            image.judgements[0], class_name="dog", box=(30, 20, 38, 29), segmentation=None
        )
        found.append(CorrectedBox(new))
    if "copy" in changes:
        x1, y1, x2, y2 = found[0].judgement.box
        judged = replace(found[0].judgement, box=(x1 + 9, y1 + 9, x2 + 9, y2 + 9))
        found.append(replace(found[0], judgement=replace(judged, segmentation=None)))
    return found[::-1] if "shuffle" in changes else found


EVERYTHING = [
    ("shuffle",),
    ("delete",),
    ("class",),
    ("move",),
    ("paint",),
    ("class", "move"),
    ("class", "paint", "shuffle"),
    ("doubt",),
    ("add", "move"),
    ("copy", "shuffle"),
]


def test_the_labels_become_what_the_person_left(store: Store) -> None:
    names = "abcdefghijklm"[: len(EVERYTHING)]
    labelled_into(store, names, **{"Dog?": 0.9})
    about = store.results.run("first")
    for found, changes in zip(store.results.page(about.id), EVERYTHING, strict=True):
        check_left(store, about, found.cursor, changes)


def check_left(run: Store, about: Run, cursor: int, changes: tuple[str, ...]) -> None:
    names = frozenset(about.ontology.names)
    corrector = Corrector("Ann", names, names, changes_only=True)

    def shown() -> ShownImage:
        found = run.results.some(about, [cursor])[cursor]
        image = found.labelled
        return ShownImage(image.sha256, image.judgements, found.reviewed, found.cursor)

    boxes = edited(shown(), *changes)
    new = corrector.reviews(shown(), boxes, seconds=6.0)
    assert bool(new) is (changes != ("shuffle",))
    assert sum(one.seconds for one in new) == pytest.approx(6.0 if new else 0.0)
    run.reviews.add(new)
    left = [one for one in shown().judgements if one.outcome is not Outcome.REJECT]

    def key(one: Judgement) -> tuple:
        mask = one.mask if not {"move", "copy"} & {*changes} else None
        return one.class_name, one.box, mask.counts if mask else "", one.outcome

    assert sorted(map(key, left)) == sorted(key(one.judgement) for one in boxes)
    assert corrector.reviews(shown(), boxes) == [], "nothing is said twice"


def test_classes_that_only_one_side_knows(run: Store) -> None:
    about = run.results.run("first")
    (found, *_) = run.results.page(about.id)
    image = ShownImage(found.labelled.sha256, found.labelled.judgements, (), found.cursor)
    one = Corrector("Ann", classes={"dog"}, known={"dog"})
    assert {said.class_name for said in one.reviews(image, [])} == {"dog"}, "others were not shown"
    boxes = edited(image, "class", "add")
    foreign = [replace(b, judgement=replace(b.judgement, class_name="cat")) for b in boxes]
    new = one.reviews(image, foreign)
    assert [(s.answer.value, s.reason, s.new_class) for s in new] == [
        ("wrong", WrongReason.CLASS, "")
    ]
    only_masks = replace(one, masks_only=True)
    plain = replace(image, judgements=[replace(j, segmentation=None) for j in image.judgements])
    assert only_masks.reviews(plain, []) == []


def test_a_file_of_other_images_is_refused(run: Store, tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    file.write_text('<annotations><image name="z" width="4" height="4"/></annotations>')
    with pytest.raises(InvalidInput, match="none of the run's images"):
        imported(run, file)
    file.write_text(file.read_text().replace('"z"', '"folder/b"').replace('"4"', '"40"'))
    assert imported(run, file)[0] == 0, "it lists no class, so nothing is missing from it"
    text = '<meta><label><name>dog</name></label></meta><image name="folder/b"'
    file.write_text(file.read_text().replace('<image name="folder/b"', text))
    assert imported(run, file)[0] == 1
    assert run.reviews.history()[0].answer.value == "wrong"
