import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from students import truncate, write_student

from secondlook.detector.manifest import (
    MAX_TEXT,
    StudentManifest,
    manifest_text,
    parse_manifest,
    read_manifest,
    read_verified,
    verify_files,
    write_manifest,
)
from secondlook_client.errors import Damaged, InvalidInput, NotFound


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> StudentManifest:
    return write_student(tmp_path_factory.mktemp("sound"))


def changed(manifest: StudentManifest, **fields: Any) -> str:
    """The manifest's text with fields replaced by any JSON; None removes one."""
    plain = json.loads(manifest_text(manifest)) | fields
    return json.dumps({name: value for name, value in plain.items() if value is not None})


def test_what_is_written_is_read_and_its_hash_is_the_digest(tmp_path: Path) -> None:
    manifest = write_student(tmp_path, metrics={"map": 1, "map50": 0.1}, ontology="ä:\n  b\n")
    assert read_manifest(tmp_path) == manifest
    text = (tmp_path / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == manifest.digest
    assert read_manifest(tmp_path).digest == manifest.digest, "1 and 1.0 are the same figure"


def test_a_manifest_without_groups_is_as_before_there_were_any(tmp_path: Path) -> None:
    plain = write_student(tmp_path)
    assert "groups" not in json.loads((tmp_path / "manifest.json").read_text())
    grouped = replace(
        plain, groups=("eyewear", "eyewear"), group_calibration=((1.0, 0.0), (2.0, -1.0))
    )
    write_manifest(tmp_path, grouped)
    assert read_manifest(tmp_path) == grouped
    assert grouped.digest != plain.digest


def test_seeds_give_other_digests(tmp_path: Path) -> None:
    digests = {write_student(tmp_path / str(seed), seed=seed).digest for seed in range(3)}
    assert len(digests) == 3


def test_a_folder_that_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"manifest\.json"):
        read_manifest(tmp_path)
    with pytest.raises(NotFound):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(NotFound):
        read_manifest(tmp_path)


def test_a_pipe_in_place_of_the_manifest_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(NotFound):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", 7),
        ("name", "two\nlines"),
        ("name", "\u001b[31m"),
        ("name", "x" * 201),
        ("name", "\ud800"),
        ("ontology", "\ud800"),
        ("architecture", "../x"),
        ("classes", []),
        ("classes", ["a", "a"]),
        ("classes", ["a", 1]),
        ("classes", [" ", "b"]),
        ("classes", "ab"),
        ("classes", ["a"] * 3000),
        ("input_size", [64]),
        ("input_size", [64, True]),
        ("input_size", [64, 64.0]),
        ("input_size", [64, 10**9]),
        ("input_size", [64, 0]),
        ("thresholds", [0.5]),
        ("thresholds", [0.5, 1.5]),
        ("thresholds", [0.5, "0.5"]),
        ("thresholds", [0.5, True]),
        ("calibration", [[1, 0]]),
        ("calibration", [[1, 0], [1]]),
        ("calibration", [[1, 0], 1]),
        ("calibration", [[1, 0], [1, 1e300]]),
        ("metrics", {"map": None}),
        ("metrics", {"map": True}),
        ("metrics", [1]),
        ("metrics", {"": 1}),
        ("metrics", {"map": 10**400}),
        ("created_at", -1),
        ("created_at", "now"),
        ("format", 2),
        ("format", 1.0),
        ("snapshot", None),
        ("extra", 1),
        ("groups", ["a", "a"]),
        ("group_calibration", [[1.0, 0.0], [1.0, 0.0]]),
        ("groups", []),
        ("groups", ["a"]),
        ("groups", ["", ""]),
        ("groups", ["a", "a", "a"]),
        ("groups", ["a", "a\nb"]),
        ("groups", ["a", 1]),
        ("files", {}),
        ("files", []),
    ],
)
def test_each_field_is_checked(sound: StudentManifest, field: str, value: Any) -> None:
    with pytest.raises(Damaged):
        parse_manifest(changed(sound, **{field: value}))


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "a\\b", "/etc/passwd", "..", ".hidden", "", "x" * 101, "manifest.json", "a\n"],
)
def test_a_file_has_a_plain_name(sound: StudentManifest, name: str) -> None:
    files = json.loads(manifest_text(sound))["files"]
    files[name] = files["model.onnx"]
    with pytest.raises(Damaged):
        parse_manifest(changed(sound, files=files))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        7,
        {"sha256": "A" * 64, "size": 1},
        {"sha256": "a" * 63, "size": 1},
        {"sha256": "a" * 64, "size": -1},
        {"sha256": "a" * 64, "size": 2**40},
        {"sha256": "a" * 64, "size": 1, "path": "x"},
    ],
)
def test_a_file_has_a_hash_and_a_size(sound: StudentManifest, entry: Any) -> None:
    files = json.loads(manifest_text(sound))["files"] | {"model.onnx": entry}
    with pytest.raises(Damaged):
        parse_manifest(changed(sound, files=files))


@pytest.mark.parametrize("needed", ["model.onnx", "self_test.npz"])
def test_a_student_without_its_model_is_none(sound: StudentManifest, needed: str) -> None:
    files = json.loads(manifest_text(sound))["files"]
    del files[needed]
    with pytest.raises(Damaged, match=needed):
        parse_manifest(changed(sound, files=files))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": NaN}',
        b"9" * 5000,
        b'{"format":' + b"9" * 5000 + b"}",
        b" " * (MAX_TEXT + 1),
        b"null",
    ],
)
def test_what_is_no_manifest_at_all(text: bytes) -> None:
    with pytest.raises(Damaged):
        parse_manifest(text)


def test_numbers_that_are_not_finite(sound: StudentManifest) -> None:
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = manifest_text(sound).replace('"created_at": 1700000000.0', f'"created_at": {word}')
        assert word in text
        with pytest.raises(Damaged):
            parse_manifest(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)
_FIELDS = [*StudentManifest.__dataclass_fields__]


@settings(max_examples=150, deadline=None)
@given(replaced=st.dictionaries(st.sampled_from(_FIELDS), _json, min_size=1, max_size=3))
def test_no_json_raises_anything_but_damaged(
    sound: StudentManifest, replaced: dict[str, Any]
) -> None:
    text = json.dumps(json.loads(manifest_text(sound)) | replaced)
    try:
        read = parse_manifest(text)
    except Damaged:
        return
    assert parse_manifest(manifest_text(read)) == read


@settings(max_examples=100, deadline=None)
@given(text=st.binary(max_size=200) | _json.map(lambda plain: json.dumps(plain).encode()))
def test_no_bytes_raise_anything_but_damaged(text: bytes) -> None:
    with pytest.raises(Damaged):
        parse_manifest(text)


def test_one_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    manifest = write_student(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    for fields in (
        {"metrics": {"map": float("nan")}},
        {"name": "two\nlines"},
        {"thresholds": (0.5,)},
        {"metrics": {"map": None}},
    ):
        with pytest.raises(InvalidInput):
            write_manifest(tmp_path, replace(manifest, **fields))
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_files_are_compared_with_their_hashes(tmp_path: Path) -> None:
    manifest = write_student(tmp_path)
    verify_files(tmp_path, manifest)
    assert len(read_verified(tmp_path, manifest, "model.onnx")) > 0
    truncate(tmp_path, "report.html")
    verify_files(tmp_path, manifest, ["model.onnx"])
    with pytest.raises(Damaged, match=r"report\.html"):
        verify_files(tmp_path, manifest)
    with pytest.raises(Damaged):
        read_verified(tmp_path, manifest, "report.html")
    with pytest.raises(NotFound, match="weights"):
        verify_files(tmp_path, manifest, ["weights"])
    (tmp_path / "report.html").unlink()
    with pytest.raises(Damaged):
        verify_files(tmp_path, manifest)
    with pytest.raises(Damaged):
        read_verified(tmp_path, manifest, "report.html")


def test_same_size_other_bytes(tmp_path: Path) -> None:
    manifest = write_student(tmp_path)
    model = bytearray((tmp_path / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(model)
    for check in (verify_files, lambda f, m: read_verified(f, m, "model.onnx")):
        with pytest.raises(Damaged, match=r"model\.onnx"):
            check(tmp_path, manifest)
