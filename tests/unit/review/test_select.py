"""Images of a run that are embedded and chosen: kept once, read as a pool, used as an order."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from stored import ANSWERS, encoded, image_of, labelled, review_box, stored_run
from tiny_students import PIXELS, d_fine

from secondlook.cli import run as run_command
from secondlook.config.settings import ImageSettings
from secondlook.core.types import Image
from secondlook.labeling.embedder import BOX_MARGIN, box_crops, embed_checked, model_of
from secondlook.review.embedded_images import EmbedImages, embed_files, embed_run
from secondlook.review.image_pool import embedding_model, read_pool
from secondlook.review.queue_order import queue_items
from secondlook.review.visited_images import Visit, looks_here
from secondlook.selection.choices import Measure, Strategy
from secondlook.selection.strategies import choose_images
from secondlook.store import Store
from secondlook.store.runs import Run
from secondlook.training.model import save_student
from secondlook_client.errors import BadSetting, InvalidInput
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.values import ReviewOrder

LIMITS = ImageSettings()
NAMES = ("a", "b", "c", "d")


class MeanColour:
    """Embeds an image as its mean colour and its width."""

    name, digest, dimensions = "colour", "1", 4

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def embed(self, images: Sequence[Image]) -> np.ndarray:
        self.seen += [(one.width, one.height) for one in images]
        return np.array([[*one.pixels.mean((0, 1)), one.width] for one in images], np.float32)


@pytest.fixture
def embedder() -> MeanColour:
    return MeanColour()


@pytest.fixture
def street(store: Store) -> Store:
    stored_run(store, "street", [labelled(name, answers=ANSWERS) for name in NAMES])
    return store


def embed(
    store: Store, run: Run, embedder: MeanColour, *, boxes: bool = False, again: bool = False
) -> Visit:
    look = looks_here(store.blobs, LIMITS, EmbedImages(embedder, boxes))
    return embed_run(store, run, model_of(embedder), look, boxes=boxes, again=again)


def test_images_are_embedded_once_whatever_the_run(street: Store, embedder: MeanColour) -> None:
    run = street.results.run("street")
    assert embed(street, run, embedder) == Visit(4, 0, (), 0)
    assert embed(street, run, embedder) == Visit(0, 4, (), 0)
    assert embed(street, run, embedder, again=True).measured == 4
    other = stored_run(street, "other", [labelled("a"), labelled("e")])
    assert embed(street, other, embedder) == Visit(1, 1, (), 0)
    assert len(embedder.seen) == 9 and set(embedder.seen) == {(40, 30)}
    assert [one.name for one in street.embeddings.models()] == ["colour@1"]


def test_boxes_are_embedded_as_their_crops(street: Store, embedder: MeanColour) -> None:
    run = street.results.run("street")
    embed(street, run, embedder)
    done = embed(street, run, embedder, boxes=True)
    assert done.measured == 4, "the boxes were missing"
    assert embed(street, run, embedder, boxes=True).before == 4
    ids = [image_of(street, name) for name in NAMES]
    boxes = street.embeddings.of_images("colour@1", ids, boxes=True)
    judged = {one.box for one in street.results.page(run.id)[0].labelled.judgements}
    assert {place.box for place in boxes} == judged
    whole = read_pool(street, run, model="colour@1").pool.vectors
    parts = read_pool(street, run, model="colour@1", by_boxes=True).pool.vectors
    assert whole is not None and parts is not None and whole.shape == parts.shape == (4, 4)
    assert not np.allclose(whole, parts)
    assert np.allclose(np.linalg.norm(parts, axis=1), 1, atol=1e-3)


def test_a_crop_has_a_margin_and_ends_at_the_border() -> None:
    image = Image(np.zeros((30, 40, 3), np.uint8), "0" * 64)
    (inside, border) = box_crops(image, [(10, 10, 20, 20), (0, 0, 40, 30)])
    margin = 10 * BOX_MARGIN
    assert (inside.width, inside.height) == (10 + 2 * margin, 10 + 2 * margin)
    assert (border.width, border.height) == (40, 30)


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        (np.full((1, 4), np.nan), "zero or not finite"),
        (np.zeros((1, 4)), "zero or not finite"),
        (np.ones((2, 4)), "expected .1, 4."),
        (np.ones(4), "expected .1, 4."),
    ],
)
def test_what_is_no_vector_is_refused(
    vectors: np.ndarray, problem: str, embedder: MeanColour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "embed", lambda images: vectors)
    with pytest.raises(BadSetting, match=problem):
        embed_checked(embedder, [Image(np.zeros((3, 3, 3), np.uint8), "")])
    assert embed_checked(embedder, []).shape == (0, 4)


def test_the_pool_has_what_nobody_reviewed(street: Store, embedder: MeanColour) -> None:
    run = street.results.run("street")
    embed(street, run, embedder)
    review_box(street, image_of(street, "b"), "dog", (20, 5, 39, 25), "right")
    found = read_pool(street, run, model="colour@1")
    assert [one.name for one in found.images] == ["a", "c", "d"] and found.reviewed == 1
    pool = found.pool
    assert pool.known is not None and pool.known.shape == (1, 4)
    assert (np.diff(pool.images) >= 0).all() and (np.diff(pool.boxes) >= 0).all()
    judgements = street.results.page(run.id)[0].labelled.judgements
    assert len(pool.probabilities) == 3 * len(judgements)
    sides = {(one.box, one.class_name == "dog") for one in judgements}
    assert pool.boxes.max() + 1 == 3 * len(sides), "two sides of a contrast share a number"
    assert np.isnan(pool.measured).all()
    forgotten = read_pool(street, run)
    assert forgotten.pool.vectors is None and forgotten.pool.known is None


def test_what_was_measured_is_read_and_must_have_been(street: Store) -> None:
    run = street.results.run("street")
    with pytest.raises(InvalidInput, match="was not measured by committee; measure it first"):
        read_pool(street, run, measure=Measure.COMMITTEE)
    third = street.results.page(run.id)[2]
    doubt = {2: LabelUncertainty("committee", 0.75, 0.25, "no")}
    street.uncertainties.put(UncertaintyMethod.COMMITTEE, "x", {third.cursor: doubt})
    pool = read_pool(street, run, measure=Measure.COMMITTEE).pool
    assert np.nansum(pool.measured) == 0.75
    assert choose_images(pool, Strategy.COMMITTEE, 1).chosen[0].place == 2


def test_vectors_of_another_model_and_empty_runs_are_refused(
    street: Store, embedder: MeanColour
) -> None:
    run = street.results.run("street")
    with pytest.raises(InvalidInput, match="no image of run 'street' was embedded; embed them"):
        embedding_model(street, run)
    embed(street, run, embedder)
    with pytest.raises(InvalidInput, match="no image of run 'street' was embedded by other@1"):
        read_pool(street, run, model="other@1")
    assert embedding_model(street, run) == "colour@1"
    with pytest.raises(InvalidInput, match="has no result yet; label images first"):
        read_pool(street, stored_run(street, "empty", []))


def test_an_image_that_cannot_be_embedded_is_not_chosen(
    street: Store, embedder: MeanColour
) -> None:
    run = street.results.run("street")
    second = street.results.page(run.id)[1].labelled
    street.blobs.remove_unless_new(second.sha256, -1.0)
    assert embed(street, run, embedder).failures == 1
    found = read_pool(street, run, model="colour@1")
    assert [one.name for one in found.images] == ["a", "c", "d"] and found.without_vector == 1


@pytest.mark.parametrize("order", ["mixed", "diversity", "density", "balance"])
def test_a_queue_asks_image_by_image(street: Store, embedder: MeanColour, order: str) -> None:
    run = street.results.run("street")
    with pytest.raises(InvalidInput, match="secondlook select street"):
        [*queue_items(street, "street", ReviewOrder(order), count=8)]
    embed(street, run, embedder)
    with pytest.raises(InvalidInput, match="give a count of boxes"):
        [*queue_items(street, "street", ReviewOrder(order))]
    judged = len(street.results.page(run.id)[0].labelled.judgements)
    found = [*queue_items(street, "street", ReviewOrder(order), count=2 * judged)]
    cursors = [one.cursor for one in found]
    assert len(set(cursors)) == 2 and len(found) == 2 * judged
    assert cursors == sorted(cursors, key=cursors.index), "one image after the other"
    chosen = choose_images(read_pool(street, run, model="colour@1").pool, Strategy(order), 2)
    results = street.results.page(run.id)
    assert list(dict.fromkeys(cursors)) == [results[one.place].cursor for one in chosen.chosen]


def test_a_folder_of_a_target_is_embedded_and_nothing_kept(
    street: Store, embedder: MeanColour, tmp_path: Path
) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded("a"))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    found = embed_files(folder, embedder, LIMITS)
    assert list(found.names) == ["a.png"] and found.vectors.shape == (1, 4)
    assert len(found.failed) == 1 and "broken.png" in found.failed[0]
    assert street.embeddings.models() == []
    (folder / "a.png").unlink()
    with pytest.raises(InvalidInput, match="could be read"):
        embed_files(folder, embedder, LIMITS)


def chosen_by(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command printed of the run ``street`` of the store in ``tmp_path / "data"``."""
    code = run_command(["select", "street", "--data", str(tmp_path / "data"), *words])
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_writes_names_reasons_and_a_page(
    street: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, rows, page = (tmp_path / f"chosen.{end}" for end in ("txt", "json", "html"))
    plain = ("--strategy", "uncertainty", "--count", "1")
    told = chosen_by(tmp_path, capsys, *plain, "--out", str(names))
    assert "1 of 4 images by uncertainty" in told and "entropy" in told
    assert names.read_text() == "a\n"
    chosen_by(tmp_path, capsys, *plain, "--out", str(rows))
    found = json.loads(rows.read_text())
    assert found["strategy"] == "uncertainty" and found["pool"] == 4
    (row,) = found["chosen"]
    assert json.loads(chosen_by(tmp_path, capsys, *plain, "--json")) == row
    assert row["image"] == "a" and "entropy" in row["reason"]
    chosen_by(tmp_path, capsys, *plain, "--out", str(page))
    assert row["reason"] in page.read_text()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_students_vote_and_say_what_would_change_them(
    street: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {0: "dog", 1: "glasses on", 2: "glasses off"}
    folders = [str(tmp_path / name) for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        save_student(d_fine(id2label=names, student_input_size=list(PIXELS)), Path(folder))
    by = [word for folder in folders for word in ("--student", folder)]
    voted = chosen_by(tmp_path, capsys, "--strategy", "committee", *by, "--count", "1", "--json")
    assert "committee" in json.loads(voted)["reason"]
    (kept,) = street.uncertainties.methods(street.results.run("street").id)
    assert kept.results == 4 and kept.source.count("student ") == 2
    change = chosen_by(
        tmp_path, capsys, "--strategy", "expected-change", *by[:2], "--count", "2", "--json"
    )
    values = [json.loads(line)["value"] for line in change.splitlines()]
    assert values[0] >= values[1] > 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--strategy", "best"], "'best' is not one of"),
        (["--strategy", "transfer"], "give --target FOLDER with --strategy transfer"),
        (["--out", "chosen.csv"], "--out ends in one of .txt, .json, .html"),
        (["--count", "0"], "0 is not in the range"),
        (["--strategy", "mixed", "--embedder", "nobody"], "there is no embedder 'nobody'"),
        (["--measure", "committee"], "was not measured by committee"),
        (["--strategy", "expected-change"], "needs one --student FOLDER"),
        (["--strategy", "committee", "--student", "a"], "a committee has two students at least"),
        (["--student", "a"], "--student is for --strategy committee and expected-change"),
    ],
)
def test_bad_input_is_told(
    street: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    problem: str,
) -> None:
    code = run_command(["select", "street", "--data", str(tmp_path / "data"), *words])
    assert code in (1, 2) and problem in capsys.readouterr().err


@pytest.mark.parametrize("command", ["select", "uncertainty", "decoys"])
def test_a_run_that_is_no_folder_needs_a_store(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([command, "labels"]) == 2
    assert "there is no folder 'labels'; give the output folder" in capsys.readouterr().err
