"""The learning-rate schedule that all trainings of the package share."""

import math


def warmed_cosine(step: int, steps: int, warm_share: float) -> float:
    """Share of the peak rate at ``step``, in (0, 1].

    Rises linearly over the first ``warm_share`` of ``steps``, then falls as a cosine to 1 %.
    """
    warm = max(1, round(warm_share * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
