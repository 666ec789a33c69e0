"""What a run writes, our readers read: the same images, names and boxes, whatever they are like."""

import io
import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import boxes, judged, result
from PIL import Image

from secondlook.core.files import text_to_name
from secondlook.core.images import decode
from secondlook.datasets.readers.coco import find_coco, read_coco
from secondlook.datasets.readers.voc import find_voc, read_voc
from secondlook.datasets.readers.yolo import find_yolo, read_yolo
from secondlook.datasets.writers import UNSPLIT, Labels, linked_images, write_format
from secondlook.evaluation.coco_files import join
from secondlook_client.values import EmptyReason, Outcome

CLASSES = ("dog", "cat: a <&> 'é' 😀", "no")
FORMATS = (
    (".jpg", "JPEG"),
    (".JPEG", "JPEG"),
    (".png", "PNG"),
    (".tif", "TIFF"),
    (".webp", "WEBP"),
)
ORDINARY = ("a", "a-2", "A", "a.b", "é", "e\u0301")
STRANGE = (
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "no\N{NO-BREAK SPACE}break",
    " blanks ",
    "q'u\"o`te",
    "new\nline\r",
    "line\u2028end\x85\x1c",
    "#hash",
    "100%",
    "a%20b",
    "back\\slash",
    "c:drive",
    "..",
    "-rf",
    "images",
    "\udcff\udc80",
    "ключ",
    "x" * 247,
    "é" * 123,
    "\N{GRINNING FACE}" * 61,
)
one_character = st.characters(
    exclude_characters="/\0", exclude_categories=("Cs",), include_characters="\udc80\udcff"
)
stems = st.sampled_from((*ORDINARY, *STRANGE)) | st.text(one_character, min_size=1, max_size=12)
folders = st.lists(st.sampled_from(("images", "labels", "sub", "ü", "x\udcff")), max_size=2)


@st.composite
def images(draw):
    """(name, encoded image, result): of any name, size, orientation and format."""
    suffix, form = draw(st.sampled_from(FORMATS))
    name = "/".join((*draw(folders), draw(stems) + suffix))
    size = draw(st.sampled_from(((1, 1), (1, 40), (33, 17), (64, 48))))
    orientation = draw(st.sampled_from((1, 1, 3, 6, 8)))
    content = encoded(size, form, orientation)
    upright = decode(content)
    if min(size) == 1:
        found = [judged("dog", (0, 0, upright.width, upright.height))]
    else:
        some = boxes(upright.width, upright.height)
        outcomes = st.sampled_from(Outcome)
        one = st.builds(judged, st.sampled_from(CLASSES), some, outcomes)
        found = draw(st.lists(one, max_size=3))
    labelled = result(*found, width=upright.width, height=upright.height)
    return name, content, replace(labelled, sha256=upright.sha256)


def encoded(size, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 200)).save(buffer, form, exif=exif.tobytes())
    return buffer.getvalue()


@contextmanager
def written(found, name):
    """The images as files, and the folder of the format ``name``."""
    top = Path(tempfile.mkdtemp())
    try:
        for image, content, _ in found:
            path = top / "in" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        rows = [(image, of_one) for image, _, of_one in found]
        labels = Labels(CLASSES, lambda: iter(rows), linked_images(top / "in"))
        yield write_format(name, {UNSPLIT: labels}, top / "out")
    finally:
        shutil.rmtree(top)


def distinct(found):
    """No name twice, and none that is another one's folder."""
    names = [name for name, _, _ in found]
    parents = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return len(set(names)) == len(names) and not parents & set(names)


some_images = st.lists(images(), min_size=1, max_size=4).filter(distinct)


def same_boxes(sample, kept, within):
    assert len(sample.boxes) == len(kept)
    for box, place, judgement in zip(sample.boxes.tolist(), sample.classes, kept, strict=True):
        assert CLASSES[place] == judgement.class_name
        assert box == pytest.approx(judgement.box, abs=within)


@settings(max_examples=60, deadline=None)
@given(some_images)
def test_coco(found):
    with written(found, "coco") as folder:
        data = read_coco("x", find_coco(folder), folder)
        assert data.classes == CLASSES
        (samples,) = data.samples.values()
        assert not data.warnings
        plain = json.loads((folder / "annotations/instances_default.json").read_text())
        for sample, entry, (name, content, of_one) in zip(
            samples, plain["images"], found, strict=True
        ):
            assert sample.path.read_bytes() == content
            assert text_to_name(entry.get("original_name", "")) in ("", name)
            assert entry["file_name"] == name or "original_name" in entry
            assert (sample.width, sample.height) == (of_one.width, of_one.height)
            same_boxes(sample, of_one.labels, 0.02)
            assert len(sample.ignore) == len(of_one.of(Outcome.UNSURE))
        joined = join(folder, folder)
        assert {*joined.images} == {name for name, _, _ in found}


def is_sure(of_one):
    """Whether YOLO has the image where a training finds it."""
    return not of_one.of(Outcome.UNSURE) and of_one.empty is not EmptyReason.NOTHING_PROPOSED


@settings(max_examples=60, deadline=None)
@given(some_images)
def test_yolo(found):
    with written(found, "yolo") as folder:
        sure = {content: of_one for _, content, of_one in found if is_sure(of_one)}
        file = find_yolo(folder)
        if not sure:
            assert not [*(folder / "images/default").iterdir()]
            return
        data = read_yolo("x", file)
        samples = data.samples["train"]
        assert len(samples) == sum(is_sure(of_one) for _, _, of_one in found)
        assert (len(samples) < len(found)) == any("are left out" in w for w in data.warnings)
        by_label = {sample.path.stem for sample in samples}
        assert len(by_label) == len(samples)
        for sample in samples:
            content = sample.path.read_bytes()
            same = [o for _, c, o in found if c == content and is_sure(o)]
            assert (sample.width, sample.height) == (same[0].width, same[0].height)
            assert any(len(o.labels) == len(sample.boxes) for o in same)
            if len(same) == 1:
                same_boxes(sample, same[0].labels, 0.01)


@settings(max_examples=60, deadline=None)
@given(some_images)
def test_voc(found):
    """Its lists, annotations and images agree, and our reader gives back every box."""
    with written(found, "voc") as folder:
        nothing = [row for row in found if row[2].empty is EmptyReason.NOTHING_PROPOSED]
        found = [row for row in found if row[2].empty is not EmptyReason.NOTHING_PROPOSED]
        ids = (folder / "ImageSets/Main/default.txt").read_text(encoding="utf-8").splitlines()
        assert len(set(ids)) == len(found) and not any(set(i) & set(' "#\t') for i in ids)
        for one, (_, content, _) in zip(ids, found, strict=True):
            assert (folder / "Annotations" / f"{one}.xml").is_file()
            (image,) = (p for p in (folder / "JPEGImages").iterdir() if p.stem == one)
            assert image.read_bytes() == content
        data = read_voc("x", find_voc(folder))
        assert data.classes == tuple(name.replace(":", "_") for name in CLASSES)
        assert not data.warnings
        for sample, (_, content, of_one) in zip(
            data.samples["default"], [*found, *nothing], strict=True
        ):
            assert sample.path.read_bytes() == content
            assert (sample.empty, sample.problem) == (of_one.empty, "")
            wide = [j for j in of_one.labels if is_wide(j.box)]
            if len(wide) == len(of_one.labels):
                same_boxes(sample, wide, 0.51)
            assert len(sample.ignore) == len(of_one.of(Outcome.UNSURE))


def is_wide(box):
    """Whether rounding its corners to whole pixels leaves it where it is."""
    return round(box[0]) < round(box[2]) and round(box[1]) < round(box[3])
