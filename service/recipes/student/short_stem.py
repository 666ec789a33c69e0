"""A trained student made faster: a short stem in place of HGNetV2's own, and ReLU for SiLU.

Begun from nothing, a student with the short stem learns far more slowly; one that is trained
already needs a minute in which the new stem learns to give what the old one gave, and some training
behind that. ReLU goes into the convolution before it, and into int8.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from recipes.runs import WARMUP
from secondlook.training.model import ShortStem, ShortStemConfig, set_input_size
from secondlook.training.trainer import warmup_cosine

RATE = 3e-3
"""AdamW's peak while a stem is distilled."""
_MIN_VARIANCE = 1e-4
"""Of a channel, below which its errors weigh no more."""


def with_short_stem(student: nn.Module, pixels: tuple[int, int]) -> nn.Module:
    """The same student for images of ``pixels`` (width, height), as fast as can be.

    ``student`` is a DEIMv2 or D-FINE with an HGNetV2. A stem of its own is left behind, and the
    short one has learnt nothing. Raises ``BadSetting`` for a size that does not fit.
    """
    given: Any = student
    config = deepcopy(given.config)
    backbone = {k: v for k, v in config.backbone_config.to_dict().items() if k != "model_type"}
    config.backbone_config = ShortStemConfig(**backbone)
    config.activation_function = "relu"
    set_input_size(config, pixels)
    short: nn.Module = type(student)(config)
    fitting = short.state_dict().keys()
    kept = {name: value for name, value in student.state_dict().items() if name in fitting}
    short.load_state_dict(kept, strict=False)
    return short


def has_short_stem(student: nn.Module) -> bool:
    """Whether nothing of its stem is left to shorten."""
    return any(isinstance(module, ShortStem) for module in student.modules())


def distill_stem(
    short: nn.Module,
    long: nn.Module,
    images: Callable[[int], Tensor],
    steps: int,
    tell: Callable[[int, float], None],
) -> None:
    """Teach the short stem of one student to give what that of another gives.

    ``images(step)`` are (B, 3, H, W) as a student takes them. ``tell`` is called with each step
    and its error: squared, in units of each channel's variance.
    """
    learner, teacher = _stem_of(short).train(), _stem_of(long).eval()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=RATE, weight_decay=0)
    for step in range(steps):
        batch = images(step)
        with torch.no_grad():
            wanted = teacher(batch)
            variance = wanted.var((0, 2, 3), keepdim=True) + _MIN_VARIANCE
        for group in optimiser.param_groups:
            group["lr"] = RATE * warmup_cosine(step, steps, WARMUP)
        error = ((learner(batch) - wanted) ** 2 / variance).mean()
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        optimiser.step()
        tell(step + 1, float(error.detach()))


def _stem_of(student: nn.Module) -> nn.Module:
    names = ShortStem.__name__, "HGNetV2Embeddings"
    return next(module for module in student.modules() if type(module).__name__ in names)
