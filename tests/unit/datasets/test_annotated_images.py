import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondlook.core.ontology_yaml import ontology_from_lines
from secondlook.datasets.annotated_images import AnnotatedSet, class_questions
from secondlook.datasets.open import read_path
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.ontology import Ontology


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def coco(path: Path, names: list[str], files: list[str], boxes: list[tuple[int, int]]) -> Path:
    """``boxes``: (image, class) by place, each box of another place and size."""
    images = [{"id": p, "file_name": name} for p, name in enumerate(files)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "images": images,
                "categories": [{"id": p, "name": name} for p, name in enumerate(names)],
                "annotations": [
                    {"id": n, "image_id": i, "category_id": c, "bbox": [n, 0, 9 + n, 9]}
                    for n, (i, c) in enumerate(boxes)
                ],
            }
        )
    )
    return path


def opened(path: Path, images: Path | None = None) -> AnnotatedSet:
    return AnnotatedSet.of(read_path(path, images))


def questions(annotated: AnnotatedSet, *lines: str, only: tuple[str, ...] = ()) -> list[str]:
    given: Ontology | None = ontology_from_lines(lines) if lines else None
    found = class_questions(annotated, given, only)
    asked = {place: name for name, place in found.place_of.items()}
    return [f"{asked.get(p, '-')}: {s.question}" for p, s in enumerate(found.ontology.classes)]


@pytest.fixture
def pets(tmp_path: Path) -> AnnotatedSet:
    picture(tmp_path / "a.png")
    boxes = [(0, 0), (0, 1), (0, 2)]
    return opened(coco(tmp_path / "t.json", ["dog", "Cat", "hair_drier", "cow"], ["a.png"], boxes))


def test_each_class_with_annotations_has_a_question(pets: AnnotatedSet) -> None:
    assert questions(pets) == [
        "dog: Is this a dog?",
        "Cat: Is this a Cat?",
        "hair_drier: Is this a hair drier?",
    ]


def test_a_question_of_the_user_replaces_that_of_its_class(pets: AnnotatedSet) -> None:
    asked = questions(pets, "cat ? Is this a cat, and no dog?")
    assert asked[1] == "Cat: Is this a cat, and no dog?" and len(asked) == 3


def test_a_class_that_is_not_asked_about_can_be_suggested(pets: AnnotatedSet) -> None:
    assert questions(pets, only=("CAT",)) == [
        "-: Is this a dog?",
        "Cat: Is this a Cat?",
        "-: Is this a hair drier?",
    ]


def test_the_other_sides_of_a_contrast_come_with_it(pets: AnnotatedSet) -> None:
    asked = questions(pets, "dog @legs ? Has it four legs?", "bird @legs ? Has it two legs?")
    assert asked[0] == "dog: Has it four legs?" and asked[3] == "-: Has it two legs?"


@pytest.mark.parametrize(("lines", "only"), [(("horse",), ()), ((), ("horse",))])
def test_a_class_that_the_dataset_lacks_is_refused(
    pets: AnnotatedSet, lines: tuple[str, ...], only: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidInput, match="no class 'horse'; their classes are dog, Cat"):
        questions(pets, *lines, only=only)


@pytest.mark.parametrize("name", ["a.b?", "…", "x" * 90, "0", "Dog"])
def test_odd_names_of_classes_can_be_asked_about(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    found = questions(opened(coco(tmp_path / "t.json", ["dog", name], ["a.png"], [(0, 0), (0, 1)])))
    assert len(found) == 2 - (name == "Dog")  # one question for two spellings


@pytest.mark.parametrize("name", ["x" * 200, "a\nb"])
def test_a_name_that_cannot_be_asked_about_is_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(BadOntology):
        questions(opened(coco(tmp_path / "t.json", [name], ["a.png"], [(0, 0)])))


def test_an_image_of_two_splits_is_one_with_the_boxes_of_both(tmp_path: Path) -> None:
    for split, boxes in (("train", [(0, 0), (0, 1)]), ("val", [(0, 0), (0, 0)])):
        coco(tmp_path / f"annotations/instances_{split}.json", ["dog", "cat"], ["a.png"], boxes)
    picture(tmp_path / "images/a.png")
    (one,) = opened(tmp_path).images
    assert sorted(one.entries) == [("train", "a.png"), ("val", "a.png")]
    rows = sorted(zip(one.sample.classes.tolist(), one.sample.boxes[:, 0].tolist(), strict=True))
    assert rows == [(0, 0.0), (0, 1.0), (1, 1.0)]


def test_images_are_found_in_the_folder_that_is_given(tmp_path: Path) -> None:
    truth = coco(tmp_path / "labels/t.json", ["dog"], ["x/a.png", "b.png"], [(0, 0)])
    picture(tmp_path / "photos/x/a.png")
    found = opened(truth, tmp_path / "photos")
    assert [image.name for image in found.images] == ["a.png"]
    assert [sample.name for sample in found.unusable] == ["b.png"]
    with pytest.raises(InvalidInput, match="none of the 2 images of 'labels' can be read"):
        opened(truth, tmp_path / "labels")


def test_what_is_asked_of_an_image_has_places_in_the_ontology(pets: AnnotatedSet) -> None:
    (name,) = asked = pets.asked({"hair_drier": 7, "dog": 2})
    assert name == "a.png" and asked[name].classes.tolist() == [2, 7]
    assert np.array_equal(asked[name].boxes, pets.images[0].sample.boxes[[0, 2]])
    assert pets.asked({"cow": 1}) == {}


def test_a_dataset_without_a_box_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="no annotation to ask about"):
        questions(opened(coco(tmp_path / "t.json", ["dog"], ["a.png"], [])))
