"""``secondlook review``: a queue is started, asked, taken back, exported and read elsewhere."""

import hashlib
import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from frozen import DOG_BOX, photos, stored
from label_command import START, environment
from PIL import Image as PILImage
from serving import serving

from secondlook.cli import run
from secondlook.store import open_store

IMAGES = photos(6)
Command = Callable[..., int]


@contextmanager
def place(kind: str, tmp_path: Path) -> Iterator[list[str]]:
    """A run `street` of six images, and the words that say where it is."""
    data = tmp_path / "labels" / ".store" if kind == "folder" else tmp_path / "data"
    with open_store(data) as store:
        stored(store, "street", IMAGES)
        if kind == "server":
            with serving(store=store) as running:
                yield ["--server", running.address]
            return
    if kind == "folder":
        (tmp_path / "labels" / "run.json").write_text(json.dumps({"job": "street"}))
    yield [str(tmp_path / "labels")] if kind == "folder" else ["--data", str(data)]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What a person types; each letter is a line."""

    def put(keys: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(keys) + "\n"))

    return put


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A run in a store, and a queue of the six dogs in it."""
    monkeypatch.chdir(tmp_path)
    with place("data", tmp_path) as words:
        assert run(["review", "start", "street", "-c", "dog", *words]) == 0
        yield words


def reviews(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    capsys.readouterr()
    assert run(["review", "list", "--json", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("kind", ["folder", "data", "server"])
def test_from_the_run_to_the_last_answer(kind, tmp_path, monkeypatch, capsys, typed) -> None:
    monkeypatch.chdir(tmp_path)
    with place(kind, tmp_path) as words:
        start = ["labels"] if kind == "folder" else ["street", *words]
        ask = ["labels"] if kind == "folder" else ["street", *words]
        assert run(["review", "start", *start, "-c", "dog"]) == 0
        told = capsys.readouterr().out
        assert "0 of 6 boxes answered" in told
        assert f"answer them: secondlook review ask {' '.join(ask)}\n" in told
        typed("yn")
        assert run(["review", "ask", *ask, "--person", "ada"]) == 0
        told = capsys.readouterr().out
        assert "1 of 6" in told and "Does the box mark: dog?" in told
        assert "accepted, probability 0.950" in told
        assert "proposer 0.800, verifier P(yes) 0.950 to “Dog?”" in told
        assert "1 answer: 1 right; 1 of 6 boxes answered" in told
        assert "go on: secondlook review ask" in told
        assert PILImage.open("review.png").format == "PNG"
        typed("yuyyy")
        assert run(["review", "ask", *ask, "--person", "bob"]) == 0
        told = capsys.readouterr().out
        assert "6 of 6 boxes answered" in told and "go on" not in told
        assert [(r["person"], r["answer"]) for r in reviews(capsys, *words)] == [
            ("ada", "right"),
            *(("bob", answer) for answer in ("right", "unsure", "right", "right", "right")),
        ]


def test_wrong_asks_why_and_back_takes_the_last_answer_back(where, capsys, typed) -> None:
    typed("nontncndndbuq")  # in `nc` the next line is the class, which the run does not have
    assert run(["review", "ask", "street", *where, "--person", "ada"]) == 0
    told = capsys.readouterr().out
    assert "the run does not label 'n', only dog, cat" in told
    assert "took back: 'dog' was wrong" in told
    found = reviews(capsys, *where)
    assert [(r["answer"], r["reason"], r["undoes"] is None) for r in found] == [
        ("wrong", "outline", True),
        ("wrong", "nothing_there", True),
        ("wrong", "duplicate", True),
        ("wrong", "duplicate", False),
        ("unsure", None, True),
    ]
    assert run(["review", "status", *where]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:6] == [
        *("street", "street", "random", "6", "3", "0")
    ]


def test_another_class_is_said_and_nothing_is_taken_back_of_others(where, capsys, typed) -> None:
    typed("b")
    assert run(["review", "ask", "street", *where, "--person", "ada"]) == 0
    assert "nothing to take back in this session" in capsys.readouterr().out
    sys.stdin = io.StringIO("n\nc\ncat\n?\nx\n")
    assert run(["review", "ask", "street", *where, "--person", "ada", "--blind"]) == 0
    told = capsys.readouterr().out
    assert "unsure: you cannot tell" in told and "P(yes)" not in told
    (review,) = reviews(capsys, *where)
    assert (review["reason"], review["new_class"]) == ("class", "cat")


def test_an_image_that_is_gone_and_a_strange_name_do_not_end_the_loop(
    tmp_path, monkeypatch, capsys, typed
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a\nb\x1b[2J.jpg", "gone.jpg"]
    with open_store(tmp_path / "data") as store:
        contents = dict(zip(names, photos(2).values(), strict=True))
        stored(store, "street", contents)
        gone = hashlib.sha256(contents["gone.jpg"]).hexdigest()
    (blob,) = [path for path in (tmp_path / "data" / "blobs").rglob("*") if gone in path.name]
    blob.unlink()
    assert run(["review", "start", "street", "-c", "dog", "--data", "data"]) == 0
    typed("yu")
    assert run(["review", "ask", "street", "--data", "data", "--person", "ada"]) == 0
    told = capsys.readouterr().out
    assert "2 of 2 boxes answered" in told and "there is no picture of it: " in told
    assert "\x1b" not in told and "a\\nb" in told
    assert Path("review.png").exists()


def truth(path: Path, right: int) -> Path:
    """A COCO file in which the first ``right`` images have the dog, and the others nothing."""
    x1, y1, x2, y2 = DOG_BOX
    names = sorted(IMAGES)
    coco = {
        "images": [
            {"id": n, "file_name": name, "width": 72, "height": 64} for n, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for n in range(right)
        ],
    }
    path.write_text(json.dumps(coco))
    return path


@pytest.mark.parametrize("kind", ["data", "server"])
def test_a_truth_file_answers_all(kind, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    file = truth(tmp_path / "truth.json", right=4)
    with place(kind, tmp_path) as words:
        assert run(["review", "start", "street", *words]) == 0
        assert run(["review", "ask", "street", *words, "--oracle", str(file)]) == 0
        told = capsys.readouterr().out
        assert "12 answers: 4 right, 8 wrong; 12 of 12 boxes answered" in told
        found = reviews(capsys, *words)
        assert {r["person"] for r in found} == {"oracle truth.json"}
        right = {r["image"] for r in found if r["answer"] == "right"}
        assert {r["class_name"] for r in found if r["answer"] == "right"} == {"dog"}
        assert len(right) == 4


def test_a_truth_file_of_other_images_is_refused_and_nothing_stays_leased(
    where, tmp_path, capsys
) -> None:
    file = tmp_path / "truth.json"
    truth(file, 1)
    file.write_text(file.read_text().replace("f0/00", "other"))
    assert run(["review", "ask", "street", *where, "--oracle", str(file)]) == 2
    assert "has no image" in capsys.readouterr().err
    assert run(["review", "status", "--json", *where]) == 0
    standing = json.loads(capsys.readouterr().out)
    assert (standing["leased"], standing["answered"]) == (0, 0)


def test_reviews_travel_in_a_file_and_are_kept_once(where, tmp_path, capsys, typed) -> None:
    typed("ntyyq")
    assert run(["review", "ask", "street", *where, "--person", "ada"]) == 0
    capsys.readouterr()
    (first, *_) = reviews(capsys, *where)
    assert run(["review", "undo", str(first["id"]), *where, "--person", "bob"]) == 0
    assert "took back review 1, which said that 'dog' is wrong" in capsys.readouterr().out
    assert run(["review", "export", "reviews.jsonl", *where]) == 0
    assert run(["review", "export", "reviews.json", *where]) == 0
    assert run(["review", "export", "reviews.txt", *where]) == 2
    assert len(json.loads(Path("reviews.json").read_text())["annotations"]) == 2
    history = reviews(capsys, *where)
    (tmp_path / "copy").mkdir()
    for kind in ("data", "server"):
        with place(kind, tmp_path / "copy") as words:
            for new in (4, 0):
                assert run(["review", "import", "reviews.jsonl", *words]) == 0
                assert f"{new} new reviews" in capsys.readouterr().out
            kept = reviews(capsys, *words)
            for said, again in zip(
                history, sorted(kept, key=lambda r: r["created_at"]), strict=True
            ):
                for name in ("image", "answer", "person", "created_at", "box"):
                    assert said[name] == again[name]
                assert (said["undoes"] is None) == (again["undoes"] is None)
        shutil.rmtree(tmp_path / "copy" / "data")


def test_a_coco_file_of_true_boxes_is_read(where, tmp_path, capsys) -> None:
    file = truth(tmp_path / "truth.json", right=4)
    assert run(["review", "import", str(file), *where]) == 2
    assert "--run" in capsys.readouterr().err
    assert run(["review", "import", str(file), *where, "--run", "street"]) == 0
    answers = [r["answer"] for r in reviews(capsys, *where)]
    assert answers.count("right") == 4 and answers.count("wrong") == 2
    assert run(["review", "import", str(file), "--server", "localhost:1"]) == 2
    assert "read where the store is" in capsys.readouterr().err


def test_a_finished_run_in_a_folder_is_written_again_after_an_answer(
    tmp_path, monkeypatch, typed
) -> None:
    monkeypatch.chdir(tmp_path)
    with place("folder", tmp_path):
        assert run(["review", "start", "labels", "-c", "dog"]) == 0
        record = tmp_path / "labels" / ".finished.json"
        record.touch()
        assert run(["review", "status", "labels"]) == 0 and record.exists()
        typed("y")
        assert run(["review", "ask", "labels", "--person", "ada"]) == 0
        assert not record.exists()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["ask", "street"], "say where the labels are"),
        (["ask", "nothing", "--data", "data"], "no review queue 'nothing'; see `secondlook review"),
        (["start", "nothing", "--data", "data"], "nothing"),
        (["start", "street", "--count", "2", "--data", "data"], "with other choices"),
        (["start", "absent"], "has no store of its own"),
        (["undo", "77", "--data", "data"], "no review 77"),
        (["remove", "x", "--data", "data"], "no review queue 'x'"),
        (["status", "labels", "--data", "data"], "only one of FOLDER, --data and --server"),
        (["list", "--run", "nothing", "--data", "data"], "nothing"),
    ],
)
def test_wrong_usage_is_told_in_a_line(where, words, cause, capsys) -> None:
    assert run(["review", *words]) == 2
    told = capsys.readouterr().err
    assert cause in told and "Traceback" not in told


def test_removing_a_queue_keeps_its_answers(where, capsys, typed) -> None:
    typed("y")
    assert run(["review", "ask", "street", *where, "--person", "ada"]) == 0
    assert run(["review", "remove", "street", *where]) == 0
    assert len(reviews(capsys, *where)) == 1


class Terminal:
    """``secondlook review ask`` on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.near, far = pty.openpty()
        self.process = subprocess.Popen(
            [*START, "review", "ask", *words], stdin=far, stdout=far, env=environment()
        )
        os.close(far)
        self.told = ""

    def wait_for(self, words: str, timeout_s: float = 60.0) -> None:
        """Until it has said that, since it was asked last."""
        ends, begin = time.monotonic() + timeout_s, len(self.told)
        while words not in self.told[begin:]:
            assert time.monotonic() < ends, self.told
            if select.select([self.near], [], [], 0.2)[0]:
                self.told += os.read(self.near, 4096).decode()

    def press(self, keys: str) -> None:
        """As soon as it listens for a single key."""
        while termios.tcgetattr(self.near)[3] & termios.ICANON:
            time.sleep(0.01)
        os.write(self.near, keys.encode())


def test_keys_of_a_terminal_and_ctrl_c(where, capsys) -> None:
    terminal = Terminal("street", *where, "--person", "ada")
    terminal.wait_for("help > ")
    terminal.press("yyy")  # in one moment: one answer
    terminal.wait_for("help > ")
    terminal.press("\x1b[D")  # an arrow is no answer
    time.sleep(0.5)
    terminal.press("n")
    terminal.wait_for("back > ")
    terminal.press("\r")
    terminal.wait_for("help > ")
    terminal.press("\x03")
    terminal.wait_for("go on: ")
    assert terminal.process.wait(30) == 130
    assert "2 answers: 1 right, 1 wrong; 2 of 6 boxes answered\r\n" in terminal.told
    assert "Traceback" not in terminal.told
    found = reviews(capsys, *where)
    assert [(r["answer"], r["reason"]) for r in found] == [("right", None), ("wrong", None)]
    run(["review", "status", "--json", *where])
    assert json.loads(capsys.readouterr().out)["leased"] == 0, "given back"
