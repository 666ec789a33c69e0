"""The README is true: every block of it is run from top to bottom, with the embedded models."""

import json
import re
import shutil
from pathlib import Path

import av
import pytest
from installed import Run, served
from PIL import Image as PILImage
from snippets import Rewrites, snippets
from students import write_student
from walkthrough import Walkthrough, embed_photo_models, free_port

from secondlook.cli import COMMANDS, run
from secondlook.store import open_store
from secondlook_client import Client

COCO = "coco/annotations/instances_default.json"
README = Path(__file__).parents[2] / "README.md"
BLOCKS = snippets(README)
ONLY_PARSED = {
    "secondlook guarantee ": "twelve images are too few; test_guarantee_story has enough",
    "secondlook review ask": "a person answers; docs/reviews.md is run",
    "secondlook snapshot create street-95": "of a guarantee, see there",
    "secondlook distill ": "trains for minutes; test_student_story trains a smaller student",
    "secondlook serve --ontology classes.yaml --data data/ --student": "a second server on the "
    "same port; test_student_story starts one",
    "secondlook token create": "every other block would need the token; docs/security.md is run",
    "secondlook serve --data data/ --host": "needs a certificate; test_doors has one",
    "secondlook job list --server": "of the service before",
    "secondlook world ": "renders 100 large scenes; test_world_command_writes_what_… does twelve",
}
"""Commands that are not run, by their beginning, and why."""


def test_every_command_is_in_the_readme() -> None:
    shown = {words[1] for block in BLOCKS for words in block.commands() if words[0] == "secondlook"}
    shown |= set(re.findall(r"`secondlook ([\w-]+)", README.read_text(encoding="utf-8")))
    assert shown >= COMMANDS.keys()


@pytest.fixture
def home(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names."""
    embed_photo_models(monkeypatch)
    home = tmp_path / "home"
    images = shutil.copytree(world / "images", home / "photos")
    shutil.copytree(images, home / "archive")
    shutil.copytree(images, home / "frames")
    first = sorted(images.iterdir())[0]
    for name in ("photo.jpg", "photo1.jpg", "photo2.jpg"):
        shutil.copyfile(first, home / name)
    for name in ("truth.json", "annotations.json"):
        shutil.copyfile(world / "truth.json", home / name)
    write_video(home / "street.mp4", sorted(images.iterdir()))
    write_student(home / "student", ("person",), name="street-1")
    return home


def write_video(path: Path, images: list[Path]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_image(PILImage.open(image).resize((320, 240)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.timeout(900)  # some thirty commands and six scripts, one after the other
def test_every_block_runs_as_it_stands(home: Path) -> None:
    port = str(free_port())
    rewrites = Rewrites(
        {
            "IDEA-Research/grounding-dino-tiny": "demo",
            "sam:facebook/sam-vit-base": "demo",
            "ollama:moondream": "demo",
            '"photo"': '"demo"',
            "[car, bus, truck]": "[car]",  # of those the embedded proposer knows one
            "50051": port,
            "9090": str(free_port()),
            "/archive": str(home / "archive"),
            "rtsp://gate-3.local/stream": "street.mp4",
            "/dev/video0": "street.mp4",
            "81.3": "1.0",
        }
    )
    roots = ["--image-roots", str(home / "archive")]
    with Walkthrough(home, rewrites, ONLY_PARSED, serve=roots) as walk:
        failed = walk.run_all(BLOCKS)
    assert not failed, "\n".join(failed)
    assert not rewrites.unused and not walk.stale


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


def test_a_stopped_server_finishes_what_it_accepted(world: Path) -> None:
    image = sorted((world / "images").iterdir())[0]
    with served("--ontology", world / "ontology.yaml") as (address, process):
        with Client(address) as client:
            assert client.label(image).judgements
        process.terminate()
        assert process.wait(60) == 0
