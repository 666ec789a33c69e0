"""No answer is lost or doubled when the program that gives it is killed."""

from pathlib import Path

from killed_reviewers import KilledReviewers
from stored import labelled, stored_run

from secondlook.store import open_store
from secondlook.store.reviews import QueueItem

KILLS = 8
"""Of each of two programs; ``python -m bench review_queue`` does it a hundred times."""


def test_answers_survive_the_death_of_who_gave_them(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        run = stored_run(store, "first", [labelled(f"i{n}") for n in range(40)])
        asked = [
            QueueItem(result.cursor, place, one.class_name, one.box, one.probability, one.outcome)
            for result in store.results.page(run.id)
            for place, one in enumerate(result.labelled.judgements)
        ] * 20
        store.reviews.create_queue("q", "first", asked, "random")
    trial = KilledReviewers(tmp_path / "data", "", "q")
    answered = trial.run(KILLS, seed=7)
    assert KILLS < answered < len(asked), "the kills did not come while answers were given"
