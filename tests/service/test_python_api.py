"""``secondlook.label``: what may be given, what comes back, and what is written."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PILImage
from serving import serving
from videos import write_video

import secondlook
from secondlook.cli import run
from secondlook_client import Client, bgr
from secondlook_client.errors import (
    BadImage,
    BadOntology,
    BadSetting,
    InvalidInput,
    NotFound,
    OutputExists,
    StorageFull,
)

MODELS = {
    "proposer": "scripted_models:bright_half",
    "verifier": "scripted_models:agreeable:dog",
    "progress": False,
}


def half_bright(left: bool = True) -> np.ndarray:
    """(40, 80, 3), one half white."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255 if left else 0
    pixels[:, 40:] = 0 if left else 255
    return pixels


LEFT, RIGHT = (0.0, 0.0, 40.0, 40.0), (40.0, 0.0, 80.0, 40.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, one below, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name, left in (("a.png", True), ("b.png", False), ("deeper/c.png", True)):
        PILImage.fromarray(half_bright(left)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_a_video_is_its_frames(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=4)
    labels = secondlook.label(clip, ["dog"], fps=0, **MODELS)
    assert [result.name for result in labels][1] == "clip.mp4@00-00-00.100.jpg"
    assert boxes(labels) == [(0.0, 0.0, 32.0, 48.0)] * 4
    labels.save(tmp_path / "out", formats=["yolo"])
    image = PILImage.open(tmp_path / "out/yolo/images/default/clip.mp4@00-00-00.300.jpg")
    assert image.size == (64, 48)
    tracked = secondlook.label(clip, ["dog"], fps=0, track=True, **MODELS)
    assert [label.track for result in tracked for label in result.labels] == [1] * 4
    with pytest.raises(InvalidInput, match="track=True reads its frames twice"):
        secondlook.label(half_bright(True), ["dog"], track=True, **MODELS)
    with pytest.raises(BadSetting, match="--track does not go together with --server"):
        secondlook.label(clip, ["dog"], track=True, server="localhost:1", **MODELS)


def boxes(labels: secondlook.LabelResults) -> list[tuple[float, ...]]:
    return [label.box for result in labels for label in result.labels]


def test_a_folder_gives_its_images_in_order(photos: Path) -> None:
    labels = secondlook.label(photos, ["dog"], **MODELS)
    assert [result.name for result in labels] == ["a.png", "b.png", "deeper/c.png"]
    assert boxes(labels) == [LEFT, RIGHT, LEFT]
    assert [(one.name, one.reason) for one in labels.failed] == [("broken.jpg", "bad_image")]
    assert (
        repr(labels)
        == "<3 labelled images: 3 labels (dog 3), 0 rejected, 0 unsure; 1 image failed>"
    )
    assert labels[-1].name == "deeper/c.png" and [r.name for r in labels[:2]] == ["a.png", "b.png"]
    with pytest.raises(IndexError, match="3 labelled images, there is no 3"):
        labels[3]


@pytest.mark.parametrize("kind", ["arrays", "batch", "pillow", "bytes", "opencv", "iterator"])
def test_images_in_memory_are_numbered(kind: str) -> None:
    arrays = [half_bright(True), half_bright(False)]
    encoded = io.BytesIO()
    PILImage.fromarray(arrays[0]).save(encoded, "PNG")
    given = {
        "arrays": arrays,
        "batch": np.stack(arrays),
        "pillow": [PILImage.fromarray(one) for one in arrays],
        "bytes": [encoded.getvalue(), arrays[1]],
        "opencv": [bgr(np.ascontiguousarray(one[..., ::-1])) for one in arrays],
        "iterator": iter(arrays),
    }
    labels = secondlook.label(given[kind], "dog", **MODELS)
    assert [result.name for result in labels] == ["0", "1"]
    assert boxes(labels) == [LEFT, RIGHT]


def test_one_image_is_a_run_of_one(photos: Path) -> None:
    for image in (photos / "b.png", half_bright(False), (photos / "b.png").read_bytes()):
        labels = secondlook.label(image, ["dog"], **MODELS)
        assert (len(labels), boxes(labels)) == (1, [RIGHT])
    assert [r.name for r in secondlook.label([photos / "b.png"], ["dog"], **MODELS)] == ["b.png"]


def test_an_iterator_is_not_held_in_memory(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.append(-1)

    def frames():
        for _ in range(120):
            alive.append(1)
            yield half_bright().view(Counted)

    labels = secondlook.label(frames(), ["dog"], **MODELS)
    assert len(labels) == 120
    assert sum(alive) <= 16, "those that are kept to be shown"
    assert labels._repr_html_().count("<img") == 12
    with pytest.raises(InvalidInput, match="only the first are at hand"):
        labels.save(tmp_path / "labels")


def test_rows_and_arrays_for_other_programs() -> None:
    labels = secondlook.label([half_bright()], ["cat", "dog"], **MODELS)
    rows = labels.to_dicts()
    assert [(row["class"], row["outcome"], row["p_yes"]) for row in rows] == [
        ("cat", "reject", pytest.approx(0.1)), ("dog", "accept", pytest.approx(0.9)),
    ]  # fmt: skip
    assert [rows[0][side] for side in ("image", "x1", "y1", "x2", "y2")] == ["0", *LEFT]
    arrays = labels.detections(0)
    assert arrays["xyxy"].tolist() == [list(LEFT)] and arrays["class_id"].tolist() == [1]
    assert arrays["confidence"].tolist() == [pytest.approx(0.9)]


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_labels_are_saved_as_the_command_writes_them(
    photos: Path, tmp_path: Path, kind: str
) -> None:
    given = photos if kind == "files" else [half_bright(True), half_bright(False)]
    labels = secondlook.label(given, ["dog"], **MODELS)
    out = tmp_path / "out"
    written = labels.save(out, formats=["coco", "yolo"])
    assert all(path.exists() for path in written) and out / "gallery.html" in written
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text())
    assert len(coco["annotations"]) == len(labels)
    for image, result in zip(coco["images"], labels, strict=True):
        (placed,) = (out / "coco" / "images").rglob(Path(image["file_name"]).name)
        pixels = np.asarray(PILImage.open(placed).convert("RGB"))
        assert np.array_equal(pixels, half_bright(result.labels[0].box == LEFT))
    assert labels.save(out, formats="coco"), "its own may be replaced"


def test_a_save_that_failed_half_way_is_done_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = secondlook.label(photos, ["dog"], **MODELS)

    def full(*arguments: object, **more: object) -> None:
        raise StorageFull("the disk is full")

    for where in ("cli.output_folder.write_format", "reports.gallery.write"):
        with monkeypatch.context() as patched, pytest.raises(StorageFull):
            patched.setattr(f"secondlook.{where}", full)
            labels.save(tmp_path / "out")
    assert (tmp_path / "out" / "coco").exists() and len(labels.save(tmp_path / "out")) == 3


def test_nothing_else_is_overwritten(photos: Path, tmp_path: Path) -> None:
    labels = secondlook.label(photos, ["dog"], **MODELS)
    (tmp_path / "mine" / "coco").mkdir(parents=True)
    secondlook.label(photos, ["dog"], out=tmp_path / "run", **MODELS)
    for folder in (tmp_path / "mine", tmp_path / "run"):
        with pytest.raises(OutputExists, match=r"has a \S+ that was not written by save"):
            labels.save(folder)
    with pytest.raises(InvalidInput, match=r"formats of coco, .* got 'parquet'"):
        labels.save(tmp_path / "new", formats=["parquet"])


def test_out_is_the_command_and_goes_on_where_that_stopped(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "labels"
    flags = [f"--{name}={MODELS[name]}" for name in ("proposer", "verifier")]
    assert run(["label", str(photos), "-c", "dog", *flags, "--out", str(out)]) == 0
    PILImage.fromarray(half_bright(False)).save(photos / "d.png")
    labels = secondlook.label(photos, ["dog"], out=out, **MODELS)
    assert [r.name for r in labels] == ["a.png", "b.png", "d.png", "deeper/c.png"]
    assert boxes(labels) == [LEFT, RIGHT, RIGHT, LEFT] and labels[-1].name == "deeper/c.png"
    assert [one.name for one in labels.failed] == ["broken.jpg"]
    assert "4 labelled images" in labels._repr_html_()
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    labels.show()
    (page,) = (Path(address.removeprefix("file://")) for address in opened)
    assert "4 labelled images" in page.read_text(encoding="utf-8")
    shown: list[object] = []
    notebook = SimpleNamespace(display=shown.append)
    fake = SimpleNamespace(get_ipython=lambda: notebook, display=notebook)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    labels.show()
    assert shown == [labels] and len(opened) == 1
    with pytest.raises(InvalidInput, match="it needs files; leave out= away"):
        secondlook.label([half_bright()], ["dog"], out=tmp_path / "other", **MODELS)


def test_out_works_beside_the_main_thread(photos: Path, tmp_path: Path) -> None:
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(
            len(secondlook.label(photos, ["dog"], out=tmp_path / "labels", **MODELS))
        )
    )
    thread.start()
    thread.join(60)
    assert found == [3]


def test_a_labeler_keeps_its_models(photos: Path) -> None:
    with secondlook.Labeler(proposer=MODELS["proposer"], verifier=MODELS["verifier"]) as labeler:
        dogs = labeler.label(photos, ["dog"], progress=False)
        cats = labeler.label(half_bright(), {"cat": ["animal"]}, progress=False)
    assert (dogs.stats.accepted, cats.stats.accepted, cats.stats.rejected) == (3, 0, 1)


def test_a_running_service_does_it_too(photos: Path) -> None:
    with serving() as running, Client(running.address) as client:
        there = secondlook.label(photos, ["dog"], server=running.address, progress=False)
        alone = [client.label(photos / name, classes=["dog"]) for name in ("a.png", "b.png")]
        in_memory = secondlook.label(half_bright(), ["dog"], server=running.address)
    assert boxes(there)[:2] == [label.box for result in alone for label in result.labels]
    assert (in_memory[0].width, in_memory[0].height) == (80, 40)


@pytest.mark.parametrize(
    ("images", "classes", "more", "error", "said"),
    [
        ("nowhere", ["dog"], {}, NotFound, "nowhere does not exist"),
        ([], ["dog"], {}, InvalidInput, "no image is given"),
        (["a", 3], ["dog"], {}, InvalidInput, "expected paths, as the first one is, got int"),
        (3, ["dog"], {}, InvalidInput, "expected a folder, paths, bytes.*got builtins.int"),
        (half_bright() / 255, ["dog"], {}, BadImage, "expected uint8 pixels.*float64"),
        (half_bright(), [], {}, BadOntology, "no class"),
        (half_bright(), ["dog"], {"devise": "cpu"}, BadSetting, "devise= is unknown; .*'device'"),
        (half_bright(), ["dog"], {"threads": -1}, BadSetting, "threads=: expected"),
    ],
)
def test_what_is_wrong_is_told_in_words_of_python(images, classes, more, error, said) -> None:
    with pytest.raises(error, match=said):
        secondlook.label(images, classes, **(MODELS | more))


def test_an_empty_folder_is_told_before_models_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no image in"):
        secondlook.label(tmp_path, ["dog"], proposer="not_a_module:at_all")


def test_a_script_of_three_lines_needs_no_main_guard_and_stops_at_ctrl_c(
    photos: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, secondlook\n"
        "labels = secondlook.label(sys.argv[1], ['dog'], proposer=sys.argv[2],"
        f" verifier={MODELS['verifier']!r})\n"
        "print(labels)\n"
    )
    command = [sys.executable, str(script), str(photos)]
    done = subprocess.run(
        [*command, str(MODELS["proposer"])], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("<3 labelled images"), done.stderr
    slow = subprocess.Popen(
        [*command, "scripted_models:bright_half:5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert slow.stderr is not None
    assert slow.stderr.readline().startswith("labelling: ")  # the image that cannot be read
    slow.send_signal(2)
    assert "KeyboardInterrupt" in slow.communicate(timeout=60)[1]


def test_importing_it_is_light() -> None:
    code = "import secondlook, sys; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert not {"numpy", "click", "grpc", "torch", "PIL"} & set(eval(done.stdout))
    with pytest.raises(AttributeError, match="no attribute 'lable'"):
        secondlook.lable  # noqa: B018
