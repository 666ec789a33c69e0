"""``--segmenter`` through the server, its clients, the command and the Python API."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fakes import ScriptedSegmenter, ScriptedVerifier
from job_client import send, wait
from label_command import COCO, folder_of, label
from PIL import Image as PILImage
from serving import png, serving

import secondlook
from secondlook.review.explain import explain
from secondlook.review.redecide import redecide
from secondlook_client import ClassSpec, Client, errors
from secondlook_client.ontology import Ontology

SEGMENTER = ("--segmenter", "scripted_models:bright_pixels")


def test_a_server_with_a_segmenter_gives_masks():
    with serving(segmenter=ScriptedSegmenter()) as s, Client(s.address) as client:
        assert client.info().segmenter == "scripted@s0"
        result = client.label(png())
        (dog,) = result.labels
        assert dog.mask and (dog.mask.width, dog.mask.height) == (40, 30)
        assert dog.mask.box == (10, 8, 30, 22) and dog.box == (10, 7.5, 30, 22.5)
        assert dog.segmentation.model == "scripted@s0"
        assert result.timings_ms["segment"] > 0
        counted = s.metrics.registry.get_sample_value
        assert counted("secondlook_batch_size_count", {"stage": "segment"}) == 1
        (dog,) = client.label(png(), classes=[ClassSpec("dog", box="mask")]).labels
        assert dog.box == (10, 8, 30, 22)
        (dog,) = client.label(png(), classes=[ClassSpec("dog", mask=False)]).labels
        assert dog.mask is None


def test_a_server_without_one_refuses_classes_that_need_masks():
    with serving() as s, Client(s.address) as client:
        assert client.info().segmenter == ""
        assert client.label(png()).labels[0].mask is None
        for needs in (
            ClassSpec("dog", mask=True),
            ClassSpec("dog", box="mask"),
            ClassSpec("dog", view="mask"),
        ):
            with pytest.raises(errors.BadOntology, match=r"'dog' needs masks.*--segmenter"):
                client.label(png(), classes=[needs])


def test_masks_of_a_job_are_kept_and_deciding_again_needs_no_model(store):
    segmenter = ScriptedSegmenter()
    verifier = ScriptedVerifier({"Dog?": 0.7, "Cat?": 0.5})
    classes = [ClassSpec("dog", question="Dog?", box="mask"), ClassSpec("cat", question="Cat?")]
    with (
        serving(store=store, verifier=verifier, segmenter=segmenter) as s,
        Client(s.address) as client,
    ):
        client.jobs.create("street", classes=classes)
        send(client, "street", 3)
        client.jobs.finish("street")
        assert wait(client, "street").done == 3
        for found in client.jobs.results("street"):
            dog, cat = found.result.judgements
            assert dog.mask and dog.box == dog.mask.box
            assert cat.mask == dog.mask  # of the same box
    run = store.results.run("street")
    assert run.settings["segmenter"] == "scripted@s0" and run.settings["segment"] == "accepted"
    asked = len(segmenter.prompts)
    lenient = Ontology((classes[0], dataclasses.replace(classes[1], accept=0.5)))
    new = redecide(store, "street", "lenient", lenient)
    (first, *_) = store.results.page(new.run.id)
    dog, cat = first.labelled.judgements
    assert (cat.outcome, cat.mask) == ("accept", dog.mask) and len(segmenter.prompts) == asked
    told = explain(store, first.label_id(0))
    assert told.label.judgement.segmentation == dog.segmentation


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image with a white disk in its left half."""
    folder = tmp_path / "photos"
    folder.mkdir()
    ys, xs = np.mgrid[:40, :80]
    disk = (xs - 20) ** 2 + (ys - 20) ** 2 <= 18**2
    PILImage.fromarray((disk * 255).astype(np.uint8)).convert("RGB").save(folder / "a.png")
    return folder


def test_the_python_api_gives_masks(photos: Path) -> None:
    models = {
        "proposer": "scripted_models:bright_half",
        "verifier": "scripted_models:agreeable:dog",
        "segmenter": "scripted_models:bright_pixels",
        "progress": False,
    }
    (result,) = secondlook.label(photos, [ClassSpec("dog", box="mask")], **models)
    (dog,) = result.labels
    assert dog.box == (2, 2, 39, 39) == dog.mask.box
    image = np.asarray(PILImage.open(photos / "a.png"))[..., 0]
    np.testing.assert_array_equal(dog.mask.to_array(), image > 128)


def test_the_command_keeps_masks_and_tells_its_run_apart(tmp_path):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    assert label(folder, out, *SEGMENTER).returncode == 0
    coco = json.loads((out / COCO).read_text())
    assert len(coco["annotations"]) == 2 and all(a["segmentation"] for a in coco["annotations"])
    assert label(folder, out, *SEGMENTER).returncode == 0  # it continues
    again = label(folder, out)
    assert again.returncode != 0 and "segment (accepted, now none)" in again.stderr


def test_the_command_tells_that_a_segmenter_fails(tmp_path):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    done = label(folder, out, "--segmenter", "scripted_models:broken_segmenter")
    assert done.returncode == 0, done.stderr
    assert "the segmenter gave no mask of 2 labels; the first reason: the segmenter failed" in (
        done.stdout
    )
