"""int8 quantisation of the convolutions that become faster by it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Pixels
from secondlook.detector.runtime import INPUT

MIN_CHANNELS = 16
"""In and out. Narrower convolutions (and the first one, on three colours) are slower in int8."""
_ACTIVATIONS = ("Relu", "Clip")


def quantise(source: Path, target: Path, images: Sequence[Pixels]) -> bool:
    """Write an int8 version of an ONNX student; False when nothing in it would be faster.

    ``images``: (H, W, 3) uint8 at the input size, typical ones: the ranges of the activations
    are measured on them. Quantised (static, QDQ, weights by channel) are wide convolutions with a
    ReLU or clip behind them and what joins their results, which is most of the arithmetic. All
    else stays float32: measured on a pico, SiLU, depthwise and narrow convolutions in int8 made the
    whole 25 % slower than float32, and the heads lose accuracy. Weights keep to 7 bits, so that
    processors without VNNI, which add pairs of products in 16 bits, compute the same.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    names = _nodes_to_quantise(model.graph)
    if not names:
        return False
    lows = _lower_bounds(model.graph, names)
    # Already simplified; without this mark a warning asks for that.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    quantize_static(
        model,
        str(target),
        _reader(images),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=names,
        op_types_to_quantize=["Conv", "Concat", *_ACTIVATIONS],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    made = onnx.load(target)
    _restore_clips(made.graph, lows)
    onnx.save(made, target)
    return True


def _lower_bounds(graph: Any, names: Sequence[str]) -> dict[str, float]:
    """Lower bounds of the chosen clips, where above zero, by the name of their input and output."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    lows: dict[str, float] = {}
    for node in graph.node:
        if node.op_type == "Clip" and node.name in names and node.input[1] in constants:
            low = float(numpy_helper.to_array(constants[node.input[1]]))
            if low > 0:
                lows |= {node.input[0]: low, node.output[0]: low}
    return lows


def _restore_clips(graph: Any, lows: dict[str, float]) -> None:
    """Put clips that were dropped back in, on the 8-bit values.

    The quantiser drops clips because the quantisation saturates anyway. That holds for bounds up
    to zero; but its range always includes zero, so a bound above zero would be lost. (Without
    this the embedded student lost 8.5 points of mAP, with it 0.4.)
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type != "QuantizeLinear" or node.input[0] not in lows:
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        low = round(lows[node.input[0]] / float(scale)) + int(zero)
        if low <= 0:
            continue
        name = node.output[0]
        least, unclipped = f"{name}_low", f"{name}_unclipped"
        graph.initializer.append(numpy_helper.from_array(np.array(low, np.uint8), least))
        node.output[0] = unclipped
        graph.node.insert(
            place + 1, helper.make_node("Clip", [unclipped, least], [name], name=least)
        )


def _nodes_to_quantise(graph: Any) -> list[str]:
    """Names of the convolutions, their activations and the joins between them."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    chosen: list[Any] = []
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        shape = numpy_helper.to_array(weights[node.input[1]]).shape
        after = readers[node.output[0]]
        if min(shape[:2]) >= MIN_CHANNELS and _only_activations(after):
            chosen += [node, *after]
    made = {node.output[0] for node in chosen}
    for node in graph.node:
        if node.op_type == "Concat" and made.intersection(node.input):
            chosen.append(node)
    return [node.name for node in chosen]


def _only_activations(nodes: Sequence[Any]) -> bool:
    return bool(nodes) and all(node.op_type in _ACTIVATIONS for node in nodes)


def _reader(images: Sequence[Pixels]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = _batches(images)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._left, None)

    return Reader()


def _batches(images: Sequence[Pixels]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    return ({INPUT: image[None]} for image in images)
