"""An encoder and a decoder in ONNX, as segment-anything's export makes them, of a few steps.

The decoder answers with hills around clicks inside and corners of a box, and hollows around clicks
outside; an earlier mask is added.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CELLS, CHANNELS = 64, 4, 6
GRID = 4 * CELLS
REACH = 14.0
"""Pixels of the input from a click to where its hill ends."""
QUALITIES = (0.6, 0.9, 0.3, 0.7)

Info = onnx.ValueInfoProto


def tensor(name: str, shape: Sequence[Any], kind: int = TensorProto.FLOAT) -> Info:
    """A value of a graph."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def write_encoder(file: Path, channels: int = CHANNELS, shape: Sequence[Any] = ()) -> Path:
    """Means of patches; the channels of an image in turns."""
    patch = SIDE // CELLS
    weights = np.zeros((channels, 3, patch, patch), np.float32)
    for channel in range(channels):
        weights[channel, channel % 3] = 1 / patch**2
    shape = shape or (1, 3, SIDE, SIDE)
    nodes = [helper.make_node("Conv", ["planes", "w"], ["found"], strides=[patch, patch])]
    order = [0, 3, 1, 2] if shape[3] == 3 else [0, 1, 2, 3]
    nodes.insert(0, helper.make_node("Transpose", ["image"], ["planes"], perm=order))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [tensor("image", shape)],
        [tensor("found", (1, channels, None, None))],
        [numpy_helper.from_array(weights, "w")],
    )
    return _save(graph, file)


def write_decoder(file: Path, masks: int = 1, channels: int = CHANNELS, **names: str) -> Path:
    """``masks`` 1, 3 or 4; ``names`` replaces names of inputs, the empty one leaves it out."""
    shapes = {
        "image_embeddings": (1, channels, CELLS, CELLS),
        "point_coords": (1, "points", 2),
        "point_labels": (1, "points"),
        "mask_input": (1, 1, GRID, GRID),
        "has_mask_input": (1,),
        "orig_im_size": (2,),
    }
    called = {name: names.get(name, name) for name in shapes}
    inputs = [tensor(called[name], shape) for name, shape in shapes.items() if called[name]]
    centres = (np.arange(GRID) + 0.5) * (SIDE / GRID)
    places = np.stack(np.meshgrid(centres, centres), -1).reshape(1, GRID**2, 1, 2)
    constants = {
        "places": places.astype(np.float32),
        "weights": np.array([0, -1, 1, 0.5, 0.5], np.float32),  # of labels -1, 0, 1, 2, 3
        "slopes": np.linspace(1, 0.5, masks).reshape(1, masks, 1, 1).astype(np.float32),
        "qualities": np.array([QUALITIES[:masks]], np.float32),
        "grid": np.array([1, 1, GRID, GRID]),
        "one": np.array(1, np.float32),
        "reach": np.array(REACH, np.float32),
        "ten": np.array(10, np.float32),
        "axis1": np.array([1]),
        "axis2": np.array([2]),
        "axis3": np.array([3]),
        "front": np.array([1, masks]),
        "nothing": np.array(0, np.float32),
        "fifth": np.array(0.2, np.float32),
    }
    steps = [
        ("Unsqueeze", [called["point_coords"], "axis1"], "coords"),
        ("Sub", ["places", "coords"], "away"),
        ("Mul", ["away", "away"], "squares"),
        ("ReduceSum", ["squares", "axis3"], "squared", {"keepdims": 0}),
        ("Sqrt", ["squared"], "distance"),
        ("Div", ["distance", "reach"], "steps"),
        ("Sub", ["one", "steps"], "slope"),
        ("Relu", ["slope"], "hills"),
        ("Add", [called["point_labels"], "one"], "from_0"),
        ("Cast", ["from_0"], "rows", {"to": TensorProto.INT64}),
        ("Gather", ["weights", "rows"], "signs"),
        ("Unsqueeze", ["signs", "axis1"], "signed"),
        ("Mul", ["hills", "signed"], "weighed"),
        ("ReduceSum", ["weighed", "axis2"], "total", {"keepdims": 0}),
        ("Sub", ["total", "fifth"], "shifted"),
        ("Mul", ["shifted", "ten"], "scaled"),
        ("Reshape", ["scaled", "grid"], "plain"),
        ("Mul", [called["mask_input"], called["has_mask_input"]], "earlier"),
        ("Add", ["plain", "earlier"], "mended"),
        ("Mul", ["mended", "slopes"], "low_res_masks"),
        ("ReduceMean", [called["image_embeddings"]], "brightness", {"keepdims": 0}),
        ("Mul", ["brightness", "nothing"], "unused"),
        ("Add", ["qualities", "unused"], "iou_predictions"),
    ]
    if called["orig_im_size"]:
        steps += [
            ("Cast", [called["orig_im_size"]], "sides", {"to": TensorProto.INT64}),
            ("Concat", ["front", "sides"], "size", {"axis": 0}),
            ("Resize", ["low_res_masks", "", "", "size"], "masks", {"mode": "linear"}),
        ]
    nodes = [
        helper.make_node(operation, given, [made], **(more[0] if more else {}))
        for operation, given, made, *more in steps
    ]
    outputs = [
        tensor("iou_predictions", (1, masks)),
        tensor("low_res_masks", (1, masks, None, None)),
    ]
    if called["orig_im_size"]:
        outputs.insert(0, tensor("masks", (1, masks, None, None)))
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return _save(helper.make_graph(nodes, "decoder", inputs, outputs, initial), file)


def write_pair(folder: Path, masks: int = 1) -> Path:
    """Both in ``folder``, which is returned."""
    write_encoder(folder / "tiny_encoder.onnx")
    write_decoder(folder / "tiny_decoder.onnx", masks)
    return folder


def _save(graph: onnx.GraphProto, file: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    return file
