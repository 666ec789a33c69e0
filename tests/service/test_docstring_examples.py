"""The examples in docstrings of the client and the Python API run as they stand."""

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fakes import ScriptedSegmenter, object_and_parts
from frozen import photos, stored
from PIL import Image as PILImage
from serving import serving
from snippets import Rewrites
from students import write_student

import secondlook
import secondlook_client
from secondlook.store import Store, open_store
from secondlook_client import AsyncClient, Client
from secondlook_client.dataset import SnapshotDataset
from secondlook_client.values import SnapshotQuery

ROOT = Path(__file__).parents[2]
PLACES = ("clients/secondlook_client", "service/secondlook/api", "service/secondlook/__init__.py")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
REWRITES = {
    "127.0.0.1:50051": "ADDRESS",
    "labels.lan:50051": "ADDRESS",
    "IDEA-Research/grounding-dino-tiny": "scripted_models:bright_half",
    "sam:facebook/sam-vit-base": "scripted_models:ellipses",
    "cv2.imread": "imread",  # OpenCV is not installed for one function
}
NEEDS = {
    "dataset.": "snapshot",
    "datasets.Datasets": "run",
    "models.Models": "student",
    "reviews.RemoteReviews": "run",
    "segmentation.SegmentationSession": "run",
}
"""What a server has before the example begins."""


SCRIPTED = {
    "PROPOSER": "scripted_models:bright_half",
    "VERIFIER": "scripted_models:agreeable:dog",
}
"""For examples that name no models."""


class Example(NamedTuple):
    """An indented block of a docstring."""

    place: str
    code: str


def examples() -> Iterator[Example]:
    """Every block that is Python, by the name of what it stands in."""
    for place in PLACES:
        path = ROOT / place
        for module in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
                if isinstance(node, DOCUMENTED):
                    for code in blocks(ast.get_docstring(node) or ""):
                        yield Example(f"{module.stem}.{getattr(node, 'name', '')}", code)


def blocks(docstring: str) -> Iterator[str]:
    for part in re.split(r"\n(?=\S)", docstring):
        code = textwrap.dedent("\n".join(part.splitlines()[1:])).strip()
        if code and is_python(code):
            yield code


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def prepare(store: Store, client: Client, tmp_path: Path, needed: str) -> None:
    """What the example needs of the server."""
    if needed in ("run", "snapshot"):
        stored(store, "street", photos(6))
    if needed == "snapshot":
        client.datasets.create("street-1", SnapshotQuery(runs=["street"]))
    if needed == "student":
        write_student(tmp_path / "student", name="street")
        client.models.add(tmp_path / "student")
        client.models.promote("street", 1)


def names(client: Client, tmp_path: Path) -> dict[str, Any]:
    """What stands for the reader's own things."""
    frames = [np.full((48, 64, 3), 30 * shade, np.uint8) for shade in range(4)]
    (tmp_path / "photos").mkdir()
    for number, frame in enumerate(frames):
        PILImage.fromarray(frame).save(tmp_path / "photos" / f"{number}.png")
    PILImage.fromarray(frames[0]).save(tmp_path / "street.jpg")
    return {
        "client": client,
        "camera": lambda: iter(frames),
        "frame": frames[0],
        "imread": lambda path: frames[0],
        "paths": sorted((tmp_path / "photos").iterdir()),
        "show": print,
        "learn": print,
        "running": 0,
        "Path": Path,
        "torch": torch,
        "secondlook": secondlook,
        **{name: getattr(secondlook_client, name) for name in secondlook_client.__all__},
        "SnapshotQuery": SnapshotQuery,
        "SnapshotDataset": SnapshotDataset,
    }


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.place)
def test_an_example_runs(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("PROPOSER", "VERIFIER"):
        monkeypatch.setenv(f"SECONDLOOK_{name}", SCRIPTED[name])
    with (
        open_store(tmp_path / "data") as store,
        serving(store=store, segmenter=ScriptedSegmenter(object_and_parts)) as running,
        Client(running.address) as client,
    ):
        prepare(store, client, tmp_path, NEEDS.get(example.place, ""))
        code = Rewrites({**REWRITES, "ADDRESS": running.address})(example.code)
        scope = names(client, tmp_path)
        if example.place == "label_results.LabelResults":
            scope["labels"] = secondlook.label("photos/", ["dog"])
        if "async " in code:
            asyncio.run(in_a_loop(code, scope, running.address))
        else:
            exec(compile(code, example.place, "exec"), scope)


async def in_a_loop(code: str, scope: dict[str, Any], address: str) -> None:
    async with AsyncClient(address) as client:
        scope["client"] = client
        made = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        coroutine = eval(made, scope)
        assert inspect.iscoroutine(coroutine)
        await coroutine


def test_every_rewrite_is_needed_and_every_module_seen() -> None:
    found = list(examples())
    rewrites = Rewrites(REWRITES)
    for example in found:
        rewrites(example.code)
    assert not rewrites.unused
    assert NEEDS.keys() <= {example.place for example in found}
    assert len(found) >= 15
