"""What Label Studio asks of a backend, answered by the calls of a secondlook service.

An image that a task shows is labelled once, into a run of its project, and kept; so what people
hand in later can be compared with it, and becomes reviews. With ``run`` labels that are in the
store already are shown instead. A click on a smart tool goes to the service's segmenter.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from secondlook.core.types import LabelledImage
from secondlook.datasets.readers.corrected import CorrectionChecks
from secondlook.datasets.readers.fields import number
from secondlook.datasets.readers.label_studio import (
    LabelConfig,
    parse_config,
    read_annotation,
    task_name,
)
from secondlook.datasets.writers.label_studio import SHA256, RegionNames, regions
from secondlook.review.corrections import Corrector, ShownImage
from secondlook.server.label_studio.task_images import TaskImages
from secondlook_client import AsyncClient, wire
from secondlook_client.calls import Awaiting, Connection, Plan, Unary
from secondlook_client.errors import BadOntology, InvalidInput, NotFound, SecondlookError
from secondlook_client.masks import Segmentation
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.private_files import is_sha256
from secondlook_client.retry import RetryPolicy
from secondlook_client.v1 import browse_pb2, browse_pb2_grpc
from secondlook_client.values import Decision, Judgement, LabelResult, Outcome

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Tasks of one request that are worked on at the same time."""
MAX_TASKS = 1000
"""Of one request; Label Studio asks about a hundred at a time."""
LABEL_S = 90.0
"""For one task; Label Studio gives a request a hundred seconds."""
CALL_S = 30.0
REMEMBERED = 10_000
"""Images whose hash is known by where they are."""
ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED")
"""Events of a person who hands in an annotation."""


class RunImages(Connection, Awaiting):
    """How images of a run stand, with reviews."""

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        super().__init__(channel, retry, address)
        self._stub = browse_pb2_grpc.BrowseServiceStub(channel)

    @Unary
    def find(self, run: str, sha256: str) -> Plan["KnownImage | None"]:
        """The image of that hash in a run; None where the run, or the image in it, is unknown."""
        request = browse_pb2.GetRunImagesRequest(run=run, sha256=[sha256])
        try:
            answer = yield from self._answer(self._stub.GetRunImages, request, CALL_S)
        except NotFound:
            return None
        for found in answer.images:
            labelled = LabelledImage("", wire.label_result(found.labelled), found.cursor)
            return KnownImage(labelled, frozenset(found.reviewed))
        return None


@dataclass(frozen=True)
class KnownImage:
    """An image that has labels."""

    labelled: LabelledImage
    """With reviews."""
    reviewed: frozenset[int]
    """Places of the judgements that people decided or added."""


@dataclass(frozen=True)
class LabelProject:
    """A project of Label Studio, as a request tells of it."""

    config: LabelConfig
    ontology: Ontology
    run: str
    """Where its images are labelled."""


class LabelStudioBackend:
    """Answers Label Studio; for one event loop."""

    def __init__(
        self,
        client: AsyncClient,
        known: RunImages,
        images: TaskImages,
        ontology: Ontology | None = None,
        run: str = "",
    ) -> None:
        """``ontology``: what to ask about classes of these names; others are asked as they are
        called. ``run``: labels of this run are shown wherever it has the image."""
        self._client, self._known, self._images, self._run = client, known, images, run
        self._specs = {spec.name: spec for spec in ontology.classes} if ontology else {}
        self._hashes = OrderedDict[str, str]()
        self._writing = asyncio.Lock()

    async def version(self, plain: Mapping[str, Any], key: str) -> str:
        """Names models and classes: with another one, Label Studio asks again. ``key``: of the
        labelling config in a request."""
        info = await self._client.info()
        models = filter(None, (info.proposer, info.verifier, info.segmenter))
        try:
            ontology = self._project(plain, key).ontology.digest[:8]
        except InvalidInput as cause:  # Label Studio would show the status of an error alone
            log.warning("%s", cause)
            ontology = "no-classes"
        return " ".join(("secondlook", *models, ontology))

    async def predict(self, plain: Mapping[str, Any]) -> list[Any]:
        """A prediction for each task, or none for one whose image cannot be had; of a click, one
        with the mask. Raises ``InvalidInput``, and what the only task failed with."""
        project, tasks = self._project(plain, "label_config"), plain.get("tasks")
        tasks = [tasks] if isinstance(tasks, dict) else tasks
        if not isinstance(tasks, list) or not 0 < len(tasks) <= MAX_TASKS:
            raise InvalidInput(f"expected 1 to {MAX_TASKS:,} tasks")
        params = plain.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        clicks = context.get("result") if isinstance(context, dict) else None
        version = await self.version(plain, "label_config")
        if clicks:
            return [await self._clicked(project, tasks[0], clicks, version)]
        places = asyncio.Semaphore(AT_ONCE)

        async def predicted(task: Any) -> Any:
            async with places:
                return await self._predicted(project, task, version)

        found = await asyncio.gather(*map(predicted, tasks), return_exceptions=True)
        failed = [one for one in found if isinstance(one, BaseException)]
        for failure in failed:
            if not isinstance(failure, SecondlookError) or len(failed) == len(found):
                raise failure
            log.warning("a task has no prediction: %s", failure)
        return [[] if isinstance(one, BaseException) else one for one in found]

    async def annotated(self, plain: Mapping[str, Any]) -> int | None:
        """Keep what people handed in as reviews; how many. None for an event of another kind."""
        if plain.get("action") not in ANNOTATED:
            return None
        about = plain.get("project")
        if not isinstance(about, dict):
            raise InvalidInput("expected the 'project' of the annotation")
        told = {"project": str(about.get("id", "")), "label_config": about.get("label_config")}
        project = self._project(told, "label_config")
        annotations, tasks = _listed(plain.get("annotation")), _listed(plain.get("task"))
        by_id = {str(one.get("id")): one for one in tasks}
        kept = 0
        async with self._writing:  # each is compared with what the one before left
            for at, annotation in enumerate(annotations):
                task = by_id.get(str(annotation.get("task"))) or tasks[min(at, len(tasks) - 1)]
                if not annotation.get("was_cancelled"):
                    kept += await self._reviewed(project, task, annotation)
        return kept

    def _project(self, plain: Mapping[str, Any], key: str) -> LabelProject:
        """Raises ``InvalidInput``."""
        text, named = plain.get(key), plain.get("project")
        if not isinstance(text, str):
            raise InvalidInput(f"expected '{key}', the labelling config of the project")
        number_ = str(named).partition(".")[0] if named is not None else ""
        config = parse_config(text)
        try:
            ontology = Ontology(self._asked(config.classes))
        except BadOntology as cause:
            raise InvalidInput(f"the classes of the project cannot be used: {cause}") from None
        readable = "".join(c for c in number_ if c.isalnum())[:40]
        run = "-".join(("label-studio", readable or "project", ontology.digest[:8]))
        return LabelProject(config, ontology, run)

    def _asked(self, names: Sequence[str]) -> tuple[ClassSpec, ...]:
        """What is asked about these classes. A contrast of which the project has one side is none.

        Raises ``BadOntology``.
        """
        specs = [self._specs.get(name) or ClassSpec(name) for name in names]
        sides = Counter(spec.group for spec in specs)
        return tuple(replace(one, group="") if sides[one.group] < 2 else one for one in specs)

    async def _found(self, project: LabelProject, task: Any) -> KnownImage:
        """The image of a task, labelled if it was not before."""
        place = _place(project, task)
        sha256 = self._sha256(task, place)
        for run in filter(None, (self._run, project.run)) if sha256 else ():
            if found := await self._known.find(run, sha256):
                return found
        content = await self._images.read(place)
        result = await self._client.label(
            content,
            classes=project.ontology.classes,
            name=task_name(place) or "image",
            keep=project.run,
            timeout_s=LABEL_S,
        )
        self._remember(place, result.sha256)
        for run in filter(None, (self._run, project.run)):
            if found := await self._known.find(run, result.sha256):
                return found
        return KnownImage(LabelledImage("", result), frozenset())

    def _sha256(self, task: Mapping[str, Any], place: str) -> str:
        """The hash of a task's image, as our own export tells it, or as it is known; else empty."""
        told = task["data"].get(SHA256)
        if isinstance(told, str) and is_sha256(told):
            return told
        if place in self._hashes:
            self._hashes.move_to_end(place)
        return self._hashes.get(place, "")

    def _remember(self, place: str, sha256: str) -> None:
        self._hashes[place] = sha256
        while len(self._hashes) > REMEMBERED:
            self._hashes.popitem(last=False)

    async def _predicted(self, project: LabelProject, task: Any, version: str) -> dict[str, Any]:
        image = (await self._found(project, task)).labelled
        known = frozenset(project.config.classes)
        shown = [*regions(image, project.config.names, known)]
        scores = [one["score"] for one in shown]
        # The least certain label's, so that tasks sorted by it begin where a person is needed.
        return {"model_version": version, "result": shown, "score": min(scores, default=1.0)}

    async def _clicked(
        self, project: LabelProject, task: Any, clicks: Any, version: str
    ) -> dict[str, Any]:
        """The mask of an object that a person clicks at, or draws a box around."""
        place = _place(project, task)
        prompt = _prompt(clicks)
        session = None
        if sha256 := self._sha256(task, place):
            with suppress(NotFound):
                session = await self._client.segmentation.open(sha256=sha256)
        if session is None:
            session = await self._client.segmentation.open(await self._images.read(place))
            self._remember(place, session.image.sha256)
        size = session.image.width, session.image.height
        await session.prompt(*prompt.scaled(size))
        found = session.segmentation
        assert found is not None
        shown = [*_outlined(found, prompt.class_name, size, project.config.names)]
        return {"model_version": version, "result": shown, "score": round(found.quality, 4)}

    async def _reviewed(self, project: LabelProject, task: Any, annotation: Any) -> int:
        """Keep what a person said by an annotation; how many reviews."""
        known = await self._found(project, task)
        image, checks = known.labelled, CorrectionChecks()
        size = image.result.width, image.result.height
        corrected = read_annotation(annotation, "the annotation", checks, size)
        for sentence in checks.warnings():
            log.warning("%s", sentence)
        names = project.config.names
        corrector = Corrector(
            corrected.person or "Label Studio",
            classes=frozenset(project.config.classes),
            known=frozenset(project.ontology.names),
            masks_only=not names.rectangles,
        )
        judgements, cursor = image.result.judgements, image.cursor or 0
        shown = ShownImage(image.result.sha256, judgements, known.reviewed, cursor)
        said = corrector.reviews(shown, corrected.boxes or (), corrected.seconds)
        if said:
            await self._client.reviews.add(said)
        return len(said)


@dataclass(frozen=True)
class ClickPrompt:
    """Where a person clicked, in shares of the image's sides."""

    class_name: str
    box: tuple[float, float, float, float] | None
    inside: Sequence[tuple[float, float]]
    outside: Sequence[tuple[float, float]]

    def scaled(self, size: tuple[int, int]) -> tuple[Any, Any, Any]:
        """Box, points inside and points outside, in pixels of an image of that size."""
        width, height = size
        box = self.box
        pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height) if box else None
        inside, outside = (
            [(x * width, y * height) for x, y in points] for points in (self.inside, self.outside)
        )
        return pixels, inside, outside


def _prompt(clicks: Any) -> ClickPrompt:
    """What the regions of a ``context`` mean. Raises ``InvalidInput``."""
    if not isinstance(clicks, list) or len(clicks) > MAX_TASKS:
        raise InvalidInput(f"expected at most {MAX_TASKS:,} clicks")
    class_name, box = "", None
    points: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    try:
        for one in clicks:
            kind, value = one["type"], one["value"]
            x, y = number(value["x"]) / 100, number(value["y"]) / 100
            if kind == "rectanglelabels":
                across, down = number(value["width"]) / 100, number(value["height"]) / 100
                box = x, y, x + across, y + down
            elif kind == "keypointlabels":
                points[int(not one.get("is_positive", 1))].append((x, y))
            class_name = str((value.get(kind) or [class_name])[0])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise InvalidInput("a click is a keypointlabels or rectanglelabels region") from None
    return ClickPrompt(class_name, box, points[0], points[1])


def _outlined(
    found: Segmentation, class_name: str, size: tuple[int, int], names: RegionNames
) -> Sequence[dict[str, Any]]:
    """The regions of one mask: a brush stroke, or its box where the config has no brush."""
    box = found.mask.box
    if box is None or not class_name:
        return []
    decision = Decision(Outcome.ACCEPT, found.quality, "")
    judged = Judgement(class_name, box, 0.0, None, decision, segmentation=found)
    result = LabelResult("", "", *size, 0, (judged,), "", "")
    only = RegionNames(names.image, "" if names.brush else names.rectangles, names.brush)
    made = regions(LabelledImage("", result), only)
    return [{**one, "id": uuid4().hex[:10]} for one in made]


def _place(project: LabelProject, task: Any) -> str:
    """Where a task says that its image is. Raises ``InvalidInput``."""
    data = task.get("data") if isinstance(task, dict) else None
    place = data.get(project.config.value) if isinstance(data, dict) else None
    if not isinstance(place, str):
        raise InvalidInput(f"a task has no image under '{project.config.value:.60}' of its data")
    return place


def _listed(value: Any) -> list[dict[str, Any]]:
    """One or several objects, as events have them."""
    found = value if isinstance(value, list) else [value]
    if not 0 < len(found) <= MAX_TASKS or not all(isinstance(one, dict) for one in found):
        raise InvalidInput("expected the 'annotation' and 'task' of the event; send the payload")
    return found
