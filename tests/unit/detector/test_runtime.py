import builtins
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from students import (
    QUARTERS,
    UNDECIDED,
    image,
    model_bytes,
    model_of,
    replace_model,
    swap_classes,
    truncate,
    write_student,
)

from secondlook.detector.detections import Detections
from secondlook.detector.manifest import StudentManifest
from secondlook.detector.runtime import BATCH, OnnxDetector, stretch
from secondlook_client.errors import BadSetting, Damaged, MissingExtra, NotFound

WEIGHTS = np.array([[8, -8], [-8, -8], [-8, 8]], np.float32)
BIAS = np.array([-2, -2], np.float32)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> OnnxDetector:
    folder = tmp_path_factory.mktemp("student")
    write_student(folder)
    return OnnxDetector.open(folder, threads=2)


def best(found: Detections) -> tuple[list[float], int]:
    return found.boxes[0].tolist(), int(found.classes[0])


def test_a_red_square_is_found_where_it_is(detector: OnnxDetector) -> None:
    pixels = image((3, 0), (0, 1), width=200, height=100)
    found = detector.detect([pixels], floor=0.5)[0]
    assert sorted(zip(found.boxes.tolist(), found.classes.tolist(), strict=True)) == [
        ([0.0, 0.0, 100.0, 50.0], 1),
        ([100.0, 50.0, 200.0, 100.0], 0),
    ]
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.classes.dtype == np.int64
    assert np.all(np.diff(found.scores) <= 0)


def test_any_number_of_images_of_any_size(detector: OnnxDetector) -> None:
    images = [
        image((index % 4, index % 2), width=40 + 9 * index, height=90 - 3 * index)
        for index in range(2 * BATCH + 3)
    ]
    together = detector.detect(images, floor=0.5)
    assert len(together) == len(images)
    for pixels, found in zip(images, together, strict=True):
        alone = detector.detect([pixels], floor=0.5)[0]
        assert best(found) == best(alone)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)
    assert detector.detect([]) == []


def test_nothing_below_the_floor(detector: OnnxDetector) -> None:
    pixels = image((0, 0))
    assert len(detector.detect([image()], floor=0.5)[0]) == 0
    assert (detector.detect([pixels], floor=0.3)[0].scores >= 0.3).all()
    assert len(detector.detect([pixels], floor=0.0)[0]) == 8, "4 queries of 2 classes"


def test_many_threads_get_their_own_answers(detector: OnnxDetector) -> None:
    def ask(number: int) -> bool:
        quarter, of_class = number % 4, number % 2
        found = detector.detect([image((quarter, of_class))] * 3, floor=0.5)
        return all(best(one) == ((QUARTERS[quarter] * 64).tolist(), of_class) for one in found)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))


def test_closing_while_it_runs(tmp_path: Path) -> None:
    write_student(tmp_path)
    detector = OnnxDetector.open(tmp_path, threads=2)
    done = []

    def work() -> None:
        while True:
            try:
                done.append(len(detector.detect([image((0, 0))] * 4)))
            except ValueError:
                return

    worker = threading.Thread(target=work)
    worker.start()
    while not done:
        pass
    detector.close()
    worker.join(timeout=10)
    assert not worker.is_alive()
    assert set(done) == {4}
    with pytest.raises(ValueError, match="closed"):
        detector.detect([image()])


def test_probability_is_the_calibrated_one(tmp_path: Path) -> None:
    write_student(tmp_path, calibration=((2.0, 1.0), (1.0, -1.0)))
    detector = OnnxDetector.open(tmp_path)
    found = Detections(
        np.zeros((3, 4), np.float32),
        np.array([0.9, 0.5, 1.0], np.float32),
        np.array([0, 1, 0]),
    )
    expected = [1 / (1 + np.exp(-(2 * np.log(9) + 1))), 1 / (1 + np.e), 1.0]
    np.testing.assert_allclose(detector.probability(found), expected, rtol=1e-5)
    nothing = detector.probability(found.take(np.zeros(3, bool)))
    assert nothing.shape == (0,)


def test_of_a_contrast_only_the_more_probable_class_is_found(tmp_path: Path) -> None:
    both = model_bytes(np.array([[9, 8], [-9, -8], [-9, -8]], np.float32), BIAS, (64, 64))
    pixels = [image((0, 0)), image((0, 0), (3, 0))]

    def found(**fields: Any) -> list[list[int]]:
        manifest = StudentManifest(**(vars(write_student(tmp_path)) | fields))
        detector = OnnxDetector(both, manifest, "fp32")
        return [one.classes.tolist() for one in detector.detect(pixels, floor=0.5)]

    assert found() == [[0, 1], [0, 0, 1, 1]]
    same, doubtful = ((1.0, 0.0), (1.0, 0.0)), ((1.0, -4.0), (1.0, 0.0))
    assert found(groups=("a", "a"), group_calibration=same) == [[0], [0, 0]]
    assert found(groups=("a", "a"), group_calibration=doubtful) == [[1], [1, 1]]


def test_the_self_test_is_of_the_model_and_not_of_its_contrasts(tmp_path: Path) -> None:
    """Of two nearly equal sides another processor may keep the other one."""
    same = ((1.0, 0.0), (1.0, 0.0))
    write_student(tmp_path, reactions=UNDECIDED, groups=("a", "a"), group_calibration=same)
    with_groups = OnnxDetector.open(tmp_path).detect([image((0, 0))], floor=0.0)[0]
    assert len(with_groups) == 4, "a class for each of the four quarters"


def test_precisions(tmp_path: Path) -> None:
    write_student(tmp_path / "both", int8=True)
    assert OnnxDetector.open(tmp_path / "both", "int8").precision == "int8"
    write_student(tmp_path / "one")
    with pytest.raises(NotFound, match="fp32"):
        OnnxDetector.open(tmp_path / "one", "int8")
    with pytest.raises(BadSetting, match="fp16"):
        OnnxDetector.open(tmp_path / "both", "fp16")


def test_truncated(tmp_path: Path) -> None:
    manifest = write_student(tmp_path)
    truncate(tmp_path)
    with pytest.raises(Damaged, match="truncated"):
        OnnxDetector.open(tmp_path)
    half = (tmp_path / "model.onnx").read_bytes()
    replace_model(tmp_path, manifest, half)
    with pytest.raises(Damaged, match=r"no ONNX|cannot read"):
        OnnxDetector.open(tmp_path)


@pytest.mark.parametrize("model", [b"", b"\0" * 99, b"<html>502</html>", b"ORTM" * 9, b"\x3a\x02"])
def test_not_onnx(tmp_path: Path, model: bytes) -> None:
    replace_model(tmp_path, write_student(tmp_path), model)
    with pytest.raises(Damaged):
        OnnxDetector.open(tmp_path)


def test_a_model_that_finds_other_things_fails_its_self_test(tmp_path: Path) -> None:
    swap_classes(tmp_path, write_student(tmp_path))
    with pytest.raises(Damaged, match="self-test"):
        OnnxDetector.open(tmp_path)
    moved = model_of(WEIGHTS, BIAS, (64, 64))
    by_name = {tensor.name: tensor for tensor in moved.graph.initializer}
    boxes = (QUARTERS[None] * 0.8).astype(np.float32)
    by_name["quarters"].CopyFrom(onnx.numpy_helper.from_array(boxes, "quarters"))
    replace_model(tmp_path, write_student(tmp_path), moved.SerializeToString())
    with pytest.raises(Damaged, match="self-test"):
        OnnxDetector.open(tmp_path)


def test_other_size_classes_and_names(tmp_path: Path) -> None:
    three = np.zeros((3, 3), np.float32)
    cases = {
        "64×64": model_bytes(WEIGHTS, BIAS, (32, 32)),
        "class": model_bytes(three, np.zeros(3, np.float32), (64, 64)),
    }
    renamed = model_of(WEIGHTS, BIAS, (64, 64))
    renamed.graph.node[-1].output[0] = renamed.graph.output[1].name = "places"
    cases["outputs"] = renamed.SerializeToString()
    for words, model in cases.items():
        replace_model(tmp_path, write_student(tmp_path), model)
        with pytest.raises(Damaged, match=words):
            OnnxDetector.open(tmp_path)


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    broken = model_bytes(WEIGHTS * np.nan, BIAS, (64, 64))
    replace_model(tmp_path, write_student(tmp_path), broken)
    with pytest.raises(Damaged, match="finite"):
        OnnxDetector.open(tmp_path)


def test_weights_in_another_file_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    manifest = write_student(tmp_path)
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)  # where onnxruntime would look
    model = model_of(WEIGHTS, BIAS, (64, 64))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("offset", "0"), ("length", "24")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    replace_model(tmp_path, manifest, model.SerializeToString())
    with pytest.raises(Damaged, match="other files"):
        OnnxDetector.open(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_bytes_raise_anything_but_damaged(data: st.DataObject) -> None:
    model = bytearray(model_bytes(WEIGHTS, BIAS, (64, 64)))
    for _ in range(data.draw(st.integers(1, 4))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    manifest = _manifest_for_opening()
    try:
        detector = OnnxDetector(bytes(model), manifest, "fp32", threads=1)
        (found,) = detector.detect([image((0, 0))])
    except Damaged:
        return
    assert np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()


def _manifest_for_opening() -> StudentManifest:
    return StudentManifest(
        "x", "deimv2", "pico", ("a", "b"), (64, 64), (0.5, 0.5), ((1, 0), (1, 0)), "", "", "", {},
        {}, 0.0,
    )  # fmt: skip


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    write_student(tmp_path)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"secondlook\[edge\]"):
        OnnxDetector.open(tmp_path)


def test_a_device_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    write_student(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from secondlook.detector.runtime import OnnxDetector\n"
        "OnnxDetector.open(Path(sys.argv[1]))\n"
        "print([m for m in ('torch', 'onnx', 'transformers', 'sqlalchemy') if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (200, 100)])
def test_stretched(size: tuple[int, int]) -> None:
    pixels = image((0, 0), (3, 1), width=100, height=60)
    seen = stretch(pixels[:, ::-1], size)
    assert seen.shape == (size[1], size[0], 3)
    assert seen.dtype == np.uint8
    assert seen.flags.c_contiguous
    assert tuple(seen[2, -3]) == tuple(pixels[1, 1])
    assert np.array_equal(stretch(pixels, (100, 60)), pixels)
