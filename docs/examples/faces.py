"""A plug-in pair of your own models: faces, and whether a face wears a mask or glasses.

Copy it and put your models in the place of these three small ones (all MIT): RFB-320 finds faces,
the landmark network of MTCNN aligns them, and an attribute network judges them.

    PYTHONPATH=. secondlook label photos/ \
        -c "person wearing a mask @mask = face ? Is this person wearing a mask?" \
        -c "person without a mask @mask = face ? Is this person not wearing a mask?" \
        -c "person wearing glasses = face ? Is this person wearing glasses?" \
        --proposer faces:load_proposer:weights/ --verifier faces:load_verifier:weights/

What a pair must have is in ``secondlook.labeling.proposer`` and ``secondlook.labeling.verifier``.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from secondlook.core.boxes import nms
from secondlook.core.types import Proposals
from secondlook.labeling.verifier import CROP_MARGIN
from secondlook_client.errors import BadOntology
from secondlook_client.values import Answer

ALIGNED = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
"""Eyes, nose and corners of the mouth in the 112×112 pixels that the attribute network reads."""


class Faces:
    """Stage one: finds faces, whatever an image shows besides."""

    name = "rfb-320"

    def __init__(self, weights: Path):
        self.digest = digest(weights / "RFB-320.onnx")
        self.model = session(weights / "RFB-320.onnx")

    def check_phrases(self, phrases):
        """Tell a wrong word at once, before an image is sent. This method is optional."""
        for phrase in phrases:
            if phrase not in ("face", "faces"):
                raise BadOntology(f"'{self.name}' finds faces, not '{phrase}'; give = face")

    def propose(self, images, phrases, floor):
        """Boxes in pixels of each image, and a score for each phrase."""
        proposals = []
        for image in images:
            pixels = Image.fromarray(image.pixels).resize((320, 240), Image.Resampling.BILINEAR)
            scores, boxes = self.model.run(None, {"input": planes(pixels, 127, 128)})
            rows = scores[0, :, 1] >= floor
            found = boxes[0, rows] * [image.width, image.height, image.width, image.height]
            found, certain = found.astype(np.float32), scores[0, rows, 1]
            best = nms(found, certain, 0.3)
            columns = np.repeat(certain[best, None], len(phrases), axis=1)
            proposals.append(Proposals(found[best], columns))
        return proposals


class FaceAttributes:
    """Stage two: P(yes) that the face in a crop wears a mask, or glasses."""

    name = "face-attributes"
    min_side = 48  # smaller crops are enlarged

    def __init__(self, weights: Path):
        self.digest = digest(weights / "face_attributes.onnx")
        self.landmarks = session(weights / "mtcnn_onet.onnx")
        self.attributes = session(weights / "face_attributes.onnx")

    def check_questions(self, questions):
        """Tell a wrong question at once. This method is optional."""
        for question in questions:
            if not {"mask", "glasses"} & set(words(question)):
                raise BadOntology(f"'{self.name}' knows masks and glasses, not '{question}'")

    def answer(self, queries):
        """One answer for each question of each view."""
        return [
            tuple(self.judge(question, found) for question in query.questions)
            for query in queries
            for found in [self.look(Image.fromarray(query.pixels))]
        ]

    def judge(self, question, found):
        """P(yes); "not" and "without" ask for the opposite."""
        asked = words(question)
        p = found["mask"] if "mask" in asked else found["glasses"]
        opposite = bool({"not", "without", "no"} & set(asked))
        return Answer(float(1 - p if opposite else p))

    def look(self, crop):
        """The probabilities of a mask and of glasses on the face in a crop."""
        logits = self.attributes.run(None, {"face": planes(self.aligned(crop), 0, 1)})[0][0]
        none, _eye, _sun = softmax(logits[4:7])
        return {"mask": softmax(logits[2:4])[1], "glasses": 1 - none}

    def aligned(self, crop):
        """The face turned and scaled so that its landmarks lie on ``ALIGNED``."""
        inner = 1 / (1 + 2 * CROP_MARGIN)  # the box, without the margin of the crop
        side = max(crop.size) * inner
        left, top = (crop.width - side) / 2, (crop.height - side) / 2
        window = (left, top, left + side, top + side)
        square = crop.transform((48, 48), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR)
        found = self.landmarks.run(None, {"face": planes(square, 127.5, 128)})[0][0]
        points = np.stack([left + found[:5] * side, top + found[5:] * side], axis=1)
        # The rotation, scale and shift with the least squared error (Umeyama 1991).
        wanted, seen = ALIGNED - ALIGNED.mean(0), points - points.mean(0)
        u, scales, v = np.linalg.svd(seen.T @ wanted)
        flip = [1, np.sign(np.linalg.det(u @ v))]
        turn = (u * flip) @ v * (scales @ flip) / (wanted**2).sum()
        shift = points.mean(0) - turn @ ALIGNED.mean(0)
        matrix = (*turn[0], shift[0], *turn[1], shift[1])
        return crop.transform((112, 112), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def load_proposer(argument, options):
    """What ``--proposer faces:load_proposer:FOLDER`` calls, with FOLDER."""
    return Faces(Path(argument))


def load_verifier(argument, options):
    """What ``--verifier faces:load_verifier:FOLDER`` calls, with FOLDER."""
    return FaceAttributes(Path(argument))


def session(path):
    """One thread: the service runs several images at a time."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def digest(path):
    """Kept with every label, so that it can be told later which weights made it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def planes(image, mean, std):
    """(1, 3, H, W) float32 of an RGB image."""
    return ((np.asarray(image, np.float32) - mean) / std).transpose(2, 0, 1)[None]


def softmax(logits):
    """Probabilities that add up to 1."""
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def words(question):
    """Its words in lower case."""
    return question.lower().strip("?! .").split()
