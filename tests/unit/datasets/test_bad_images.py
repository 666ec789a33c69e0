"""Bad images of a dataset are told all at once; a training that goes on has the same images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PILImage
from training_sets import drawn, write_coco, write_yolo

from secondlook.datasets.bad_images import (
    LIST,
    BadImageCount,
    ImageCheck,
    read_record,
    readable,
    write_record,
)
from secondlook.datasets.open import open_training_set
from secondlook.datasets.samples import TrainingSet
from secondlook_client.errors import InvalidInput

PARTS = {"train": range(20), "val": range(20, 30)}


@pytest.fixture(params=["coco", "yolo"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A dataset of twenty images to train on and ten held out."""
    return (write_coco if request.param == "coco" else write_yolo)(tmp_path / "set", PARTS)


def image(root: Path, number: int) -> Path:
    return root / "images" / ("train" if number < 20 else "val") / f"{number:03}.png"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-900])


def names(data: TrainingSet) -> tuple[list[str], list[str]]:
    """Of the images that can be used."""
    train, held_out = (
        [Path(s.name).stem for s in samples if not s.problem]
        for samples in (data.train, data.held_out)
    )
    return train, held_out


def test_all_bad_images_are_told_at_once(root: Path, tmp_path: Path) -> None:
    truncate(image(root, 3))
    image(root, 5).write_bytes(b"<html>")
    image(root, 21).write_bytes(b"")
    steps: list[tuple[int, int]] = []
    check = ImageCheck(0.1, progress=lambda *step: steps.append(step), folder=tmp_path / "out")
    data = open_training_set(str(root), check=check)
    assert steps == [(n, 30) for n in range(1, 31)]
    train, held_out = names(data)
    assert train == [f"{n:03}" for n in range(20) if n not in (3, 5)]
    assert held_out == [f"{n:03}" for n in range(20, 30) if n != 21]
    (told,) = data.warnings
    assert told.startswith("3 of 30 images cannot be used and are left out: ")
    listed = (tmp_path / "out" / LIST).read_text().splitlines()
    assert [line.partition(": ")[0] for line in listed] == [str(image(root, n)) for n in (3, 5, 21)]
    assert ["truncated" in listed[0], "HTML" in listed[1], "empty" in listed[2]] == [True] * 3
    assert all(line in told for line in listed)

    with pytest.raises(InvalidInput) as refused:
        open_training_set(str(root), check=replace(check, max_bad=0.09))
    assert "3 of the 30 images of 'set' cannot be used, more than 9 %" in str(refused.value)
    assert all(line in str(refused.value) for line in listed)
    assert f"{tmp_path / 'out' / LIST}" in str(refused.value)

    for number in (3, 5, 21):
        drawn(number)[0].save(image(root, number))
    assert names(open_training_set(str(root), check=check))[1] == [f"{n:03}" for n in range(20, 30)]
    assert not (tmp_path / "out" / LIST).exists()


def test_a_message_names_the_first_and_a_file_lists_all(root: Path, tmp_path: Path) -> None:
    for number in range(12):
        truncate(image(root, number))
    with pytest.raises(
        InvalidInput, match=r"12 of the 30 .*004.png.*; and 7 more; all are"
    ) as told:
        open_training_set(str(root), check=ImageCheck(0.05, folder=tmp_path))
    assert "005.png" not in str(told.value)
    assert len((tmp_path / LIST).read_text().splitlines()) == 12


def test_without_decoding_only_headers_are_read(root: Path) -> None:
    truncate(image(root, 3))
    assert len(open_training_set(str(root)).train) == 20
    image(root, 3).write_bytes(b"\x89PNG")
    assert len(open_training_set(str(root)).train) == 19


def going_on(root: Path, tmp_path: Path, first: TrainingSet) -> TrainingSet:
    """The same set opened again, by the record of the first time."""
    write_record(tmp_path, first.images)
    before = read_record(tmp_path)
    assert before == first.images
    return open_training_set(str(root), check=ImageCheck(0.2, folder=tmp_path, before=before))


def test_going_on_has_the_same_images(root: Path, tmp_path: Path) -> None:
    truncate(image(root, 3))
    first = open_training_set(str(root), check=ImageCheck(0.1, folder=tmp_path))
    drawn(3)[0].save(image(root, 3))  # repaired: it stays out
    truncate(image(root, 7))  # its header is sound
    image(root, 8).unlink()
    image(root, 22).write_bytes(b"x")
    again = going_on(root, tmp_path, first)
    assert again.digest == first.digest
    assert [s.name for s in again.train] == [s.name for s in first.train]
    assert [s.name for s in again.held_out] == [s.name for s in first.held_out]
    bad = {Path(s.name).stem: s.problem for s in (*again.train, *again.held_out) if s.problem}
    assert [*bad] == ["007", "008", "022"] and "changed" in bad["007"] and "missing" in bad["008"]
    assert len((tmp_path / LIST).read_text().splitlines()) == 4
    once_more = going_on(root, tmp_path, again)
    assert once_more.digest == first.digest and once_more.images == first.images

    for number in range(10, 14):
        image(root, number).write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"[67] of the [23]\d images of 'set' cannot be used"):
        going_on(root, tmp_path, first)


def test_other_labels_or_images_are_another_dataset(root: Path, tmp_path: Path) -> None:
    first = open_training_set(str(root), check=ImageCheck(0.1))
    drawn(5)[0].save(image(root, 55 - 50).with_name("099.png"))
    if (root / "data.yaml").exists():
        assert going_on(root, tmp_path, first).digest != first.digest
        (root / "images/train/099.png").unlink()
        (root / "labels/train/004.txt").write_text("0 .5 .5 .2 .2\n")
    else:
        file = root / "annotations/train.json"
        plain = json.loads(file.read_text())
        plain["annotations"].pop()
        file.write_text(json.dumps(plain))
    assert going_on(root, tmp_path, first).digest != first.digest


def test_a_division_by_hash_is_kept(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"train": range(30)})
    (root / "data.yaml").write_text("train: images/train\nnames: [red, green]\n")
    first = open_training_set(str(root), check=ImageCheck(0.1))
    image(root, 4).unlink()
    lost = Path(first.held_out[0].name).name
    (root / "images/train" / lost).unlink()
    again = going_on(root, tmp_path, first)
    assert again.digest == first.digest
    assert [s.name for s in again.held_out] == [s.name for s in first.held_out]
    assert again.held_out[0].problem and not first.held_out[0].problem


@pytest.mark.parametrize("content", ["", "{", "[]", '{"used": {"a": 1}, "left_out": []}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / "images.json").write_text(content)
    assert read_record(tmp_path) is None


def test_images_that_turn_bad_later_are_counted_once(root: Path, tmp_path: Path) -> None:
    image(root, 3).write_bytes(b"")
    check = ImageCheck(0.1, folder=tmp_path)
    data = open_training_set(str(root), check=check)
    count = BadImageCount(data, 0.1, tmp_path)
    for sample in data.held_out[:2]:
        sample.path.unlink()
    kept = readable(data.held_out, count)
    assert [s.name for s in kept] == [s.name for s in data.held_out[2:]]
    assert count.add(data.held_out[0], "again") == ""
    assert len((tmp_path / LIST).read_text().splitlines()) == 3
    with pytest.raises(InvalidInput, match="4 of 30 images cannot be used, more than 10 %"):
        count.add(data.train[0], "gone")


def test_no_image_blocks_the_check(root: Path) -> None:
    """A named pipe in place of an image, and one that is far too large."""
    import os

    image(root, 2).unlink()
    os.mkfifo(image(root, 2))
    PILImage.new("1", (40_000, 3)).save(image(root, 23))
    data = open_training_set(str(root), check=ImageCheck(0.1))
    assert len(data.train) == 19 and len(data.held_out) == 9
    shutil.rmtree(root)
