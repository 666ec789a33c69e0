"""The stages composed over batches: images in, judged boxes out.

``Pipeline`` is plain and synchronous. ``engine.Engine`` runs its two halves behind queues, so
that images of many clients share batches.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Decoy, Evidence, Image, ImageVerdicts, Labelled, Proposals
from secondlook.labeling import proposer as propose
from secondlook.labeling import verifier as verify
from secondlook.labeling.box_masks import BoxMasks, MaskRequest, check_segmenter, segment_boxes
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.decisions import asked_pairs, box_of, in_force, judge_candidates
from secondlook.labeling.decoys import DecoyPlan, plan_decoys, swapped_decoys
from secondlook.labeling.near_views import NearViews
from secondlook.labeling.outlines import with_outlines
from secondlook.labeling.segmenter import Segmenter
from secondlook.labeling.verify_budget import ALL, budget_in_force, check_budget, find_budget
from secondlook.labeling.vocabulary import check_words
from secondlook_client.errors import BadSetting, InvalidInput
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Outcome, Verdict, View

AUTO = "auto"
"""The setting ``calibrator`` that takes the embedded one where it fits."""
EVERY_BOX = "all"
"""The setting ``segment`` that asks for a mask of every box that was judged."""
_NO_MASKS = BoxMasks()
MAX_RULES = 64
"""Ontologies whose rules are remembered."""


@dataclass(frozen=True, eq=False)
class Task:
    """One image and what is wanted of it."""

    image: Image
    ontology: Ontology
    source: str = ""
    """The job or stream that the image belongs to; empty: none. Labels do not depend on it,
    only whether a student is trusted with it."""


@dataclass(frozen=True, eq=False)
class Proposed:
    """A task after stage one."""

    task: Task
    proposals: Proposals
    candidates: tuple[propose.Candidate, ...]
    ms: float
    """This image's share of the proposer's time."""


class Pipeline:
    """Two or three models and the rules between them. Thread-safe if the models are."""

    def __init__(
        self,
        proposer: propose.Proposer,
        verifier: verify.Verifier | None,
        settings: PipelineSettings | None = None,
        segmenter: Segmenter | None = None,
    ) -> None:
        """Raises ``BadSetting`` where empty images shall be verified and there is no verifier."""
        self.proposer = proposer
        self.verifier = verifier
        self.segmenter = segmenter
        self.settings = settings or PipelineSettings()
        if self.settings.verify_empty and verifier is None:
            raise BadSetting(
                "--verify-empty asks the verifier about each empty image, and --verifier is none; "
                "give a verifier, or leave --verify-empty out"
            )
        if self.settings.decoys and verifier is None:
            raise BadSetting(
                "--decoys audits the verifier with questions whose answer is no, and --verifier is "
                "none; give a verifier, or leave --decoys out"
            )
        check_budget(self.settings.verify_budget)
        if self.settings.verify_budget != ALL and verifier is None:
            raise BadSetting(
                "--verify-budget limits what the verifier is asked, and --verifier is none; give a "
                "verifier, or leave --verify-budget out"
            )
        if self.settings.reuse_answers and not self.settings.verdict_cache_size:
            raise BadSetting(
                "--reuse-answers takes them from the verdict cache, and --verdict-cache-size is 0; "
                "leave one of them out"
            )
        self._calibrator: Calibrator | None = None
        self._rules: dict[str, tuple[Calibrator | None, Ontology]] = {}
        """By digest of an ontology, what decides its labels, with the limits that are in force."""
        self.cache = verify.VerdictCache(self.settings.verdict_cache_size)
        self._near = NearViews().find if self.settings.reuse_answers else None
        self.observe_answers: Callable[[Sequence[Answer]], None] | None = None
        """Told what the verifier answers to each batch of questions, in the thread that asks."""
        self.observe_decoys: Callable[[Sequence[Decoy]], None] | None = None
        """Told each batch of decoys with their answers, in the thread that asks."""
        self.observe_masks: Callable[[int, float], None] | None = None
        """Told of each batch that was segmented: how many images, and the seconds it took."""

    def check_ontology(self, ontology: Ontology) -> None:
        """Raises ``BadOntology`` for words that a model cannot know, and for classes that need a
        segmenter where there is none.

        And what ``Calibrator.check`` raises, if a calibrator was asked for by its name or file;
        ``BadSetting`` for a budget of questions where no calibrator can say what to leave out.
        """
        check_words(self.proposer, self.verifier, ontology)
        check_segmenter(self.segmenter, ontology)
        if self._calibrator and self.settings.calibrator != AUTO:
            self._calibrator.check(ontology, *self.models)
        find_budget(self.calibrator_for(ontology), self.settings.verify_budget)

    def use_calibrator(self, calibrator: Calibrator | None) -> None:
        """Decide by its probabilities from now on; None: by the verifier's answers.

        With the setting ``auto`` it decides only the ontologies that it fits. Raises ``BadSetting``
        otherwise, if it was fitted to other models.
        """
        if calibrator and self.settings.calibrator != AUTO:
            known = zip(calibrator.classes, calibrator.fits, strict=True)
            own = Ontology(tuple(ClassSpec(name, question=fit.question) for name, fit in known))
            calibrator.check(own, *self.models)
        self._calibrator = calibrator
        self._rules = {}

    @property
    def calibrator(self) -> Calibrator | None:
        """The one in use, whatever it fits."""
        return self._calibrator

    def calibrator_for(self, ontology: Ontology) -> Calibrator | None:
        """The calibrator that decides labels of ``ontology``; None: there is none that fits."""
        return self._rules_of(ontology)[0]

    @property
    def models(self) -> tuple[str, str]:
        """Name and digest of the proposer, and of the verifier (empty without one)."""
        proposer, verifier = self.proposer, self.verifier
        named = f"{verifier.name}@{verifier.digest}" if verifier else ""
        return f"{proposer.name}@{proposer.digest}", named

    @property
    def segmenter_name(self) -> str:
        """Name and digest of the segmenter; empty without one."""
        return f"{self.segmenter.name}@{self.segmenter.digest}" if self.segmenter else ""

    def _rules_of(self, ontology: Ontology) -> tuple[Calibrator | None, Ontology]:
        known = self._rules.get(ontology.digest)
        if known is None:
            calibrator = self._calibrator
            try:
                if calibrator:
                    calibrator.check(ontology, *self.models)
            except (InvalidInput, BadSetting):
                calibrator = None
            known = calibrator, in_force(ontology, calibrator)
            if len(self._rules) >= MAX_RULES:
                self._rules.clear()
            self._rules[ontology.digest] = known
        return known

    def label(self, tasks: Sequence[Task]) -> list[Labelled]:
        """Both stages on a batch, in order."""
        return self.judge(self.propose(tasks))

    def propose(self, tasks: Sequence[Task]) -> list[Proposed]:
        """Stage one on a batch; images with the same phrases go to the model together."""
        together: dict[tuple[str, ...], list[int]] = {}
        for index, task in enumerate(tasks):
            together.setdefault(task.ontology.phrases, []).append(index)
        done: dict[int, Proposed] = {}
        for members in together.values():
            found = self._propose_together([tasks[i] for i in members])
            done.update(zip(members, found, strict=True))
        return [done[index] for index in range(len(tasks))]

    def _propose_together(self, tasks: list[Task]) -> list[Proposed]:
        settings = self.settings
        started = time.perf_counter()
        raw = self.proposer.propose(
            [task.image for task in tasks], tasks[0].ontology.phrases, settings.score_floor
        )
        ms = (time.perf_counter() - started) * 1000 / len(tasks)
        proposed = []
        for task, phrases in zip(tasks, raw, strict=True):
            proposals = propose.by_class(phrases, task.image, task.ontology, settings.max_boxes)
            kept = propose.candidates(proposals, task.ontology, settings.nms_iou)
            proposed.append(Proposed(task, proposals, tuple(kept), ms))
        return proposed

    def judge(self, proposed: Sequence[Proposed]) -> list[Labelled]:
        """Stages two and three and the decisions on a batch, each model asked once.

        Boxes that the verifier is shown with their mask are segmented first; of the others those
        that were accepted, or with the setting ``segment`` of "all" every one that was judged.
        """
        if self.verifier is None:
            labelled = [self._labelled(item, {}, 0.0) for item in proposed]
            return self._with_masks(proposed, labelled, [_NO_MASKS] * len(proposed))
        wanted = [self._requests(item) for item in proposed]
        shown = [[row for row, view in of_image if view is View.MASK] for of_image in wanted]
        masks = self._segment(proposed, [_NO_MASKS] * len(proposed), shown)
        labelled = self._verify(self.verifier, proposed, wanted, masks)
        return self._with_masks(proposed, labelled, masks)

    def _verify(
        self,
        verifier: verify.Verifier,
        proposed: Sequence[Proposed],
        wanted: Sequence[Mapping[tuple[int, View], verify.VerificationRequest]],
        masks: Sequence[BoxMasks],
    ) -> list[Labelled]:
        """Stage two: all views of the batch go to the verifier together."""
        started = time.perf_counter()
        plans = [self._planned(*one) for one in zip(proposed, wanted, strict=True)]
        known = [_masks_shown(*one, self.models[1]) for one in zip(wanted, masks, strict=True)]
        requests = [request for of_image, _ in known for request in of_image.values()]
        requests += [one for item in zip(proposed, plans, strict=True) for one in _decoyed(*item)]
        answered = iter(
            verify.verify(verifier, requests, self.cache, self.observe_answers, self._near)
        )
        answers = [
            {(*key, verdict.question): verdict for key in of_image for verdict in next(answered)}
            | without_mask
            for of_image, without_mask in known
        ]
        ms = (time.perf_counter() - started) * 1000 / max(len(proposed), 1)
        labelled = [
            self._labelled(item, verdicts, ms)
            for item, verdicts in zip(proposed, answers, strict=True)
        ]
        labelled = self._with_image_verdicts(proposed, labelled)
        audited = [
            _with_decoys(*one, answered) for one in zip(proposed, labelled, plans, strict=True)
        ]
        if self.observe_decoys:
            self.observe_decoys([decoy for one in audited for decoy in one.decoys])
        return audited

    def _with_masks(
        self,
        proposed: Sequence[Proposed],
        labelled: Sequence[Labelled],
        masks: Sequence[BoxMasks],
    ) -> list[Labelled]:
        """Stage three, where there is a segmenter; ``masks`` are known already."""
        if self.segmenter is None:
            return list(labelled)
        wanted = [self._rows_to_segment(*one) for one in zip(proposed, labelled, strict=True)]
        masks = self._segment(proposed, masks, wanted)
        return [self._outlined(*one) for one in zip(proposed, labelled, masks, strict=True)]

    def _rows_to_segment(self, item: Proposed, labelled: Labelled) -> list[int]:
        masked = {spec.name for spec in item.task.ontology.classes if spec.mask is not False}
        every = self.settings.segment == EVERY_BOX
        return [
            judgement.row
            for judgement in labelled.judgements
            if judgement.class_name in masked
            and judgement.row >= 0
            and (every or judgement.outcome is Outcome.ACCEPT)
        ]

    def _segment(
        self,
        proposed: Sequence[Proposed],
        masks: Sequence[BoxMasks],
        rows: Sequence[Sequence[int]],
    ) -> list[BoxMasks]:
        """``masks`` and those of more ``rows``; the images are encoded together."""
        requests = [
            MaskRequest(item.task.image, item.proposals.boxes, wanted, known)
            for item, known, wanted in zip(proposed, masks, rows, strict=True)
        ]
        images = sum(bool(request.missing) for request in requests)
        if self.segmenter is None or not images:
            return list(masks)
        started = time.perf_counter()
        found = segment_boxes(self.segmenter, requests)
        seconds = time.perf_counter() - started
        if self.observe_masks:
            self.observe_masks(images, seconds)
        share = seconds * 1000 / images
        return [
            replace(one, ms=one.ms + share) if request.missing else one
            for one, request in zip(found, requests, strict=True)
        ]

    def _outlined(self, item: Proposed, labelled: Labelled, masks: BoxMasks) -> Labelled:
        evidence = replace(
            labelled.evidence,
            segmentations=masks.segmentations,
            segmenter=self.segmenter_name,
            unsegmented=masks.unsegmented,
        )
        return replace(
            labelled,
            judgements=with_outlines(labelled.judgements, evidence, item.task.ontology),
            evidence=evidence,
            timings_ms={**labelled.timings_ms, "segment": masks.ms},
        )

    def _requests(self, item: Proposed) -> dict[tuple[int, View], verify.VerificationRequest]:
        """What must be verified of one image: one request a box and view, with its questions."""
        questions: dict[tuple[int, View], dict[str, None]] = {}
        image = item.task.image
        calibrator, ontology = self._rules_of(item.task.ontology)
        size, budget = (image.width, image.height), self.settings.verify_budget
        pairs = asked_pairs(item.proposals, ontology, item.candidates, size, calibrator, budget)
        for row, place in pairs:
            spec = ontology.classes[place]
            questions.setdefault((row, spec.view), {})[spec.question] = None
        return {
            (row, view): verify.VerificationRequest(
                image, box_of(item.proposals, row), view, tuple(asked), source=item.task.source
            )
            for (row, view), asked in questions.items()
        }

    def _planned(
        self, item: Proposed, wanted: Mapping[tuple[int, View], verify.VerificationRequest]
    ) -> DecoyPlan:
        questions = sum(len(request.questions) for request in wanted.values())
        task, share = item.task, self.settings.decoys
        return plan_decoys(task.image, task.ontology, item.proposals, questions, share)

    def _with_image_verdicts(
        self, proposed: Sequence[Proposed], labelled: list[Labelled]
    ) -> list[Labelled]:
        """Ask about each empty image as a whole, if the settings say so."""
        if self.verifier is None or not self.settings.verify_empty:
            return labelled
        started = time.perf_counter()
        empty = [place for place, found in enumerate(labelled) if found.empty]
        wanted = [self._presence_requests(proposed[place].task) for place in empty]
        requests = [request for of_image in wanted for request in of_image]
        found = verify.verify(self.verifier, requests, self.cache, self.observe_answers)
        ms = (time.perf_counter() - started) * 1000 / max(len(empty), 1)
        answered = iter(found)
        for place, of_image in zip(empty, wanted, strict=True):
            item, before = proposed[place], labelled[place]
            tiles = [next(answered) for _ in of_image]
            by_question = {of_tile[0].question: of_tile for of_tile in zip(*tiles, strict=True)}
            image = ImageVerdicts((before.width, before.height), by_question)
            total = before.timings_ms["verify"] + ms
            labelled[place] = self._labelled(item, before.evidence.verdicts, total, image)
        return labelled

    def _presence_requests(self, task: Task) -> list[verify.VerificationRequest]:
        questions = dict.fromkeys(spec.presence_question for spec in task.ontology.classes)
        return verify.presence_requests(task.image, tuple(questions), self.settings.empty_tiles)

    def _labelled(
        self,
        item: Proposed,
        verdicts: Mapping[tuple[int, View, str], Verdict],
        ms: float,
        of_image: ImageVerdicts | None = None,
    ) -> Labelled:
        image = item.task.image
        proposer, verifier = self.models
        evidence = Evidence(item.proposals, verdicts, proposer, verifier, image=of_image)
        calibrator, ontology = self._rules_of(item.task.ontology)
        budget = budget_in_force(calibrator, self.settings.verify_budget)
        judgements = judge_candidates(
            evidence,
            ontology,
            item.candidates,
            calibrator,
            (image.width, image.height),
            self.settings.duplicate_iou,
            budget,
        )
        return Labelled(
            name=image.name,
            sha256=image.sha256,
            width=image.width,
            height=image.height,
            judgements=judgements,
            evidence=evidence,
            timings_ms={"propose": item.ms, "verify": ms},
        )


def _masks_shown(
    requests: Mapping[tuple[int, View], verify.VerificationRequest], masks: BoxMasks, verifier: str
) -> tuple[
    dict[tuple[int, View], verify.VerificationRequest], dict[tuple[int, View, str], Verdict]
]:
    """``requests`` with the masks that they show, and for those that lack theirs a verdict without
    an answer."""
    ready: dict[tuple[int, View], verify.VerificationRequest] = {}
    without: dict[tuple[int, View, str], Verdict] = {}
    for (row, view), request in requests.items():
        found = masks.segmentations.get(row)
        if view is not View.MASK:
            ready[row, view] = request
        elif found:
            ready[row, view] = replace(request, mask=found.mask)
        else:
            cause = masks.unsegmented.get(row, "no segmenter is in use")
            answer = Answer(None, error=f"no mask to show: {cause}")
            for question in request.questions:
                without[row, view, question] = Verdict(question, view, answer, verifier, 0.0)
    return ready, without


def _decoyed(item: Proposed, plan: DecoyPlan) -> Iterator[verify.VerificationRequest]:
    for decoy in plan.asked:
        yield verify.VerificationRequest(
            item.task.image, decoy.box, decoy.view, (decoy.question,), decoy=True
        )


def _with_decoys(
    item: Proposed,
    labelled: Labelled,
    plan: DecoyPlan,
    answered: Iterator[tuple[Verdict, ...]],
) -> Labelled:
    """The next verdicts of ``answered`` are those on the image's decoys."""
    asked = tuple(replace(decoy, answer=next(answered)[0].answer) for decoy in plan.asked)
    task, evidence = item.task, labelled.evidence
    swapped = swapped_decoys(task.image, task.ontology, evidence, item.candidates, plan.swapped)
    return replace(labelled, decoys=asked + swapped) if asked or swapped else labelled
