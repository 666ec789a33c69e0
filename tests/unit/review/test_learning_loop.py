"""A learning loop with scripted students: its rounds, its end, and kills between any two phases."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from guaranteed import COUNT, RIGHT, pets_truth, store_pets
from loop_trial import ScriptedModels, everything_said

from secondlook.evaluation.map_interval import MapInterval
from secondlook.review.learning_loop import LearningLoop, held_out_of, phase_of
from secondlook.review.loop_page import loop_to_json, write_loop_page
from secondlook.review.loop_record import (
    LabelUse,
    LoopPlan,
    LoopRecord,
    ReviewCost,
    Round,
    StopRules,
    cost_of,
    read_record,
)
from secondlook.review.oracle import PERSON, Oracle
from secondlook.selection.choices import Strategy
from secondlook.store import Store, open_store
from secondlook.store.reviews import Reviews
from secondlook_client.errors import Cancelled, Damaged, InvalidInput, NotFound
from secondlook_client.values import GroupBy, Review, ReviewAnswer

PLAN = LoopPlan("pets", "pets", Strategy.UNCERTAINTY, batch=5, held_out=10, seed=3)
TWO_ROUNDS = StopRules(rounds=2)


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """A store with the run ``pets``."""
    with open_store(folder / "data") as store:
        store_pets(store)
        yield store


def loop_in(store: Store, folder: Path, oracle: Oracle | None = None) -> LearningLoop:
    return LearningLoop(store, folder / "data", folder / "loop.json", ScriptedModels(store), oracle)


def test_kills_around_the_end_of_every_phase_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "whole") as store:
        whole = loop_in(store, tmp_path / "whole", pets_truth()).advance(
            LoopRecord(PLAN), TWO_ROUNDS
        )
        said, queues = everything_said(store), [q.name for q in store.reviews.queues()]
    assert whole.record.stopped.startswith("round 2 was the last one") and whole.waiting is None
    assert queues == ["pets-held-out", "pets-round-1", "pets-round-2"]
    assert set(said.values()) == {1}
    keep, answer = LearningLoop._keep, Reviews.answer
    kills = Counter[str]()

    def killed(self: LearningLoop, record: LoopRecord) -> LoopRecord:
        key = json.dumps(loop_to_json(record))
        kills[key] += 1
        if kills[key] == 1:  # what the phase made is there, and nothing says so
            raise Cancelled("before")
        kept = keep(self, record)
        if kills[key] == 2:
            raise Cancelled("after")
        return kept

    def killed_while_it_answers(self: Reviews, *given: object, **named: object) -> Review:
        kills["answers"] += 1
        if kills["answers"] % 9 == 0:
            raise Cancelled("while it answers")
        return answer(self, *given, **named)

    monkeypatch.setattr(LearningLoop, "_keep", killed)
    monkeypatch.setattr(Reviews, "answer", killed_while_it_answers)
    folder = tmp_path / "killed"
    with opened(folder) as store:
        record, ended, times = LoopRecord(PLAN), False, 0
        while not ended and times < 100:
            try:
                ended = not loop_in(store, folder, pets_truth()).advance(record, TWO_ROUNDS).waiting
            except Cancelled:
                times += 1
            file = folder / "loop.json"
            record = read_record(file) if file.exists() else record
        assert everything_said(store) == said
        assert [one.name for one in store.reviews.queues()] == queues
        assert len(store.snapshots.page()) == 2
    assert record == whole.record and times > 20


def test_what_is_held_out_is_neither_chosen_nor_learnt(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        models = ScriptedModels(store)
        loop = LearningLoop(store, tmp_path / "data", tmp_path / "loop.json", models, pets_truth())
        record = loop.advance(LoopRecord(PLAN), TWO_ROUNDS).record
        reviewed_only = replace(PLAN, name="only", labels=LabelUse.REVIEWED)
        loop.advance(LoopRecord(reviewed_only), StopRules(rounds=1))
    chosen = [image for one in record.rounds for image in one.images]
    assert len(record.held_out) == 10 and len(chosen) == len({*chosen}) == 10
    first, second, only = models.trained
    for data in models.trained:
        learnt = {one.sha256 for one in data.train}
        assert {one.sha256 for one in data.held_out} == set(record.held_out)
        assert not learnt & set(record.held_out)
    assert {*record.rounds[0].images} <= {one.sha256 for one in first.train}
    assert first.digest != second.digest and len(only.train) == 5
    # A person says which of the dogs of the last ten images are none.
    wrong = [one for one in second.held_out if int(one.name[1:]) >= RIGHT]
    assert wrong and not any(len(one.boxes) for one in wrong)
    assert models.asked_of[1] == (Strategy.UNCERTAINTY, ["rounds/1"])


def test_without_an_oracle_it_waits_for_people(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        loop, record = loop_in(store, tmp_path), LoopRecord(PLAN)
        for name in ("pets-held-out", "pets-round-1"):
            status = loop.advance(record, StopRules(rounds=1))
            assert status.waiting and status.waiting.name == name
            assert loop.advance(status.record, StopRules(rounds=1)).waiting == status.waiting
            while items := store.reviews.next(name, "ada", 100):
                for item in items:
                    store.reviews.answer(item.id, "ada", ReviewAnswer.RIGHT)
            record = status.record
        done = loop.advance(record, StopRules(rounds=1)).record
        asked = store.reviews.queue("pets-round-1").total
        assert done.last.cost and done.last.cost.answers == asked > 0
        assert done.last.cost.boxes == 0 and done.last.cost.measured
        more = loop.advance(done, StopRules(rounds=2))
        assert more.waiting and more.waiting.name == "pets-round-2"
        with pytest.raises(Cancelled):
            LearningLoop(
                store, tmp_path, tmp_path / "x", ScriptedModels(store), stopped=lambda: True
            ).advance(more.record, TWO_ROUNDS)


def test_a_pool_that_is_used_up_ends_it(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        plan = replace(PLAN, batch=40)
        record = (
            loop_in(store, tmp_path, pets_truth())
            .advance(LoopRecord(plan), StopRules(plateau=3))
            .record
        )
        assert record.stopped == "every image has been asked about" and len(record.rounds) == 1
        with pytest.raises(InvalidInput, match="50 images, and 20 are to be held out"):
            held_out_of(
                store,
                store.results.page(store.results.run("pets").id, 0, COUNT),
                replace(PLAN, held_out=20, batch=40),
            )
        with pytest.raises(InvalidInput, match="are 1 scenes, of which none is divided"):
            loop_in(store, tmp_path).advance(
                LoopRecord(replace(PLAN, group_by=GroupBy.FOLDER)), TWO_ROUNDS
            )


def test_without_a_label_nothing_is_trained(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        nothing_right = loop_in(store, tmp_path, pets_truth(right=0))
        with pytest.raises(InvalidInput, match="no image that is held out has a label"):
            nothing_right.advance(LoopRecord(PLAN), TWO_ROUNDS)


def measured(map50: float, apart: float = 0.01) -> MapInterval:
    return MapInterval(map50, tuple(np.linspace(map50 - apart, map50 + apart, 101).tolist()))


@pytest.mark.parametrize(
    ("rules", "values", "why"),
    [
        (StopRules(target=0.8), (0.5, 0.805), ""),
        (StopRules(target=0.8), (0.5, 0.82), "the target is reached"),
        (StopRules(budget_s=41), (0.5, 0.6), ""),
        (StopRules(budget_s=40), (0.5, 0.6), "the budget is used: 40 of 40"),
        (StopRules(plateau=2), (0.5, 0.5), ""),
        (StopRules(plateau=2), (0.5, 0.5, 0.49), "a plateau"),
        (StopRules(plateau=2), (0.5, 0.5, 0.51), ""),
        (StopRules(rounds=2), (0.5, 0.5), "round 2 was the last one"),
    ],
)
def test_rules_of_the_end(rules: StopRules, values: Sequence[float], why: str) -> None:
    rounds = tuple(
        Round(n, cost=ReviewCost(seconds=15), measured=measured(one))
        for n, one in enumerate(values, 1)
    )
    record = LoopRecord(PLAN, held_out_cost=ReviewCost(seconds=10), rounds=rounds)
    assert rules.reason(record).startswith(why) and bool(rules.reason(record)) == bool(why)


def test_time_is_measured_where_it_can_be() -> None:
    image, box = "0" * 64, (1.0, 1.0, 9.0, 9.0)

    def said(person: str, times: Sequence[float], answer: ReviewAnswer) -> list[Review]:
        return [
            Review(image, "dog", box, answer, person=person, id=n, created_at=at)
            for n, at in enumerate(times, 1)
        ]

    ada = said("ada", [0, 4, 8, 5_000, 5_004], ReviewAnswer.RIGHT)
    assert cost_of(ada, PLAN, timed=True) == ReviewCost(5, 0, 20.0, measured=True)
    stated = cost_of([*ada, *said(PERSON, [9], ReviewAnswer.MISSING)], PLAN, timed=False)
    assert stated == ReviewCost(5, 1, 5 * 2.5 + 7)
    taken_back = [replace(one, undone_by=9) for one in ada]
    assert cost_of(taken_back, PLAN, timed=True) == ReviewCost()


def test_a_record_is_read_as_it_was_written_or_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no loop"):
        read_record(tmp_path / "loop.json")
    (tmp_path / "loop.json").write_text('{"plan": 3}')
    with pytest.raises(Damaged, match="not the record of a loop"):
        read_record(tmp_path / "loop.json")
    rounds = (Round(1, "mixed", ("a",), ("b",), ReviewCost(3, 1, 9.0), "s", "t", measured(0.6)),)
    page = write_loop_page(tmp_path / "curve.html", LoopRecord(PLAN, ("x",), rounds=rounds))
    text = page.read_text()
    assert (
        "<polyline" in text
        and "0.600" in text
        and "{:.3f}–{:.3f}".format(*rounds[0].measured.interval) in text
    )
    assert phase_of(LoopRecord(PLAN)).value == "choosing the held-out images"


def test_a_queue_that_was_killed_half_way_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Reviews, queue_id: int, asked: object) -> None:
        raise Cancelled("killed")

    with opened(tmp_path) as store:
        with monkeypatch.context() as patch:  # nothing tidies up after a process that is gone
            patch.setattr(Reviews, "_fill", killed)
            patch.setattr(Reviews, "_delete_items", lambda self, queue_id: None)
            with pytest.raises(Cancelled):
                loop_in(store, tmp_path).advance(LoopRecord(PLAN), TWO_ROUNDS)
        with pytest.raises(NotFound):
            store.reviews.queue("pets-held-out")
        waiting = loop_in(store, tmp_path).advance(read_record(tmp_path / "loop.json"), TWO_ROUNDS)
        assert waiting.waiting and waiting.waiting.total > 0
