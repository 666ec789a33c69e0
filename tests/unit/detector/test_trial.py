"""A student that takes too much is refused by a child process, and in words."""

import io
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper, numpy_helper
from students import bomb, image, replace_model, write_bomb, write_student

from secondlook.core import sandbox
from secondlook.core.cancellation import Cancellation, cancelled_by
from secondlook.core.sandbox import SandboxCall, SandboxLimits
from secondlook.detector.manifest import SELF_TEST, StudentManifest
from secondlook.detector.trial import TrialLimits, _outcome, measure, open_tried, try_student
from secondlook_client.errors import Cancelled, Damaged, SecondlookError, Unavailable

SMALL = TrialLimits(memory_mb=300, cpu_s=1.0)


def changed(folder: Path, change: Callable[[Any], None]) -> None:
    """Write a student whose graph was changed."""
    manifest = write_student(folder)
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    change(model.graph)
    replace_model(folder, manifest, model.SerializeToString())


def peak_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def test_a_sound_student_passes_and_is_opened(tmp_path: Path) -> None:
    write_student(tmp_path, int8=True)
    result = try_student(tmp_path, "int8")
    assert 0 <= result.image_s < 1 and 30 < result.peak_mb < 500
    with_it = open_tried(tmp_path, "fp32", threads=1)
    assert len(with_it.detect([image((1, 0))], 0.5)[0]) == 1


def test_memory_is_bounded(tmp_path: Path) -> None:
    write_bomb(tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 1500
    before = peak_mb()
    with pytest.raises(Damaged, match="more than 300 MB of memory"):
        open_tried(tmp_path, limits=SMALL)
    assert peak_mb() < before + 50


def test_time_is_bounded(tmp_path: Path) -> None:
    write_bomb(tmp_path, side=1500, products=3000)
    with pytest.raises(Damaged, match="not ready within 1 s of computing"):
        open_tried(tmp_path, limits=SMALL)


def test_the_time_of_one_image_is_bounded(tmp_path: Path) -> None:
    write_bomb(tmp_path, side=400, products=20)
    with pytest.raises(Damaged, match=r"for one image, of 0.01 s allowed"):
        try_student(tmp_path, limits=TrialLimits(image_s=0.01))


def huge_output(graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([1, 10**7, 1], np.int64), "many"))
    for place, name in enumerate(("scores", "boxes")):
        maker = next(node for node in graph.node if name in node.output)
        maker.output[list(maker.output).index(name)] = f"few {name}"
        for node in graph.node:
            node.input[:] = [f"few {name}" if i == name else i for i in node.input]
        graph.node.append(helper.make_node("Tile", [f"few {name}", "many"], [name]))
        graph.output[place].type.tensor_type.shape.dim[1].dim_param = "Q"


def huge_weights(graph: Any) -> None:
    weights = np.zeros((15_000, 1_000), np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "heavy"))
    graph.node.append(helper.make_node("Identity", ["heavy"], ["unused"]))


@pytest.mark.parametrize("change", [huge_output, huge_weights])
def test_outputs_and_weights_count_as_memory(tmp_path: Path, change: Callable[[Any], None]) -> None:
    changed(tmp_path, change)
    with pytest.raises(Damaged, match="more than 128 MB of memory"):
        try_student(tmp_path, limits=TrialLimits(memory_mb=128))


def deep_chain(graph: Any) -> None:
    graph.node.extend(
        helper.make_node("Neg", [f"deep{n}" if n else "zero"], [f"deep{n + 1}"])
        for n in range(50_000)
    )


def long_names(graph: Any) -> None:
    graph.node.add(op_type="Neg", input=["zero"], output=["n" * 10**7])


@pytest.mark.parametrize("change", [deep_chain, long_names])
def test_odd_graphs_end_in_a_result_or_a_refusal(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    changed(tmp_path, change)
    began = time.monotonic()
    try:
        assert try_student(tmp_path, limits=SMALL).peak_mb < 600
    except Damaged as refusal:
        assert "model" in str(refusal)
    assert time.monotonic() - began < 4 * SMALL.cpu_s + 5


def test_numbers_that_are_not_finite_on_other_images_are_found(tmp_path: Path) -> None:
    def divide(graph: Any) -> None:
        colours = next(node for node in graph.node if "colours" in node.output)
        place = list(graph.node).index(colours)
        colours.output[0] = "plain"
        graph.node.insert(place + 1, helper.make_node("Div", ["plain", "plain"], ["ones"]))
        graph.node.insert(place + 2, helper.make_node("Mul", ["plain", "ones"], ["colours"]))

    changed(tmp_path, divide)  # of black, 0 / 0
    with pytest.raises(Damaged, match="not finite"):
        try_student(tmp_path)


def array_of(claimed: int, written: int) -> bytes:
    """A self-test whose image claims so many bytes."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (claimed,)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(0, written, 2**24):
            file.write(bytes(2**24))
    return out.getvalue()


@pytest.mark.parametrize("content", [array_of(2**28, 2**28), array_of(2**40, 0), b"PK" * 50])
def test_a_self_test_that_unpacks_to_much_is_refused(tmp_path: Path, content: bytes) -> None:
    manifest = write_student(tmp_path)
    replace_model(tmp_path, manifest, content, SELF_TEST)
    with pytest.raises(Damaged, match=r"self-test of the student cannot be read|MB of memory"):
        try_student(tmp_path, limits=SMALL)


def test_who_gives_up_ends_the_child(tmp_path: Path) -> None:
    write_bomb(tmp_path, side=1500, products=3000)
    given_up, before = threading.Event(), set(psutil.Process().children())
    cancellation = Cancellation()
    for cancel in (given_up.set, cancellation.cancel):
        threading.Timer(1.0, cancel).start()
        began = time.monotonic()
        with cancelled_by(cancellation), pytest.raises(Cancelled):
            try_student(tmp_path, stopped=given_up.is_set)
        assert time.monotonic() - began < 8
        given_up.clear()
    ends = time.monotonic() + 10
    while set(psutil.Process().children()) - before:
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (sandbox.Crashed("the child ended with -11"), Damaged, "crashes the process .* -11"),
        (sandbox.FunctionFailed("OSError: x"), Damaged, "OSError: x"),
        (sandbox.CannotStart("too many"), Unavailable, "cannot be tried now: too many"),
        (sandbox.Withdrawn("closed"), Cancelled, "cancelled"),
        (CancelledError(), Cancelled, "cancelled"),
        (Damaged("as it was"), Damaged, "^as it was$"),
    ],
)
def test_faults_of_the_child_are_told_in_words(
    fault: BaseException, kind: type[SecondlookError], told: str
) -> None:
    call = SandboxCall(measure, within=SandboxLimits(1.0, 1))
    call.set_exception(fault)
    with pytest.raises(kind, match=told):
        _outcome(call, SMALL, lambda: False)


def test_a_bomb_is_a_student_but_for_what_it_takes(tmp_path: Path) -> None:
    manifest: StudentManifest = write_student(tmp_path)
    replace_model(tmp_path, manifest, bomb(side=10, products=3))
    assert try_student(tmp_path).image_s < 1
