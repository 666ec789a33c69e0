"""Nothing proposed, all rejected, asked and empty: each format keeps the three apart."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
from labelled import judged, result
from PIL import Image as PILImage

from secondlook.datasets.open import open_training_set
from secondlook.datasets.writers import (
    EXPORT_FORMATS,
    DoubtfulImages,
    Labels,
    linked_images,
    write_format,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.values import (
    WHOLE_IMAGE,
    Answer,
    EmptyReason,
    LabelResult,
    Outcome,
    Verdict,
    View,
)

NO = Verdict("Does this picture show a dog?", View.IMAGE, Answer(0.02, "No"), "scripted@1", 1.0)
DOUBT = replace(judged("dog", (0, 0, 320, 240), Outcome.UNSURE), row=WHOLE_IMAGE)
KINDS = {
    "dog": result(judged("dog")),
    "nothing": result(),
    "rejected": result(judged("dog", outcome=Outcome.REJECT)),
    "verified": replace(result(), image_verdicts=(NO,), empty=EmptyReason.VERIFIED_EMPTY),
    "doubt": replace(result(DOUBT), image_verdicts=(NO,)),
}
REASONS = {
    "nothing": EmptyReason.NOTHING_PROPOSED,
    "rejected": EmptyReason.ALL_REJECTED,
    "verified": EmptyReason.VERIFIED_EMPTY,
}
BACKGROUND = {"rejected", "verified"}


def test_the_reason_follows_from_the_judgements_unless_it_is_given() -> None:
    assert {name: kind.empty for name, kind in KINDS.items() if kind.empty} == REASONS
    only_labels = replace(result(), judgements=(), empty=None)  # of an image with an unsure box
    assert only_labels.empty is None
    assert result(judged("dog"), judged("dog", outcome=Outcome.REJECT)).empty is None
    for kind in (*KINDS.values(), only_labels):
        assert LabelResult.from_dict(json.loads(json.dumps(kind.to_dict()))) == kind
    before = KINDS["rejected"].to_dict()
    del before["empty"], before["image_verdicts"]
    assert LabelResult.from_dict(before) == KINDS["rejected"]


@pytest.fixture(params=list(DoubtfulImages)[:3])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DoubtfulImages, Path]:
    """One image of every kind in each split, in every format."""
    for number, name in enumerate(f"{kind}{copy}" for kind in KINDS for copy in (1, 2)):
        image = PILImage.new("RGB", (320, 240), (number * 20, 0, 0))
        image.save(tmp_path / f"{name}.png")
    splits = {
        split: Labels(
            ("dog",),
            partial(lambda copy: ((f"{k}{copy}.png", one) for k, one in KINDS.items()), copy),
            linked_images(tmp_path),
            image_bytes=lambda _: (tmp_path / "dog1.png").read_bytes(),
            nothing_proposed=request.param,
        )
        for copy, split in ((1, "train"), (2, "val"))
    }
    for name in EXPORT_FORMATS:
        write_format(name, splits, tmp_path / "out")
    return request.param, tmp_path / "out"


def kinds_of(names: Iterator[str]) -> set[str]:
    """The kinds whose names these are, without the number of the copy."""
    return {Path(name).stem[:-1] for name in names}


def test_coco(written: tuple[DoubtfulImages, Path]) -> None:
    chosen, out = written
    plain = json.loads((out / "coco/annotations/instances_train.json").read_text())
    told = {Path(image["file_name"]).stem[:-1]: image["empty"] for image in plain["images"]}
    assert told == {name: REASONS.get(name) for name in KINDS}
    assert plain["info"]["nothing_proposed"] == chosen.value
    (doubt,) = (a for a in plain["annotations"] if a["ignore"])
    assert (doubt["bbox"], doubt["iscrowd"]) == ([0, 0, 320, 240], 1)
    assert sum(doubt["segmentation"]["counts"]) == 320 * 240


def test_yolo(written: tuple[DoubtfulImages, Path]) -> None:
    chosen, out = written
    trained = kinds_of(path.name for path in (out / "yolo/images").rglob("*.png"))
    nothing = {"nothing"} if chosen is DoubtfulImages.BACKGROUND else set()
    assert trained == {"dog"} | BACKGROUND | nothing
    assert kinds_of(p.name for p in (out / "yolo/unsure").rglob("*.png")) == {"doubt"}


def test_voc(written: tuple[DoubtfulImages, Path]) -> None:
    chosen, out = written
    lists = out / "voc/ImageSets"
    trained = kinds_of(iter((lists / "Main/train.txt").read_text().split()))
    nothing = {"nothing"} if chosen is DoubtfulImages.BACKGROUND else set()
    assert trained == {"dog", "doubt"} | BACKGROUND | nothing
    elsewhere = lists / "nothing_proposed/train.txt"
    assert elsewhere.exists() != bool(nothing)
    for name, reason in REASONS.items():
        root = ElementTree.parse(out / f"voc/Annotations/{name}1.xml").getroot()
        told = root.findtext("empty")
        assert told == (None if name in nothing else reason.value)


def test_parquet(written: tuple[DoubtfulImages, Path]) -> None:
    from pyarrow import parquet

    _, out = written
    rows = parquet.read_table(out / "data/train-00000.parquet").to_pylist()
    told = {Path(row["image"]["path"]).stem[:-1]: row["empty"] for row in rows}
    assert told == {name: REASONS.get(name) for name in KINDS}


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_training_takes_no_image_for_background_that_nobody_looked_at(
    written: tuple[DoubtfulImages, Path], kind: str
) -> None:
    chosen, out = written
    data = open_training_set(str(out / kind))
    used = {Path(key).stem.rsplit("/")[-1][:-1] for key in data.images.used}
    nothing = {"nothing"} if chosen is DoubtfulImages.BACKGROUND else set()
    doubt = set() if kind == "yolo" else {"doubt"}
    assert used == {"dog"} | BACKGROUND | doubt | nothing


def test_a_training_can_be_told_to_take_them(written: tuple[DoubtfulImages, Path]) -> None:
    chosen, out = written
    every = open_training_set(str(out / "coco"), empty=tuple(EmptyReason))
    assert len(every.images.used) == 2 * len(KINDS)
    few = open_training_set(str(out / "coco"), empty=(EmptyReason.VERIFIED_EMPTY,))
    told = chosen is DoubtfulImages.BACKGROUND
    assert len(few.images.used) == 2 * (len(KINDS) - 2 + told)
    assert any("2 images without a box (all_rejected) are left out" in w for w in few.warnings)


def test_a_box_that_somebody_added_makes_it_no_empty_image(
    written: tuple[DoubtfulImages, Path],
) -> None:
    _, out = written
    file = out / "coco/annotations/instances_train.json"
    plain = json.loads(file.read_text())
    (image,) = (i for i in plain["images"] if i["file_name"].startswith("nothing"))
    added = {"id": 99, "image_id": image["id"], "category_id": 1, "bbox": [1, 2, 30, 40]}
    plain["annotations"].append(added)
    file.unlink()
    file.write_text(json.dumps(plain))
    used = open_training_set(str(out / "coco")).images.used
    assert any(image["file_name"] in key for key in used)


def test_names_of_reasons_are_checked() -> None:
    from secondlook_client.values import SnapshotQuery
    from secondlook_client.wire import query_message

    with pytest.raises(InvalidInput, match="nothing_proposed, all_rejected, verified_empty"):
        query_message(SnapshotQuery(runs=["r"], empty=["verified"]))
