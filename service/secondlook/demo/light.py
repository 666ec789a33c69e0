"""Weather, light and sensor: how a rendered scene becomes a photo-like image."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def expose(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """The (H, W, 3) uint8 image of the rendered `image`, at a random hour and in random weather."""
    if rng.random() < 0.12:
        image = _precipitation(image, rng)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.65))))
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels * _gain(rng) * _falloff(image.height, image.width, rng)
    contrast = np.float32(rng.uniform(0.78, 1.12))
    pixels = (pixels - 118.0) * contrast + np.float32(118.0 + rng.uniform(-12, 12))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels += noise * np.float32(rng.uniform(0.5, 8.0))
    return np.clip(pixels, 0, 255).astype(np.uint8)


class Daylight:
    """One place's light: always the same but for a slow drift, with fresh noise on each image."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        """Choose the light of images of `width` by `height` pixels."""
        self._blur = float(rng.uniform(0.2, 0.65)) if rng.random() < 0.5 else 0.0
        self._factor = _gain(rng) * _falloff(height, width, rng)
        self._contrast, self._lift = rng.uniform(0.78, 1.12), rng.uniform(-12, 12)
        strength = np.float32(rng.uniform(0.5, 6.0))
        shape = (2 * height, 2 * width, 3)  # a window of it, anywhere, is an image's noise
        self._noise = rng.standard_normal(shape, dtype=np.float32) * strength
        self._phase = rng.uniform(0, 2 * np.pi)

    def expose(self, image: Image.Image, time: float, rng: np.random.Generator) -> np.ndarray:
        """The (H, W, 3) uint8 image at `time`, in periods of the drift."""
        if self._blur:
            image = image.filter(ImageFilter.GaussianBlur(self._blur))
        drift = 1 + 0.04 * np.sin(2 * np.pi * time + self._phase)
        pixels = np.asarray(image, dtype=np.float32) * (self._factor * np.float32(drift))
        pixels -= np.float32(118.0)
        pixels *= np.float32(self._contrast)
        height, width = pixels.shape[:2]
        y, x = int(rng.integers(height)), int(rng.integers(width))
        pixels += self._noise[y : y + height, x : x + width]
        pixels += np.float32(118.0 + self._lift)
        return np.clip(pixels, 0, 255).astype(np.uint8)


def _gain(rng: np.random.Generator) -> np.ndarray:
    hour = rng.random()
    warm = rng.uniform(-0.08, 0.08)
    gain = np.array([1 + warm, 1.0, 1 - warm]) * rng.uniform(0.85, 1.1)
    if hour < 0.08:  # night
        gain = np.array([0.62, 0.66, 0.82]) * rng.uniform(0.85, 1.05)
    elif hour < 0.18:  # dusk
        gain = np.array([1.02, 0.89, 0.83]) * rng.uniform(0.85, 1.0)
    return gain.astype(np.float32)


def _falloff(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Directional light and vignette as one (H, W, 1) factor."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18)
    slope = 1 + np.float32(depth) * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y)
    vignette = 1 - np.float32(rng.uniform(0, 0.14)) * (x * x + y * y)
    return (slope * vignette)[:, :, None]


def _precipitation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    wet = image.copy()
    draw = ImageDraw.Draw(wet, "RGBA")
    count = int(rng.integers(60, 220))
    at = rng.uniform(0, 1, (count, 2)) * (image.width, image.height)
    if rng.random() < 0.5:
        slant, length = rng.uniform(-2, 2), rng.uniform(4, 9)
        for x, y in at.tolist():
            draw.line((x, y, x + slant, y + length), fill=(215, 222, 235, 90))
    else:
        for (x, y), r in zip(at.tolist(), rng.uniform(0.4, 1.1, count).tolist(), strict=True):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 252, 190))
    return wet
