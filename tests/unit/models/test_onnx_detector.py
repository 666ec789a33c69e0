"""A trained detector as a proposer: what is read from its file, its boxes, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from detector_graphs import SIZE, encoded, write_detector
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from students import image, write_student

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, Pixels
from secondlook.detector.trial import TrialLimits
from secondlook.models import onnx_detector
from secondlook.models.class_names import COCO
from secondlook.models.detector_heads import HEADS
from secondlook.models.onnx_detector import (
    RESIZES,
    DetectorProposer,
    load,
    place,
    without_duplicates,
)
from secondlook.models.registry import load_proposer
from secondlook_client.errors import BadOntology, BadSetting, Damaged, NotFound

ONE_THREAD = ModelSettings(threads=1)
NAMES = ("cat", "dog", "wine glass")
BOXES = np.array([[8, 16, 40, 48], [20, 60, 60, 90]], np.float32)
"""In pixels of the input."""
SCORES = np.array([[0.1, 0.8, 0.2], [0.6, 0.05, 0.1]], np.float32)
SIDES = st.integers(1, 300)
PIXELS = "mean=0&std=255"


@pytest.fixture(autouse=True)
def _untried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial in a child process takes a second; only the tests about it have one."""
    if "tried" not in request.fixturenames:
        monkeypatch.setattr(onnx_detector, "_try", lambda model, size: None)


@pytest.fixture
def tried() -> None:
    """The trial runs."""


def picture(pixels: Pixels) -> Image:
    return Image(pixels, "0" * 64, "a.png")


def grey(width: int, height: int) -> Pixels:
    return np.full((height, width, 3), 90, np.uint8)


def detector(folder: Path, head: str = "yolox", **more: Any) -> DetectorProposer:
    """A detector of NAMES whose file finds BOXES whatever it sees."""
    file = write_detector(folder / "d.onnx", encoded(head, BOXES, SCORES), **more)
    (folder / "d.names").write_text("\n".join(NAMES) + "\n")
    wanted = f"?{PIXELS}" if HEADS[head].pixels.std is None else ""
    return load(f"{file}{wanted}", ONE_THREAD)


@given(SIDES, SIDES, st.sampled_from(RESIZES), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_come_back_from_the_input(
    width: int, height: int, resize: str, corners: list[float]
) -> None:
    canvas, placement = place(grey(width, height), SIZE, resize)
    assert canvas.shape == (SIZE[1], SIZE[0], 3)
    box = (np.array([corners]) * [width, height, width, height]).astype(np.float32)
    inside = placement.to_input(box)
    assert (inside >= 0).all() and (inside - [*SIZE, *SIZE] <= 1e-3).all()
    np.testing.assert_allclose(placement.to_image(inside), box, atol=0.01 * max(width, height))


@pytest.mark.parametrize("resize", RESIZES)
def test_what_an_image_shows_lies_where_the_placement_says(resize: str) -> None:
    pixels = grey(200, 100)
    pixels[40:60, 120:160] = 250
    canvas, placement = place(pixels, (160, 160), resize)
    rows, columns = np.nonzero(canvas[..., 0] > 170)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    wanted = placement.to_input(np.array([[120, 40, 160, 60]], np.float32))[0]
    assert found == pytest.approx(wanted, abs=1)
    assert (canvas[:3] == (114 if resize == "letterbox_center" else 90)).all()


@pytest.mark.parametrize("head", list(HEADS))
def test_every_head_gives_boxes_of_the_image(tmp_path: Path, head: str) -> None:
    proposer = detector(tmp_path, head)
    (found,) = proposer.propose([picture(grey(128, 96))], ["dogs", "Cat"], 0.3)
    # Twice as wide as the input: a letterbox halves it, and 96 rows become 48 of 96.
    top = 24 if HEADS[head].pixels.resize == "letterbox_center" else 0
    expected = BOXES * [2, 1, 2, 1]
    if HEADS[head].pixels.resize != "stretch":
        expected = (BOXES - [0, top, 0, top]) * 2
    expected = expected.clip(0, [128, 96, 128, 96])
    kept = (expected[:, 2:] > expected[:, :2]).all(axis=1)
    assert found.boxes == pytest.approx(expected[kept], abs=0.01)
    single = head in ("yolo_nms", "boxes_scores_labels")
    wanted = [[0.8, 0.0 if single or HEADS[head].duplicates else 0.1]]
    wanted += [[0.0 if single or HEADS[head].duplicates else 0.05, 0.6]]
    assert found.scores == pytest.approx(np.array(wanted)[kept], abs=1e-5)


@pytest.mark.usefixtures("tried")
def test_the_name_says_what_was_loaded_and_the_digest_how(tmp_path: Path) -> None:
    first = detector(tmp_path)
    assert (first.name, first.classes, len(first.digest)) == ("d", NAMES, 12)
    assert load(f"{tmp_path / 'd.onnx'}", ONE_THREAD).digest == first.digest
    assert load(f"{tmp_path / 'd.onnx'}?channels=rgb", ONE_THREAD).digest != first.digest
    assert load_proposer(f"onnx:{tmp_path}", ONE_THREAD).digest == first.digest


def test_unknown_phrases_are_refused(tmp_path: Path) -> None:
    proposer = detector(tmp_path)
    proposer.check_phrases(["wine_glasses", "dog"])
    with pytest.raises(BadOntology, match=r"'d' does not know 'hound'.*3 classes.*cat, dog"):
        proposer.check_phrases(["dog", "hound"])
    with pytest.raises(BadOntology, match="does not know"):
        proposer.propose([picture(grey(9, 9))], ["hound"], 0.1)


def test_a_better_box_of_its_class_suppresses_a_score() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([[0.9, 0.0], [0.8, 0.7], [0.1, 0.2], [0.5, 0.0]], np.float32)
    found, left = without_duplicates(boxes, scores, 0.3)
    assert found.tolist() == [boxes[0].tolist(), boxes[1].tolist(), boxes[3].tolist()]
    assert left == pytest.approx(np.array([[0.9, 0], [0, 0.7], [0.5, 0]]))


def test_a_batch_gives_what_single_images_give(tmp_path: Path) -> None:
    write_student(tmp_path)  # its graph takes any number of images
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "model.txt").write_text("person\ndog\n")
    proposer = load(str(tmp_path / "model.onnx"), ModelSettings(threads=1, model_batch=2))
    images = [picture(image((n % 4, n % 2), width=40 + n, height=90)) for n in range(5)]
    together = proposer.propose(images, ["person", "dog"], 0.5)
    for alone, found in zip(images, together, strict=True):
        (single,) = proposer.propose([alone], ["person", "dog"], 0.5)
        assert len(found) == 1 and found.boxes.tolist() == single.boxes.tolist()
        assert found.scores.tolist() == single.scores.tolist()


def test_a_student_is_a_proposer(tmp_path: Path) -> None:
    manifest = write_student(tmp_path, classes=("person", "sheep dog"))
    proposer = load(str(tmp_path), ONE_THREAD)
    assert proposer.digest == manifest.digest[:12] and proposer.classes == ("person", "sheep dog")
    scene = picture(image((1, 0), (2, 1), width=100, height=60))
    (found,) = proposer.propose([scene], ["sheep-dogs"], 0.5)
    assert found.boxes == pytest.approx(np.array([[0, 30, 50, 60]]))
    assert found.scores.shape == (1, 1) and found.scores[0, 0] > 0.5
    assert len(proposer.propose([scene], ["person", "sheep dog"], 0.0)[0]) >= 2
    with pytest.raises(BadSetting, match="manifest says all"):
        load(f"{tmp_path}?head=yolox", ONE_THREAD)


def test_no_torch_is_needed() -> None:
    code = "import secondlook.models.onnx_detector, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("d.txt", "cat\ndog\nwine glass\n\n"),
        ("d.yaml", "names: [cat, dog, wine glass]"),
        ("d.yml", "names:\n  0: cat\n  1: dog\n  2: wine glass\n"),
        ("d.json", '["cat", "dog", "wine glass"]'),
        ("config.json", '{"id2label": {"0": "cat", "1": "dog", "2": "wine glass"}, "x": {}}'),
        ("", "{0: 'cat', 1: 'dog', 2: 'wine glass'}"),
    ],
)
def test_names_are_found(tmp_path: Path, file: str, text: str) -> None:
    metadata = {} if file else {"names": text, "task": "detect"}
    path = write_detector(tmp_path / "d.onnx", encoded("yolov8", BOXES, SCORES), metadata=metadata)
    if file:
        (tmp_path / file).write_text(text)
    assert load(str(path), ONE_THREAD).classes == NAMES


def test_named_names_go_before_those_in_the_file(tmp_path: Path) -> None:
    outputs = encoded("yolov8", BOXES, SCORES)
    path = write_detector(tmp_path / "d.onnx", outputs, metadata={"names": "[a, b, c]"})
    (tmp_path / "other.txt").write_text("x\ny\nz")
    assert load(f"{path}?names=other.txt", ONE_THREAD).classes == ("x", "y", "z")
    with pytest.raises(NotFound, match=r"'none\.txt'"):
        load(f"{path}?names=none.txt", ONE_THREAD)


def test_coco_names_are_built_in(tmp_path: Path) -> None:
    scores = np.full((2, 80), 0.01, np.float32)
    scores[0, COCO.index("zebra")] = 0.9
    path = write_detector(tmp_path / "d.onnx", encoded("yolox", BOXES, scores))
    (found,) = load(str(path), ONE_THREAD).propose([picture(grey(*SIZE))], ["zebra"], 0.3)
    assert found.boxes == pytest.approx(BOXES[:1], abs=0.01)
    with_gaps = np.full((2, 91), 0.01, np.float32)
    with_gaps[1, 90] = 0.9
    path = write_detector(tmp_path / "e.onnx", encoded("detr", BOXES, with_gaps))
    proposer = load(f"{path}?{PIXELS}", ONE_THREAD)
    (found,) = proposer.propose([picture(grey(*SIZE))], ["toothbrush"], 0.3)
    assert found.boxes == pytest.approx(BOXES[1:], abs=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat\ndog", "3 classes as head 'yolov8', and there are 2 names"),
        ("", "0 class names"),
        ("cat\n\x07\nwine glass", "no class name"),
        ("\n".join(["x" * 300] * 3), "no class name"),
        ("x\n" * 200_000, "more than 262,144 bytes"),
    ],
)
def test_bad_names_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write_detector(tmp_path / "d.onnx", encoded("yolov8", BOXES, SCORES))
    (tmp_path / "d.names").write_text(text)
    with pytest.raises(BadSetting, match=words):
        load(str(path), ONE_THREAD)


@pytest.mark.parametrize(
    "text", ["{0: 'a', 99999999: 'b'}", "{a: b}", "[[a], [b], [c]]", "[" * 500, "&x [*x]", "3", ""]
)
def test_bad_names_in_metadata_are_refused(tmp_path: Path, text: str) -> None:
    path = write_detector(
        tmp_path / "d.onnx", encoded("yolov8", BOXES, SCORES), metadata={"names": text}
    )
    with pytest.raises(BadSetting, match="class name"):
        load(str(path), ONE_THREAD)


def test_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    triple = write_detector(tmp_path / "d.onnx", encoded("boxes_scores_labels", BOXES, SCORES))
    with pytest.raises(BadSetting, match=r"does not say its classes.*d\.names"):
        load(str(triple), ONE_THREAD)
    detr = write_detector(tmp_path / "e.onnx", encoded("detr", BOXES, SCORES))
    (tmp_path / "e.names").write_text("\n".join(NAMES))
    with pytest.raises(BadSetting, match=r"normalised in different ways; say which: \?mean="):
        load(str(detr), ONE_THREAD)
    # transformers' own settings beside it say it too
    config = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert load(str(detr), ONE_THREAD).digest == load(f"{detr}?{PIXELS}", ONE_THREAD).digest


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("head=yolo", "head 'yolo' is unknown; known are yolox"),
        ("head=detr", "are not those of head 'detr'"),
        ("size=99x99", r"input is 64x96; leave out \?size="),
        ("size=big", "expected size=WIDTHxHEIGHT"),
        ("channels=grey", "expected channels to be one of rgb, bgr"),
        ("resize=crop", "expected resize to be one of stretch"),
        ("mean=a", "expected mean to be one number or three"),
        ("std=1,2", "expected std to be one number or three"),
        ("std=0", "expected std to be one number or three"),
        ("mean=nan", "expected mean to be one number or three"),
        ("colour=1", "setting 'colour'"),
    ],
)
def test_options_are_checked(tmp_path: Path, query: str, words: str) -> None:
    detector(tmp_path)
    with pytest.raises(BadSetting, match=words):
        load(f"{tmp_path / 'd.onnx'}?{query}", ONE_THREAD)


def test_pixels_reach_the_model_as_said(tmp_path: Path) -> None:
    """The graph's only score is the mean of its first channel."""
    nodes = [
        helper.make_node("Gather", ["images", "first"], ["channel"], axis=1),
        helper.make_node("ReduceMean", ["channel"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ones"], ["scores"]),
        helper.make_node("Identity", ["kept"], ["boxes"]),
    ]
    keep = [
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("ones", TensorProto.FLOAT, [1, 1, 1], [1.0]),
        helper.make_tensor("kept", TensorProto.FLOAT, [1, 1, 4], [0, 0, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 1]),
        ],
        keep,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "d.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "d.names").write_text("thing")
    red = np.zeros((50, 70, 3), np.uint8)
    red[..., 0] = 102

    def score(query: str) -> float:
        proposer = load(f"{tmp_path / 'd.onnx'}?size=64x32&{query}", ONE_THREAD)
        return float(proposer.detect([red], 0.0)[0].scores.max(initial=0))

    assert score("mean=0&std=255") == pytest.approx(0.4, abs=1e-5)
    assert score("mean=0&std=255&channels=bgr") == 0
    assert score("mean=51&std=102") == pytest.approx(0.5, abs=1e-5)
    assert score("mean=51,0,0&std=204,1,1") == pytest.approx(0.25, abs=1e-5)
    with pytest.raises(Damaged, match="no probabilities"):
        score("mean=0&std=1")


def test_a_detector_with_the_suppression_in_its_graph(tmp_path: Path) -> None:
    """Two equal boxes go in, one comes out; the sizes are those of the input, as RT-DETR's."""
    boxes = np.array([BOXES[0], BOXES[0] + 1], np.float32)
    sizes = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["n", 2])

    def constant(name: str, value: np.ndarray) -> Any:
        tensor = helper.make_tensor(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.ravel()
        )
        return helper.make_node("Constant", [], [name], value=tensor)

    nodes = [
        constant("relative", (boxes[None] / [64, 96, 64, 96]).astype(np.float32)),
        constant("raw", np.array([[[0.9, 0.8]]], np.float32)),
        constant("most", np.array([10], np.int64)),
        constant("iou", np.array([0.5], np.float32)),
        constant("third", np.array([2], np.int64)),
        constant("flat", np.array([-1], np.int64)),
        *(constant(name, np.array([n], np.int64)) for name, n in (("axis", 1), ("none", 0))),
        helper.make_node("ReduceMax", ["images"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "largest"], ["zero"]),
        helper.make_node("Add", ["raw", "zero"], ["raw_of_image"]),
        helper.make_node(
            "NonMaxSuppression", ["relative", "raw_of_image", "most", "iou"], ["picked"]
        ),
        helper.make_node("Gather", ["picked", "third"], ["rows"], axis=1),
        helper.make_node("Reshape", ["rows", "flat"], ["row"]),
        helper.make_node("Concat", ["orig_target_sizes", "orig_target_sizes"], ["wh"], axis=1),
        helper.make_node("Cast", ["wh"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["relative", "row"], ["kept"], axis=1),
        helper.make_node("Mul", ["kept", "scale"], ["boxes"]),
        helper.make_node("Gather", ["raw", "row"], ["kept_scores"], axis=2),
        helper.make_node("Squeeze", ["kept_scores", "axis"], ["scores"]),
        helper.make_node("Mul", ["row", "none"], ["labels_flat"]),
        helper.make_node("Unsqueeze", ["labels_flat", "none"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 96, 64]), sizes],
        [
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, "k"]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, "k", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "k"]),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "d.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "d.names").write_text("cat\ndog")
    (found,) = load(str(tmp_path / "d.onnx"), ONE_THREAD).detect([grey(64, 96)], 0.1)
    assert found.boxes == pytest.approx(BOXES[:1], abs=0.01)
    assert found.scores == pytest.approx(np.array([[0.9, 0]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": TensorProto.INT64}, "expected images of three channels"),
        ({"shape": [1, 1, 96, 64]}, "expected images of three channels"),
        ({"shape": [8, 3, 96, 64]}, "a fixed batch"),
        ({"shape": [1, 3, 96, 9]}, "expected sides of 32 to 4096"),
        ({"shape": [1, 64]}, "expected one image"),
        (
            {"inputs": [helper.make_tensor_value_info("prompt", TensorProto.FLOAT, [1, 5])]},
            "expected one image",
        ),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        detector(tmp_path, **change)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither an ONNX file nor a folder"):
        load(str(tmp_path / "none.onnx"), ONE_THREAD)
    with pytest.raises(NotFound, match="neither an ONNX file nor a folder"):
        load(str(tmp_path), ONE_THREAD)
    for name in ("a", "b"):
        write_detector(tmp_path / f"{name}.onnx", encoded("yolox", BOXES, SCORES))
    with pytest.raises(NotFound, match=r"2 ONNX files: a\.onnx, b\.onnx"):
        load(str(tmp_path), ONE_THREAD)


def test_a_file_that_is_not_safe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.onnx").write_bytes(b"GIF89a")
    with pytest.raises(Damaged, match="no ONNX file"):
        load(str(tmp_path / "d.onnx"), ONE_THREAD)
    loops = [helper.make_node("Loop", ["a"], ["b"], body=helper.make_graph([], "g", [], []))]
    with pytest.raises(Damaged, match="loops"):
        detector(tmp_path, nodes=loops)
    with pytest.raises(Damaged, match="no operation of ONNX itself"):
        detector(tmp_path, nodes=[helper.make_node("Run", ["images"], ["x"], domain="mine")])


@pytest.mark.usefixtures("tried")
def test_a_file_that_takes_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_detector, "TRIAL", TrialLimits(memory_mb=200, cpu_s=20))
    side = helper.make_tensor("side", TensorProto.INT64, [2], [20_000, 20_000])
    nodes = [
        helper.make_node("Constant", [], ["side"], value=side),
        helper.make_node("ConstantOfShape", ["side"], ["large"]),
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        helper.make_node("Add", ["large", "most"], ["sum"]),
        helper.make_node("ReduceMax", ["sum"], ["extra"], keepdims=0),
    ]
    file = write_detector(tmp_path / "d.onnx", encoded("yolox", BOXES, SCORES), nodes=nodes)
    model = onnx.load(file)
    model.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, []))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(Damaged, match="more than 200 MB of memory"):
        load(str(file), ONE_THREAD)
