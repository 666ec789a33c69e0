"""Label Studio, CVAT and FiftyOne: what is written is read back, and what is foreign is told."""

import base64
import io
import json
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import boxes, judged, result
from masks import arrays_of_masks, disc, with_mask
from PIL import Image

from secondlook.datasets.corrected_sets import open_corrected
from secondlook.datasets.open import read_path
from secondlook.datasets.readers.label_studio import decode_brush, parse_config
from secondlook.datasets.writers import UNSPLIT, Labels, linked_images, write_format
from secondlook.datasets.writers.label_studio import RegionNames, brush_code
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask
from secondlook_client.values import Outcome, Review, ReviewAnswer, WrongReason

CLASSES = ("dog", 'a <cat> & "friend"')
SIZE = 72, 64
MASKED = with_mask(judged("dog", (8.25, 4, 40, 36.5)), disc(*SIZE, (8, 4, 40, 36)))
MASK = Mask.from_array(disc(*SIZE, (10, 8, 60, 50)))
SAID = (
    Review(
        "0" * 64,
        "dog",
        (8.25, 4, 40, 36.5),
        ReviewAnswer.RIGHT,
        person="Ann",
        id=1,
        note="ö " * 990,
    ),
    Review(
        "0" * 64,
        "dog",
        (1, 2, 30, 40.5),
        ReviewAnswer.WRONG,
        WrongReason.OUTLINE,
        mask=MASK,
        note="long " * 390,
        seconds=2.5,
        person="Ben",
        created_at=7.5,
        id=2,
    ),
)
FORMATS = ("label-studio", "cvat", "fiftyone")
JUDGED = st.builds(
    judged,
    st.sampled_from(CLASSES),
    boxes(*SIZE),
    st.sampled_from((Outcome.ACCEPT, Outcome.UNSURE, Outcome.REJECT)),
    score=st.floats(0, 1, width=32),
)


def write(name, top, *judgements, reviews=None):
    """The folder of a format with one image, ``in a/ä.png``."""
    (top / "in").mkdir(exist_ok=True)
    Image.new("RGB", SIZE).save(top / "in" / "ä.png")
    found = result(*judgements, width=SIZE[0], height=SIZE[1])
    labels = Labels(
        CLASSES,
        lambda: iter([("ä.png", found)]),
        linked_images(top / "in"),
        cursors=lambda: iter([7]),
        reviews=reviews,
    )
    return write_format(name, {UNSPLIT: labels}, top / "out")


def handed_in(folder):
    """The tasks of Label Studio's format, their predictions handed in by person 3."""
    file = folder / "tasks.json"
    tasks = json.loads(file.read_text())
    for task in tasks:
        regions = task["predictions"][0]["result"]
        moment = "2026-03-09T22:16:08.728378Z"
        task["annotations"] = [
            {"result": [], "was_cancelled": True},
            {"result": regions, "completed_by": 3, "lead_time": 3.5, "updated_at": moment},
        ]
    file.write_text(json.dumps(tasks))
    return file


def read(name, folder):
    (found,) = open_corrected(handed_in(folder) if name == "label-studio" else folder)
    (image,) = found.images
    return image, found


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=6, deadline=None)
@given(
    plain=st.lists(JUDGED, max_size=3),
    pixels=st.lists(arrays_of_masks(24).filter(np.any), max_size=2),
)
def test_every_label_comes_back_with_its_scores(name, plain, pixels):
    masked = []
    for at, small in enumerate(pixels):
        whole = np.zeros((SIZE[1], SIZE[0]), bool)
        whole[3 : 3 + small.shape[0], 5 : 5 + small.shape[1]] = small
        masked.append(with_mask(judged("dog", (4.5 + at, 2, 33, 30.25)), whole))
    given_ = [*plain, *masked]
    top = Path(tempfile.mkdtemp())
    try:
        image, _ = read(name, write(name, top, *given_))
    finally:
        shutil.rmtree(top)
    shown = [(at, one) for at, one in enumerate(given_) if one.outcome is not Outcome.REJECT]
    back = {one.label_id: one.judgement for one in image.boxes}
    assert set(back) == {f"7.{at}" for at, _ in shown}
    for at, one in shown:
        found = back[f"7.{at}"]
        assert found.box == pytest.approx(one.box, abs=1e-9)
        assert (found.class_name, found.score, found.p_yes) == (
            one.class_name,
            one.score,
            one.p_yes,
        )
        assert found.segmentation == one.segmentation
        assert (found.probability, found.reason) == (one.probability, one.reason)
        assert found.outcome is one.outcome or name == "label-studio"  # handed in: no doubt left


@pytest.mark.parametrize("name", FORMATS)
def test_reviews_names_and_hashes_come_back(name, tmp_path):
    asked = []
    folder = write(name, tmp_path, MASKED, reviews=lambda sha256: asked.append(sha256) or SAID)
    image, found = read(name, folder)
    assert image.reviews == SAID and asked == ["0" * 64]
    assert (image.name, image.sha256, found.warnings) == ("ä.png", "0" * 64, ())
    assert set(found.classes) >= {"dog"}
    if name == "label-studio":
        assert (image.person, image.seconds) == ("Label Studio user 3", 3.5)
        assert image.created_at == pytest.approx(1773094568.728378)


@pytest.mark.parametrize("name", ["cvat", "fiftyone"])
def test_it_can_be_trained_on_and_verified(name, tmp_path):
    folder = write(name, tmp_path, MASKED, judged(CLASSES[1], (50, 40, 70, 60), Outcome.UNSURE))
    data = read_path(folder)
    (sample,) = data.samples[""]
    assert (data.format, data.classes, sample.problem) == (name, CLASSES, "")
    assert sample.boxes.tolist() == [[8.25, 4, 40, 36.5]] and sample.masks == (MASKED.mask,)
    assert sample.ignore.tolist() == pytest.approx(np.array([[50, 40, 70, 60]]))
    empty = read_path(write(name, tmp_path)).samples[""][0]
    assert empty.empty == "nothing_proposed", "no training takes it for background unasked"


def cvat(tmp_path, *shapes, head="", meta=""):
    body = "".join(shapes)
    text = f'{head}<annotations>{meta}<image id="0" name="a" width="72" height="64">{body}'
    file = tmp_path / "annotations.xml"
    file.write_text(f"{text}</image></annotations>")
    return file


def test_shapes_of_cvat_itself(tmp_path):
    shapes = (
        '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>',
        '<polygon label="cat" points="1,1;9,1;9,9;1,9"/>',
        '<mask label="cat" rle="0, 4" left="71" top="63" width="2" height="2"/>',
        '<points label="cat" points="3,4"/>',
        '<mask label="cat" rle="1, 4" left="0" top="0" width="2" height="2"/>',
        '<tag label="night"/>',
    )
    (found,) = open_corrected(cvat(tmp_path, *shapes))
    turned, polygon, corner = (one.judgement for one in found.images[0].boxes)
    assert turned.box == pytest.approx((15, 5, 25, 25))
    assert polygon.mask and polygon.mask.area == 64 and polygon.box == (1, 1, 9, 9)
    assert corner.mask and corner.box == (71, 63, 72, 64), "what is outside is cut off"
    assert {one.judgement.probability for one in found.images[0].boxes} == {1.0}
    assert found.classes == ("dog", "cat")
    (sentence,) = found.warnings
    assert sentence.startswith("2 of 5 shapes cannot be read") and "do not fill 2" in sentence


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda t: cvat(t, head="<!DOCTYPE a [<!ENTITY b 'c'>]>"), "document type"),
        (lambda t: cvat(t, meta="<track id='0'/>"), "CVAT for images 1.1"),
        (lambda t: cvat(t, *["<a>" * 20 + "</a>" * 20]), "too deep"),
        (lambda t: cvat(t, "<box>"), "not XML"),
        (lambda t: cvat(t, *['<box label="dog" xtl="nan"/>'] * 3), "3 of 3 shapes"),
    ],
)
def test_xml_that_is_refused(make, told, tmp_path):
    with pytest.raises(InvalidInput, match=told):
        open_corrected(make(tmp_path))


def test_a_review_that_was_cut_is_told(tmp_path):
    folder = write("cvat", tmp_path, MASKED, reviews=lambda _: SAID)
    file = folder / UNSPLIT / "annotations.xml"
    file.write_text(file.read_text().replace('name="part">2<', 'name="part"><'))
    (found,) = open_corrected(folder)
    assert found.images[0].reviews == () and "reviews cannot be read" in found.warnings[0]


def packed(content):
    text = base64.b64encode(zlib.compress(content)).decode()
    return {"$binary": {"base64": text, "subType": "00"}}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def fiftyone(tmp_path, *masks, box=(0.25, 0.25, 0.25, 0.25)):
    """A dataset as others write it: field ``found``, masks of any size."""
    detections = [
        {"_cls": "Detection", "label": "dog", "bounding_box": [*box], "mask": mask}
        for mask in masks
    ]
    sample = {
        "filepath": "data/a.png",
        "tags": ["validation"],
        "metadata": {"width": 72, "height": 64},
        "found": {"_cls": "Detections", "detections": detections},
    }
    (tmp_path / "samples.json").write_text(json.dumps({"samples": [sample]}))
    (tmp_path / "metadata.json").write_text("{}")
    return tmp_path


def test_a_mask_is_stretched_to_its_box(tmp_path):
    small = np.array([[1, 0], [0, 1]], np.uint8)
    (found,) = open_corrected(fiftyone(tmp_path, packed(npy(small))))
    (image,) = found.images
    mask = image.boxes[0].judgement.mask
    assert image.split == "val" and mask and mask.area == 2 * 9 * 8
    assert mask.to_array()[16:24, 18:27].all() and not mask.to_array()[16:24, 27:].any()


def test_arrays_that_are_none_are_refused(tmp_path):
    good = npy(np.ones((2, 2), bool))
    bad = (
        packed(b"\0" * 1000),
        packed(good[:-1]),
        packed(npy(np.ones((2, 2)))),
        packed(good.replace(b"(2, 2)", b"(9**9,)")),
        {"$binary": {"base64": "?"}},
        5,
    )
    everything = (packed(good),) * 7 + bad
    (found,) = open_corrected(fiftyone(tmp_path, *everything))
    assert len(found.images[0].boxes) == 7 and found.warnings[0].startswith("6 of 13 shapes")


def test_a_code_with_single_values(tmp_path):
    """Label Studio's own editor writes values one by one where they change often."""
    bits = f"{16:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    values = [0, 0, 0, 0, 9, 9, 9, 255, 9, 9, 9, 127, 9, 9, 9, 128]
    bits += f"0{0b10:02b}{len(values) - 1:08b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert decode_brush(code, 2, 2).tolist() == [[False, True], [False, True]]


@given(st.data())
def test_a_damaged_code_is_refused_or_read(data):
    code = brush_code(MASK)
    at = data.draw(st.integers(0, len(code) - 1))
    code[at] = data.draw(st.integers(0, 255))
    code = code[: data.draw(st.integers(at, len(code)))]
    try:
        pixels = decode_brush(code, *SIZE)
    except ValueError:
        return
    assert pixels.shape == (SIZE[1], SIZE[0])


CONFIG = """<View><Header value="x"/><Image name="i" value="$photo"/><Image name="j" value="$k"/>
<BrushLabels name="b" toName="i"><Label value="dog"/><Label value="A cat" alias="cat"/>
</BrushLabels>
<RectangleLabels name="other" toName="j"><Label value="tree"/></RectangleLabels>
<KeyPointLabels name="k" toName="i" smart="true"><Label value="ball"/></KeyPointLabels></View>"""


def test_what_a_labelling_config_asks_for():
    found = parse_config(CONFIG)
    assert (found.value, found.names) == ("photo", RegionNames("i", "", "b"))
    assert found.classes == ("dog", "cat", "ball")


@pytest.mark.parametrize(
    "text",
    ["", "<View/>", "<!DOCTYPE View><View/>", "x" * (1 << 20) + "x", CONFIG.replace("toName", "t")],
)
def test_configs_that_cannot_be_used(text):
    with pytest.raises(InvalidInput, match="labelling config cannot be used"):
        parse_config(text)
