"""Convolutions of a student as few and as plain as its outputs allow, for export.

Equal to the trained model but for rounding: norms go into the convolutions before them, parallel
branches become one, learnable affine blocks go into weights, and convolutions whose halves are read
apart become two, so that onnxruntime need not cut its own memory layout open.
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

from secondlook.models.cpu_speedups import fuse_conv_bn


def fuse_modules(model: nn.Module, run: Callable[[], object]) -> bool:
    """Fold a DEIMv2 or D-FINE in place; ``run`` calls it on any image.

    The model must be in evaluation mode and no longer be needed as it was. Gives whether it takes
    pixels from 0 to 255 now, which it does where the backbone is an HGNetV2; else from 0 to 1.
    """
    fuse_conv_bn(model, run)
    with torch.no_grad():
        _replace(model, "HGNetV2ConvLayer", _with_affine)
        _replace(model, "HGNetV2Embeddings", _Stem)
        _replace(model, "ShortStem", _FromBytes)
        _replace(model, "RepVggBlock", _merged)
        _replace(model, "CSPRepLayer", _split_csp)
        _replace(model, "RepNCSPELAN5", _Elan5)
        _replace(model, "RepNCSPELAN4", _Elan4)
    return any(isinstance(module, (_Stem, _FromBytes)) for module in model.modules())


def _replace(model: nn.Module, suffix: str, make: Callable[[Any], nn.Module]) -> None:
    """The classes of the two architectures differ by a prefix only."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith(suffix):
                setattr(parent, name, make(child))


class _AtLeast(nn.Module):
    """What is below ``low`` becomes it."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.low)


def _with_affine(layer: Any) -> nn.Module:
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
    folded = deepcopy(convolution)
    folded.weight.mul_(scale)
    folded.bias.mul_(scale).add_(bias)
    return nn.Sequential(folded, nn.ReLU() if bias == 0 else _AtLeast(bias))


class _Stem(nn.Module):
    """HGNetV2's stem. It takes pixels from 0 to 255: the division is in its first weights.

    The zeros that go right and below of a map are written once for each reader, so that a
    convolution can take them as its own padding; the pooling can where nothing is below zero.
    """

    def __init__(self, stem: Any) -> None:
        super().__init__()
        self.first = stem.stem1
        self.first[0].weight.div_(255)
        self.narrow, self.wide, self.pool = stem.stem2a, stem.stem2b, stem.pool
        self.last = nn.Sequential(stem.stem3, stem.stem4)

    def forward(self, pixels: Tensor) -> Tensor:
        first = self.first(pixels)
        narrow = self.narrow(nn.functional.pad(first, (0, 1, 0, 1)))
        wide = self.wide(nn.functional.pad(narrow, (0, 1, 0, 1)))
        pooled = self.pool(nn.functional.pad(first, (0, 1, 0, 1)))
        return self.last(torch.cat([pooled, wide], dim=1))


class _FromBytes(nn.Sequential):
    """The short stem, from pixels from 0 to 255."""

    def __init__(self, stem: Any) -> None:
        super().__init__(stem.first, stem.second)
        stem.first[0].weight.div_(255)


def _merged(block: Any) -> nn.Module:
    """A 3×3 and a 1×1 convolution, added, are one 3×3."""
    wide, narrow = block.conv1.conv, block.conv2.conv
    one = deepcopy(wide)
    one.weight.add_(nn.functional.pad(narrow.weight, (1, 1, 1, 1)))
    one.bias.add_(narrow.bias)
    return nn.Sequential(one, block.activation)


def _halves(layer: Any) -> tuple[nn.Module, nn.Module]:
    """A convolution whose result is cut in two by channels, as two convolutions."""
    return _part(layer, slice(None, layer.conv.out_channels // 2)), _part(
        layer, slice(layer.conv.out_channels // 2, None)
    )


def _part(layer: Any, channels: slice) -> nn.Module:
    whole = layer.conv
    part = nn.Conv2d(
        whole.in_channels,
        len(range(whole.out_channels)[channels]),
        whole.kernel_size,
        whole.stride,
        whole.padding,
    )
    part.weight.copy_(whole.weight[channels])
    assert part.bias is not None
    part.bias.copy_(whole.bias[channels])
    return nn.Sequential(part, layer.activation)


def _split_csp(layer: Any) -> nn.Module:
    """DEIMv2's has one convolution for both branches; D-FINE's has two already."""
    return layer if hasattr(layer, "conv3") else _Csp(layer)


class _Csp(nn.Module):
    """DEIMv2's cross stage partial block."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.residual, self.first = _halves(layer.conv1)
        self.bottlenecks = nn.Sequential(*layer.bottlenecks)
        self.last = layer.conv2

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.residual(x) + self.bottlenecks(self.first(x)))


class _Elan5(nn.Module):
    """DEIMv2's aggregation block."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.kept, self.first = _halves(block.conv1)
        self.second, self.third = block.csp_rep1, block.csp_rep2
        self.last = block.conv2

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        return self.last(torch.cat([self.kept(x), first, second, self.third(second)], dim=1))


class _Elan4(nn.Module):
    """D-FINE's aggregation block, with a convolution behind each branch."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.kept, self.first = _halves(block.conv1)
        self.second = nn.Sequential(block.csp_rep1, block.conv2)
        self.third = nn.Sequential(block.csp_rep2, block.conv3)
        self.last = block.conv4

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        return self.last(torch.cat([self.kept(x), first, second, self.third(second)], dim=1))


# What is tidied up in an exported graph before it is kept.


def simplify_onnx(path: Path) -> None:
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
