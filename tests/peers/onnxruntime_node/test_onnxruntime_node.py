"""A student runs in Node.js by onnxruntime-node, with the outputs that Python gets."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_students import CLASSES, awake, deimv2, drawn

from secondlook.training.export.export import write_onnx
from secondlook.training.export.quantize import quantise
from secondlook.training.model import save_student

FOLDER = Path(__file__).resolve().parents[3] / ".cache" / "peers" / "onnxruntime_node"
VERSION = "1.30.0"
SCRIPT = """
const ort = require('onnxruntime-node'), fs = require('fs');
const [model, pixels, dims] = process.argv.slice(2);
(async () => {
  const session = await ort.InferenceSession.create(model);
  const data = new Uint8Array(fs.readFileSync(pixels));
  const images = new ort.Tensor('uint8', data, JSON.parse(dims));
  const found = await session.run({[session.inputNames[0]]: images});
  console.log(JSON.stringify(session.outputNames.map(name => Array.from(found[name].data))));
})();
"""


@pytest.fixture(scope="module")
def node() -> Path:
    """The folder in which Node.js finds the package."""
    if not shutil.which("npm"):
        pytest.skip("there is no npm on the PATH")
    if not (FOLDER / "node_modules" / "onnxruntime-node").is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(FOLDER), f"onnxruntime-node@{VERSION}"]
        environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}  # of CUDA, from NuGet
        subprocess.run(command, check=True, env=environment, timeout=600, capture_output=True)
    return FOLDER


def test_float32_and_int8(tmp_path, node):
    save_student(awake(deimv2()), tmp_path / "torch")
    size = write_onnx(tmp_path / "torch", tmp_path / "model.onnx", len(CLASSES))
    images = np.stack([drawn(number, size) for number in range(2)])
    assert quantise(tmp_path / "model.onnx", tmp_path / "model.int8.onnx", [*images])
    (tmp_path / "pixels").write_bytes(images.tobytes())
    (node / "run.js").write_text(SCRIPT)
    for name in ("model.onnx", "model.int8.onnx"):
        model, dims = str(tmp_path / name), json.dumps(images.shape)
        done = subprocess.run(
            ["node", "run.js", model, str(tmp_path / "pixels"), dims],
            cwd=node,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        ours = onnxruntime.InferenceSession(model).run(None, {"images": images})
        for expected, found in zip(ours, json.loads(done.stdout), strict=True):
            assert np.abs(np.ravel(expected) - found).max() < 1e-3
