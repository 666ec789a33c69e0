"""``secondlook verify`` as it is used; only the verifier is scripted."""

import contextlib
import csv
import io
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from label_command import START, environment, image, wait_for_results
from PIL import Image

from secondlook.cli import run
from secondlook.cli.verify import FORMATS
from secondlook.core.files import text_to_name

DOG = ("--verifier", "scripted_models:agreeable:dog")
"""Says yes to "Is this a dog?" and no to anything else."""
BOXES = ([0, 0, 20, 30], [20, 0, 20, 30])


def dataset(folder: Path, images: int = 2, **more: Any) -> Path:
    """A COCO file: on each image a dog that is right and a cat that is wrong."""
    entries: list[dict[str, Any]] = []
    for place in range(images):
        image(folder / "images" / f"{place:03}.png", place)
        for category, box in zip((1, 2), BOXES, strict=True):
            number = len(entries) + 1
            extra = {"iscrowd": 0, "attributes": {"occluded": True}, "keypoints": [1, 2, 2]}
            entries.append(
                {"id": number, "image_id": place, "category_id": category, "bbox": box, **extra}
            )
    plain = {
        "info": {"year": 2026},
        "images": [{"id": p, "file_name": f"{p:03}.png"} for p in range(images)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": entries,
        **more,
    }
    path = folder / "truth.json"
    path.write_text(json.dumps(plain))
    return path


def changed(path: Path, **entries: Any) -> Path:
    """Add annotations and images to a COCO file."""
    plain = json.loads(path.read_text())
    for key, more in entries.items():
        plain[key] += more
    path.write_text(json.dumps(plain))
    return path


def verify(*words: object) -> "subprocess.CompletedProcess[str]":
    said, told = io.StringIO(), io.StringIO()
    command = ["verify", *map(str, words)]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        code = run(command)
    return subprocess.CompletedProcess(command, code, said.getvalue(), told.getvalue())


def findings(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "findings.jsonl").read_text().splitlines()]


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_what_is_rejected_leaves_a_coco_file_and_all_else_stays(tmp_path: Path) -> None:
    truth, out = dataset(tmp_path / "in"), tmp_path / "out"
    before = truth.read_bytes()
    done = verify(truth, "--out", out, *DOG)
    assert done.returncode == 0, done.stderr
    assert truth.read_bytes() == before
    plain, kept = json.loads(before), json.loads((out / "verified.json").read_text())
    assert {**kept, "annotations": None} == {**plain, "annotations": None}
    assert [entry.pop("secondlook") for entry in kept["annotations"]] == [
        {"outcome": "accept", "p_yes": 0.9, "reason": "P(yes) 0.90 ≥ 0.60"}
    ] * 2
    assert kept["annotations"] == [e for e in plain["annotations"] if e["category_id"] == 1]
    found = findings(out)
    assert [(row["image"], row["annotation_id"], row["class"]) for row in found] == [
        ("000.png", 2, "cat"),
        ("001.png", 4, "cat"),
    ]
    assert {row["question"] for row in found} == {"Is this a cat?"}
    with (out / "findings.csv").open(newline="") as file:
        assert [row["annotation_id"] for row in csv.DictReader(file)] == ["2", "4"]
    assert "cat" in (out / "gallery.html").read_text()
    assert ["dog", "2", "2", "0", "0"] in rows(done.stdout)
    assert ["cat", "2", "0", "2", "0"] in rows(done.stdout)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_verified_and_written_again(tmp_path: Path, form: str) -> None:
    verify(
        dataset(tmp_path / "in"),
        "--out",
        tmp_path / "made",
        "--format",
        form,
        "-c",
        "cat ? A dog?",
        *DOG,
    )
    folder, out = tmp_path / "made" / form, tmp_path / "out"
    done = verify(folder, "--out", out, *DOG)
    assert done.returncode == 0, done.stderr
    assert [(row["class"], row["outcome"]) for row in findings(out)] == [("cat", "reject")] * 2
    if form == "coco":
        (written,) = out.glob("verified*.json")
        assert [e["category_id"] for e in json.loads(written.read_text())["annotations"]] == [1, 1]
    else:
        again = verify(out / form, "--out", tmp_path / "again", *DOG)
        assert ["dog", "2", "2", "0", "0"] in rows(again.stdout) and "cat" not in again.stdout


def test_a_suggestion_is_the_class_that_is_accepted(tmp_path: Path) -> None:
    truth, out = dataset(tmp_path / "in"), tmp_path / "out"
    verify(truth, "--out", out, "--suggest", *DOG)
    assert [(r["finding"], r["suggested_class"], r["suggested_p_yes"]) for r in findings(out)] == [
        ("wrong class", "dog", 0.9)
    ] * 2
    refused = verify(truth, "--out", out, *DOG)
    assert refused.returncode == 2 and "different suggest (true, now false)" in refused.stderr
    assert verify(truth, "--out", out, "--fresh", *DOG).returncode == 0
    assert [row["finding"] for row in findings(out)] == ["rejected"] * 2


def test_annotations_that_were_changed_are_another_run(tmp_path: Path) -> None:
    truth, out = dataset(tmp_path / "in"), tmp_path / "out"
    verify(truth, "--out", out, *DOG)
    more = {"id": 9, "image_id": 0, "category_id": 1, "bbox": [3, 3, 9, 9]}
    refused = verify(changed(truth, annotations=[more]), "--out", out, *DOG)
    assert refused.returncode == 2 and "different proposer (annotations@" in refused.stderr


def test_a_proposer_finds_missing_objects_and_better_boxes(tmp_path: Path) -> None:
    truth, out = dataset(tmp_path / "in", 3), tmp_path / "out"
    plain = json.loads(truth.read_text())
    plain["annotations"] = [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 20, 30]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [12, 0, 20, 30]},
        {"id": 3, "image_id": 0, "category_id": 2, "bbox": [30, 0, 10, 10]},
    ]
    truth.write_text(json.dumps(plain))
    proposer = ("--proposer", "scripted_models:bright_half:0")
    verify(truth, "--out", out, "--find-missing", *proposer, *DOG)
    found = {row["finding"]: row for row in findings(out)}
    assert found["missing object"]["image"] == "002.png"
    assert found["loose box"]["annotation_id"] == 2
    assert found["loose box"]["suggested_box"] == [0, 0, 20, 30]
    assert found["rejected"]["annotation_id"] == 3 and len(found) == 3
    kept = json.loads((out / "verified.json").read_text())["annotations"]
    assert [e["secondlook"].get("suggested_bbox") for e in kept] == [None, [0, 0, 20, 30]]


def test_only_the_class_that_is_named_is_asked_about(tmp_path: Path) -> None:
    truth, out = dataset(tmp_path / "in"), tmp_path / "out"
    done = verify(truth, "--out", out, "--only", "dog", *DOG)
    kept = json.loads((out / "verified.json").read_text())["annotations"]
    assert [(e["category_id"], "secondlook" in e) for e in kept] == [(1, True), (2, False)] * 2
    assert findings(out) == [] and "cat" not in done.stdout


def test_images_that_were_not_asked_about_stay_in_every_format(tmp_path: Path) -> None:
    truth = changed(
        dataset(tmp_path / "in"),
        images=[{"id": p, "file_name": f"{p:03}.png"} for p in (7, 8, 9)],
        annotations=[
            {"id": 90, "image_id": 7, "category_id": 2, "bbox": BOXES[0]},
            {"id": 91, "image_id": 9, "category_id": 1, "bbox": BOXES[0]},
        ],
    )
    for place in (7, 8):
        image(tmp_path / f"in/images/{place:03}.png", place)
    cut_off = (tmp_path / "in/images/000.png").read_bytes()[:99]
    (tmp_path / "in/images/009.png").write_bytes(cut_off)
    more = ("--format", "yolo", "--only", "dog")
    done = verify(truth, "--out", tmp_path / "out", *more, *DOG)
    assert "1 image not verified" in done.stdout
    labels = {path.stem: path.read_text() for path in tmp_path.glob("out/yolo/labels/*/*.txt")}
    assert {name: text.count("\n") for name, text in labels.items()} == {
        "000": 2,
        "001": 2,
        "007": 1,
        "008": 0,
    }


def test_a_finding_can_be_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    verify(dataset(tmp_path / "in"), "--out", out, *DOG)
    row = findings(out)[1]
    page = ("--out", str(out / "explain.html"))
    assert run(["explain", row["label_id"], "--data", str(out / ".store"), *page]) == 0
    told = capsys.readouterr().out
    assert row["image"] in told and "Is this a cat?" in told


def test_crowds_odd_boxes_and_missing_images_are_told_and_kept(tmp_path: Path) -> None:
    truth = changed(
        dataset(tmp_path / "in"),
        images=[{"id": 7, "file_name": "gone.png"}, {"id": 8, "file_name": "odd.png"}],
        annotations=[
            {"id": 10, "image_id": 0, "category_id": 2, "bbox": [1, 1, 9, 9], "iscrowd": 1},
            {"id": 11, "image_id": 0, "category_id": 1, "bbox": [100, 100, 9, 9]},
            {"id": 12, "image_id": 0, "category_id": 1, "bbox": [3, 3, 0, 5]},
            {"id": 13, "image_id": 0, "category_id": 9, "bbox": [3, 3, 5, 5]},
            {"id": 14, "image_id": 7, "category_id": 1, "bbox": [3, 3, 5, 5]},
            {"id": 15, "image_id": 0, "category_id": 1, "bbox": BOXES[0]},
            {"id": 16, "image_id": 8, "category_id": 1, "bbox": [1, 1, 5, 5]},
        ],
    )
    (tmp_path / "in/images/odd.png").write_bytes((tmp_path / "in/images/000.png").read_bytes()[:99])
    done = verify(truth, "--out", tmp_path / "out", *DOG)
    assert done.returncode == 0, done.stderr
    assert "1 crowd or ignore region not asked about" in done.stdout
    assert "2 images not verified" in done.stdout
    assert "category_id 9 is not among its categories" in done.stderr
    kept = json.loads((tmp_path / "out/verified.json").read_text())["annotations"]
    assert [e["id"] for e in kept] == [1, 3, 10, 13, 14, 15, 16]
    assert [e["id"] for e in kept if "secondlook" not in e] == [10, 13, 14, 16]
    assert [e["id"] for e in kept if e.get("secondlook", {}).get("duplicate")] == [15]
    found = {row["annotation_id"]: row["finding"] for row in findings(tmp_path / "out")}
    odd = {11: "no area", 12: "no area", 15: "duplicate"}
    assert found == {2: "rejected", 4: "rejected", **odd}


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--verifier", "none"), "--verifier is none"),
        (("--only", "horse"), "no class 'horse'; their classes are dog, cat"),
        (("-c", "horse"), "no class 'horse'"),
        (("--images", "empty"), "none of the 2 images of 'in' can be read"),
        (("--format", "tfrecord"), "expected one of coco, yolo, voc"),
        (("--verifier", "nonsense"), "nonsense"),
    ],
)
def test_wrong_usage_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], cause: str
) -> None:
    truth = dataset(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    done = verify(truth, "--out", tmp_path / "out", *DOG, *more)
    assert done.returncode == 2 and cause in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text", ["{}", "[]", "\0", '{"images": [], "annotations": [], "categories": []}']
)
def test_a_file_without_annotations_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    done = verify(tmp_path / "a.json", "--out", tmp_path / "out", *DOG)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "verified.json").exists()


def test_names_of_strangers_are_data(tmp_path: Path) -> None:
    """A spreadsheet computes a cell that begins with "=", and a page runs a script."""
    truth = dataset(tmp_path / "in")
    plain = json.loads(truth.read_text())
    plain["categories"][1]["name"] = '=cmd|"</script><script>alert(1)</script>'
    truth.write_text(json.dumps(plain))
    done = verify(truth, "--out", tmp_path / "out", *DOG)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/findings.csv").open(newline="") as file:
        assert all(row["class"].startswith("'=cmd") for row in csv.DictReader(file))
    assert "<script>alert" not in (tmp_path / "out/gallery.html").read_text()


def test_files_of_any_name_are_verified(tmp_path: Path) -> None:
    folder, names = tmp_path / "in", ("a b", "été", "\udcff\udcfe", "a\nb", "tab\t", "=1+1", "a\\b")
    for place, name in enumerate(names):
        image(folder / "images" / f"{place}.png", place).rename(folder / "images" / f"{name}.png")
        text = folder / "labels" / f"{name}.txt"
        text.parent.mkdir(exist_ok=True)
        text.write_text("0 0.25 0.5 0.5 1\n1 0.75 0.5 0.5 1\n")
    (folder / "data.yaml").write_text("train: images\nnames: [dog, cat]\n")
    done = verify(folder, "--out", tmp_path / "out", *DOG)
    assert done.returncode == 0, done.stderr
    assert ["cat", "7", "0", "7", "0"] in rows(done.stdout)
    found = {text_to_name(row["image"]) for row in findings(tmp_path / "out")}
    assert found == {f"{name}.png" for name in names}


def test_upright_images_and_their_boxes_fit(tmp_path: Path) -> None:
    """A photo that is stored lying down is asked about as it is seen."""
    truth = dataset(tmp_path / "in", 1)
    path = tmp_path / "in/images/000.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as stored:
        stored.copy().save(path, exif=exif)
    plain = json.loads(truth.read_text())
    plain["annotations"] = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 35, 30, 5]}]
    truth.write_text(json.dumps(plain))
    verify(truth, "--out", tmp_path / "out", *DOG)
    kept = json.loads((tmp_path / "out/verified.json").read_text())["annotations"]
    assert [e["secondlook"]["outcome"] for e in kept] == ["accept"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_goes_on_without_asking_again(tmp_path: Path, how: int) -> None:
    truth, out, log = dataset(tmp_path / "in", 40), tmp_path / "out", tmp_path / "log"
    slow = ("--verifier", "scripted_models:agreeable_slowly:0.05", "--verify-batch", "1")
    command = [*START, "verify", str(truth), "--out", str(out), *slow]
    first = subprocess.Popen(
        command, env=environment(SCRIPTED_LOG=str(log)), stderr=subprocess.PIPE, text=True
    )
    wait_for_results(out / ".store", 5, first)
    first.send_signal(how)
    first.communicate(timeout=30)
    asked = len(log.read_text().splitlines())
    assert not (out / "verified.json").exists() and 10 <= asked < 80
    again = subprocess.run(command, env=environment(SCRIPTED_LOG=str(log)), timeout=60, check=True)
    assert again.returncode == 0
    kept = json.loads((out / "verified.json").read_text())["annotations"]
    assert len(kept) == 40 and len(findings(out)) == 40
    # Of what was in flight, two boxes an image, the answers were not kept.
    assert 80 <= len(log.read_text().splitlines()) <= 80 + 2 * 8
