"""The record of a finished run."""

from pathlib import Path

from traced_memory import traced_memory

from secondlook.cli.finished_run import FinishedRun
from secondlook.core.image_folder import ImageSelection


def test_many_output_files_take_no_memory(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(2_000):
        place = out / "yolo" / str(number % 4) / f"{number}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    run = FinishedRun(out, ImageSelection(images, (images,)), {})
    with traced_memory() as memory:
        run.write(["done"], [out / "yolo"])
        assert run.lines() == ["done"]
    assert memory.peak < 150_000
    (out / "yolo" / "3" / "more.txt").touch()
    assert run.lines() is None
