"""``secondlook snapshot`` as a person types it."""

import json
from pathlib import Path

import pytest
from frozen import PETS, photos, stored

from secondlook.cli import run
from secondlook.core.ontology_yaml import dump
from secondlook.store import open_store


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Arguments that name a store with the runs ``r`` and ``later``."""
    with open_store(tmp_path / "data") as store:
        stored(store, "r", photos(12))
        stored(store, "later", photos(12, first=6), answers={"Dog?": 0.5, "Cat?": 0.1})
    return ["--data", str(tmp_path / "data")]


def told(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capfd.readouterr()
    return " ".join(out.split()), " ".join(err.split())


def test_a_snapshot_from_making_to_removing(data, tmp_path, capfd) -> None:
    making = ["snapshot", "create", "s", "--run", "r", "--split", "train=1", "--split", "val=1"]
    assert run([*making, *data]) == 0
    out, err = told(capfd)
    assert "snapshot 's'" in out and "dog, labels" in out and not err
    assert run([*making, *data]) == 2
    assert "there is a snapshot 's' already" in told(capfd)[1]
    assert run(["snapshot", "list", *data]) == 0
    assert "train" in told(capfd)[0]
    assert run(["snapshot", "show", "s", "--json", *data]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["images"], shown["query"]["runs"]) == (12, ["r"])
    assert run(["snapshot", "show", "s", *data]) == 0
    assert shown["manifest"] in told(capfd)[0]
    out_folder = tmp_path / "out"
    assert run(["snapshot", "export", "s", "--out", str(out_folder), *data]) == 0
    assert len(list((out_folder / "coco" / "images").rglob("*.jpg"))) == 12
    capfd.readouterr()
    assert run(["snapshot", "export", "s", "--out", str(out_folder), *data]) == 2
    assert "holds something already" in told(capfd)[1]
    assert run(["snapshot", "remove", "s", *data]) == 0
    assert run(["snapshot", "show", "s", *data]) == 2
    assert "no snapshot 's'" in told(capfd)[1]


def test_what_nobody_looked_at_twice_is_left_out_and_told(data, tmp_path, capfd) -> None:
    with open_store(tmp_path / "data") as store:
        stored(store, "blank", photos(3), script=lambda image, _: [])
    assert run(["snapshot", "create", "a", "--run", "blank", *data]) == 2
    said = told(capfd)[1]
    assert "3 on which nothing was proposed" in said and "label with --verify-empty" in said
    both = ["--run", "r", "--run", "blank"]
    assert run(["snapshot", "create", "b", *both, *data]) == 0
    shown = told(capfd)[0]
    assert "left out: 3 images on which nothing was proposed, so nobody looked twice" in shown
    assert "--verify-empty" in shown and "--empty all" in shown
    assert run(["snapshot", "create", "c", *both, *data, "--empty", "all"]) == 0
    assert "empty, nothing proposed" in (shown := told(capfd)[0]) and "left out" not in shown
    for wrong in ("verified", "none,all_rejected"):
        assert run(["snapshot", "create", "d", *both, *data, "--empty", wrong]) == 2


def test_what_changed_between_two(data, capfd) -> None:
    for name, runs in (("old", ["--run", "r"]), ("new", ["--run", "r", "--run", "later"])):
        assert run(["snapshot", "create", name, *runs, *data]) == 0
    capfd.readouterr()
    assert run(["snapshot", "diff", "old", "new", *data]) == 1
    out, _ = told(capfd)
    assert "6 added" in out and "6 relabelled" in out
    assert "+6 dog ignore" in out and "-6 dog label" in out
    assert run(["snapshot", "diff", "old", "new", "--json", *data]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert (
        sorted(json.loads(line)["change"] for line in lines) == ["added"] * 6 + ["relabelled"] * 6
    )
    assert run(["snapshot", "diff", "old", "old", *data]) == 0
    assert "the same images" in told(capfd)[0]


def test_an_ontology_is_named_by_its_file_or_digest(data, tmp_path, capfd) -> None:
    file = tmp_path / "pets.yaml"
    file.write_text(dump(PETS))
    assert run(["snapshot", "create", "a", "--ontology", str(file), *data]) == 0
    assert run(["snapshot", "create", "b", "--ontology", PETS.digest, *data]) == 0
    assert run(["snapshot", "diff", "a", "b", *data]) == 0
    assert run(["snapshot", "create", "c", "--ontology", "pets", *data]) == 2
    assert "16 hex digits" in told(capfd)[1]


def test_one_camera_is_divided_by_time(data, tmp_path, capfd) -> None:
    with open_store(tmp_path / "data") as store:
        stored(store, "gate", photos(60), kind="capture")
    halves = ["--split", "train=1", "--split", "val=1"]
    making = ["snapshot", "create", "s", "--run", "gate", *halves, "--group-by", "time"]
    assert run([*making, *data]) == 0
    capfd.readouterr()
    assert run(["snapshot", "show", "s", "--json", *data]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["query"]["group_by"] == "time"
    splits = shown["statistics"]["splits"]
    assert set(splits) == {"train", "val"}
    assert sum(part["groups"] for part in splits.values()) == 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--run", "nobody"], "no run 'nobody'"),
        ([], "name a run"),
        (["--run", "r", "-c", "cow"], "there are dog, cat"),
        (["--run", "r", "--since", "yesterday"], "2026-03-31T18:00"),
        (["--run", "r", "--split", "train"], "such as train=0.8"),
        (["--run", "r", "--split", "train=-1"], "a share above 0"),
        (["--run", "r", "--until", "2001-01-01"], "finds no image"),
    ],
)
def test_a_wrong_query_is_told_in_one_line(data, capfd, wrong, words) -> None:
    assert run(["snapshot", "create", "s", *wrong, *data]) == 2
    assert words in told(capfd)[1]


def test_a_split_without_a_image_is_warned_of(data, capfd, caplog) -> None:
    shares = ["--split", "train=1", "--split", "val=0.0000001"]
    assert run(["snapshot", "create", "s", "--run", "r", *shares, *data]) == 0
    assert "split 'val' got no image: the snapshot has 12 groups" in caplog.text
    assert run(["snapshot", "show", "s", *data]) == 0
    assert "val" not in told(capfd)[0]
