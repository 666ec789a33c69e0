"""What is tidied up in an exported graph before it is kept."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def tidy(path: Path) -> None:
    """Make the ONNX file smaller and quicker where it stands; its outputs stay the same.

    onnxruntime folds all that is constant, in standard operators only. Then zeros around a map
    become part of the convolution or the pooling that reads them: in onnxruntime's own layout of
    memory a padding by itself costs two re-orderings.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    model = onnx.load(path)
    standard = [opset for opset in model.opset_import if opset.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    _absorb_paddings(model.graph)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _absorb_paddings(graph: Any) -> None:
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        around = _zeros_around(pad, constants)
        if around is None:
            continue
        left = 0
        for reader in readers[pad.output[0]]:
            if _can_pad(reader, makers.get(pad.input[0]), constants):
                _pad(reader, pad, around)
            else:
                left += 1
        if not left:
            graph.node.remove(pad)
    _drop_unread(graph)


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _zeros_around(pad: Any, constants: dict[str, NDArray[Any]]) -> list[int] | None:
    """ONNX's pads of height and width (both starts, both ends), when it pads zeros there alone."""
    mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
    value = constants.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    pads = constants.get(pad.input[1])
    if mode != b"constant" or value is None or pads is None or len(pad.input) > 3:
        return None
    start, end = np.split(pads, 2)
    if np.any(value) or len(start) != 4 or any([*start[:2], *end[:2]]) or (pads < 0).any():
        return None
    return [int(side) for side in (*start[2:], *end[2:])]


def _can_pad(reader: Any, maker: Any, constants: dict[str, NDArray[Any]]) -> bool:
    """Convolutions pad with zeros; pooling with minus infinity, the same where all is ≥ 0."""
    if reader.op_type == "Conv":
        return True
    if reader.op_type != "MaxPool" or maker is None:
        return False
    if maker.op_type == "Clip" and len(maker.input) > 1:
        low = constants.get(maker.input[1])
        return low is not None and float(low) >= 0
    return bool(maker.op_type == "Relu")


def _pad(reader: Any, pad: Any, around: list[int]) -> None:
    from onnx import helper

    reader.input[0] = pad.input[0]
    own = next((list(a.ints) for a in reader.attribute if a.name == "pads"), [0] * 4)
    kept = [a for a in reader.attribute if a.name != "pads"]
    del reader.attribute[:]
    reader.attribute.extend(kept)
    both = [a + b for a, b in zip(own, around, strict=True)]
    reader.attribute.append(helper.make_attribute("pads", both))
