"""A run that is looked at: lists, counts and previews against results that are read one by one."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fakes import ScriptedSegmenter
from scripted_student import by_student
from sqlalchemy import delete
from stored import labelled, review_box, stored_run, street_ontology

from secondlook.core.types import Judgement, Labelled
from secondlook.review import browse
from secondlook.review.browse import (
    ANY,
    ImageFilter,
    ImageOrder,
    ImagePage,
    Interval,
    RunBrowser,
)
from secondlook.review.preview import Preview, Rules
from secondlook.review.redecide import adjusted_ontology, redecide
from secondlook.store.codec import OUTCOMES
from secondlook.store.judgement_columns import PATHS, with_reviews
from secondlook.store.schema import decisions
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.values import BoxSource, LabelPath, Outcome

if TYPE_CHECKING:
    from secondlook.store import Store
    from secondlook.store.results import Result
    from secondlook.store.runs import Run

DOG_BOX = (20.0, 5.0, 39.0, 25.0)
ONTOLOGY = Ontology(tuple(replace(spec, box=BoxSource.MASK) for spec in street_ontology().classes))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "BLOCK", 4)
    monkeypatch.setattr(browse, "RECOUNT_S", 0.0)


def random_image(draw: random.Random, number: int) -> Labelled:
    """Teachers', a student's, with masks, or one that was asked about as a whole."""
    name = f"{draw.choice(('Street', 'park', 'Quay'))}/{number}"
    if draw.random() < 0.2:
        return by_student([(DOG_BOX, "dog", draw.random())], ONTOLOGY, name)
    corners = [(draw.uniform(0, 20), draw.uniform(0, 15)) for _ in range(draw.randrange(4))]
    rows = tuple(
        (
            (x, y, x + draw.uniform(5, 19), y + draw.uniform(5, 14)),
            {draw.choice(("person", "dog")): draw.uniform(0.1, 1)},
        )
        for x, y in corners
    )
    on = draw.random()
    answers = {"On?": on, "Off?": 1 - on, "Dog?": draw.uniform(0.4, 1)}
    if draw.random() < 0.3:
        wide = {f"Does this picture show a {spec.name}?": 0.5 for spec in ONTOLOGY.classes}
        return labelled(name, rows, {**answers, **wide}, ONTOLOGY, verify_empty=True)
    segmenter = ScriptedSegmenter() if draw.random() < 0.5 else None
    return labelled(name, rows, answers, ONTOLOGY, segmenter)


IMAGES = 24


@cache
def random_images() -> list[Labelled]:
    draw = random.Random(5)
    return [random_image(draw, number) for number in range(IMAGES)]


@pytest.fixture
def run(store: "Store") -> "Run":
    """Images of all kinds; some reviewed, some measured."""
    draw = random.Random(6)
    made = stored_run(store, "street", random_images(), ONTOLOGY)
    for result in store.results.page(made.id)[::7]:
        for judgement in result.labelled.judgements[:1]:
            said = draw.choice(("right", "unsure"))
            review_box(store, result.image_id, judgement.class_name, judgement.box, said)
        review_box(store, result.image_id, "dog", (1.0, 1.0, 9.0, 9.0), "missing")
    some = store.results.page(made.id)[::5]
    found = {
        r.cursor: {place: uncertain(draw.random()) for place in range(len(r.labelled.judgements))}
        for r in some
    }
    store.uncertainties.put(UncertaintyMethod.COMMITTEE, "scripted", found)
    return made


def uncertain(value: float) -> LabelUncertainty:
    return LabelUncertainty(UncertaintyMethod.COMMITTEE, value, 1 - value, "drawn", {})


def names(page: ImagePage) -> list[str]:
    return [image.columns.names[image.place] for image in page.images]


def within(value: float | None, interval: Interval) -> bool:
    low, high = interval
    if value is None:
        return interval == ANY
    return (low is None or value >= low) and (high is None or value <= high)


class Expected:
    """The same lists, from results that are read one by one."""

    def __init__(self, store: "Store", run: "Run") -> None:
        self.results = store.results.page(run.id, limit=1000)
        before = store.results.page(run.id, limit=1000, reviewed=False)
        self.decided = {result.cursor: result for result in before}
        self.measured = store.uncertainties.of_results([r.cursor for r in self.results])

    def uncertainty(self, result: "Result", place: int) -> float:
        known = [
            found[place].value for found in self.measured[result.cursor].values() if place in found
        ]
        probability = result.labelled.judgements[place].decision.probability
        return max(known) if known else 1 - 2 * abs(probability - 0.5)

    def passed(self, result: "Result", wanted: ImageFilter) -> list[int]:
        """Places of the judgements that meet the conditions on judgements."""
        return [
            place
            for place, judgement in enumerate(result.labelled.judgements)
            if self._meets(result, place, judgement, wanted)
        ]

    def _meets(self, result: "Result", place: int, one: Judgement, wanted: ImageFilter) -> bool:
        x1, y1, x2, y2 = one.box
        area = (x2 - x1) * (y2 - y1) / (result.labelled.width * result.labelled.height)
        return (
            (not wanted.classes or one.class_name in wanted.classes)
            and (not wanted.outcomes or one.decision.outcome in wanted.outcomes)
            and within(one.decision.probability, wanted.probability)
            and within(one.score, wanted.score)
            and within(one.p_yes, wanted.p_yes)
            and within(area, wanted.area)
            and within(self.uncertainty(result, place), wanted.uncertainty)
            and wanted.reason.casefold() in one.decision.reason.casefold()
            and self._covered(result, place, one, wanted)
        )

    def _covered(self, result: "Result", place: int, one: Judgement, wanted: ImageFilter) -> bool:
        if wanted.guaranteed is None:
            return True
        decided = self.decided[result.cursor].labelled.judgements[place : place + 1]
        accepted = any(known.decision.outcome is Outcome.ACCEPT for known in decided)
        return (accepted and one.class_name in wanted.guaranteed) != wanted.unguaranteed

    def images(self, wanted: ImageFilter) -> Iterator["Result"]:
        for result in self.results:
            shown = result.labelled
            rejected = len(shown.of(Outcome.REJECT)) == len(shown.judgements)
            if (
                wanted.text.casefold() in shown.name.casefold()
                and (not wanted.paths or shown.path in wanted.paths)
                and (wanted.reviewed in (None, bool(result.reviewed)))
                and (not wanted.empty or rejected)
                and (not wanted.of_judgements or self.passed(result, wanted))
            ):
                yield result

    def listed(self, wanted: ImageFilter, order: ImageOrder) -> list[str]:
        def rank(result: "Result") -> float | str:
            passed = self.passed(result, wanted)
            if order is ImageOrder.NAME:
                return result.labelled.name.casefold()
            if order is ImageOrder.COUNT:
                return -len(passed)
            if order is ImageOrder.UNCERTAINTY:
                return min((-self.uncertainty(result, place) for place in passed), default=np.inf)
            judged = result.labelled.judgements
            return min((judged[place].decision.probability for place in passed), default=np.inf)

        found = list(self.images(wanted))
        if order is not ImageOrder.DECIDED:
            found.sort(key=rank)
        return [result.labelled.name for result in found]


def random_filter(draw: random.Random) -> ImageFilter:
    def interval(chance: float = 0.2) -> Interval:
        if draw.random() > chance:
            return ANY
        low, high = sorted((draw.random(), draw.random()))
        return draw.choice(((low, high), (low, None), (None, high)))

    def some(values: list[object], chance: float = 0.3) -> frozenset[object]:
        return (
            frozenset(draw.sample(values, draw.randint(1, 2)))
            if draw.random() < chance
            else frozenset()
        )

    return ImageFilter(
        classes=some(list(ONTOLOGY.names)),  # type: ignore[arg-type]
        outcomes=some(list(Outcome)),  # type: ignore[arg-type]
        probability=interval(),
        uncertainty=interval(),
        score=interval(),
        p_yes=interval(),
        area=interval(),
        text=draw.choice(("", "", "STREET", "7", "nowhere")),
        paths=some(list(LabelPath), 0.2),  # type: ignore[arg-type]
        reviewed=draw.choice((None, None, True, False)),
        empty=draw.random() < 0.1,
        reason=draw.choice(("", "", "", "P(YES)", "ann", "nowhere")),
        guaranteed=draw.choice((None, None, None, frozenset({"dog", "glasses on"}))),
        unguaranteed=draw.random() < 0.5,
    )


def test_lists_are_those_of_the_results_read_one_by_one(store: "Store", run: "Run") -> None:
    browser, expected, draw = RunBrowser(store), Expected(store, run), random.Random(3)
    lengths = Counter[int]()
    for _ in range(100):
        wanted, order = random_filter(draw), draw.choice(list(ImageOrder))
        every = expected.listed(wanted, order)
        page = browser.images(run, wanted, order, limit=1000)
        assert names(page) == every, (wanted, order)
        assert (page.total, page.of_run) == (len(every), IMAGES)
        part = browser.images(run, wanted, order, reverse=True, offset=2, limit=5)
        assert names(part) == every[::-1][2:7]
        lengths[min(len(every), 2)] += 1
    assert min(lengths[0], lengths[1] + lengths[2]) > 10  # both happen


def test_each_image_of_a_list_has_its_judgements(store: "Store", run: "Run") -> None:
    page = RunBrowser(store).images(run, limit=1000)
    for image, result in zip(page.images, store.results.page(run.id), strict=True):
        columns, own, shown = image.columns, image.judgements, result.labelled
        evidence = image.block.evidence
        assert columns.cursors[image.place] == result.cursor
        assert columns.sha256[image.place].hex() == shown.sha256
        assert tuple(columns.sizes[image.place]) == (shown.width, shown.height)
        assert PATHS[columns.paths[image.place]] is shown.path
        assert columns.reviewed[image.place] == bool(result.reviewed)
        assert columns.decided_at[image.place] == result.decided_at
        judged = shown.judgements
        assert [run.ontology.names[c] for c in columns.classes[own]] == [
            j.class_name for j in judged
        ]
        assert [OUTCOMES[o] for o in columns.outcomes[own]] == [j.decision.outcome for j in judged]
        np.testing.assert_allclose(evidence.boxes[own], [j.box for j in judged] or np.zeros((0, 4)))
        np.testing.assert_allclose(evidence.scores[own], [j.score for j in judged], rtol=1e-6)
        p_yes = [np.nan if j.p_yes is None else j.p_yes for j in judged]
        np.testing.assert_allclose(evidence.p_yes[own], p_yes, rtol=1e-6)


def test_a_summary_counts_what_the_filter_lets_through(store: "Store", run: "Run") -> None:
    browser, expected, draw = RunBrowser(store), Expected(store, run), random.Random(4)
    for _ in range(12):
        wanted = random_filter(draw)
        shown = list(expected.images(wanted))
        passed = Counter(
            (j.class_name, j.decision.outcome)
            for result in shown
            for j in [result.labelled.judgements[p] for p in expected.passed(result, wanted)]
        )
        summary = browser.summary(run, wanted)
        assert (summary.images, summary.matching_images) == (IMAGES, len(shown))
        for name, counts in zip(run.ontology.names, summary.classes.tolist(), strict=True):
            assert counts == [passed[name, outcome] for outcome in OUTCOMES]
        histogram = next(one for one in summary.histograms if one.name == "probability")
        assert histogram.matching.sum() == passed.total()
        assert histogram.counts.sum() == sum(len(r.labelled.judgements) for r in expected.results)


def test_what_changes_is_seen_at_once(store: "Store", run: "Run") -> None:
    browser = RunBrowser(store)
    reviewed = ImageFilter(reviewed=True)
    before = browser.images(run, reviewed).total
    fresh = next(r for r in store.results.page(run.id) if not r.reviewed)
    said = review_box(store, fresh.image_id, "dog", (2.0, 2.0, 8.0, 8.0), "missing")
    assert browser.images(run, reviewed).total == before + 1
    store.reviews.undo(said.id, "Ann")
    assert browser.images(run, reviewed).total == before

    doubtful = ImageFilter(uncertainty=(0.999, None))
    found = browser.images(run, doubtful).total
    judged = next(r for r in store.results.page(run.id) if r.labelled.judgements)
    store.uncertainties.put(
        UncertaintyMethod.MONTE_CARLO, "x", {judged.cursor: {0: uncertain(1.0)}}
    )
    assert browser.images(run, doubtful).total >= max(found, 1)
    assert judged.labelled.name in names(browser.images(run, doubtful, limit=100))

    with store.database.writing() as connection:
        connection.execute(delete(decisions).where(decisions.c.id == fresh.cursor))
    page = browser.images(run, limit=100)
    assert (page.of_run, fresh.labelled.name in names(page)) == (IMAGES - 1, False)


def test_an_image_that_is_reviewed_meanwhile_is_read_again(
    store: "Store", run: "Run", monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = next(r for r in store.results.page(run.id) if not r.reviewed)
    asked = []

    def reviewed_meanwhile(*given: Any) -> list[int]:
        asked.append(given)
        if len(asked) == 2:  # the columns are read, and the evidence is next
            review_box(store, fresh.image_id, "dog", (30.0, 1.0, 39.0, 4.0), "missing")
        return with_reviews(*given)

    monkeypatch.setattr(browse, "with_reviews", reviewed_meanwhile)
    page = RunBrowser(store).images(run, limit=2, with_evidence=True)
    (shown,) = (i for i in page.images if i.columns.cursors[i.place] == fresh.cursor)
    boxes = shown.block.evidence.boxes
    assert boxes[shown.judgements].tolist()[-1] == [30, 1, 39, 4]
    assert len(boxes) == len(shown.columns.classes) and len(asked) == 4


def test_blocks_are_kept_within_the_budget(store: "Store", run: "Run") -> None:
    browser = RunBrowser(store, max_bytes=1)
    expected = Expected(store, run).listed(ImageFilter(), ImageOrder.NAME)
    assert names(browser.images(run, order=ImageOrder.NAME, limit=100)) == expected
    assert len(browser._blocks._known) == 1


CHANGES = {"accept": {"": 0.8, "dog": 0.75}, "threshold": {"dog": 0.4}}


def test_a_preview_is_what_deciding_again_would_write(store: "Store", run: "Run") -> None:
    rules = Rules(CHANGES, nms_iou=0.3, duplicate_iou=0.2)
    ontology = adjusted_ontology(run.ontology, CHANGES)
    redecide(store, "street", "again", ontology, 0.3, duplicate_iou=0.2)
    again = store.results.run("again")
    before = store.results.page(run.id, limit=1000)
    preview = Preview(store, run, rules)
    found = preview.images([result.cursor for result in before])
    written = store.results.page(again.id, limit=1000)
    for result, after in zip(before, written, strict=True):
        assert [str(j) for j in found[result.cursor]] == [str(j) for j in after.labelled.judgements]

    counts, decided = preview.counts(), store.results.page(run.id, limit=1000, reviewed=False)
    for result_set, shown in (
        (decided, counts.before),
        (store.results.page(again.id, limit=1000, reviewed=False), counts.after),
    ):
        told = Counter(
            (j.class_name, j.decision.outcome) for r in result_set for j in r.labelled.judgements
        )
        for name, row in zip(run.ontology.names, shown.tolist(), strict=True):
            assert row == [told[name, outcome] for outcome in OUTCOMES]
    assert 0 < counts.changed_images < counts.images == IMAGES


def test_rules_that_cannot_decide_are_refused(store: "Store", run: "Run") -> None:
    for rules in (
        Rules({"accept": {"cat": 0.5}}),
        Rules({"accept": {"dog": 0.1}}),
        Rules({"threshold": {"dog": 0.01}}),
    ):
        with pytest.raises(BadOntology):
            Preview(store, run, rules)
    with pytest.raises(InvalidInput, match="nms_iou"):
        Preview(store, run, Rules({}, nms_iou=1.5))
