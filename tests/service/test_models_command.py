"""``secondlook models`` as a person types it, with a service and with a store alone."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from registered import freeze_quarters, student_of_snapshot
from serving import server_settings, serving
from students import write_student

from secondlook.cli import run
from secondlook.detector.manifest import DEFAULT_SIZE, read_manifest, verify_files
from secondlook.jobs import training as trainer
from secondlook.store import open_store
from secondlook.store.training_jobs import TrainingSpec
from secondlook.training.settings import TrainingSettings
from secondlook_client import Client
from secondlook_client.errors import InvalidInput, NotFound

PROGRAM = Path(__file__).parents[1] / "support" / "training_program.py"


@pytest.fixture(params=["--data", "--server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Arguments that name a store with the snapshot ``s``, whose students lie beside it."""
    with open_store(tmp_path / "data") as store:
        snapshot = freeze_quarters(store, "s")
        student_of_snapshot(tmp_path / "first", snapshot)
        student_of_snapshot(tmp_path / "second", snapshot, seed=1)
        student_of_snapshot(tmp_path / "blind", snapshot, seed=2, classes=("person",))
        if request.param == "--server":
            with serving(store=store) as running:
                yield ["--server", running.address]
            return
    yield ["--data", str(tmp_path / "data")]


def told(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capfd.readouterr()
    return " ".join(out.split()), " ".join(err.split())


def test_a_model_from_its_first_version_to_a_roll_back(place, tmp_path, capfd) -> None:
    def models(*arguments: str) -> int:
        return run(["models", *arguments, *place])

    assert models("list") == 0
    assert "there is no model;" in told(capfd)[0]
    assert models("add", str(tmp_path / "first")) == 0
    assert "version 1 of 'street'; `secondlook models promote street 1`" in told(capfd)[0]
    assert models("show", "street") == 1
    assert "no version of 'street' is promoted yet" in told(capfd)[1]
    assert models("promote", "street", "1") == 0
    assert "version 1 of 'street' is current: the first one" in told(capfd)[0]
    assert models("add", str(tmp_path / "second"), "--name", "street") == 0
    assert models("add", str(tmp_path / "blind")) == 0
    capfd.readouterr()
    assert models("promote", "street", "3") == 1
    assert "is worse: mAP50 0.500 against 1.000 of version 1" in told(capfd)[1]
    assert models("promote", "street", "2") == 0
    assert "mAP50 1.000 against 1.000" in told(capfd)[0]
    assert models("promote", "street", "3", "--force") == 0
    assert models("rollback", "street") == 0
    assert "version 2 of 'street' is current: rolled back from version 3" in told(capfd)[0]
    assert models("list", "street") == 0
    out, _ = told(capfd)
    assert "current" in out and "deimv2 pico" in out and "0.800" in out
    assert models("list", "--json") == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["version"], line["current"]) for line in lines] == [
        (3, False), (2, True), (1, False),
    ]  # fmt: skip
    assert models("show", "street", "1") == 0
    out, _ = told(capfd)
    assert "person, dog" in out and "64×64 pixels" in out and "model.onnx" in out
    assert models("show", "street", "--json") == 0
    assert json.loads(capfd.readouterr().out)["report"] == {"map": 0.5, "map50": 0.8}
    out_folder = tmp_path / "out"
    assert models("download", "street", "--out", str(out_folder)) == 0
    assert "has version 2 of 'street'" in told(capfd)[0]
    verify_files(out_folder, read_manifest(out_folder))
    assert models("download", "street", "1", "--out", str(out_folder)) == 1
    assert "holds something other than this version" in told(capfd)[1]


def test_what_is_wrong_is_told_in_one_line(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.delenv("SECONDLOOK_DATA", raising=False)
    for arguments, words in (
        (["list"], "--data DIR"),
        (["list", "--data", str(tmp_path / "nowhere")], "there is no store in"),
        (["list", "--server", "host"], "expected HOST:PORT, got 'host'"),
        (["promote", "street", "0", "--data", "x"], "x>=1"),
    ):
        assert run(["models", *arguments]) == 2
        out, err = told(capfd)
        assert words in err and "Traceback" not in err and not out


@pytest.fixture
def training_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that trains with a program of the tests."""
    write_student(tmp_path / "student")
    monkeypatch.setattr(trainer, "POLL_S", 0.05)
    monkeypatch.setattr("secondlook.server.models.POLL_S", 0.05)

    def command(training, address: str, out: Path) -> list[str]:
        with Client(address) as back:  # what a training does first
            assert back.datasets.get(training.spec.snapshot).classes
        size = {"pico": "trains", "nano": "waits", "small": "fails"}[training.spec.size]
        return [sys.executable, str(PROGRAM), size, str(tmp_path / "student"), str(out)]

    monkeypatch.setattr(trainer, "distill_command", command)
    options = server_settings(data=str(tmp_path / "data"), host="0.0.0.0", insecure=True)
    with open_store(tmp_path / "data") as store:
        freeze_quarters(store, "s")
        with serving(store=store, options=options) as running:
            yield running.address.replace("0.0.0.0", "127.0.0.1")


def test_the_service_trains(training_server: str, capfd) -> None:
    at = ["--server", training_server]
    assert run(["models", "trainings", *at]) == 0
    assert "there is no training;" in told(capfd)[0]
    assert run(["models", "train", "street", "s", "--size", "pico", "--watch", *at]) == 0
    out, err = told(capfd)
    assert "training 1: done, version 1 of 'street'" in out and "mAP50 0.500" in err
    assert run(["models", "train", "street", "s", "--size", "small", "--watch", *at]) == 1
    assert "training 2: failed: its folder is full; make room" in told(capfd)[0]
    assert run(["models", "train", "street", "s", "--size", "nano", *at]) == 0
    assert "`secondlook models watch 3` shows it" in told(capfd)[0]
    with Client(training_server) as client:
        ends = time.monotonic() + 30
        while client.models.training(3).step < 3:
            assert time.monotonic() < ends
            time.sleep(0.02)
    assert run(["models", "cancel", "3", *at]) == 0
    assert "training 3: cancelled" in told(capfd)[0]
    assert run(["models", "watch", "3", *at]) == 1
    capfd.readouterr()
    assert run(["models", "trainings", *at]) == 0
    out, _ = told(capfd)
    assert "version 1" in out and "its folder is full" in out and "3 of 3" in out


def test_the_size_is_that_of_the_embedded_start_unless_another_is_asked_for(
    training_server: str,
) -> None:
    assert run(["models", "train", "street", "s", "--watch", "--server", training_server]) == 0
    with Client(training_server) as client:
        assert client.models.training(1).size == DEFAULT_SIZE
        assert client.models.train("street", "s").size == DEFAULT_SIZE
        assert [training.state for training in client.models.watch(2)][-1] == "done"
    assert TrainingSpec("street", "s").size == TrainingSettings().size == DEFAULT_SIZE


def test_an_order_that_makes_no_sense_is_refused(training_server: str) -> None:
    with Client(training_server) as client:
        for wrong, words in (
            ({"size": "huge"}, "expected a size of pico, nano, small, got 'huge'"),
            ({"split": "test"}, "no image in a split 'test', only in train, val"),
            ({"steps": 10**7}, "steps: expected at most 1,000,000"),
            ({"model": "../x"}, "letters, digits"),
            ({"seed": -1}, "from 0, got -1"),
        ):
            with pytest.raises(InvalidInput, match=words):
                client.models.train(**{"model": "street", "snapshot": "s"} | wrong)
        with pytest.raises(NotFound, match="no snapshot 'nothing'"):
            client.models.train("street", "nothing")
        assert list(client.models.trainings()) == []
