"""The student of the suite ``cascade``: labelled by both stages, distilled, kept in ``.cache``."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from secondlook.cli.labelling import label_into
from secondlook.cli.session import connected
from secondlook.config import Settings
from secondlook.distill.distilling import distill
from secondlook.distill.settings import TrainingSettings
from secondlook.distill.sources import open_training_set
from secondlook.ontology_text import load_ontology
from secondlook.runs.folder import select
from secondlook.runs.out_folder import OutFolder

STEPS = int(os.environ.get("SECONDLOOK_STEPS", "600"))


def stream_student(place: Path, draw: Callable[[Path], None]) -> Path:
    """The folder of a student that learnt from the frames that ``draw`` leaves in ``place``."""
    student = place / f"student-{STEPS}"
    if (student / "manifest.json").exists():
        return student
    if not (place / "ontology.yaml").exists():
        draw(place)
    ontology = load_ontology(place / "ontology.yaml")
    settings = Settings(proposer="demo", verifier="demo")
    with (
        OutFolder(place / "labels") as folder,
        connected(None, settings, ontology, lambda: folder.store) as session,
    ):
        label_into(folder, session, select([place / "images"]))
    shutil.copy(place / "labels" / "coco.json", place / "coco.json")
    data = open_training_set(str(place / "coco.json"))
    training = TrainingSettings(size="pico", start="demo", steps=STEPS, workers=0, device="cpu")
    distill(data, training, student, name="camera")
    return student
