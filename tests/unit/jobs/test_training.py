"""Trainings by real processes: finished, failed, cancelled, gone on with by the next server."""

import json
import sys
import time
from pathlib import Path

import pytest
from served_trainings import (
    ORDER,
    PROGRAM,
    eventually,
    kept,
    lives,
    soon,
    starts,
    until,
    working,
)
from students import write_student

from secondlook.jobs import training
from secondlook.jobs.training import MAX_POINTS, Trainer, distill_command
from secondlook.store import Store
from secondlook.store.integrity import check
from secondlook.store.training_jobs import TrainingRow, TrainingSpec
from secondlook_client.errors import MissingExtra
from secondlook_client.values import TrainingState

__all__ = ["kept", "soon", "working"]
"""Fixtures of these tests."""


def test_a_student_becomes_a_version(kept: Store, working, tmp_path: Path) -> None:
    number = kept.training_jobs.create(ORDER).id
    out = tmp_path / "data" / "trainings" / str(number)
    with working("waits"):
        running = eventually(
            lambda: (t := kept.training_jobs.get(number)).progress.get("step") == 3 and t
        )
        assert running.progress == {
            "step": 3, "of": 3, "loss": pytest.approx(1 / 3), "map50": 0.5, "phase": "train",
        }  # fmt: skip
        ((_, niceness),) = starts(out)
        assert niceness == training.NICENESS
        out.with_name(f"{number}.go").touch()
        done = until(kept, number, TrainingState.DONE)
    student = kept.model_versions.get("street", done.version, report=True)
    assert student.version == 1 and "map50" in student.report and not student.current
    assert list(check(kept)) == []
    assert [path.name for path in out.iterdir()] == ["torch"]
    assert not out.with_name(f"{number}.lock").exists()


def test_a_failure_is_reported_by_the_last_line_and_without_paths(kept: Store, working, tmp_path):
    number = kept.training_jobs.create(ORDER).id
    with working("fails"):
        failed = until(kept, number, TrainingState.FAILED)
    assert failed.message == "its folder is full; make room"
    assert not (tmp_path / "data" / "trainings" / str(number)).exists()
    assert kept.model_versions.page() == []


def test_a_process_that_the_system_kills_is_reported(kept: Store, working) -> None:
    number = kept.training_jobs.create(ORDER).id
    with working("killed"):
        failed = until(kept, number, TrainingState.FAILED)
    assert "signal 9" in failed.message and "smaller size" in failed.message


def test_a_result_that_is_damaged_is_no_version(kept: Store, working, tmp_path: Path) -> None:
    number = kept.training_jobs.create(ORDER).id
    (tmp_path / "student" / "model.onnx").write_bytes(b"cut")
    with working("trains"):
        failed = until(kept, number, TrainingState.FAILED)
    assert "model.onnx of the student is missing, truncated" in failed.message
    assert kept.model_versions.page() == []


@pytest.mark.parametrize("behaviour", ["waits", "stubborn"])
def test_cancelling_ends_the_process(kept: Store, working, tmp_path, behaviour) -> None:
    number = kept.training_jobs.create(ORDER).id
    out = tmp_path / "data" / "trainings" / str(number)
    with working(behaviour):
        ((process, _),) = eventually(lambda: starts(out))
        time.sleep(0.1)
        kept.training_jobs.cancel(number)
        eventually(lambda: not lives(process))
        eventually(lambda: not out.exists())
        assert kept.training_jobs.get(number).state is TrainingState.CANCELLED


def test_one_runs_at_a_time_unless_more_are_allowed(kept: Store, working, tmp_path) -> None:
    numbers = [kept.training_jobs.create(ORDER).id for _ in range(2)]
    folder = tmp_path / "data" / "trainings"
    with working("waits"):
        eventually(lambda: starts(folder / str(numbers[0])))
        time.sleep(0.3)
        assert kept.training_jobs.get(numbers[1]).state is TrainingState.QUEUED
    with working("waits", at_once=2):
        for number in numbers:
            eventually(lambda n=number: starts(folder / str(n)))
        for number in numbers:
            (folder / f"{number}.go").touch()
            until(kept, number, TrainingState.DONE)
    assert kept.model_versions.page("street")


def test_a_server_that_stops_ends_it_and_the_next_goes_on(kept: Store, working, tmp_path) -> None:
    number = kept.training_jobs.create(ORDER).id
    out = tmp_path / "data" / "trainings" / str(number)
    with working("waits"):
        ((process, _),) = eventually(lambda: starts(out))
    assert not lives(process)
    assert kept.training_jobs.get(number).state is TrainingState.QUEUED
    out.with_name(f"{number}.go").touch()
    with working("waits"):
        until(kept, number, TrainingState.DONE)
    assert kept.model_versions.page()[0].version == 1


def test_what_trainings_left_that_are_over_is_removed(kept: Store, working, tmp_path) -> None:
    number = kept.training_jobs.create(ORDER).id
    folder = tmp_path / "data" / "trainings"
    for name in (str(number), f"{number}.cache", "mine"):
        (folder / name / "checkpoints").mkdir(parents=True)
    kept.training_jobs.cancel(number)
    with working("trains"):
        eventually(lambda: not (folder / str(number)).exists())
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_lines_of_progress_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    path = tmp_path / "7" / "progress.jsonl"
    good = '{"step": 5, "of": 9, "loss": 1e999, "map50": null, "phase": "tr\\u0007ain", "x": 1}\n'
    with training.TrainingProcess.exclusive(tmp_path / "7", lambda: False) as child:
        assert child.progress() is None
        path.write_text(good + "[1]\nnonsense\n{}\n" + "[" * 9999 + '\n{"step": -1}\n{"step": 6')
        assert child.progress() == {"step": 5, "of": 9, "phase": "train"}
        path.write_text("x" * 10**6 + "\n" + good)
        assert child.progress() == {"step": 5, "of": 9, "phase": "train"}


def test_a_curve_has_each_measurement_once_and_few_points(kept: Store, tmp_path: Path) -> None:
    out = tmp_path / "trainings" / "7"
    out.mkdir(parents=True)
    trainer = Trainer(kept, out.parent)
    assert trainer.curve(7) == trainer.curve(8) == []
    lines = [
        {"phase": "train", "step": at, "loss": 9.5, "map50": 0.5 if at > 400 else None}
        for at in range(1, 1000)
    ]
    lines += [{"phase": "export", "step": 1, "of": 2}, {"step": "x"}, [], {"phase": "train"}]
    with (out / "progress.jsonl").open("w") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)
        file.write('{"phase": "train", "step": 1000')
    found = trainer.curve(7)
    assert 150 < len(found) <= MAX_POINTS and found[-1] == {"step": 999, "loss": 9.5}
    assert [point["step"] for point in found] == sorted({point["step"] for point in found})
    measured = [point for point in found if "map50" in point]
    assert measured == [{"step": 401, "loss": 9.5, "map50": 0.5}]


def test_what_is_started_is_the_command_of_a_person(tmp_path: Path) -> None:
    from secondlook.cli.distill import distill_command as command_line

    order = TrainingSpec("street", "street-1", "test", "pico", 50, 3)
    training = TrainingRow(7, order, TrainingState.RUNNING, "", 0, 0.0, 0.0)
    out = tmp_path / "7"
    line = distill_command(training, "127.0.0.1:5", out)
    assert line[:4] == [sys.executable, "-m", "secondlook", "distill"]
    read = command_line.make_context("distill", line[4:]).params
    assert (read["source"], read["server"], read["out"]) == ("street-1", "127.0.0.1:5", out)
    assert (read["size"], read["split"], read["name"]) == ("pico", "test", "street")
    assert (str(read["steps"]), str(read["seed"]), read["how"]) == ("50", "3", "jsonl")
    plain = distill_command(
        TrainingRow(7, ORDER, TrainingState.RUNNING, "", 0, 0.0, 0.0), "127.0.0.1:5", out
    )
    assert "--steps" not in plain and "--split" not in plain


def test_a_package_that_is_missing_is_reported_before_anything_starts(kept, tmp_path, monkeypatch):
    made = Trainer(kept, tmp_path / "trainings")
    made.check()
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtra, match=r"\(scipy missing\).*secondlook\[distill\]"):
        made.check()


def test_a_folder_may_be_named_relative_to_the_server(kept, tmp_path, monkeypatch) -> None:
    write_student(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    number = kept.training_jobs.create(ORDER).id

    def command(training: TrainingRow, address: str, out: Path) -> list[str]:
        return [sys.executable, str(PROGRAM), "trains", str(tmp_path / "student"), str(out)]

    made = Trainer(kept, Path("data/trainings"), 1, command)
    made.start("127.0.0.1:1")
    assert until(kept, number, TrainingState.DONE)
    made.close()


def test_a_fault_of_ours_ends_one_training_and_not_the_others(kept, tmp_path, caplog) -> None:
    write_student(tmp_path / "student")
    numbers = [kept.training_jobs.create(ORDER).id for _ in range(2)]

    def command(training: TrainingRow, address: str, out: Path) -> list[str]:
        if training.id == numbers[0]:
            raise KeyError("secret")
        return [sys.executable, str(PROGRAM), "trains", str(tmp_path / "student"), str(out)]

    made = Trainer(kept, tmp_path / "data" / "trainings", 1, command)
    made.start("127.0.0.1:1")
    until(kept, numbers[1], TrainingState.DONE)
    made.close()
    failed = kept.training_jobs.get(numbers[0])
    assert failed.state is TrainingState.FAILED and "its log has the details" in failed.message
    assert "secret" not in failed.message and "secret" in caplog.text


def test_a_process_that_does_not_terminate_is_killed_in_time(kept, tmp_path) -> None:
    write_student(tmp_path / "student")
    number = kept.training_jobs.create(ORDER).id
    out = tmp_path / "data" / "trainings" / str(number)

    def command(training: TrainingRow, address: str, out: Path) -> list[str]:
        return [sys.executable, str(PROGRAM), "stubborn", str(tmp_path / "student"), str(out)]

    made = Trainer(kept, out.parent, 1, command)
    made.start("127.0.0.1:1")
    eventually(lambda: (out / "starts").exists())
    began = time.monotonic()
    made.close(1.0)
    assert time.monotonic() - began < 2
    pid = int((out / "starts").read_text().split()[0])
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert kept.training_jobs.get(number).state is not TrainingState.FAILED
