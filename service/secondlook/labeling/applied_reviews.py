"""What people said of an image, applied to what a run decided on it.

A review is about the box of its class that overlaps the one that was shown best, from an IoU of
``SAME_BOX``. Of several about one box the newest counts. One that was taken back counts as if it
had never been given, so taking it back restores exactly what was there before.

The mask of a person takes the place of a model's, and its tight box that of the label. A box that a
person drew without a mask has none: that of a model would be of another outline.
"""

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
    found = _Subjects([_Subject(j.class_name, j) for j in judgements], frozenset(classes))
    for review in standing:
        found.apply(review)
    return tuple(subject.judgement for subject in found.subjects)


def reviewed_boxes(reviews: Iterable[Review]) -> list[tuple[Judgement, Review]]:
    """Every box of one image that people spoke of, as they left it, and the review that counts."""
    found = _Subjects([], None)
    for review in reviews:
        if stands(review):
            found.apply(review)
    return [(one.judgement, one.statements[-1].review) for one in found.subjects]


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
    for subject in found.subjects:
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
    before: Segmentation | None = None
    """Of an added one: of the same object, as a wrong box of another class."""

    @property
    def whole_image(self) -> bool:
        return self.judged is not None and self.judged.whole_image

    @property
    def box(self) -> Xyxy:
        outlines = [s.outline for s in self.statements if s.outline]
        if outlines:
            return outlines[-1]
        box = self.judged.box if self.judged else self.statements[0].review.box
        assert box is not None  # only COMPLETE has none, and that adds no box
        return box

    @property
    def shown_boxes(self) -> list[Xyxy]:
        """As reviews may have been shown it: as the run has it, and as people outlined it."""
        box = self.box
        return [box] if self.judged is None or self.judged.box == box else [self.judged.box, box]

    @property
    def segmentation(self) -> Segmentation | None:
        """Of the newest outline, which may be a mere box; where nobody drew one, the run's."""
        outlined = [s for s in self.statements if s.outline]
        if outlined:
            return outlined[-1].segmentation
        return self.judged.segmentation if self.judged else self.before

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


class _Subjects:
    """The boxes of one image while reviews are applied to them."""

    def __init__(self, subjects: list[_Subject], classes: frozenset[str] | None) -> None:
        """``classes`` None: of all classes, and a wrong box that nobody judged is kept too."""
        self.subjects = subjects
        self._classes = classes

    def apply(self, review: Review) -> None:
        """Apply one review, newer than those before."""
        statement = _Statement(review, _OUTCOMES[review.answer], _sentence(review))
        if review.box is None:
            for doubt in self.subjects:
                if doubt.whole_image:
                    doubt.statements.append(statement)
            return
        wrong = review.answer is ReviewAnswer.WRONG
        statement.added = review.answer is ReviewAnswer.MISSING
        if not wrong:
            statement.segmentation = _by_person(review)
            statement.outline = _mask_box(review) or (review.box if statement.added else None)
        box = statement.outline if statement.added else review.box
        subject = self._subject(review.class_name, box or review.box, statement)
        before = subject.segmentation if subject else None
        if subject:
            self._withdraw_correction(subject.answered)
            subject.statements.append(statement)
            subject.answered = statement
        if wrong and (review.new_class or review.new_box or review.mask):
            statement.elsewhere = self._correct(review, before)

    def _correct(self, review: Review, before: Segmentation | None) -> _Subject | None:
        """Accept the object that a wrong box, with the mask ``before``, should have marked."""
        drawn = _mask_box(review) or review.new_box
        class_name, box = review.new_class or review.class_name, drawn or review.box
        assert box is not None
        instead = _Statement(
            review, Outcome.ACCEPT, _correction(review), drawn, bool(drawn), _by_person(review)
        )
        subject = self._subject(class_name, box, instead)
        if subject:
            if not subject.statements:  # it adds this one
                subject.before = before
            subject.statements.append(instead)
        return subject

    def _withdraw_correction(self, before: _Statement | None) -> None:
        """A newer answer about a box outranks ``before``, with the object that it put elsewhere;
        and with that, if it added it, what people said of the added box."""
        while before and (other := before.elsewhere):
            if other.judged or other.statements[0].review is not before.review:
                other.statements = [s for s in other.statements if s.review is not before.review]
                return
            self.subjects = [subject for subject in self.subjects if subject is not other]
            before = other.answered

    def _subject(self, class_name: str, box: Xyxy, statement: _Statement) -> _Subject | None:
        """What a statement is about; a new box where it adds one, None where it is about nothing.

        A doubt about the whole image can be dispelled. An object that a person found is no answer
        to it, however large its box: that is a label of its own. A drawn outline is the object's,
        so it takes the place of nothing but another drawn one.
        """
        reject = statement.outcome is Outcome.REJECT
        near = [
            subject
            for subject in self.subjects
            if subject.class_name == class_name
            and (reject or not subject.whole_image)
            and not (statement.added and (subject.judged or _rejected_by(subject, statement)))
        ]
        shown = [(subject, box) for subject in near for box in subject.shown_boxes]
        overlaps = iou(_array([other for _, other in shown]), _array([box]))[:, 0]
        if len(shown) and overlaps.max() >= SAME_BOX:
            return shown[int(overlaps.argmax())][0]
        known = self._classes is None or (class_name in self._classes and not reject)
        if not known:
            return None
        self.subjects.append(added := _Subject(class_name, None))
        return added


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


def _mask_box(review: Review) -> Xyxy | None:
    return review.mask.box if review.mask else None


def _rejected_by(subject: _Subject, statement: _Statement) -> bool:
    """Whether the box is the one whose outline the same review calls wrong."""
    return bool(subject.statements) and subject.statements[-1].review is statement.review


def _array(boxes: Sequence[Xyxy]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


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
