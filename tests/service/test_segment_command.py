"""``secondlook segment`` and ``secondlook.segment``: an object of an image, its mask or cut out."""

import io
from pathlib import Path

import numpy as np
import pytest
from fakes import ScriptedSegmenter, object_and_parts
from PIL import Image
from serving import serving

import secondlook
from secondlook.cli import run
from secondlook_client.errors import InvalidInput

SEGMENTER = "scripted_models:ellipses"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """60×40, each pixel of another colour."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(60) * 4, np.arange(40)[:, None], 77
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def segment(*words: object) -> int:
    return run(["segment", *map(str, words), "--segmenter", SEGMENTER])


def test_a_click_and_its_candidates(photo: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "mask.png"
    areas = {}
    for which in ("best", "smallest", "1", "2", "3"):
        assert segment(photo, "--inside", "20,20", "--candidate", which, "--out", out) == 0
        mask = np.asarray(Image.open(out))
        assert mask.shape == (40, 60) and set(np.unique(mask)) == {0, 255}
        areas[which] = int((mask == 255).sum())
    assert areas["best"] == areas["1"] > areas["smallest"] == areas["2"] == 9 > areas["3"] == 1
    shown = capsys.readouterr().out
    assert f"{out}: 9 pixels in the box 19 19 22 22, predicted IoU 0.80" in shown
    assert "candidate 2 of 1: " in shown and "3: 1 pixel (0.30)" in shown


def test_clicks_and_a_box_are_one_object(photo: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "mask.png"
    clicks = ("--inside", "20,20", "--inside", "25,20", "--outside", "1,1", "--box", "10,5,40,30")
    assert segment(photo, *clicks, "--out", out) == 0
    assert np.argwhere(np.asarray(Image.open(out))).min(axis=0).tolist() == [5, 10]
    assert "candidate" not in capsys.readouterr().out
    assert segment(photo, *clicks, "--candidate", "2", "--out", out) == 2
    assert "there is no candidate 2: the segmenter gave 1" in capsys.readouterr().err


def test_an_object_is_cut_out(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut.png"
    assert segment(photo, "--box", "10,5,40,30", "--crop", "--out", out) == 0
    cut = Image.open(out)
    assert cut.mode == "RGBA" and cut.size == (30, 25)
    pixels = np.asarray(cut)
    assert pixels[0, 0, 3] == 0 and tuple(pixels[12, 15]) == (100, 17, 77, 255)


def test_the_same_through_a_service(photo: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    assert segment(photo, "--inside", "20,20", "--out", here) == 0
    with serving(segmenter=ScriptedSegmenter(object_and_parts)) as running:
        words = ["segment", str(photo), "--inside", "20,20", "--server", running.address]
        assert run([*words, "--out", str(there)]) == 0
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say where the object is"),
        (("--outside", "3,4"), "say where the object is"),
        (("--inside", "20"), "expected pixels such as 120,80, got '20'"),
        (("--inside", "nan,3"), "expected pixels such as 120,80"),
        (("--box", "1,2,3"), "expected pixels such as 20,30,180,200"),
        (("--box", "30,5,10,30"), "expected x1 y1 x2 y2"),
        (("--inside", "61,20"), "expected a point of the image, which has 60×40 pixels"),
        (("--inside", "20,20", "--candidate", "4"), "'4'"),
        (("--inside", "20,20", "--max-image-pixels", "2000"), "pixels"),
    ],
)
def test_what_is_refused(
    photo: Path, tmp_path: Path, capsys, words: tuple[str, ...], told: str
) -> None:
    out = tmp_path / "mask.png"
    assert segment(photo, *words, "--out", out) in (1, 2)
    assert told in capsys.readouterr().err and not out.exists()


def test_an_image_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert segment(tmp_path / "none.png", "--inside", "2,2", "--out", tmp_path / "m.png") == 2
    assert "none.png" in capsys.readouterr().err


def test_the_python_api(photo: Path, tmp_path: Path) -> None:
    found = secondlook.segment(photo, inside=[(20, 20)], candidate="smallest", segmenter=SEGMENTER)
    assert found.box == (19, 19, 22, 22) and found.pixels.sum() == 9 and found.chosen == 1
    assert [one.mask.area for one in found.candidates][1:] == [9, 1]
    found.save(tmp_path / "api.png")
    assert (
        segment(photo, "--inside", "20,20", "--candidate", "2", "--out", tmp_path / "cli.png") == 0
    )
    assert (tmp_path / "api.png").read_bytes() == (tmp_path / "cli.png").read_bytes()
    array = np.asarray(Image.open(photo))
    same = secondlook.segment(array, inside=[(20, 20)], candidate=2, segmenter=SEGMENTER)
    assert same.mask == found.mask
    cut = np.asarray(same.cutout())
    assert (np.asarray(Image.open(io.BytesIO(same._repr_png_()))) == cut).all()
    assert (cut[..., :3] == array[19:22, 19:22]).all() and (cut[..., 3] == 255).all()
    same.save(tmp_path / "cut.png", crop=True)
    assert Image.open(tmp_path / "cut.png").size == (3, 3)
    with pytest.raises(InvalidInput, match="a candidate of best, smallest"):
        secondlook.segment(photo, inside=[(20, 20)], candidate=4, segmenter=SEGMENTER)
