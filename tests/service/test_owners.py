"""Whose jobs, streams, snapshots and trainings are, and who may change those of others."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from door_callers import token
from serving import png, serving, wait_until

from secondlook.core.access import Role, TokenAccess
from secondlook.store import Store, open_store
from secondlook.store.training_jobs import TrainingSpec
from secondlook_client import Client
from secondlook_client.errors import NotAllowed, SecondlookError
from secondlook_client.values import JobState, SnapshotQuery, TrainingState


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One for all, with a job of before the first token."""
    with open_store(tmp_path_factory.mktemp("owners")) as opened:
        with serving(store=opened) as s, Client(s.address) as anyone:
            anyone.label(png(), keep="of before")
        yield opened


@pytest.fixture(scope="module")
def people(store: Store) -> Iterator[dict[str, Client]]:
    """Clients of one server, by the names of their tokens."""
    secrets = {
        "eva": token(store, "eva", Role.LABELER, Role.TRAINER),
        "tom": token(store, "tom", Role.LABELER, Role.TRAINER),
        "root": token(store, "root", Role.ADMIN),
    }
    gate = TokenAccess(frozenset({Role.DEVICE}), frozenset({"gate"}))
    secrets["gate"] = store.tokens.create("gate", gate)
    secrets["spare part"] = store.tokens.create("spare part", gate)
    with ExitStack() as stack:
        server = stack.enter_context(serving(store=store))
        yield {
            name: stack.enter_context(Client(server.address, token=secret))
            for name, secret in secrets.items()
        }


def upload(client: Client, job: str) -> None:
    [(_, outcome)] = client.jobs.upload(job, [("4.png", png(shade=4))])
    if isinstance(outcome, SecondlookError):
        raise outcome


def changes(client: Client, job: str) -> list[Callable[[], object]]:
    """Every call that changes an upload job."""
    return [
        lambda: client.label(png(shade=3), keep=job),
        lambda: upload(client, job),
        lambda: client.jobs.create(job, reuse=True),
        lambda: client.jobs.finish(job),
        lambda: client.jobs.pause(job),
        lambda: client.jobs.resume(job),
        lambda: client.jobs.retry(job),
        lambda: client.jobs.cancel(job),
    ]


def test_a_job_is_changed_by_its_owner_and_by_administrators(people: dict[str, Client]) -> None:
    eva, tom, root = (people[name] for name in ("eva", "tom", "root"))
    eva.label(png(), keep="street")
    for change in changes(tom, "street"):
        with pytest.raises(NotAllowed, match="'street' was made with the token 'eva'"):
            change()
    assert tom.jobs.get("street").created_by == "eva"  # to read it, and to see whose it is
    assert tom.jobs.get("street").total == 1
    for change in changes(eva, "street"):
        change()
    eva.jobs.create("open")
    assert root.jobs.cancel("open").state is JobState.CANCELLED
    assert {job.name: job.created_by for job in tom.jobs.list()}["of before"] == ""
    tom.label(png(shade=9), keep="of before")  # nobody's: everybody's with the role


def test_a_stream_is_of_its_devices_and_of_who_began_it(
    people: dict[str, Client], tmp_path: Path
) -> None:
    def sent(who: str, stream: str) -> bool:
        """Whether a frame of theirs is taken; else the stream is refused as another's."""
        with people[who].capture(stream, spool=tmp_path / who / stream, classes=["dog"]) as opened:
            opened.send(png())
            wait_until(lambda: not opened.state.pending or bool(opened.state.problem))
            problem = opened.state.problem
            assert problem is None or f"'{stream}' was made with the token" in str(problem)
            return problem is None

    assert sent("gate", "gate")
    assert sent("spare part", "gate")  # another device that has the stream
    assert sent("tom", "desk")
    assert not sent("eva", "gate")
    assert not sent("eva", "desk")
    owners = {job.name: job.created_by for job in people["eva"].jobs.list()}
    assert owners["gate"] == "gate" and owners["desk"] == "tom"


def test_snapshots_and_trainings_tell_their_owners(people: dict[str, Client], store: Store) -> None:
    eva, tom = people["eva"], people["tom"]
    eva.label(png(), keep="for a snapshot")
    assert eva.datasets.create("s", SnapshotQuery(["for a snapshot"])).created_by == "eva"
    assert tom.datasets.get("s").created_by == "eva"
    training = store.training_jobs.create(TrainingSpec("m", "s"), "eva")
    with pytest.raises(NotAllowed, match=f"training {training.id} was made"):
        tom.models.cancel(training.id)
    assert eva.models.cancel(training.id).state is TrainingState.CANCELLED
