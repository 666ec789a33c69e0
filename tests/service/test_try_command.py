"""``secondlook try``: what a person reads to judge a prompt."""

import os

import numpy as np
from html_page import Page
from PIL import Image

from secondlook.cli import run
from secondlook.core.drawing import CLASS_COLOURS

MODELS = (
    "--proposer", "scripted_models:bright_half", "--verifier", "scripted_models:agreeable:dog",
)  # fmt: skip


def half_bright(path):
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (0, 0, 40, 40))
    image.save(path)
    return str(path)


def test_every_stage_is_shown_for_each_image(tmp_path, capsys):
    out = tmp_path / "try.html"
    images = [half_bright(tmp_path / "a.png"), half_bright(tmp_path / "b [red].png")]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"broken")
    classes = ("-c", "dog", "-c", "puppy = dog, young dog ? Is it young?")
    code = run(["try", *images, str(broken), *classes, *MODELS, "--out", str(out)])
    shown = capsys.readouterr().out
    assert code == 0
    for expected in (
        "dog, young dog", "Is it young?", "a.png", "b [red].png", "0 0 40 40", "0.90", "accept",
        "reject", "Yes", "P(yes) 0.10 ≤ 0.40", "broken.png: these 6 bytes are not an image",
    ):  # fmt: skip
        assert expected in shown, shown
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.all("figure", "card")) == 2 and page.data()["scores"] is True
    assert {(box["class"], box["score"], box["p"]) for box in page.boxes()} == {
        ("dog", 0.9, 0.9),
        ("puppy", 0.9, 0.1),
    }
    assert {box["asked"] for box in page.boxes()} >= {"Is it young? (crop)"}


def test_drawings_with_scores_are_written_where_they_are_asked_for(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    image = half_bright(tmp_path / "in" / "a [red].png")
    drawn = tmp_path / "drawn"
    arguments = [
        "-c",
        "dog",
        *MODELS,
        "--out",
        str(tmp_path / "t.html"),
        "--images-out",
        str(drawn),
    ]
    assert run(["try", image, *arguments]) == 0
    assert str(drawn) in capsys.readouterr().out
    (file,) = drawn.iterdir()
    assert file.name == "01-a__red_.png"
    pixels = np.asarray(Image.open(file).convert("RGB"))
    assert (pixels == CLASS_COLOURS[0]).all(axis=2).sum() > 1000


def test_a_whole_folder_is_too_much_to_try(tmp_path, capsys):
    one = half_bright(tmp_path / "000.png")
    for place in range(1, 51):
        os.link(one, tmp_path / f"{place:03}.png")
    assert run(["try", str(tmp_path), "-c", "dog", *MODELS]) == 2
    assert "secondlook label" in capsys.readouterr().err


def test_nothing_to_look_for_is_told_with_the_way_out(tmp_path, capsys):
    assert run(["try", half_bright(tmp_path / "a.png"), *MODELS]) == 2
    assert '-c "person wearing glasses"' in capsys.readouterr().err
