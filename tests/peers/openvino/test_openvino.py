"""OpenVINO compiles both models of a student, and finds what onnxruntime finds."""

import numpy as np
import onnxruntime
import pytest
from tiny_students import CLASSES, PIXELS, awake, d_fine, deimv2, drawn

from secondlook.training.export.export import write_onnx
from secondlook.training.export.quantize import quantise
from secondlook.training.model import save_student

openvino = pytest.importorskip("openvino")


@pytest.mark.parametrize("architecture", [deimv2, d_fine])
def test_float32_and_int8(tmp_path, architecture):
    save_student(awake(architecture()), tmp_path / "torch")
    size = write_onnx(tmp_path / "torch", tmp_path / "model.onnx", len(CLASSES))
    assert size == PIXELS
    images = np.stack([drawn(number, size) for number in range(8)])
    files = ["model.onnx"]
    if quantise(tmp_path / "model.onnx", tmp_path / "model.int8.onnx", [*images]):
        files.append("model.int8.onnx")
    assert architecture is not deimv2 or len(files) == 2
    core = openvino.Core()
    for name in files:
        ours = onnxruntime.InferenceSession(str(tmp_path / name)).run(None, {"images": images})
        compiled = core.compile_model(
            core.read_model(str(tmp_path / name)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        theirs = compiled({compiled.inputs[0].any_name: images})
        for place, of_ours in enumerate(ours):
            # The best query may be another one where two are alike, so the values as a set.
            expected, found = np.sort(of_ours, axis=None), np.sort(theirs[place], axis=None)
            tolerance = 1e-4 if name == "model.onnx" else 0.1
            assert np.abs(expected - found).mean() < tolerance
