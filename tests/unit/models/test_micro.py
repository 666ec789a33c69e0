"""Micro-models as proposers: the head judges the finder's boxes, and only in its own scene."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import ScriptedProposer
from onnx import TensorProto, helper, numpy_helper

from secondlook.cli.micro import micro_digest, with_outline
from secondlook.config.settings import ModelSettings, Settings
from secondlook.core.types import Image
from secondlook.labeling.proposer import Proposer
from secondlook.models.micro import (
    STEEPNESS,
    CropHead,
    KnownScene,
    MicroModel,
    MicroProposer,
    in_even_light,
    load,
)
from secondlook.models.micro_folder import (
    FILE_NAME,
    HEAD,
    SCENE,
    MicroManifest,
    described_files,
    read_hashed,
    read_micro_manifest,
    read_scene,
    write_micro_manifest,
)
from secondlook.models.micro_set import read_micro_set
from secondlook_client.errors import BadOntology, BadSetting, Damaged, NotFound

SIDE = 16
LEFT, RIGHT = (2.0, 2.0, 18.0, 28.0), (22.0, 2.0, 38.0, 28.0)
OPTIONS = ModelSettings(device="cpu")


def head_file(path: Path) -> Path:
    """P(target) = sigmoid of how much redder than blue a crop is."""
    weights = numpy_helper.from_array(np.array([[0.02], [0], [-0.02]], np.float32), "w")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("Cast", ["crops"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "w"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "axes"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["B", SIDE, SIDE, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B"])
    graph = helper.make_graph(nodes, "head", [crops], [scores], [weights, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


class ByShape:
    """An embedder to which images of one shape are one scene."""

    name, digest, dimensions = "shape", "e0", 2

    def embed(self, images: Sequence[Image]) -> np.ndarray:
        """A direction for wide images, and another for tall ones."""
        rows = [(1, 0) if one.width > one.height else (0, 1) for one in images]
        return np.array(rows, np.float32)


WIDE, TALL = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)


def folder_of(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    head_file(folder / HEAD)
    np.save(folder / SCENE, WIDE)
    (folder / "labels.json").write_text("{}")
    manifest = MicroManifest(
        name="batman",
        class_name="red one",
        finder="demo",
        phrase="person",
        embedder="demo",
        scene_distance=0.1,
        side=SIDE,
        clip="clip.mp4",
        labels=5,
        negatives=0,
        frames=5,
        seconds=1.0,
        version=1,
        parent="",
        files=described_files(folder),
        created_at=1.0,
    )
    write_micro_manifest(folder, replace(manifest, **changes))  # type: ignore[arg-type]
    return folder


def model_of(folder: Path, scene: np.ndarray, finder: Proposer | None = None) -> MicroModel:
    manifest = read_micro_manifest(folder)
    head = CropHead(read_hashed(folder, manifest, HEAD), SIDE)
    rows = [(LEFT, {"person": 0.05}), (RIGHT, {"person": 0.9})]
    finder = finder or ScriptedProposer(lambda image, phrases: rows)
    return MicroModel(manifest, finder, ByShape(), head, KnownScene(scene, manifest.scene_distance))


def frame(name: str, left: tuple[int, int, int], width: int = 40, height: int = 30) -> Image:
    """Blue, with another colour in its left half."""
    pixels = np.full((height, width, 3), (40, 60, 200), np.uint8)
    pixels[:, : width // 2] = left
    return Image(pixels, "0" * 64, name)


def test_it_finds_its_target_in_its_scene_and_nothing_elsewhere(tmp_path):
    proposer = MicroProposer([model_of(folder_of(tmp_path / "a"), WIDE)], "batman")
    shown, other = frame("a", (220, 60, 40)), frame("b", (220, 60, 40), 30, 40)
    found, elsewhere = proposer.propose([shown, other], ["red ones"], 0.25)
    assert found.boxes.tolist() == [[*LEFT]]  # what the finder doubted, but not the blue one
    assert 0.8 < found.scores[0, 0] <= 1
    assert len(elsewhere) == 0 and elsewhere.scores.shape == (0, 1)
    alone = proposer.propose([shown], ["red one"], 0.25)[0]
    assert alone.scores.tolist() == found.scores.tolist()
    dimmed = replace(shown, pixels=(shown.pixels * 0.4).astype(np.uint8))
    assert proposer.propose([dimmed], ["red one"], 0.25)[0].scores == pytest.approx(
        found.scores, abs=0.02
    )
    with pytest.raises(BadOntology, match="red one"):
        proposer.check_phrases(["dog"])


def test_the_default_threshold_stands_for_a_score_near_four_tenths():
    assert pytest.approx(0.4, abs=0.01) == 0.25 ** (1 / STEEPNESS)


def test_a_black_frame_stays_dark():
    assert in_even_light(np.full((4, 4, 3), 2, np.uint8)).max() < 40


def test_of_several_each_frame_is_given_to_those_of_its_scene(tmp_path):
    wide = model_of(folder_of(tmp_path / "a"), WIDE)
    second = model_of(folder_of(tmp_path / "b", class_name="second"), WIDE)
    tall = model_of(folder_of(tmp_path / "c", class_name="tall", clip="other.mp4"), TALL)
    proposer = MicroProposer([wide, second, tall], "set")
    wanted = ["red one", "tall", "second"]
    in_wide, in_tall = proposer.propose(
        [frame("a", (220, 60, 40)), frame("b", (220, 60, 40), 41, 42)], wanted, 0.25
    )
    assert (in_wide.scores > 0).tolist() == [[True, False, False], [False, False, True]]
    assert (in_tall.scores > 0).tolist() == [[False, True, False]]
    assert proposer.digest != MicroProposer([wide], "set").digest


def test_of_two_scenes_that_are_alike_the_nearer_one_counts(tmp_path):
    wide = model_of(folder_of(tmp_path / "a"), WIDE)
    near = np.array([[np.cos(0.3), np.sin(0.3)]], np.float32)  # at a distance of 0.045 of 0.1
    other = model_of(folder_of(tmp_path / "b", class_name="other", clip="other.mp4"), near)
    shown = [frame("a", (220, 60, 40))]
    assert len(MicroProposer([other], "b").propose(shown, ["other"], 0.25)[0]) == 1
    (found,) = MicroProposer([wide, other], "set").propose(shown, ["red one", "other"], 0.25)
    assert (found.scores > 0).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", 10**6),
        ("scene_distance", 0),
        ("class_name", "two\nlines"),
        ("files", {"../x": {"sha256": "0" * 64, "size": 1}}),
        ("format", 9),
        ("parent", "no digest"),
    ],
)
def test_a_manifest_from_anybody_is_checked(tmp_path, field, value):
    folder = folder_of(tmp_path / "a")
    plain = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps({**plain, field: value}))
    with pytest.raises(Damaged):
        read_micro_manifest(folder)


def test_no_code_of_a_folder_runs_and_its_files_are_those_that_were_written(tmp_path):
    hostile = folder_of(tmp_path / "a", finder="os:system")
    with pytest.raises(BadSetting, match="registered"):
        load(str(hostile), OPTIONS)
    with pytest.raises(BadSetting, match="registered"):
        load(str(folder_of(tmp_path / "itself", finder=f"micro:{hostile}")), OPTIONS)
    changed = folder_of(tmp_path / "b")
    (changed / HEAD).write_bytes(b"x" + (changed / HEAD).read_bytes()[1:])
    with pytest.raises(Damaged, match=HEAD):
        load(str(changed), OPTIONS)
    with pytest.raises(Damaged, match="of shape"):
        read_scene((changed / SCENE).read_bytes(), 3)
    with pytest.raises(Damaged):
        read_scene(b"\x93NUMPY", 2)


def test_another_version_at_the_same_place_is_another_model(tmp_path):
    folder = folder_of(tmp_path / "a")
    first = micro_digest(f"micro:{folder}")
    write_micro_manifest(folder, replace(read_micro_manifest(folder), version=2, parent=first))
    assert micro_digest(f"micro:{folder}") != first == read_micro_manifest(folder).parent
    assert micro_digest("demo") == micro_digest("onnx:micro.onnx") == ""


def test_a_set_is_a_folder_of_micro_models_or_a_file_that_names_some(tmp_path):
    one, two = folder_of(tmp_path / "set" / "one"), folder_of(tmp_path / "set" / "two")
    assert read_micro_set(tmp_path / "set").folders == (one, two)
    listed = tmp_path / "set.yaml"
    listed.write_text("models: [set/two]")
    assert read_micro_set(listed).folders == (two.resolve(),)
    listed.write_text("models: [../elsewhere]")
    with pytest.raises(BadSetting, match="out of the folder"):
        read_micro_set(listed)
    listed.write_text("tell_apart: [set/one]")
    with pytest.raises(BadSetting, match="expected `models"):
        read_micro_set(listed)
    with pytest.raises(NotFound, match="secondlook micro train"):
        read_micro_set(tmp_path / "nowhere")


def test_an_assembly_line_names_who_finds_who_tells_apart_and_who_outlines(tmp_path):
    folder_of(tmp_path / "red")
    line, spec = tmp_path / "line.yaml", f"micro:{tmp_path / 'line.yaml'}"
    line.write_text("find: demo\nphrase: Person\ntell_apart: [red]\noutline: demo\n")
    found = read_micro_set(line)
    assert (found.find, found.phrase, found.outline) == ("demo", "person", "demo")
    assert found.folders == ((tmp_path / "red").resolve(),)
    settings = Settings().replace(proposer=spec)
    assert with_outline(settings).models.segmenter == "demo"
    named = settings.replace(segmenter="sam:folder")
    assert with_outline(named) is named and with_outline(Settings()) == Settings()
    assert micro_digest(spec).endswith("find demo, phrase person, outline demo")

    for wrong, told in (
        ("find: demo\n", "without 'tell_apart' does nothing"),
        ("find: demo\ntell_apart: [red]\nverify: demo\n", "has no 'verify'; it has find, phrase"),
        ("find: demo\ntell_apart: red\n", "expected `tell_apart:"),
        ("find: demo\ntell_apart: [../red]\n", "out of the folder"),
        ("find: os:system\ntell_apart: [red]\n", "registered"),
        ("find: micro:red\ntell_apart: [red]\n", "registered"),
        ("find: demo\ntell_apart: [red]\noutline: os:system\n", "registered"),
        ("find: demo\ntell_apart: [red]\nphrase: [a]\n", "'phrase' to be a text"),
        ("find: demo\ntell_apart: [red]\nfind: demo\n", "cannot be read as YAML"),
        ("tell_apart: [red]\noutline: demo\n", "or an assembly line of find"),
    ):
        line.write_text(wrong)
        with pytest.raises(BadSetting, match=told):
            read_micro_set(line)


def test_what_several_tell_apart_is_found_once(tmp_path):
    asked: list[str] = []

    def script(image, phrases):
        asked.extend(phrases)
        return [(LEFT, {"person": 0.05}), (RIGHT, {"person": 0.9})]

    finder = ScriptedProposer(script)
    names = ("red one", "second")
    models = [model_of(folder_of(tmp_path / name, class_name=name), WIDE, finder) for name in names]
    (found,) = MicroProposer(models, "line").propose([frame("a", (220, 60, 40))], names, 0.25)
    assert (found.scores > 0).tolist() == [[True, False], [False, True]]
    assert asked == ["person"]
