"""Every task that the README shows, run as it is shown, with the embedded models."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from installed import Run, served

from secondlook.cli import COMMANDS, group, run
from secondlook.store import open_store
from secondlook_client import Client

COCO = "coco/annotations/instances_default.json"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Each ``secondlook …`` line in a code block, as words."""
    blocks = README.split("```")[1::2]
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.startswith("secondlook ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_is_in_the_readme() -> None:
    shown = {words[1] for words in commands()} | set(re.findall(r"`secondlook (\w+)", README))
    assert shown >= COMMANDS.keys()


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_shown_command_lines_are_accepted(words: list[str]) -> None:
    """Options that do not exist, or values that are refused, end here; nothing is run."""
    words = [word for word in words if word != "…"]
    command = group.get_command(click.Context(group), words[1])
    assert command is not None
    command.make_context(words[1], [w.replace("…", "demo") for w in words[2:]])


def test_label_a_folder_in_one_line(
    secondlook: Run,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "person wearing glasses = person ? Is this person wearing glasses?"
    arguments = ("label", world / "images", "-c", line, "--models", "demo", "--out", "labels")
    secondlook(*arguments, "--format", "coco,yolo,voc", cwd=tmp_path)
    labels = json.loads((tmp_path / "labels" / COCO).read_text())
    assert len(labels["images"]) == 12
    assert {c["name"] for c in labels["categories"]} == {"person wearing glasses"}
    assert labels["annotations"]
    assert (tmp_path / "labels" / "failed.jsonl").read_text() == ""
    before = cursors(tmp_path / "labels")
    monkeypatch.chdir(tmp_path)  # again in this process: it has loaded what a model needs
    assert run([*map(str, arguments), "--format", "coco,yolo,voc"]) == 0
    assert "12 images" in capsys.readouterr().out
    assert len(before) == 12
    assert cursors(tmp_path / "labels") == before, "a second run must not label anything again"


def cursors(labels: Path) -> list[int]:
    """Of every result that a run keeps."""
    with open_store(labels / ".store") as store:
        (job,) = store.queue.list_jobs()
        return [result.cursor for result in store.results.page(job.run_id)]


def test_try_and_evaluate(secondlook: Run, world: Path, server: str, tmp_path: Path) -> None:
    images = sorted((world / "images").iterdir())[:2]
    tried = secondlook(
        "try", *images, "-c", "dog", "-c", "person", "--server", server, cwd=tmp_path
    )
    assert "Is this a person?" in tried.stdout
    assert (tmp_path / "try.html").exists()
    with_file = ("--ontology", world / "ontology.yaml", "--server", server, "--out", "labels")
    secondlook("label", world / "images", *with_file, cwd=tmp_path)
    judged = secondlook("evaluate", "labels", world / "truth.json", "--json", cwd=tmp_path)
    figures = json.loads(judged.stdout)
    assert figures["precision"] > 0.8


def test_world_command_writes_what_the_generator_does(
    secondlook: Run, world: Path, tmp_path: Path
) -> None:
    secondlook("world", "--seed", 4242, "--count", 12, "--size", 320, "--out", "w", cwd=tmp_path)
    for path in sorted(world.rglob("*")):
        if path.is_file():
            assert (tmp_path / "w" / path.relative_to(world)).read_bytes() == path.read_bytes()


def test_client_snippet(server: str, world: Path) -> None:
    image = sorted((world / "images").iterdir())[0]
    with Client(server) as client:
        result = client.label(image, classes=["person", "tree"])
    assert result.judgements
    assert all(0 <= label.score <= 1 and label.p_yes is not None for label in result.labels)


def test_stream_answers_every_frame_once(server: str, world: Path) -> None:
    frames = [path.read_bytes() for path in sorted((world / "images").iterdir())]
    with Client(server) as client, client.stream(classes=["person"]) as stream:
        sent = [stream.send(frame) for frame in frames]
        stream.finish()
        answered = sorted(found.sequence for found in stream)
    assert answered == sent


def test_a_stopped_server_finishes_what_it_accepted(world: Path) -> None:
    image = sorted((world / "images").iterdir())[0]
    with served("--ontology", world / "ontology.yaml") as (address, process):
        with Client(address) as client:
            assert client.label(image).judgements
        process.terminate()
        assert process.wait(60) == 0
