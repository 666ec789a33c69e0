"""Inputs of the benchmarks: scenes of the demo world and the embedded models."""

import io
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image as PILImage

from bench.baseline import BaselineClass
from secondlook.config.settings import ModelSettings, PipelineSettings
from secondlook.core.boxes import padded_window
from secondlook.core.ontology_yaml import load_ontology
from secondlook.core.types import Pixels
from secondlook.demo.world import scene, write_world
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.verifier import CROP_MARGIN
from secondlook.models import embedded
from secondlook_client.ontology import Ontology, normal

SEED = 9001
"""Never used in training."""


@cache
def jpegs(count: int, size: int = 320) -> list[bytes]:
    """Scenes, encoded as JPEG."""
    return [jpeg(scene(SEED, index, size).image) for index in range(count)]


def jpeg(pixels: Pixels) -> bytes:
    """A scene as the demo world writes it."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@cache
def crops(count: int) -> list[tuple[PILImage.Image, str]]:
    """Crops of true boxes with the verifier's margin, each with a question about its noun."""
    found: list[tuple[PILImage.Image, str]] = []
    index = 0
    while len(found) < count:
        rendered = scene(SEED, index)
        image = PILImage.fromarray(rendered.image)
        for thing in rendered.things:
            window = padded_window(thing.box, CROP_MARGIN, image.width, image.height)
            found.append((image.crop(window), f"Is this a {thing.noun}?"))
        index += 1
    return found[:count]


@cache
def ontology() -> Ontology:
    """The ontology of the demo world: its nouns and attribute classes."""
    with TemporaryDirectory() as folder:
        write_world(Path(folder), SEED, 1, 320)
        return load_ontology(Path(folder) / "ontology.yaml")


def baseline_classes() -> list[BaselineClass]:
    """The same classes, for the baseline."""
    return [
        BaselineClass(normal(spec.phrases[0]), spec.question, spec.threshold)
        for spec in ontology().classes
    ]


def pipeline(verify_budget: str = "all") -> Pipeline:
    """The embedded models, without the verdict cache: no round may profit from an earlier one."""
    options = ModelSettings()
    return Pipeline(
        embedded.load_proposer("", options),
        embedded.load_verifier("", options),
        PipelineSettings(verdict_cache_size=0, verify_budget=verify_budget),
    )
