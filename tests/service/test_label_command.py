"""``secondlook label`` as it is used: ended, resumed, done again and kept in a store.

Only the models are scripted; server, client and files are the real ones.
"""

import json
import signal
import subprocess
from collections import Counter

import pytest
from label_command import (
    COCO,
    arguments,
    environment,
    folder_of,
    image,
    label,
    label_apart,
    lines,
    names_done,
    wait_for_results,
)
from strange_names import NAMES

from secondlook.cli import run
from secondlook.datasets.open import open_training_set
from secondlook.store import open_store


def test_a_folder_becomes_labels_in_every_format(tmp_path):
    folder, out = folder_of(tmp_path / "in", 5), tmp_path / "out"
    done = label_apart(folder, out, "--format", "coco,yolo,voc")
    assert done.returncode == 0, done.stderr
    assert "5 images: 5 boxes proposed, 5 of them reached the threshold of a class" in done.stdout
    assert "10 decisions, one for each class that such a box" in done.stdout
    assert "may show: 5 accepted, 5 rejected, 0 unsure" in done.stdout
    coco = json.loads((out / COCO).read_text())
    assert [i["file_name"] for i in coco["images"]] == [f"{n:03}.png" for n in range(5)]
    assert {tuple(a["bbox"]) for a in coco["annotations"]} == {(0, 0, 20, 30)}
    assert {a["category_id"] for a in coco["annotations"]} == {1}
    assert (
        out / "yolo/labels/default/000.txt"
    ).read_text() == "0 0.250000 0.500000 0.500000 1.000000\n"
    assert (out / "voc/Annotations/004.xml").exists() and (out / "gallery.html").exists()
    assert (out / "failed.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("classes", "flags", "empty", "told"),
    [
        ("{cat: {threshold: 0.95}}", (), "nothing_proposed", "2 images empty: 2 with nothing"),
        ("{cat: }", (), "all_rejected", "2 images empty: 2 with every box rejected"),
        ("{cat: {threshold: 0.95}}", ("--verify-empty",), "verified_empty", "2 verified empty"),
        ("{cat: }", ("--verify-empty", "--empty-tiles", "2"), "verified_empty", "2 verified empty"),
        ("{dog: {threshold: 0.95}}", ("--verify-empty",), None, "2 images without a box, but not"),
    ],
)
def test_why_an_image_is_empty_is_told_and_kept(tmp_path, classes, flags, empty, told):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    (tmp_path / "o.yaml").write_text(f"classes: {classes}")
    ontology = ("--ontology", str(tmp_path / "o.yaml"))
    done = label(folder, out, *ontology, *flags, "--format", "coco,yolo", classes=())
    assert done.returncode == 0 and told in done.stdout, done
    plain = json.loads((out / COCO).read_text())
    assert [image["empty"] for image in plain["images"]] == [empty] * 2
    assert len(plain["annotations"]) == (0 if empty else 2)
    background = len([*(out / "yolo/images").rglob("*.png")])
    assert background == (2 if empty in ("all_rejected", "verified_empty") else 0)
    # A run that was made without verifying is not continued with it, and the other way round.
    other = () if flags else ("--verify-empty",)
    refused = label(folder, out, *ontology, *other, classes=())
    assert refused.returncode == 2 and "different settings" in refused.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_without_redoing_a_image(tmp_path, how):
    folder, out, log = folder_of(tmp_path / "in", 60), tmp_path / "out", tmp_path / "log"
    first = subprocess.Popen(
        arguments(folder, out, pause=0.05),
        env=environment(SCRIPTED_LOG=str(log)),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_results(out / ".store", 10, first)
    first.send_signal(how)
    _, told = first.communicate(timeout=30)
    kept = names_done(out)
    assert 10 <= len(kept) < 60 and not (out / COCO).exists()
    if how is not signal.SIGKILL:
        assert first.returncode == 130 and "the same command continues from there" in told
        assert f"{len(kept)} of 60" in told
    log.unlink()
    second = label(folder, out, log=log)
    assert second.returncode == 0, second.stderr
    assert names_done(out) == Counter(f"{n:03}.png" for n in range(60))
    assert len(log.read_text().splitlines()) == 60 - len(kept)
    assert len(json.loads((out / COCO).read_text())["images"]) == 60


def test_a_finished_run_is_not_done_again(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 3), tmp_path / "out", tmp_path / "log"
    label(folder, out)
    before = (out / COCO).read_bytes()
    again = label(folder, out, log=log)
    assert again.returncode == 0 and not log.exists()
    assert (out / COCO).read_bytes() == before


def test_a_replaced_image_is_labelled_again_and_a_removed_one_leaves(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 3), tmp_path / "out", tmp_path / "log"
    label(folder, out)
    image(folder / "001.png", 99, size=(80, 30))
    (folder / "002.png").unlink()
    label(folder, out, log=log)
    assert len(log.read_text().splitlines()) == 1
    images = json.loads((out / COCO).read_text())["images"]
    assert [(i["file_name"], i["width"]) for i in images] == [("000.png", 40), ("001.png", 80)]


def test_another_ontology_is_refused_until_fresh(tmp_path):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    label(folder, out)
    refused = label_apart(folder, out, classes=("dog",))
    assert refused.returncode == 2
    assert 'different classes (["dog", "cat"], now ["dog"])' in refused.stderr
    assert "--fresh" in refused.stderr and refused.stderr.count("\n") == 1
    assert label(folder, out, "--fresh", classes=("dog",)).returncode == 0
    assert len(json.loads((out / COCO).read_text())["categories"]) == 1


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--server", "127.0.0.1:1"), "127.0.0.1:1"),
        (("--format", "coco,tfrecord"), "expected one of coco, coco-polygons, yolo"),
        (("--proposer", "nonsense"), "nonsense"),
        (("--score-floor", "7"), "--score-floor: expected a number from 0 to 1, got '7'"),
        (("--ontology", "classes.yaml"), "not both"),
        (("-c", "dog. cat"), "dog. cat"),
    ],
)
def test_wrong_usage_is_told_in_a_line(tmp_path, more, cause, monkeypatch):
    monkeypatch.setattr("secondlook.cli.connection.CONNECT_S", 0.5)
    done = label(folder_of(tmp_path / "in", 1), tmp_path / "out", *more)
    assert done.returncode in (1, 2), done.stderr
    assert cause in done.stderr and "Traceback" not in done.stderr


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    done = label(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2 and "there is no image in" in done.stderr


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    folder, out = folder_of(tmp_path / "in", 40), tmp_path / "out"
    first = subprocess.Popen(arguments(folder, out, pause=1), env=environment())
    try:
        wait_for_results(out / ".store", 1, first)
        second = label(folder, out)
        assert second.returncode == 2 and "in use by another run" in second.stderr
    finally:
        first.kill()
        first.wait()


def test_with_data_images_are_kept_there_and_shared(tmp_path):
    folder, data = folder_of(tmp_path / "in", 3), tmp_path / "data"
    for out in ("one", "two"):
        assert label(folder, tmp_path / out, "--data", str(data)).returncode == 0
        assert not (tmp_path / out / ".store").exists()
    assert label(folder, tmp_path / "two", "--data", str(data), "--fresh").returncode == 0
    with open_store(data) as store:
        jobs = store.queue.list_jobs()
        assert [(job.state, job.done) for job in jobs] == [("done", 3)] * 3
        assert sum(1 for _ in store.blobs.all()) == 3


@pytest.mark.parametrize("out_name", [".", "labels"])
def test_a_run_labels_neither_its_own_output_nor_that_of_another(tmp_path, out_name):
    folder = folder_of(tmp_path / "in", 2)
    out, again = folder / out_name, folder / "again"
    for more in ((), (), ("--fresh",)):
        done = label(folder, out, "--format", "coco,yolo,voc", *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("2 images: "), done.stdout
    done = label(folder, again, classes=("dog",))
    assert done.stdout.startswith("2 images: "), done.stdout
    assert "left out: " in done.stderr and "written by secondlook" in done.stderr
    images = json.loads((again / COCO).read_text())["images"]
    assert [entry["file_name"] for entry in images] == ["000.png", "001.png"]
    assert lines(out / "failed.jsonl") == lines(again / "failed.jsonl") == []


def test_an_export_of_a_snapshot_inside_the_folder_is_not_labelled(tmp_path):
    folder, out = folder_of(tmp_path / "in", 3), tmp_path / "out"
    label(folder, out)
    place = ("--data", str(out / ".store"))
    with open_store(out / ".store") as store:
        (job,) = store.queue.list_jobs()
    assert run(["snapshot", "create", "s", "--run", job.name, *place]) == 0
    made = ("--out", str(folder / "s"), "--format", "coco,yolo,voc")
    assert run(["snapshot", "export", "s", *made, *place]) == 0
    done = label(folder, tmp_path / "again")
    assert done.stdout.startswith("3 images: "), done.stdout
    assert "1 written by secondlook (such as s)" in done.stderr
    refused = label(folder / "s", tmp_path / "third")
    assert refused.returncode == 2 and "name the folder that they are in" in refused.stderr


def test_what_a_run_wrote_is_read_by_the_other_commands(tmp_path, capsys):
    """Names of every kind, from a folder of images to a dataset and back."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for place, name in enumerate(NAMES):
        path = image(folder / "x.png", place)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(folder / name)
    done = label(folder, out, "--format", "coco,yolo,voc", classes=("dog",))
    assert done.stdout.startswith(f"{len(NAMES)} images: {len(NAMES)} boxes proposed"), done
    for dataset in (out, out / "coco", out / "yolo"):
        data = open_training_set(str(dataset))
        samples = (*data.train, *data.held_out)
        assert len(samples) == len(NAMES)
        assert all(sample.boxes.tolist() == [[0, 0, 20, 30]] for sample in samples)
    assert run(["evaluate", str(out), str(out / COCO), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["right"], figures["wrong"], figures["missed"]) == (len(NAMES), 0, 0)
    place = ("--data", str(out / ".store"))
    with open_store(out / ".store") as store:
        (job,) = store.queue.list_jobs()
    assert run(["snapshot", "create", "s", "--run", job.name, *place]) == 0
    exported = tmp_path / "s"
    assert run(["snapshot", "export", "s", "--out", str(exported), *place]) == 0
    data = open_training_set(str(exported))
    found = [sample.path.read_bytes() for sample in (*data.train, *data.held_out)]
    assert sorted(found) == sorted((folder / name).read_bytes() for name in NAMES)
