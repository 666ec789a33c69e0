"""A learning loop that is killed 50 times, or as often as asked: what is lost or there twice.

Loops of six rounds over 50 images, with a truth file that answers and scripted students; all else
is the product. A process of a loop is killed at a random moment up to 0.35 s after it began and
goes on in the next one, until enough were killed; after each kill the store is looked at.
"""

import os
import tempfile
from pathlib import Path

from loop_trial import killed_loop

from bench.paired_timing import Figure

KILLS = int(os.environ.get("SECONDLOOK_CRASHES", "50"))


def run() -> list[Figure | str]:
    """Answers, queues and snapshots."""
    with tempfile.TemporaryDirectory() as folder:
        found = killed_loop(Path(folder), KILLS)
    same = "as those" if found.same else "**not as those**"
    return [
        f"{found.kills} kills: {found.lost} answers lost, {found.twice} answers, queues or "
        f"snapshots twice; the records at the end are {same} of a loop that nobody disturbed."
    ]
