"""How much an image would change a student, were it taught the image with its own labels.

The length of the gradient of its class layer (expected gradient length, Settles et al. 2008), for
the labels that the student itself holds most probable: what it is sure of has no gradient. Only the
last layer: its gradient is known without a backward pass, from what the layer is given.
"""

import numpy as np
from numpy.typing import NDArray


def gradient_length(features: NDArray[np.floating], probabilities: NDArray[np.floating]) -> float:
    """The length, ≥ 0, for the Q places of an image that a student looked at.

    ``features`` (Q, D) are what its class layer was given, ``probabilities`` (Q, C) what it made
    of them, [0, 1]. The loss is binary cross-entropy summed over places and classes; each class of
    a place is taken for there from a probability of one half.
    """
    p = probabilities.astype(np.float64)
    missing = p - (p >= 0.5)
    with_bias = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    return float(np.linalg.norm(missing.T @ with_bias.astype(np.float64)))
