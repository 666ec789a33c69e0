"""What people said of an image, applied to what a run decided on it.

A review is about the box of its class that overlaps the one that was shown best, from an IoU of
``SAME_BOX``. Of several about one box the newest counts. One that was taken back counts as if it
had never been given, so taking it back restores exactly what was there before.

The mask of a person takes the place of a model's, and its tight box that of the label. A box that a
person drew without a mask has none: that of a model would be of another outline.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from secondlook.core.boxes import Xyxy, iou
from secondlook_client.masks import Segmentation
from secondlook_client.values import (
    Decision,
    Judgement,
    Outcome,
    Review,
    ReviewAnswer,
    WrongReason,
)

SAME_BOX = 0.5
"""IoU from which a person's box and a model's are the same object."""
PERSON = "person:"
"""What the model of a segmentation begins with that a person made."""
ADDED = -1
"""The row of a judgement whose box no model proposed."""
_OUTCOMES = {
    ReviewAnswer.RIGHT: Outcome.ACCEPT,
    ReviewAnswer.MISSING: Outcome.ACCEPT,
    ReviewAnswer.WRONG: Outcome.REJECT,
    ReviewAnswer.UNSURE: Outcome.UNSURE,
    ReviewAnswer.COMPLETE: Outcome.REJECT,
}
"""COMPLETE: of the doubts about the whole image."""
_CERTAIN = {Outcome.ACCEPT: 1.0, Outcome.REJECT: 0.0}
_SENTENCES = {
    ReviewAnswer.RIGHT: "{} says that it is right",
    ReviewAnswer.WRONG: "{} says that it is wrong",
    ReviewAnswer.UNSURE: "{} cannot tell",
    ReviewAnswer.MISSING: "{} drew this object, which no box marked",
    ReviewAnswer.COMPLETE: "{} says that nothing is missing on the image",
}
_REASONS = {
    WrongReason.CLASS: ", an object of another class",
    WrongReason.OUTLINE: ", badly outlined",
    WrongReason.DUPLICATE: ", a second box of one object",
    WrongReason.NOTHING_THERE: ", nothing is there",
}


def apply_reviews(
    judgements: Sequence[Judgement], reviews: Iterable[Review], classes: Sequence[str]
) -> tuple[Judgement, ...]:
    """``judgements`` as the reviews, oldest first, leave them.

    Right: accepted with probability 1; wrong: rejected with probability 0; unsure: neither. A
    missing object, and the new outline or class of a wrong box, are accepted: as a judgement of
    their own, unless only the class is new and a box of that class is there already. These stand
    behind the others, whose places never change. Classes that are not in ``classes`` are ignored.
    An object of a new class keeps the mask that it had as a wrong box.
    """
    standing = [review for review in reviews if stands(review)]
    if not standing:
        return tuple(judgements)
    found = _Subjects(judgements, frozenset(classes))
    for review in standing:
        found.apply(review)
    return tuple(subject.judgement for subject in found)


def reviewed_boxes(reviews: Iterable[Review]) -> list[tuple[Judgement, Review]]:
    """Every box of one image that people spoke of, as they left it, and the review that counts."""
    found = _Subjects([], None)
    for review in reviews:
        if stands(review):
            found.apply(review)
    return [(one.judgement, one.statements[-1].review) for one in found]


def is_complete(reviews: Iterable[Review]) -> bool:
    """Whether a person said that nothing is missing on the image."""
    return any(r.answer is ReviewAnswer.COMPLETE for r in reviews if stands(r))


def stands(review: Review) -> bool:
    """Whether it counts: it takes nothing back, and is not taken back."""
    return review.undoes is None and review.undone_by is None


def find_contradictions(reviews: Iterable[Review]) -> Iterator[tuple[Review, Review]]:
    """Pairs (older, newer) in which two people say the opposite of one box of one image.

    Of each person the newest review of a box counts, so whoever changes their mind, or takes the
    review back, ends it. Who is unsure contradicts nobody.
    """
    found = _Subjects([], None)
    for review in reviews:
        if stands(review):
            found.apply(review)
    for subject in found:
        newest: dict[str, _Statement] = {}
        for statement in subject.statements:
            newest.pop(statement.review.person, None)
            newest[statement.review.person] = statement  # in the order of what counts
        *others, last = newest.values()
        for other in others:
            if {other.outcome, last.outcome} == {Outcome.ACCEPT, Outcome.REJECT}:
                yield other.review, last.review


@dataclass(eq=False)
class _Statement:
    """What one review says of one box."""

    review: Review
    outcome: Outcome
    reason: str
    outline: Xyxy | None = None
    """Of the object, where the person drew it."""
    added: bool = False
    """Whether it is about an object that no box marks, or not well."""
    segmentation: Segmentation | None = None
    """By the person."""
    elsewhere: "_Subject | None" = None
    """Where the new class or outline of a wrong box went."""


@dataclass(eq=False)
class _Subject:
    """A box that reviews may be about: one that a run judged, or one that a person added."""

    class_name: str
    judged: Judgement | None
    """By the run; None of an added one."""
    statements: list[_Statement] = field(default_factory=list)
    """Oldest first; of an added one, the first has added it."""
    answered: _Statement | None = None
    """The newest that is about this very box; the others accept it instead of a wrong one."""
    outlined: _Statement | None = None
    """The newest with an outline."""
    before: Segmentation | None = None
    """Of an added one: of the same object, as a wrong box of another class."""
    place: int | None = None
    """Among those of its class; None until it has a box."""

    @property
    def whole_image(self) -> bool:
        return self.judged is not None and self.judged.whole_image

    @property
    def box(self) -> Xyxy:
        if self.outlined and self.outlined.outline:
            return self.outlined.outline
        box = self.judged.box if self.judged else self.statements[0].review.box
        assert box is not None  # only COMPLETE has none, and that adds no box
        return box

    @property
    def segmentation(self) -> Segmentation | None:
        """Of the newest outline, which may be a mere box; where nobody drew one, the run's."""
        if self.outlined:
            return self.outlined.segmentation
        return self.judged.segmentation if self.judged else self.before

    def add(self, statement: _Statement) -> None:
        """The newest statement."""
        self.statements.append(statement)
        if statement.outline:
            self.outlined = statement

    def withdraw(self, review: Review) -> None:
        """Nothing counts any more that the review says of it."""
        self.statements = [s for s in self.statements if s.review is not review]
        self.outlined = next((s for s in reversed(self.statements) if s.outline), None)

    @property
    def judgement(self) -> Judgement:
        """With what counts; the run's own object where nobody said anything of it."""
        if not self.statements:
            assert self.judged  # an added one has the statement that added it
            return self.judged
        last, before = self.statements[-1], self.judged.probability if self.judged else 0.0
        decision = Decision(last.outcome, _CERTAIN.get(last.outcome, before), last.reason)
        box, segmentation = self.box, self.segmentation
        if self.judged:
            return replace(self.judged, decision=decision, box=box, segmentation=segmentation)
        return Judgement(self.class_name, box, 0.0, None, decision, ADDED, segmentation)


class _SubjectsOfClass:
    """Those of one class, all compared with a box at once: there may be thousands."""

    def __init__(self) -> None:
        self._subjects: list[_Subject] = []
        self._boxes = np.zeros((8, 2, 4), dtype=np.float32)
        """As reviews may have been shown each: as the run has it, and as people outlined it. Grows
        by doubling; unused ones overlap nothing."""

    def put(self, subject: _Subject) -> None:
        """Compare with it from now on, by the box that it has now."""
        if subject.place is None:
            subject.place = len(self._subjects)
            self._subjects.append(subject)
            if subject.place == len(self._boxes):
                self._boxes = np.concatenate([self._boxes, np.zeros_like(self._boxes)])
        box = subject.box
        self._boxes[subject.place] = subject.judged.box if subject.judged else box, box

    def remove(self, subject: _Subject) -> None:
        """It overlaps nothing any more."""
        self._boxes[subject.place] = 0

    def near(self, box: Xyxy) -> Iterator[_Subject]:
        """Those that are the same object as ``box`` by an IoU of ``SAME_BOX``, the best first."""
        boxes = self._boxes[: len(self._subjects)].reshape(-1, 4)
        overlaps = iou(boxes, np.array([box], dtype=np.float32)).reshape(-1, 2).max(axis=1)
        same = np.flatnonzero(overlaps >= SAME_BOX)
        best_first = same[np.argsort(-overlaps[same], kind="stable")]
        return (self._subjects[place] for place in best_first)


class _Subjects:
    """The boxes of one image while reviews are applied to them."""

    def __init__(self, judgements: Sequence[Judgement], classes: frozenset[str] | None) -> None:
        """``classes`` None: of all classes, and a wrong box that nobody judged is kept too."""
        self._classes = classes
        self._all: dict[_Subject, None] = {}
        """In order."""
        self._by_class: defaultdict[str, _SubjectsOfClass] = defaultdict(_SubjectsOfClass)
        for judgement in judgements:
            self._put(_Subject(judgement.class_name, judgement))
        self._doubts = [subject for subject in self._all if subject.whole_image]

    def __iter__(self) -> Iterator[_Subject]:
        return iter(self._all)

    def apply(self, review: Review) -> None:
        """Apply one review, newer than those before."""
        statement = _Statement(review, _OUTCOMES[review.answer], _sentence(review))
        if review.box is None:
            for doubt in self._doubts:
                doubt.add(statement)
            return
        wrong = review.answer is ReviewAnswer.WRONG
        statement.added = review.answer is ReviewAnswer.MISSING
        if not wrong:
            statement.segmentation = _by_person(review)
            statement.outline = _outline(review)
        box = statement.outline if statement.added else review.box
        subject = self._subject(review.class_name, box or review.box, statement)
        before = subject.segmentation if subject else None
        if subject:
            self._withdraw_correction(subject.answered)
            self._add(subject, statement)
            subject.answered = statement
        if wrong and (review.new_class or review.new_box or review.mask):
            statement.elsewhere = self._correct(review, before)

    def _correct(self, review: Review, before: Segmentation | None) -> _Subject | None:
        """Accept the object that a wrong box, with the mask ``before``, should have marked."""
        drawn = _outline(review)
        class_name, box = review.new_class or review.class_name, drawn or review.box
        assert box is not None
        instead = _Statement(
            review, Outcome.ACCEPT, _correction(review), drawn, bool(drawn), _by_person(review)
        )
        subject = self._subject(class_name, box, instead)
        if subject:
            if not subject.statements:  # it adds this one
                subject.before = before
            self._add(subject, instead)
        return subject

    def _add(self, subject: _Subject, statement: _Statement) -> None:
        subject.add(statement)
        self._put(subject)

    def _put(self, subject: _Subject) -> None:
        """A new subject, or one whose box may have changed."""
        self._all[subject] = None
        self._by_class[subject.class_name].put(subject)

    def _withdraw_correction(self, before: _Statement | None) -> None:
        """A newer answer about a box outranks ``before``, with the object that it put elsewhere;
        and with that, if it added it, what people said of the added box."""
        while before and (other := before.elsewhere):
            of_class = self._by_class[other.class_name]
            if other.judged or other.statements[0].review is not before.review:
                other.withdraw(before.review)
                if other in self._all:
                    of_class.put(other)
                return
            self._all.pop(other, None)
            of_class.remove(other)
            before = other.answered

    def _subject(self, class_name: str, box: Xyxy, statement: _Statement) -> _Subject | None:
        """What a statement is about; a new box where it adds one, None where it is about nothing.

        A doubt about the whole image can be dispelled. An object that a person found is no answer
        to it, however large its box: that is a label of its own. A drawn outline is the object's,
        so it takes the place of nothing but another drawn one.
        """
        reject = statement.outcome is Outcome.REJECT
        for subject in self._by_class[class_name].near(box):
            another = (statement.added and subject.judged) or _rejected_by(subject, statement)
            if (reject or not subject.whole_image) and not another:
                return subject
        known = self._classes is None or (class_name in self._classes and not reject)
        return _Subject(class_name, None) if known else None


def review_words(review: Review) -> str:
    """What a person said, in a few words and without the person."""
    if review.undoes is not None:
        return f"took '{review.answer.value}' back{_note(review)}"
    words = review.answer.value
    if review.reason:
        words += _REASONS[review.reason]
    if review.new_class:
        words += f", it is '{review.new_class}'"
    if review.mask:
        words += ", with a mask"
    elif review.new_box:
        words += ", with a new outline"
    return words + (" (taken back)" if review.undone_by is not None else "") + _note(review)


def _by_person(review: Review) -> Segmentation | None:
    return Segmentation(review.mask, 1.0, 1.0, PERSON + review.person) if review.mask else None


def _outline(review: Review) -> Xyxy | None:
    """The box of what the person drew, None where nothing was drawn. The store keeps it beside the
    mask of a missing and of a wrong object, so those masks are not decoded at each reading."""
    if review.answer is ReviewAnswer.MISSING:
        return review.box
    return review.new_box or (review.mask.box if review.mask else None)


def _rejected_by(subject: _Subject, statement: _Statement) -> bool:
    """Whether the box is the one that the same review calls wrong."""
    return bool(subject.statements) and subject.statements[-1].review is statement.review


def _sentence(review: Review) -> str:
    why = _REASONS[review.reason] if review.reason else ""
    why += ", and outlined it" if review.mask and review.answer is ReviewAnswer.RIGHT else ""
    return _SENTENCES[review.answer].format(review.person) + why + _note(review)


def _correction(review: Review) -> str:
    what = f"'{review.new_class}' instead of '{review.class_name}'" if review.new_class else ""
    if review.new_box or review.mask:
        return f"{review.person} drew this outline" + (f", {what}" if what else "") + _note(review)
    return f"{review.person} says that it is {what}" + _note(review)


def _note(review: Review) -> str:
    return f": {review.note}" if review.note else ""
