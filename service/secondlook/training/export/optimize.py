"""Fewer and faster operations for an exported student, with the same outputs but for rounding.

``fuse_modules`` works on the PyTorch model: batch norms and learnable affine blocks go into the
convolutions before them, parallel branches become one convolution, and a convolution whose halves
are read apart becomes two, so that onnxruntime need not leave its own memory layout to cut.
``simplify_onnx`` works on the exported file. What each step gains: docs/decisions/0018.
"""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secondlook.models.cpu_speedups import fuse_conv_bn, replace_modules


def fuse_modules(model: nn.Module, run: Callable[[], object]) -> None:
    """Fuse the layers of a DEIMv2 or D-FINE in place; ``run`` calls it on any image.

    The model must be in evaluation mode and cannot be trained any more.
    """
    fuse_conv_bn(model, run)
    # The classes of the two architectures differ by a prefix only.
    with torch.no_grad():
        replace_modules(model, "HGNetV2ConvLayer", _fuse_affine)
        replace_modules(model, "HGNetV2Embeddings", _Stem)
        replace_modules(model, "RepVggBlock", _merge_branches)
        replace_modules(model, "RepNCSPELAN5", _Elan)
        replace_modules(model, "RepNCSPELAN4", _Elan)


class _ClampMin(nn.Module):
    """A ReLU with the lower bound ``low``."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.low)


def _fuse_affine(layer: Any) -> nn.Module:
    """Convolution, activation and affine block as a convolution and one cheap activation.

    For ReLU and a scale s ≥ 0: s · max(x, 0) + b = max(s · x + b, b), which runs inside of the
    convolution. Where that does not hold the layer stays as it is.
    """
    convolution, lab = layer.convolution, layer.lab
    if isinstance(lab, nn.Identity):
        return nn.Sequential(convolution, layer.activation)
    scale, bias = float(lab.scale), float(lab.bias)
    if scale < 0 or type(layer.activation).__name__ not in ("ReLU", "ReLUActivation"):
        return nn.Sequential(convolution, layer.activation, lab)
    fused = deepcopy(convolution)
    fused.weight.mul_(scale)
    fused.bias.mul_(scale).add_(bias)
    return nn.Sequential(fused, nn.ReLU() if bias == 0 else _ClampMin(bias))


class _Stem(nn.Module):
    """HGNetV2's stem.

    The zeros right of and below a map are written once for each reader, so that a convolution can
    take them as its own padding (``simplify_onnx``); the pooling can where nothing is below zero.
    """

    def __init__(self, stem: Any) -> None:
        super().__init__()
        self.first = stem.stem1
        self.narrow, self.wide, self.pool = stem.stem2a, stem.stem2b, stem.pool
        self.last = nn.Sequential(stem.stem3, stem.stem4)

    def forward(self, pixels: Tensor) -> Tensor:
        first = self.first(pixels)
        narrow = self.narrow(nn.functional.pad(first, (0, 1, 0, 1)))
        wide = self.wide(nn.functional.pad(narrow, (0, 1, 0, 1)))
        pooled = self.pool(nn.functional.pad(first, (0, 1, 0, 1)))
        return self.last(torch.cat([pooled, wide], dim=1))


def _merge_branches(block: Any) -> nn.Module:
    """A 3×3 and a 1×1 convolution, added, are one 3×3."""
    wide, narrow = block.conv1.conv, block.conv2.conv
    one = deepcopy(wide)
    one.weight.add_(nn.functional.pad(narrow.weight, (1, 1, 1, 1)))
    one.bias.add_(narrow.bias)
    return nn.Sequential(one, block.activation)


class _Elan(nn.Module):
    """The aggregation block of both; D-FINE's has a convolution behind each branch."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        middle = block.conv1.conv.out_channels // 2
        self.kept = _slice_channels(block.conv1, slice(None, middle))
        self.first = _slice_channels(block.conv1, slice(middle, None))
        self.second, self.third, self.last = block.csp_rep1, block.csp_rep2, block.conv2
        if hasattr(block, "conv4"):
            self.second = nn.Sequential(block.csp_rep1, block.conv2)
            self.third = nn.Sequential(block.csp_rep2, block.conv3)
            self.last = block.conv4

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        return self.last(torch.cat([self.kept(x), first, second, self.third(second)], dim=1))


def _slice_channels(layer: Any, channels: slice) -> nn.Module:
    """A convolution and its activation for some of the output channels."""
    whole = layer.conv
    weight = whole.weight[channels]
    part = nn.Conv2d(whole.in_channels, len(weight), whole.kernel_size, whole.stride, whole.padding)
    part.weight.copy_(weight)
    assert part.bias is not None
    part.bias.copy_(whole.bias[channels])
    return nn.Sequential(part, layer.activation)


def simplify_onnx(path: Path) -> None:
    """Rewrite the ONNX file with fewer nodes; its outputs stay the same.

    onnxruntime computes what is constant, in standard operators only. Then zeros around a map
    become padding of the convolution or the pooling that reads them: in onnxruntime's own memory
    layout a separate padding costs two re-orderings.
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
