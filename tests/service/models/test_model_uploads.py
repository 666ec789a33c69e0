"""Students that are sent to a server, also by strangers."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from secondlook.detector.manifest import manifest_text, read_manifest
from secondlook_client import Client
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.v1 import models_pb2_grpc


def header(folder: Path, **changed: str) -> pb.AddVersionRequest:
    manifest = (folder / "manifest.json").read_text()
    fields = {"name": "street", "manifest_json": manifest, "report_json": "{}"} | changed
    return pb.AddVersionRequest(header=pb.AddVersionHeader(**fields))


def chunks(folder: Path, *names: str) -> list[pb.AddVersionRequest]:
    manifest = read_manifest(folder)
    return [chunk(name, (folder / name).read_bytes()) for name in names or manifest.files]


def chunk(file: str, data: bytes) -> pb.AddVersionRequest:
    return pb.AddVersionRequest(chunk=pb.ModelChunk(file=file, data=data))


@pytest.fixture
def send(client: Client):
    """Sends messages as they are; the version, or the error's words."""

    def go(messages: list[pb.AddVersionRequest]) -> object:
        with grpc.insecure_channel(client.address) as channel:
            stub = models_pb2_grpc.ModelServiceStub(channel)
            try:
                return stub.AddVersion(iter(messages), timeout=30).model.version
            except grpc.RpcError as failed:
                assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT, failed
                return failed.details()

    return go


def test_uploads_that_are_not_as_they_say_are_refused(send, folder, client, kept) -> None:
    manifest = read_manifest(folder)
    onnx = (folder / "model.onnx").read_bytes()
    rest = [name for name in manifest.files if name != "model.onnx"]

    def with_files(**files: object) -> pb.AddVersionRequest:
        plain = manifest_text(manifest).replace('"model.onnx"', '"{}"'.format(*files))
        return header(folder, manifest_json=plain)

    wrong = onnx[:-1] + bytes([onnx[-1] ^ 1])
    cases = [
        ([], "begins with its header"),
        (chunks(folder), "begins with its header"),
        ([header(folder), header(folder)], "header comes once"),
        ([header(folder, name="../x")], "letters, digits"),
        ([header(folder, name="")], "letters, digits"),
        ([header(folder, manifest_json="{")], "no JSON"),
        ([header(folder, manifest_json="[" * 10_000)], "no JSON"),
        ([header(folder, report_json="[1]")], "no JSON object"),
        ([header(folder, report_json="nan")], "no JSON"),
        ([header(folder, manifest_json="x" * (2**20 + 1))], "at most 1,048,576 characters"),
        ([with_files(**{"../model.onnx": 1})], "plain name"),
        ([with_files(**{"manifest.json": 1})], "model.onnx|manifest.json"),
        ([header(folder), *chunks(folder)[:-1]], "is incomplete: 0 of"),
        ([header(folder), chunk("model.onnx", onnx[:-1])], "model.onnx is incomplete"),
        ([header(folder), chunk("model.onnx", onnx + b"x")], "longer than"),
        ([header(folder), chunk("model.onnx", wrong)], "differs from the manifest.s"),
        ([header(folder), chunk("../../etc/x", b"x")], "names no file '../../etc/x'"),
        ([header(folder), chunk("manifest.json", b"x")], "names no file 'manifest.json'"),
        ([header(folder), *chunks(folder, "model.onnx") * 2], "after its end"),
        (
            [header(folder), chunk("model.onnx", onnx[:5]), chunk("report.json", b"{")],
            "before the end of model.onnx",
        ),
        ([header(folder), chunk("model.onnx", bytes(2**20 + 1))], "at most 1,048,576"),
    ]
    for messages, words in cases:
        said = send(messages)
        assert isinstance(said, str) and re.search(words, said), (words, said)
    assert list(client.models.list()) == []
    halves = [chunk("model.onnx", onnx[:100]), chunk("model.onnx", onnx[100:])]
    assert send([header(folder), *halves, *chunks(folder, *rest)]) == 1


def test_a_student_that_is_too_large_is_refused_before_it_is_sent(send, folder) -> None:
    manifest = read_manifest(folder)
    for size, count in ((129 * 2**20, 1), (128 * 2**20, 9)):
        files = dict(manifest.files) | {f"{n}.bin": manifest.files["model.onnx"] for n in range(9)}
        for name in sorted(files)[:count]:
            files[name] = replace(files[name], size=size)
        plain = manifest_text(replace(manifest, files=files))
        said = send([header(folder, manifest_json=plain)])
        assert "may have 1,073,741,824 bytes, and each file 134,217,728" in said


def test_a_silent_sender_and_a_third_one_are_sent_away(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.server.models.UPLOAD_TIMEOUT_S", 1.0)
    gate = threading.Event()

    def endless() -> Iterator[pb.AddVersionRequest]:
        yield header(folder)
        gate.wait(30)

    with grpc.insecure_channel(client.address) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        silent = [stub.AddVersion.future(endless()) for _ in range(2)]
        time.sleep(0.3)
        with pytest.raises(grpc.RpcError) as busy:
            stub.AddVersion(iter([header(folder)]), timeout=10)
        assert busy.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in silent:
            assert call.exception(timeout=20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()
    assert client.models.add(folder).version == 1


def test_a_folder_that_is_not_as_its_manifest_says_is_not_sent(client, folder, tmp_path) -> None:
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"model\.onnx is missing or not the one"):
        client.models.add(folder)
    (folder / "manifest.json").write_text('{"name": 3, "files": {"../x": {}}}')
    with pytest.raises(InvalidInput, match="no manifest of a student"):
        client.models.add(folder)
    with pytest.raises(NotFound, match="secondlook distill"):
        client.models.add(tmp_path / "nowhere")
