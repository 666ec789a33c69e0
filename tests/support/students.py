"""Tiny students for tests: a whole folder whose ONNX graph is written by hand, without torch.

The graph takes the mean colour of each quarter of the image: red is an object of class 0, blue of
class 1, green of class 2, yellow of class 3; further classes are never found. Everything else is
background.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.detector import self_test
from secondlook.detector.detections import select_detections
from secondlook.detector.manifest import (
    FP32,
    INT8,
    SELF_TEST,
    StudentManifest,
    describe_file,
    write_manifest,
)
from secondlook.detector.runtime import stretch

CLASSES = ("person", "dog")
COLOURS = ((220, 30, 30), (30, 30, 220), (30, 220, 30), (220, 220, 30))
"""RGB of what each of the first four classes looks like."""
QUARTERS = np.array(
    [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]], np.float32
)
"""The boxes of the four queries: top left, top right, bottom left, bottom right."""
UNDECIDED = ((9.0, -9.0, -9.0), (8.0, -8.0, -8.0))
"""Reactions of two classes that both see an object in red, the first with the better score."""
_REACTIONS = np.array([[8, -8, -8], [-8, -8, 8], [-8, 8, -8], [9, 9, -9]], np.float32)


def image(*quarters: tuple[int, int], width: int = 64, height: int = 64) -> NDArray[np.uint8]:
    """Grey, with coloured ``(quarter, class)``: ``image((0, 1))`` has class 1 at the top left."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    for quarter, of_class in quarters:
        x1, y1, x2, y2 = (QUARTERS[quarter] * [width, height, width, height]).astype(int)
        pixels[y1:y2, x1:x2] = COLOURS[of_class]
    return pixels


def write_student(
    folder: Path,
    classes: Sequence[str] = CLASSES,
    input_size: tuple[int, int] = (64, 64),
    seed: int = 0,
    int8: bool = False,
    reactions: Sequence[Sequence[float]] | None = None,
    **manifest_overrides: Any,
) -> StudentManifest:
    """Write a valid student folder; another ``seed`` gives other weights, hashes and digest.

    Every seed finds the same objects, with scores that differ by a few hundredths. The manifest is
    written with ``manifest_overrides`` in place of its fields. ``int8``: with that model too, which
    processors that are quick at it prefer. ``reactions``: of each class to R, G and B, instead of
    the usual ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, bias = _weights(len(classes), seed)
    if reactions is not None:
        weights = np.array(reactions, np.float32).T
    files = [FP32, SELF_TEST, "report.json", "report.html"]
    (folder / FP32).write_bytes(model_bytes(weights, bias, input_size))
    if int8:
        files.append(INT8)
        (folder / INT8).write_bytes(model_bytes(weights * 1.01, bias, input_size))
    width, height = input_size
    pixels = image((1, 0), (2, min(1, len(classes) - 1)), width=width, height=height)
    scores, boxes = _outputs(weights, bias, stretch(pixels, input_size))
    found = select_detections(scores, boxes, width, height, floor=0.0)
    self_test.write_self_test(
        folder / SELF_TEST, self_test.SelfTest(pixels, {"fp32": found, "int8": found})
    )
    (folder / "report.json").write_text('{"map": 0.5, "map50": 0.8}')
    (folder / "report.html").write_text("<!doctype html><title>report</title>")
    fields: dict[str, Any] = {
        "name": "street",
        "architecture": "deimv2",
        "size": "pico",
        "classes": tuple(classes),
        "input_size": input_size,
        "thresholds": (0.5,) * len(classes),
        "calibration": ((1.0, 0.0),) * len(classes),
        "ontology": "",
        "snapshot": f"{seed:064x}",
        "split": "val",
        "metrics": {"map": 0.5, "map50": 0.8, "images_per_second": 100.0},
        "files": {name: describe_file(folder / name) for name in files},
        "created_at": 1.7e9 + seed,
    }
    manifest = StudentManifest(**(fields | manifest_overrides))
    write_manifest(folder, manifest)
    return manifest


def model_bytes(
    weights: NDArray[np.float32], bias: NDArray[np.float32], input_size: tuple[int, int]
) -> bytes:
    """An ONNX file that follows the graph contract. ``weights``: (3, C); ``bias``: (C,)."""
    return bytes(model_of(weights, bias, input_size).SerializeToString())


def model_of(
    weights: NDArray[np.float32], bias: NDArray[np.float32], input_size: tuple[int, int]
) -> Any:
    """The same as an ``onnx.ModelProto``, for tests that damage it."""
    from onnx import TensorProto, helper, numpy_helper

    width, height = input_size
    kept = {
        "to_unit": np.float32(1 / 255),
        "shape": np.array([0, 3, 4], np.int64),
        "quarters": QUARTERS[None],
        "zero": np.float32(0),
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    half = [height // 2, width // 2]
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "to_unit"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=half, strides=half),
        helper.make_node("Reshape", ["means", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["colours"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["colours", "weights"], ["reactions"]),
        helper.make_node("Add", ["reactions", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("ReduceMax", ["scores"], ["best"], axes=[2], keepdims=1),
        helper.make_node("Mul", ["best", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "quarters"], ["boxes"]),  # as often as images
    ]
    count = weights.shape[1]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", height, width, 3])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", 4, count]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["B", 4, 4]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in kept.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def bomb(
    side: int, products: int = 0, classes: int = 2, input_size: tuple[int, int] = (64, 64)
) -> bytes:
    """A small ONNX file that fills ``side``² numbers when it runs, then multiplies them so often.

    The objects that it finds, if it ever ends, are those of ``write_student``.
    """
    from onnx import TensorProto, helper, numpy_helper

    model = model_of(*_weights(classes, 0), input_size)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0 / side])
    nodes = [
        helper.make_node("ConstantOfShape", ["side"], ["matrix"], value=one),
        helper.make_node("ReduceMean", ["unit"], ["mean"], keepdims=0),
        helper.make_node("Add", ["matrix", "mean"], ["product0"]),
        *(
            helper.make_node("MatMul", [f"product{n}", "matrix"], [f"product{n + 1}"])
            for n in range(products)
        ),
        helper.make_node("ReduceMax", [f"product{products}"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["none"]),
        helper.make_node("Add", ["none", "colours"], ["coloured"]),
    ]
    place = next(n for n, node in enumerate(model.graph.node) if node.op_type == "MatMul")
    model.graph.node[place].input[0] = "coloured"
    before, after = model.graph.node[:place], model.graph.node[place:]
    ordered = [*before, *nodes, *after]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    sides = np.array([side, side], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(sides, "side"))
    return bytes(model.SerializeToString())


def write_bomb(folder: Path, side: int = 25_000, products: int = 0) -> StudentManifest:
    """A student folder with a ``bomb``; by default it wants 2.5 GB."""
    manifest = write_student(folder)
    return replace_model(folder, manifest, bomb(side, products))


def truncate(folder: Path, name: str = FP32) -> None:
    """Cut a file of a student in half, like an interrupted download."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def replace_model(
    folder: Path, manifest: StudentManifest, model: bytes, name: str = FP32
) -> StudentManifest:
    """Replace the model and its hash in the manifest: only running it shows the difference."""
    (folder / name).write_bytes(model)
    files = dict(manifest.files) | {name: describe_file(folder / name)}
    changed = replace(manifest, files=files)
    write_manifest(folder, changed)
    return changed


def swap_classes(folder: Path, manifest: StudentManifest) -> StudentManifest:
    """A model that swaps its classes: the hashes match, and it fails its self-test."""
    weights, bias = _weights(len(manifest.classes), 0)
    return replace_model(
        folder, manifest, model_bytes(weights[:, ::-1].copy(), bias, manifest.input_size)
    )


def _weights(classes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    reactions = np.zeros((classes, 3), np.float32)
    reactions[:4] = _REACTIONS[: min(classes, 4)]
    rng = np.random.default_rng(seed)
    weights = (reactions.T * rng.uniform(0.98, 1.02, (3, classes))).astype(np.float32)
    bias = np.full(classes, -2.0, np.float32)
    bias[3:] = -10.0
    return weights, bias


def _outputs(
    weights: NDArray[np.float32], bias: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(4, C) scores and (4, 4) boxes, by numpy."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    unit = pixels[:height, :width].astype(np.float32) / 255
    means = unit.reshape(2, height // 2, 2, width // 2, 3).mean((1, 3)).reshape(4, 3)
    return (1 / (1 + np.exp(-(means @ weights + bias)))).astype(np.float32), QUARTERS
