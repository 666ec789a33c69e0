"""Students trained on real photos: each set's own truth, a fifth held out by hash.

Initial weights are the embedded ones, which were trained on synthetic scenes only, and the sets are
small (85 to 360 images): this shows what a few minutes on a CPU achieve, not what the students can
do. With COCO weights (``--start``, where a model hub is reachable) the figures differ. The images
are not part of the project; SECONDLOOK_TEST_DATA names their folder.
"""

import json
import os
import tempfile
from pathlib import Path

from bench.paired_timing import Figure
from bench.students import process_pool

SETS = ("face_mask", "kangaroo", "indoor", "coco_val128")
STEPS = int(os.environ.get("SECONDLOOK_STEPS", "300"))
PIXELS = 256
"""Photos have more small objects than the scenes that the initial weights were trained on."""


def run() -> list[Figure | str]:
    """One table."""
    root = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    present = [name for name in SETS if (root / name).is_dir()]
    if not present:
        return [f"Not measured: {root} holds none of {', '.join(SETS)}."]
    with process_pool() as pool:
        rows = list(pool.map(_student, [root / name for name in present]))
    head = (
        f"pico, {STEPS} steps of 16 at {PIXELS} px, from the embedded weights.\n\n"
        "| set | classes | trained on / evaluated on | mAP50 | mAP | best class | minutes |\n"
        "|---|---|---|---|---|---|---|"
    )
    return ["\n".join([head, *rows])]


def _student(folder: Path) -> str:
    from secondlook.datasets.open import open_training_set
    from secondlook.evaluation.detector_scores import score
    from secondlook.training.model import input_size_of, load_student
    from secondlook.training.predict import predict
    from secondlook.training.settings import TrainingSettings
    from secondlook.training.trainer import train

    data = open_training_set(str(folder))
    settings = TrainingSettings(
        start="demo", steps=STEPS, validate_every=STEPS, input_width=PIXELS, workers=0, device="cpu"
    )
    with tempfile.TemporaryDirectory() as out:
        trained = train(data, settings, Path(out))
        model = load_student(trained)
        seconds = json.loads((trained / "training.json").read_text())["seconds"]
    found = predict(model, data.held_out, input_size_of(model))
    scores = score(data.held_out, found, data.classes)
    known = {name: ap for name, ap in scores.map50_per_class.items() if ap is not None}
    best = max(known, key=lambda name: known[name])
    return (
        f"| {folder.name} | {len(data.classes)} | {len(data.train)} / {len(data.held_out)} "
        f"| {scores.map50:.3f} | {scores.map:.3f} | {best} {known[best]:.3f} | {seconds / 60:.1f} |"
    )
