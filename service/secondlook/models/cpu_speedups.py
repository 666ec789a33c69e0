"""Faster parts for models that run on a CPU, each with the same outputs but for rounding.

- ``fuse_conv_bn``: the batch norm of a trained model multiplies and adds a constant a channel,
  which the weights of the convolution before it can do at no cost.
- ``use_channels_last``: pooling is up to 13 times as fast in bfloat16 in that layout, and a
  convolution needs no re-ordering.
- ``cast_weights``: mixed precision converts every weight in every pass; here it is done once.
- ``HalfLinear``: in half types PyTorch writes the bias to memory, adds the product to it, and reads
  all again for the activation. oneDNN does the three in one pass where the processor multiplies
  that type by itself.
"""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def replace_modules(model: nn.Module, suffix: str, make: Callable[[Any], nn.Module]) -> int:
    """Replace every module whose class name ends in ``suffix``; returns how many there were."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__.endswith(suffix)
    ]
    for parent, name, child in found:
        setattr(parent, name, make(child))
    return len(found)


def join_linear(*layers: nn.Linear) -> nn.Linear:
    """One layer that gives what these give, one after the other: its product costs less."""
    weight = torch.cat([layer.weight for layer in layers])
    joined = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        joined.weight.copy_(weight)
        joined.bias.copy_(torch.cat([_bias(layer) for layer in layers]))
    return joined.requires_grad_(False)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


class JointSampling(nn.Module):
    """The weights of a ``…MultiscaleDeformableAttention``, for a kernel that samples and sums.

    Where to sample and how much to take of it come from one product.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.heads, self.points = original.n_heads, original.n_points
        self.value_proj = original.value_proj
        self.output_proj = original.output_proj
        self.sampling = join_linear(original.sampling_offsets, original.attention_weights)


def fuse_conv_bn(model: nn.Module, run: Callable[[], object]) -> int:
    """Fuse batch norms into the convolutions before them; returns how many were fused.

    ``run`` calls the model, in evaluation mode, on any input of its kind: a norm is fused when
    that shows it to take exactly what one convolution gives. Nothing else may read the result of
    the convolution.
    """
    pairs = _conv_bn_pairs(model, run)
    for convolution, norm in pairs:
        _fuse_pair(convolution, norm)
    fused = {norm for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in fused:
                setattr(parent, name, nn.Identity())
    return len(pairs)


def _conv_bn_pairs(
    model: nn.Module, run: Callable[[], object]
) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Pairs of a convolution and a norm that in ``run`` are only ever called one on the other."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds outputs, so that no id is used twice
    calls: Counter[nn.Module] = Counter()
    found: Counter[tuple[nn.Conv2d, nn.Module]] = Counter()

    def after_convolution(module: nn.Conv2d, _: object, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(inputs[0]) in made:
            found[made[id(inputs[0])][0], module] += 1

    norms = [module for module in model.modules() if _is_frozen_norm(module)]
    if not norms:
        return []
    hooks = [norm.register_forward_pre_hook(before_norm) for norm in norms]
    for module in model.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(after_convolution))
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, norm)
        for (convolution, norm), times in found.items()
        if times == calls[convolution] == calls[norm]
    ]


def _is_frozen_norm(module: nn.Module) -> bool:
    """DETR-like models have a class of their own for it, each with another prefix."""
    if type(module) is nn.BatchNorm2d:
        return not module.training and module.track_running_stats
    return type(module).__name__.endswith("FrozenBatchNorm2d")


def _fuse_pair(convolution: nn.Conv2d, norm: nn.Module) -> None:
    """The norm applied to 0 and to 1 in every channel shows what it adds and multiplies."""
    weight = convolution.weight
    exact = deepcopy(norm).double()
    with torch.no_grad():
        zeros = weight.new_zeros(1, convolution.out_channels, 1, 1, dtype=torch.float64)
        shift = exact(zeros).flatten()
        scale = exact(zeros + 1).flatten() - shift
        if convolution.bias is not None:
            shift = shift + convolution.bias.double() * scale
        fused = weight.double() * scale.view(-1, 1, 1, 1)
        convolution.weight = nn.Parameter(fused.to(weight.dtype), requires_grad=False)
        convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def use_channels_last(model: nn.Module) -> None:
    """Lay the weights of all 2D convolutions out channels last; their outputs follow."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of products and convolutions in the type in which they are computed.

    Autocast then gives the same numbers without converting them, and is needed in every pass.
    Biases stay float32, as all else does: some are added outside of products.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)


def multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN, where PyTorch has it, multiplies this half type on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype is torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported()


class HalfLinear(nn.Module):
    """In place of an ``nn.Linear`` whose weights are bfloat16 or float16, with an activation.

    Outputs are those of the layer under autocast followed by the activation, but for rounding
    once instead of twice.
    """

    def __init__(self, original: nn.Linear, activation: str = "none") -> None:
        """``activation`` is one of "none", "relu" and "gelu"."""
        super().__init__()
        self.out_features = original.out_features
        self.weight, self.bias = original.weight, original.bias
        self.added = None if self.bias is None else nn.Buffer(self.bias.to(self.weight.dtype))
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """(…, in) of any float type to (…, out) in the type of the weights."""
        return torch.ops.mkldnn._linear_pointwise(
            features.to(self.weight.dtype), self.weight, self.added, self.activation, [], "none"
        )
