"""Whether the verifier of a job answers its questions at all, judged by the first images.

A model that gets no image, or does not follow the question, says something to every box ("No image
was provided"). Each of these is an honest abstention, and a whole run of them is of no use to
anybody: the job waits and shows what was said, as it does when the verifier cannot be reached.
"""

from secondlook.core.types import Labelled

FIRST_ANSWERS = 8
"""Answers after which a verifier is judged. A model that follows the question abstains on about one
in fifty, so more than half of eight is no chance; and eight come from the first image or two."""
SHOWN_ANSWERS = 3
"""Different answers that the message shows."""


class AbstentionCheck:
    """Judges by images: one abstains when more than half of its answers are neither yes nor no.

    Once the first images have ``FIRST_ANSWERS`` answers or more, and no more of these images
    abstain than do not, the verifier has passed and is not judged again. Belongs to one thread.
    """

    def __init__(self) -> None:
        self._passed = False
        self._abstains: dict[int, bool] = {}
        """Of each image that was asked about, by its key."""
        self._answers = self._abstentions = 0
        self._said: dict[str, None] = {}
        self._problem = ""
        """As it was first told: a message that changes with every image is told anew each time."""

    def problem(self, key: int, labelled: Labelled) -> str:
        """Why this image's result should not stand yet; empty when it may.

        ``key`` tells images apart: of one that is tried again the last answers count.
        """
        evidence = labelled.evidence
        verdicts = (*evidence.verdicts.values(), *evidence.image_verdicts)
        answers = [verdict.answer for verdict in verdicts if not verdict.answer.error]
        if self._passed or not answers:
            return ""
        said = [answer.raw for answer in answers if answer.p_yes is None]
        if key not in self._abstains:
            self._answers += len(answers)
            self._abstentions += len(said)
            self._said |= dict.fromkeys(said[:SHOWN_ANSWERS])
        self._abstains[key] = 2 * len(said) > len(answers)
        if self._answers < FIRST_ANSWERS:
            return ""
        self._passed = 2 * sum(self._abstains.values()) <= len(self._abstains)
        if self._passed or not self._abstains[key]:
            return ""
        self._problem = self._problem or self._message()
        return self._problem

    def waive(self) -> None:
        """Judge no more: nobody mended the verifier, and its boxes are unsure."""
        self._passed = True

    def _message(self) -> str:
        said = ", ".join(repr(words[:60]) for words in list(self._said)[:SHOWN_ANSWERS])
        return (
            f"the verifier answered neither yes nor no to {self._abstentions} of the first "
            f"{self._answers} questions; it said {said}. Check that its model takes images and "
            "gets them, or use another model"
        )
