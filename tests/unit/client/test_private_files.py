"""What a server or a file says never becomes a path outside of the folder that is meant."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secondlook_client import wire
from secondlook_client.dataset import SnapshotDataset
from secondlook_client.dataset_cache import ImageCache, Index
from secondlook_client.errors import Damaged, InvalidInput, SecondlookError
from secondlook_client.model_folder import PartFolder, SentFolder
from secondlook_client.private_files import is_plain_name, is_sha256, make_private_folder
from secondlook_client.v1 import datasets_pb2 as pb
from secondlook_client.v1 import datasets_pb2_grpc, models_pb2

parts = [
    "..",
    "/",
    "a",
    "\0",
    "\\",
    ".",
    "~",
    "x/y",
    "\n",
    "é",
    "A",
    "0" * 64,
    "ab" * 32,
    "C:",
    " ",
]
texts = st.lists(st.sampled_from(parts), max_size=6).map("".join) | st.text(max_size=70)


@given(text=texts)
@example("ab" * 32 + "\n")
@example("../" + "a" * 61)
def test_no_text_is_a_place_outside_of_the_cache(text: str) -> None:
    cache = ImageCache(Path("/nowhere/cache"))
    try:
        path = cache._path(text)
    except Damaged:
        assert not is_sha256(text)
    else:
        assert path == Path(f"/nowhere/cache/images/{text[:2]}/{text}") and len(text) == 64


@given(text=texts)
@example("a\n")
def test_a_plain_name_is_one_part_of_a_path(text: str) -> None:
    if is_plain_name(text):
        assert Path(text).parts == (text,) and not text.startswith(".") and text.isascii()


@given(name=texts, sha256=texts)
def test_a_model_s_files_have_plain_names(name: str, sha256: str) -> None:
    manifest = json.dumps({"files": {name: {"sha256": sha256, "size": 1}}})
    message = models_pb2.ModelVersion(
        name="m",
        version=1,
        digest=hashlib.sha256(manifest.encode()).hexdigest(),
        manifest_json=manifest,
        files={name: models_pb2.ModelFile(sha256=sha256, size=1)},
    )
    try:
        wire.model_version(message)
    except Damaged:
        return
    assert is_plain_name(name) and is_sha256(sha256)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "..", "a/b", ".hidden", ""])
def test_a_student_folder_names_files_of_its_own_only(tmp_path: Path, name: str) -> None:
    entry = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    (tmp_path / "model.onnx").write_bytes(b"x")
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"name": "s", "files": {name: entry}}))
    with pytest.raises(InvalidInput, match="no manifest of a student"):
        SentFolder(folder, "")


class Stranger(datasets_pb2_grpc.DatasetServiceServicer):
    """A server that says what it is told to."""

    def __init__(self, snapshot: pb.Snapshot, *images: pb.SnapshotImage) -> None:
        self.snapshot, self.images = snapshot, images

    def GetSnapshot(self, request: Any, context: Any) -> pb.GetSnapshotResponse:  # noqa: N802
        return pb.GetSnapshotResponse(snapshot=self.snapshot)

    def Pull(self, request: Any, context: Any) -> Iterator[pb.PullResponse]:  # noqa: N802
        yield pb.PullResponse(images=self.images)

    def FetchImages(self, request: Any, context: Any) -> Iterator[pb.FetchImagesResponse]:  # noqa: N802
        for sha256 in request.sha256:
            yield pb.FetchImagesResponse(sha256=sha256, content=b"evil")


EVIL = hashlib.sha256(b"evil").hexdigest()
BOX = pb.SnapshotBox(class_index=7)


@pytest.mark.parametrize(
    ("manifest", "statistics", "image", "said"),
    [
        ("{outside}", "{{}}", {"sha256": EVIL}, "where a SHA-256 belongs"),
        ("../../../outside", "{{}}", {"sha256": EVIL}, "where a SHA-256 belongs"),
        ("", "{{}}", {"sha256": EVIL}, "where a SHA-256 belongs"),
        ("a" * 64, "[", {"sha256": EVIL}, "no JSON object"),
        ("a" * 64, "[" * 100_000, {"sha256": EVIL}, "no JSON object"),
        ("a" * 64, "{{}}", {"sha256": "{outside}"}, "where a SHA-256 belongs"),
        ("a" * 64, "{{}}", {"sha256": "../../outside"}, "where a SHA-256 belongs"),
        ("a" * 64, "{{}}", {"sha256": "b" * 64}, "other bytes"),
        ("a" * 64, "{{}}", {"sha256": EVIL, "boxes": [BOX]}, "class"),
    ],
)
def test_a_stranger_s_snapshot_writes_nothing_outside_of_the_cache(
    tmp_path: Path, manifest: str, statistics: str, image: dict[str, Any], said: str
) -> None:
    outside = str(tmp_path / "outside")
    image = {**image, "sha256": image["sha256"].format(outside=outside), "cursor": "1"}
    servicer = Stranger(
        pb.Snapshot(
            name="s",
            manifest=manifest.format(outside=outside),
            statistics_json=statistics.format(),
            classes=["a"],
            splits={"train": 1},
        ),
        pb.SnapshotImage(name="../../x", split="train", **image),
    )
    server = grpc.server(ThreadPoolExecutor(2))
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    cache = tmp_path / "a" / "cache"
    try:
        with pytest.raises(SecondlookError, match=said):
            list(SnapshotDataset(f"127.0.0.1:{port}", "s", split="train", cache=cache))
    finally:
        server.stop(0)
    found = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "a")]
    assert not found
    assert {path.parent.name for path in tmp_path.rglob("images/*/*")} <= {EVIL[:2]}


def test_a_cache_and_a_download_are_for_their_user_only(tmp_path: Path) -> None:
    manifest = json.dumps({"files": {"m": {"sha256": EVIL, "size": 4}}})
    model = wire.model_version(
        models_pb2.ModelVersion(
            name="m",
            version=1,
            digest=hashlib.sha256(manifest.encode()).hexdigest(),
            manifest_json=manifest,
            files={"m": models_pb2.ModelFile(sha256=EVIL, size=4)},
        )
    )
    before = os.umask(0)
    try:
        ImageCache(tmp_path / "cache").put(EVIL, b"evil")
        Index.open(tmp_path / "cache" / "snapshots" / "x", 1, lambda: [pb.SnapshotImage(name="a")])
        with PartFolder.opened(tmp_path / "models" / "3", model) as part:
            part.add("m", b"evil")
            part.finish(tmp_path / "models" / "3", ["m"])
    finally:
        os.umask(before)
    paths = [*tmp_path.rglob("*")]
    assert len(paths) == 11
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_exists_keeps_its_rights(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    make_private_folder(tmp_path / "shared" / "mine")
    make_private_folder(tmp_path / "shared")
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "shared" / "mine").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|directory"):
        make_private_folder(tmp_path / "file" / "x")
