"""``secondlook label`` on videos: frame by frame, killed and resumed, and with tracks."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from label_command import (
    COCO,
    arguments,
    environment,
    folder_of,
    label,
    lines,
    names_done,
    wait_for_results,
)
from sqlalchemy import func, select
from videos import write_video

from secondlook.cli import run
from secondlook.core.frame_names import FrameAddress
from secondlook.jobs import tracking
from secondlook.store import Store, open_store
from secondlook.store.retention import Retention, forget
from secondlook.store.schema import evidence

TRACKED = ("--track", "--fps", "0", "--verifier", "scripted_models:agreeable_slowly:0")


def names(clip: str, count: int, step_ms: int = 100) -> list[str]:
    return [FrameAddress(clip, step_ms * place).name for place in range(count)]


def coco(out: Path) -> dict:
    return json.loads((out / COCO).read_text())


def test_a_video_becomes_labels_of_its_frames_in_every_format(tmp_path):
    clip, out = write_video(tmp_path / "clip.mp4"), tmp_path / "out"
    done = label(clip, out, "--format", "coco,yolo,voc,label-studio", classes=("dog",))
    assert done.returncode == 0, done.stderr
    frames = names("clip.mp4", 10, 200)  # five a second of ten
    assert [image["file_name"] for image in coco(out)["images"]] == frames
    assert {tuple(one["bbox"]) for one in coco(out)["annotations"]} == {(0, 0, 32, 48)}
    for place in ("coco/images/default", "yolo/images/default", "voc/JPEGImages"):
        written = sorted(path for path in (out / place).iterdir())
        assert [path.name for path in written] == frames
        assert not any(path.is_symlink() for path in written)
    assert "clip.mp4@00-00-01.800" in (out / "gallery.html").read_text()
    again = label(clip, out, "--format", "coco,yolo,voc,label-studio", classes=("dog",))
    assert "finished before" in again.stdout


def test_a_killed_video_goes_on_where_it_stopped(tmp_path):
    clip = write_video(tmp_path / "clip.mkv", frames=60)
    out, log, more = tmp_path / "out", tmp_path / "log", ("--fps", "0")
    first = subprocess.Popen(
        arguments(clip, out, *more, pause=0.05),
        env=environment(SCRIPTED_LOG=str(log)),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_results(out / ".store", 10, first)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    kept = names_done(out)
    assert 10 <= len(kept) < 60
    log.unlink()
    second = label(clip, out, *more, log=log)
    assert second.returncode == 0, second.stderr
    assert names_done(out) == Counter(names("clip.mkv", 60))
    assert len(log.read_text().splitlines()) == 60 - len(kept)
    assert len(coco(out)["images"]) == 60


def test_other_rates_share_the_frames_that_they_have_in_common(tmp_path):
    clip, out, log = write_video(tmp_path / "clip.mp4"), tmp_path / "out", tmp_path / "log"
    label(clip, out)
    label(clip, out, "--fps", "0", log=log)
    assert len(log.read_text().splitlines()) == 10, "the other ten were there"
    assert len(coco(out)["images"]) == 20
    label(clip, out, "--fps", "1")
    assert [one["file_name"] for one in coco(out)["images"]] == names("clip.mp4", 2, 1000)


def test_a_track_is_asked_about_once_and_its_labels_have_its_number(tmp_path):
    clip, out, log = write_video(tmp_path / "clip.mp4"), tmp_path / "out", tmp_path / "log"
    more = (*TRACKED, "--format", "coco,mot,cvat-video")
    done = label(clip, out, *more, log=log, classes=("dog", "cat"))
    assert done.returncode == 0, done.stderr
    asked = [line for line in log.read_text().splitlines() if line.startswith("(")]
    assert asked == ["('Is this a dog?', 'Is this a cat?')"], "one look for both questions"
    assert "1 track in 20 frames; the verifier was shown 0.05 boxes a frame" in done.stderr
    assert "not asked about 38 of 40 decisions" in done.stdout
    assert [one["track_id"] for one in coco(out)["annotations"]] == [1] * 20
    reasons = Counter(one["attributes"]["reason"] for one in coco(out)["annotations"])
    assert sorted(reasons.values()) == [1, 19]
    assert reasons["not asked: P(yes) 0.90 ≥ 0.60 by the answers on track 1"] == 19
    gt = (out / "mot/default/clip.mp4/gt/gt.txt").read_text().splitlines()
    assert gt[0] == "1,1,0.00,0.00,32.00,48.00,1,1,1" and len(gt) == 20
    assert (out / "cvat-video/default/clip.mp4/annotations.xml").read_text().count("<track ") == 1
    again = label(clip, out, *more, log=log, classes=("dog", "cat"))
    assert "finished before" in again.stdout
    gaps = label(clip, out, *more, "--fill-gaps", "ignore", log=log, classes=("dog", "cat"))
    assert gaps.returncode == 0, gaps.stderr
    assert "finished before" not in gaps.stdout
    assert json.loads((out / "run.json").read_text())["labels"].endswith(" filled")


def test_tracks_that_were_stopped_go_on_without_asking_again(tmp_path, monkeypatch):
    clip, out, log = write_video(tmp_path / "clip.mp4"), tmp_path / "out", tmp_path / "log"
    write = tracking._write

    def killed(*given):
        write(*given)
        raise RuntimeError("the power went")

    monkeypatch.setattr(tracking, "PAGE", 8)
    monkeypatch.setattr(tracking, "_write", killed)
    assert label(clip, out, *TRACKED, log=log).returncode != 0
    monkeypatch.setattr(tracking, "_write", write)
    with (out / ".answers.jsonl").open("a") as file:
        file.write('[7, 0, {"question": "cut sho')
    before = log.read_text()
    done = label(clip, out, *TRACKED, log=log)
    assert done.returncode == 0, done.stderr
    assert log.read_text() == before, "neither proposed nor asked again"
    assert len(coco(out)["annotations"]) == 20


def test_the_labels_of_a_run_are_those_of_its_tracks(tmp_path, capsys):
    clip, out = write_video(tmp_path / "clip.mp4"), tmp_path / "out"
    label(clip, out, *TRACKED, "--gallery", "0", log=tmp_path / "log")
    record = json.loads((out / "run.json").read_text())
    with open_store(out / ".store") as store:
        tracked = store.results.run(record["labels"])
        (first, *_) = store.results.page(tracked.id)
        assert [one.track for one in first.labelled.judgements] == [1, 1]
        assert first.labelled.evidence.tracks == {0: 1}
        (job,) = store.queue.list_jobs()
        assert job.name == record["job"] != tracked.name
    capsys.readouterr()
    assert run(["select", str(out), "--strategy", "keyframes", "--json"]) == 0
    chosen, *_ = map(json.loads, capsys.readouterr().out.splitlines())
    assert chosen["reason"].startswith("track 1: at its best")
    # Of the run of the tracks: that of the job has none.
    assert run(["review", "start", str(out), "--order", "keyframes"]) == 0
    assert run(["redecide", record["labels"], "strict", "--data", str(out / ".store"),
                "--accept", "0.95"]) == 0  # fmt: skip
    with open_store(out / ".store") as store:
        (first, *_) = store.results.page(store.results.run("strict").id)
        assert [one.track for one in first.labelled.judgements] == [1, 1], "without a model"
        before = _evidence(store)
        forget(store, Retention(runs=("strict",)))
        assert _evidence(store) == before, "the run of the tracks needs it"
        forget(store, Retention(runs=(record["labels"],)))
        assert _evidence(store) == before / 2 == 20, "that of the frames stays"
    refused = label(clip, out, *TRACKED[1:], log=tmp_path / "log")
    assert refused.returncode == 2 and "different track" in refused.stderr


def _evidence(store: Store) -> int:
    with store.database.reading() as connection:
        return connection.execute(select(func.count()).select_from(evidence)).scalar_one()


def test_of_a_video_that_was_replaced_only_the_new_frames_are_tracked(tmp_path):
    clip, out, log = write_video(tmp_path / "clip.mp4"), tmp_path / "out", tmp_path / "log"
    label(clip, out, *TRACKED, log=log)
    write_video(clip, frames=8, size=(96, 48))
    done = label(clip, out, *TRACKED, log=log)
    assert done.returncode == 0 and "1 track in 8 frames" in done.stderr, done.stderr
    assert {one["width"] for one in coco(out)["images"]} == {96}
    assert len(coco(out)["annotations"]) == 8


def test_images_of_a_folder_are_a_sequence_too(tmp_path):
    folder, out = folder_of(tmp_path / "in", 6), tmp_path / "out"
    done = label(folder, out, *TRACKED, "--copy-images", log=tmp_path / "log", classes=("dog",))
    assert done.returncode == 0, done.stderr
    assert [one["track_id"] for one in coco(out)["annotations"]] == [1] * 6


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--server", "127.0.0.1:1"), "--server"),
        (("--verifier", "none"), "--verifier none"),
        (("--segmenter", "demo"), "--segmenter"),
        (("--verify-empty",), "--verify-empty"),
        (("--verify-budget", "0.5"), "--verify-budget"),
        (("--decoys", "0.1"), "--decoys"),
    ],
)
def test_what_does_not_go_together_with_tracks_is_told(tmp_path, more, told):
    clip = write_video(tmp_path / "clip.mp4", frames=2)
    refused = label(clip, tmp_path / "out", "--track", *more)
    assert refused.returncode == 2 and f"--track does not go together with {told}" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_video_that_cannot_be_read_is_told_before_a_model_is_loaded(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    refused = label(tmp_path / "clip.mp4", tmp_path / "out", "--proposer", "nonsense")
    assert refused.returncode == 2 and "not a video that can be read" in refused.stderr
    good = write_video(tmp_path / "good.mp4", frames=4)
    out = tmp_path / "both"
    models = ("--verifier", "scripted_models:agreeable:dog")
    done = label(good, out, *models, str(tmp_path / "clip.mp4"))
    assert done.returncode == 0 and "1 image failed" in done.stdout
    (failed,) = lines(out / "failed.jsonl")
    assert failed["name"] == "clip.mp4" and "not a video" in failed["message"]
