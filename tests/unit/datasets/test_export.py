"""Exports: images untouched, paths relative, and each format says what the manifest says."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from fakes import Row
from frozen import DOG_BOX, PETS, drawn, encoded, entries_of, stored
from PIL import Image as PILImage

from secondlook.core.ontology_yaml import load_ontology
from secondlook.core.types import Image
from secondlook.datasets.export import FORMATS, export, file_name
from secondlook.datasets.manifest import Entry
from secondlook.datasets.query import Query, SplitShare
from secondlook.datasets.snapshot import create_snapshot
from secondlook.datasets.writers import DoubtfulImages
from secondlook.store import Store, open_store
from secondlook_client.errors import Damaged, InvalidInput, NotFound, OutputExists

CAT_BOX = (41.0, 40.0, 70.0, 60.0)
NAMES = ("a/one.jpg", "a/two.png", "b/one.jpg", "b/sub/ноч😀.webp", "../../etc/passwd", "-x'\n.bmp")


@pytest.fixture
def kept(tmp_path: Path):
    """A store with a snapshot ``s``: dogs on all, a doubtful cat on some, a rejected dog on all."""

    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        rows: list[Row] = [(DOG_BOX, {"dog": 0.8, "cat": 0.1})]
        return [*rows, (CAT_BOX, {"cat": 0.7})] if "a/" in image.name else rows

    kinds = ("JPEG", "PNG", "JPEG", "WEBP", "JPEG", "BMP")
    images = {
        name: encoded(drawn(place), kind)
        for place, (name, kind) in enumerate(zip(NAMES, kinds, strict=True))
    }
    with open_store(tmp_path / "data") as store:
        stored(store, "r", images, script=script, answers={"Dog?": 0.9, "Cat?": 0.5})
        stored(store, "no", images, script=script, answers={"Dog?": 0.1, "Cat?": 0.5})
        split = (SplitShare("train", 1), SplitShare("val", 1))
        create_snapshot(store, "s", Query(("r",), split=split))
        create_snapshot(store, "negatives", Query(("no",), split=split, hard_negatives=True))
        yield store


def coco_file(out: Path, split: str) -> Path:
    return out / "coco" / "annotations" / f"instances_{split}.json"


def test_images_are_byte_for_byte_what_was_given(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", ("coco",))
    for entry in entries_of(kept):
        path = out / "coco" / "images" / entry.split / file_name(entry)
        assert path.read_bytes() == kept.blobs.get(entry.sha256)
    written = [p for p in (out / "coco" / "images").rglob("*") if p.is_file()]
    assert len(written) == len(NAMES)
    assert not any(p.is_symlink() for p in out.rglob("*"))


def test_every_file_is_in_the_folder_and_refers_to_nothing_outside(
    kept: Store, tmp_path: Path
) -> None:
    before = {p for p in tmp_path.rglob("*") if "data" not in p.parts}
    out = export(kept, "s", tmp_path / "deep" / "out", FORMATS)
    after = {p for p in tmp_path.rglob("*") if "data" not in p.relative_to(tmp_path).parts[:1]}
    assert all(p == out.parent or p.is_relative_to(out) for p in after - before)
    for path in out.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".yaml", ".txt", ".xml", ".md"):
            assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_formats_share_the_bytes_of_an_image(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", ("coco", "yolo", "voc"))
    found = [p for p in out.rglob("*.*") if p.parent.name != "out" and p.stat().st_nlink == 3]
    assert len(found) == 3 * len(NAMES)
    assert not (out / ".images").exists()


def test_without_hard_links_every_format_has_a_copy(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    out = export(kept, "s", tmp_path / "out", ("coco", "voc"))
    entry = entries_of(kept)[0]
    for folder in (f"coco/images/{entry.split}", "voc/JPEGImages"):
        assert (out / folder / file_name(entry)).read_bytes() == kept.blobs.get(entry.sha256)


def test_coco_has_ignore_regions_as_crowd(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", ("coco",))
    names = set()
    for split in ("train", "val"):
        plain = json.loads(coco_file(out, split).read_text())
        assert [c["name"] for c in plain["categories"]] == list(PETS.names)
        by_image = {image["id"]: image for image in plain["images"]}
        for image in plain["images"]:
            assert (out / "coco" / "images" / split / image["file_name"]).is_file()
            names.add(image["sha256"])
        for annotation in plain["annotations"]:
            doubtful = annotation["category_id"] == 2
            assert annotation["iscrowd"] == doubtful
            box = CAT_BOX if doubtful else DOG_BOX
            assert annotation["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            assert by_image[annotation["image_id"]]["width"] == 72
    assert names == {entry.sha256 for entry in entries_of(kept)}


def test_pycocotools_tells_crowds_from_objects(kept: Store, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    out = export(kept, "s", tmp_path / "out", ("coco",))
    images, dogs, crowds = 0, 0, 0
    for split in ("train", "val"):
        truth = coco.COCO(str(coco_file(out, split)))
        images += len(truth.getImgIds())
        dogs += len(truth.getAnnIds(catIds=[1], iscrowd=False))
        crowds += len(truth.getAnnIds(catIds=[2], iscrowd=True))
        assert truth.getAnnIds(catIds=[2], iscrowd=False) == []
    assert (images, dogs, crowds) == (len(NAMES), len(NAMES), 2)


def test_hard_negatives_are_never_read_as_labels(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "negatives", tmp_path / "out", ("coco", "yolo"))
    plain = json.loads(coco_file(out, "train").read_text())
    assert {a["category_id"] for a in plain["annotations"]} <= {2}
    assert {a["category_id"] for a in plain["hard_negatives"]} == {1}
    assert all(p.read_text() == "" for p in (out / "yolo").rglob("*.txt"))


def test_yolo_finds_each_image_s_labels_beside_it(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", ("yolo",))
    content = yaml.safe_load((out / "yolo/data.yaml").read_text())
    folders = {"train": "images/train", "val": "images/val"}
    assert content == {**folders, "names": {0: "dog", 1: "cat"}}
    sure = [*(out / "yolo/images").rglob("*.*")]
    unsure = [*(out / "yolo/unsure/images").rglob("*.*")]
    assert (len(sure), len(unsure)) == (len(NAMES) - 2, 2)
    assert {path.parent.name for path in sure} == {"train", "val"}
    for path in sure:
        labels = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
        number, cx, cy, w, h = (float(part) for part in labels.read_text().split())
        assert number == 0 and PILImage.open(path).size == (72, 64)
        assert (cx - w / 2) * 72 == pytest.approx(DOG_BOX[0], abs=1e-3)
        assert (cy + h / 2) * 64 == pytest.approx(DOG_BOX[3], abs=1e-3)


def test_what_yolo_makes_of_images_in_doubt_is_chosen_and_told(kept: Store, tmp_path: Path) -> None:
    notes: list[str] = []
    chosen = DoubtfulImages.LABEL
    out = export(kept, "s", tmp_path / "out", ("yolo",), unsure=chosen, notes=notes)
    rows = [path.read_text() for path in (out / "yolo/labels").rglob("*.txt")]
    assert sorted(text.count("\n") for text in rows) == [1] * (len(NAMES) - 2) + [2] * 2
    (note,) = notes
    assert f"2 of {len(NAMES)} images have an unsure box; these boxes are labels here" in note
    assert note in (out / "README.md").read_text()


def test_coco_says_how_the_snapshot_came_to_be(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", ("coco", "yolo"))
    info = json.loads(coco_file(out, "train").read_text())["info"]
    created = datetime.fromisoformat(info["date_created"]).timestamp()
    assert created == int(kept.snapshots.get("s").created_at)
    assert info["models"] == ["scripted@p0", "scripted@v0"]
    assert [c["question"] for c in info["ontology"]["classes"]] == ["Dog?", "Cat?"]
    assert load_ontology(out / "yolo" / "ontology.yaml") == PETS


def test_voc_marks_ignore_regions_difficult(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", ("voc",))
    seen = 0
    for split in ("train", "val"):
        for line in (out / "voc/ImageSets/Main" / f"{split}.txt").read_text().splitlines():
            root = ElementTree.parse(out / "voc/Annotations" / f"{line}.xml").getroot()
            name = root.findtext("filename")
            assert name and (out / "voc/JPEGImages" / name).is_file()
            for entry in root.findall("object"):
                assert entry.findtext("difficult") == str(int(entry.findtext("name") == "cat"))
            seen += 1
    assert seen == len(NAMES)


def test_parquet_holds_images_and_boxes(kept: Store, tmp_path: Path) -> None:
    from pyarrow import parquet

    out = export(kept, "negatives", tmp_path / "out", ("parquet",))
    rows = [
        row
        for path in sorted((out / "data").glob("*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]
    found = {entry.sha256: entry for entry in entries_of(kept, "negatives")}
    assert {row["sha256"] for row in rows} == set(found)
    for row in rows:
        entry, objects = found[row["sha256"]], row["objects"]
        assert row["image"]["bytes"] == kept.blobs.get(entry.sha256)
        assert objects["kind"] == [box.kind for box in entry.boxes]
        assert objects["category"] == [box.class_index for box in entry.boxes]
        assert objects["p_yes"] == pytest.approx([box.p_yes for box in entry.boxes])
        x1, y1, x2, y2 = entry.boxes[0].xyxy
        assert objects["bbox"][0] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
        assert row["empty"] == entry.empty


def test_parquet_files_are_of_a_sensible_size(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr("secondlook.datasets.writers.parquet.GROUP_BYTES", 1)
    monkeypatch.setattr("secondlook.datasets.writers.parquet.FILE_BYTES", 1)
    out = export(kept, "s", tmp_path / "out", ("parquet",))
    counts = [parquet.read_metadata(path).num_rows for path in (out / "data").glob("*.parquet")]
    assert counts == [1] * len(NAMES)


def test_card_statistics_and_contact_sheet(kept: Store, tmp_path: Path) -> None:
    out = export(kept, "s", tmp_path / "out", FORMATS)
    snapshot = kept.snapshots.get("s")
    assert json.loads((out / "statistics.json").read_text()) == snapshot.statistics
    text = (out / "README.md").read_text()
    assert snapshot.manifest in text and "| dog |" in text and "scripted@p0" in text
    head = yaml.safe_load(text.split("---")[1])
    (config,) = head["configs"]
    assert [f["path"] for f in config["data_files"]] == [
        "data/train-*.parquet",
        "data/val-*.parquet",
    ]
    with PILImage.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 1600 and sheet.height > 200


def test_an_export_is_atomic(kept: Store, tmp_path: Path) -> None:
    kept.blobs.remove(entries_of(kept)[3].sha256)
    with pytest.raises((Damaged, NotFound)):
        export(kept, "s", tmp_path / "out", ("coco",))
    assert {p.name for p in tmp_path.iterdir()} == {"data"}


def test_a_folder_that_holds_something_is_left_alone(kept: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    with pytest.raises(OutputExists, match="new or empty folder"):
        export(kept, "s", out, ("coco",))
    assert [p.name for p in out.iterdir()] == ["mine"]
    with pytest.raises(InvalidInput, match="coco, coco-polygons, yolo, yolo-seg, voc"):
        export(kept, "s", tmp_path / "new", ("cocoa",))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a/b.c.jpg", "b_c-"),
        ("../..", "__-"),
        ("-rf.png", "rf-"),
        (".hidden.jpg", "_hidden-"),
        ("ночь 😀.jpg", "ночь__-"),
        ("\udcff.jpg", "_-"),
        ("x" * 400 + ".jpg", "x" * 40 + "-"),
        ("con\x00\n/..\\w.jpg", "___w-"),
        ("", "0"),
    ],
)
def test_file_names_are_harmless_whatever_the_image_was_called(name: str, start: str) -> None:
    entry = Entry("0123456789ab" + "0" * 52, name, "jpg", 1, 1, 1, "train", "0" * 16, ())
    made = file_name(entry)
    assert made.startswith(start) and made.endswith("0123456789ab.jpg")
    assert len(made.encode()) <= 255
