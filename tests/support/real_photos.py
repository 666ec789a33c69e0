"""Both stages on real photos with published weights: the commands, and the truth in COCO form.

Faces: RFB-320 finds them, and an attribute network says whether they wear a mask or glasses
(``docs/examples/faces.py``). Everyday things: FastestDet proposes COCO's 80 classes
(``onnx_plugins.py``), and YOLOX-Nano is asked "Is this a dog?" of each crop. Photos and weights are
in the folder that SECONDLOOK_TEST_DATA names; they are not part of the project.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASK, NO_MASK = "person wearing a mask", "person without a mask"
GLASSES = "person wearing glasses"
FACE_CLASSES = (
    f"{MASK} @mask = face ? Is this person wearing a mask?",
    f"{NO_MASK} @mask = face ? Is this person not wearing a mask?",
    f"{GLASSES} = face ? Is this person wearing glasses?",
)
"""As ``secondlook label -c`` takes them."""
SAME_FACE_IOU = 0.4
"""From which a box is right: the annotators draw a face from the brows to the chin, RFB-320 from
the hair to the mouth. Of 1,613 boxes with a score of 0.3, 1,192 overlap a true face by 0.3, 1,119
by 0.4 and 995 by 0.5; what lies between 0.3 and 0.5 a person would call right."""
SUPPORT = Path(__file__).parent
EXAMPLES = SUPPORT.parents[1] / "docs" / "examples"


@dataclass(frozen=True)
class PhotoSet:
    """Photos with a proposer and a verifier that know what is on them."""

    images: Path
    truth: Mapping[str, Any]
    """COCO; ``iscrowd`` marks what counts neither for nor against."""
    classes: Sequence[str]
    proposer: str
    verifier: str
    min_iou: float
    """Overlap with a true box of the class from which a box is right."""

    def write_truth(self, path: Path) -> Path:
        """Write the truth as a file."""
        path.write_text(json.dumps(self.truth))
        return path

    def label(self, out: Path, *flags: str, images: Path | None = None) -> None:
        """``secondlook label`` into the folder ``out``, in a process of its own."""
        words = ["label", str(images or self.images), "--out", str(out), "--gallery", "0"]
        words += [part for one in self.classes for part in ("-c", one)]
        words += ["--proposer", self.proposer, "--verifier", self.verifier, *flags]
        secondlook(*words)


def secondlook(*words: str) -> str:
    """Run a command that finds the plug-ins, and give back what it printed.

    Raises ``CalledProcessError`` when it fails.
    """
    paths = (str(EXAMPLES), str(SUPPORT), os.environ.get("PYTHONPATH"))
    # What a benchmark is told by its environment is no setting of the command.
    own = {name: value for name, value in os.environ.items() if not name.startswith("SECONDLOOK_")}
    own |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "secondlook", *words]
    done = subprocess.run(command, check=True, env=own, stdout=subprocess.PIPE, text=True)
    return done.stdout


def faces(data: Path) -> PhotoSet:
    """360 photos with 1,518 faces. Raises ``FileNotFoundError`` where ``data`` has them not."""
    weights, folder = (data / "weights").resolve(strict=True), data / "face_mask"
    return PhotoSet(
        folder / "images",
        face_truth(folder),
        FACE_CLASSES,
        f"faces:load_proposer:{weights}",
        f"faces:load_verifier:{weights}",
        SAME_FACE_IOU,
    )


def everyday_things(data: Path) -> PhotoSet:
    """128 photos of COCO with 898 boxes. YOLOX-Nano has seen some of them in training.

    Raises ``FileNotFoundError`` where ``data`` has them not.
    """
    weights, folder = (data / "weights").resolve(strict=True), data / "coco_val128"
    truth = json.loads((folder / "annotations.json").read_text())
    return PhotoSet(
        folder / "images",
        truth,
        [category["name"] for category in truth["categories"]],
        f"onnx_plugins:FastestDet:{weights / 'FastestDet.onnx'}",
        f"onnx:{weights / 'yolox_nano.onnx'}",
        0.5,
    )


def face_truth(folder: Path) -> dict[str, Any]:
    """The annotations of ``face_mask`` with its hand-made labels of glasses, by our classes.

    A mask that is worn wrongly is worn. Glasses count neither way where nobody looked (faces of
    less than 44 pixels) or where it was unclear.
    """
    given = json.loads((folder / "annotations.json").read_text())
    seen = json.loads((folder / "glasses.json").read_text())["labels"]
    glasses = {entry["annotation_id"]: entry["glasses"] for entry in seen}
    names = {category["id"]: category["name"] for category in given["categories"]}
    classes = (MASK, NO_MASK, GLASSES)
    entries: list[dict[str, Any]] = []

    def add(face: dict[str, Any], name: str, *, ignore: bool = False) -> None:
        entry = {key: face[key] for key in ("image_id", "bbox", "area")}
        entry |= {"id": len(entries) + 1, "category_id": classes.index(name) + 1}
        entries.append(entry | {"iscrowd": int(ignore)})

    for face in given["annotations"]:
        bare = names[face["category_id"]] == "without_mask"
        add(face, NO_MASK if bare else MASK)
        answer = glasses.get(face["id"], "unclear")
        if answer != "no":
            add(face, GLASSES, ignore=answer == "unclear")
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": given["images"], "annotations": entries, "categories": categories}
