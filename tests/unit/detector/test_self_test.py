import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from students import QUARTERS, write_student

from secondlook.detector import self_test
from secondlook.detector.detections import Detections, select_detections
from secondlook.detector.manifest import describe_file, write_manifest
from secondlook.detector.runtime import OnnxDetector
from secondlook_client.errors import Damaged


def test_a_model_that_sees_objects_everywhere_fails_its_self_test() -> None:
    expected = select_detections(np.array([[0.4]]), QUARTERS[:1], 64, 64, 0)
    found = select_detections(np.array([[0.4], [0.9]]), QUARTERS[:2], 64, 64, 0)
    self_test.check(expected, expected, self_test.TOLERANCES["fp32"])
    with pytest.raises(Damaged):
        self_test.check(found, expected, self_test.TOLERANCES["fp32"])


def test_one_detection_cannot_stand_for_two() -> None:
    one = select_detections(np.array([[0.4]]), QUARTERS[:1], 64, 64, 0)
    two = Detections(one.boxes.repeat(2, 0), one.scores.repeat(2), one.classes.repeat(2))
    with pytest.raises(Damaged):
        self_test.check(one, two, self_test.TOLERANCES["fp32"])


@pytest.mark.parametrize("kind", ["text", "empty", "bomb", "pickle", "other size", "no int8"])
def test_a_self_test_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    manifest = write_student(tmp_path, int8=True)
    path = tmp_path / "self_test.npz"
    if kind == "text":
        path.write_bytes(b"hello")
    elif kind == "empty":
        np.savez(path)
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("image.npy", b"\0" * (2**25 + 1))
    elif kind == "pickle":
        np.savez(path, image=np.array([object()], dtype=object))
    else:
        held = dict(np.load(io.BytesIO(path.read_bytes())))
        if kind == "other size":
            held["image"] = held["image"][1:]
        else:
            del held["int8_boxes"]
        np.savez(path, **held)
    files = dict(manifest.files) | {"self_test.npz": describe_file(path)}
    write_manifest(tmp_path, replace(manifest, files=files))
    with pytest.raises(Damaged, match="self-test"):
        OnnxDetector.open(tmp_path, "int8")


def test_what_is_nearly_zero_is_not_expected_again(tmp_path: Path) -> None:
    scores = np.array([[0.8], [0.3], [0.05], [0.01]], np.float32)
    for weaker, kept in ((scores, 2), (scores / 10, 1)):
        found = select_detections(weaker, QUARTERS, 16, 16, 0.0)
        image = np.zeros((16, 16, 3), np.uint8)
        path = tmp_path / "self_test.npz"
        self_test.write_self_test(path, self_test.SelfTest(image, {"fp32": found}))
        read = self_test.read_self_test(path.read_bytes(), "fp32", (16, 16))
        assert len(read.expected["fp32"]) == kept
        self_test.check(found, read.expected["fp32"], self_test.TOLERANCES["fp32"])
