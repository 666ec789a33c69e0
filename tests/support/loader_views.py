"""What a torch loader makes of an example; little is imported, as each worker imports it again."""

import io

import numpy as np
from PIL import Image as PILImage

from secondlook_client.values import Example


def pixels(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """What a training wants: the image and its boxes."""
    image = np.array(PILImage.open(io.BytesIO(example.content)).convert("RGB"))
    boxes = np.array([label.xyxy for label in example.labels], dtype=np.float32)
    return image, boxes


def hash_only(example: Example) -> str:
    """The name of the bytes alone."""
    return example.sha256
