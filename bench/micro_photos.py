"""Micro-models on real footage, from five labels: how far they carry where nothing was rendered.

Two clips, reported as they are. ``video_bedroom``: two children on a bed, of whom the girl is the
target. The clip has no boxes; the truth is the finder's strongest box of each frame, which by eye
is the girl in all 24, so what is judged is who is who, and not the outline. ``kangaroo``: photos
of one kangaroo each, with their truth, as a clip whose every frame is another scene; no class of
the finder is a kangaroo, and the phrase is the class that has a box on most of the labelled ones.
Finder: a detector of COCO's classes (yolox_nano); embedder: efficientnet-lite. Corrections and
rivals as in the suite ``micro_models``. SECONDLOOK_TEST_DATA names the folder of the photos.
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.micro_models import HEAD, CachedFinder, Clip, teach
from bench.paired_timing import Figure
from secondlook.config.settings import ModelSettings
from secondlook.core.boxes import iou, nms
from secondlook.core.image_folder import select_images
from secondlook.core.images import decode
from secondlook.core.types import Boxes, Image
from secondlook.labeling.proposer import Proposer
from secondlook.models.micro import FINDER_FLOOR
from secondlook.models.registry import load_embedder, load_proposer
from secondlook.training.micro import MicroParts

PHOTOS = 60
PHRASES = ("dog", "horse", "cow", "sheep", "bear", "bird", "cat")
EMBEDDER = "efficientnet-lite"


def run() -> list[Figure | str]:
    """One table, without bars."""
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    needed = [data / "weights" / "yolox_nano.onnx", data / "video_bedroom", data / "kangaroo"]
    if absent := next((path for path in needed if not path.exists()), None):
        return [f"Not measured: {absent.name} is absent."]
    options = ModelSettings()
    specs = f"onnx:{needed[0].resolve()}", EMBEDDER
    finder = CachedFinder(load_proposer(specs[0], options))
    parts = MicroParts(finder, load_embedder(EMBEDDER, options))
    lines = [HEAD]
    clips = {"video_bedroom": _bedroom(data, finder), "kangaroo": _kangaroos(data, finder)}
    with tempfile.TemporaryDirectory() as root:
        for name, clip in clips.items():
            taught = teach(clip, Path(root) / name, parts, specs)
            lines.append(taught.row(name, f"{clip.phrase}, {len(clip.images)} frames"))
            print(lines[-1], file=sys.stderr, flush=True)
    return ["\n".join(lines), "Recall / precision; of the finder's boxes recall."]


def _bedroom(data: Path, finder: Proposer) -> Clip:
    folder = data / "video_bedroom" / "frames"
    images = _images(folder, sorted(path.name for path in folder.iterdir()))
    truth: list[Boxes] = []
    for found in finder.propose(images, ["person"], FINDER_FLOOR):
        best = nms(found.boxes, found.scores[:, 0], 0.5)[:1]
        truth.append(found.boxes[best])
    return _clip(folder, images, truth, "person")


def _kangaroos(data: Path, finder: Proposer) -> Clip:
    told = json.loads((data / "kangaroo" / "annotations.json").read_text())
    boxes: dict[int, list[list[float]]] = defaultdict(list)
    for one in told["annotations"]:
        left, top, width, height = one["bbox"]
        boxes[one["image_id"]].append([left, top, left + width, top + height])
    single = [one for one in told["images"] if len(boxes[one["id"]]) == 1][:PHOTOS]
    folder = data / "kangaroo" / "images"
    images = _images(folder, [one["file_name"] for one in single])
    truth = [np.array(boxes[one["id"]], np.float32) for one in single]
    clip = _clip(folder, images, truth, "")
    places = np.random.default_rng(clip.seed).choice(len(images), 5, replace=False).tolist()

    def covered(phrase: str) -> int:
        found = finder.propose([images[at] for at in places], [phrase], FINDER_FLOOR)
        pairs = zip(found, places, strict=True)
        return sum(bool((iou(one.boxes, truth[at]) >= 0.5).any()) for one, at in pairs)

    clip.phrase = max(PHRASES, key=covered)
    return clip


def _images(folder: Path, names: Sequence[str]) -> list[Image]:
    return [decode((folder / name).read_bytes(), name) for name in names]


def _clip(folder: Path, images: list[Image], truth: list[Boxes], phrase: str) -> Clip:
    selection = select_images([folder / image.name for image in images])
    return Clip(0, phrase, selection, images, truth)
