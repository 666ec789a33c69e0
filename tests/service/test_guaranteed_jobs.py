"""A job under a guarantee over a loopback server: a change of scene is found, and ends it."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from guaranteed import CAT, DOG, PETS, pets_truth, store_pets
from job_client import send, wait
from prometheus_client import generate_latest
from serving import Serving, png, serving, wait_until

from secondlook.cli import run
from secondlook.core.types import Image
from secondlook.evaluation.guarantee import Terms
from secondlook.jobs import guarantee_checks
from secondlook.jobs.guarantee_checks import checks_status
from secondlook.review.guarantees import GuaranteeRequest, create_guarantee
from secondlook.store import Store
from secondlook.store.integrity import check
from secondlook_client import Client, errors
from secondlook_client.values import Outcome, ReviewAnswer

GAUGE = re.compile(r'^secondlook_guarantee_(\w+)\{guarantee="g"\} (\S+)$', re.MULTILINE)


def pets(image: Image, phrases: Sequence[str]) -> tuple[Row, ...]:
    return (DOG, {"dog": 0.8}), (CAT, {"cat": 0.7})


@pytest.fixture
def guaranteed(store: Store, monkeypatch: pytest.MonkeyPatch):
    """A server whose store has the guarantee ``g``, and a client of it."""
    monkeypatch.setattr(guarantee_checks, "RATE", 0.5)
    store_pets(store)
    request = GuaranteeRequest("pets", Terms(0.9, 0.9, 40))
    assert create_guarantee(store, "g", request, None, pets_truth()).holds
    models = ScriptedProposer(pets), ScriptedVerifier({"Dog?": 0.99, "Cat?": 0.5})
    with serving(*models, store=store) as served, Client(served.address) as client:
        yield served, client


def gauges(served: Serving) -> dict[str, float]:
    told = generate_latest(served.metrics.registry).decode()
    return {name: float(value) for name, value in GAUGE.findall(told)}


def answer_all(client: Client, said: ReviewAnswer) -> int:
    """A person answers every check there is; how many."""
    count = 0
    while items := client.reviews.next("g-checks", person="ann", count=50):
        for item in items:
            client.reviews.answer(item, said, person="ann")
        count += len(items)
    return count


def test_a_change_of_scene_ends_the_guarantee_of_a_running_job(
    guaranteed, store: Store, capsys
) -> None:
    served, client = guaranteed
    made = client.jobs.create("day", guarantee="g")
    assert made.classes == PETS.names and gauges(served) == {}
    send(client, "day", 60)
    wait_until(lambda: client.jobs.get("day").done == 60)
    right = answer_all(client, ReviewAnswer.RIGHT)
    wait_until(lambda: gauges(served)["checked"] == right)
    assert gauges(served)["holds"] == 1 and gauges(served)["waiting"] == 0
    job = client.jobs.get("day")
    assert (job.guarantee, job.guarantee_state.split(";")[0]) == ("g", "it holds")

    send(client, "day", 80, start=60)  # the scene has changed: what looks like a dog is none
    wait_until(lambda: client.jobs.get("day").done == 140)
    assert answer_all(client, ReviewAnswer.WRONG) > 10
    wait_until(lambda: gauges(served)["holds"] == 0)
    last = max(found.cursor for found in client.jobs.results("day"))
    told = gauges(served)
    assert told["evidence"] >= 500 and right < told["checked"] and told["wrong"] > 5

    send(client, "day", 20, start=140)
    client.jobs.finish("day")
    job = wait(client, "day")
    assert (job.state, job.done, job.failed) == ("done", 160, 0)
    later = [found.result for found in client.jobs.results("day", after=last)]
    assert len(later) == 20 and not any(result.labels for result in later)
    reasons = [one.reason for result in later for one in result.judgements]
    assert all(reason.startswith("guarantee 'g' no longer holds, since 2") for reason in reasons)

    assert run(["job", "show", "day", "--server", served.address]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "g: guarantee 'g' no longer holds, since 2" in shown
    with pytest.raises(errors.InvalidInput, match="'g' no longer holds; its history says why"):
        client.jobs.create("night", guarantee="g")
    again = client.jobs.create("day", guarantee="g", reuse=True)  # sending goes on all the same
    assert again.done == 160
    assert list(check(store, content=False)) == []


def test_refusals_say_what_does_not_fit(guaranteed) -> None:
    _, client = guaranteed
    with pytest.raises(errors.NotFound, match="no guarantee 'h'"):
        client.jobs.create("a", guarantee="h")
    with pytest.raises(errors.InvalidInput, match="is about the classes and questions of run"):
        client.jobs.create("a", classes=["dog"], guarantee="g")
    client.jobs.create("plain", classes=PETS.classes)
    with pytest.raises(errors.AlreadyExists, match="or another guarantee; choose another name"):
        client.jobs.create("plain", guarantee="g", reuse=True)
    assert [job.name for job in client.jobs.list()] == ["plain"]
    assert client.jobs.get("plain").guarantee == ""


def test_an_image_kept_in_the_job_is_decided_under_it(guaranteed) -> None:
    _, client = guaranteed
    client.jobs.create("kept", guarantee="g")
    result = client.label(png(), classes=PETS.classes, keep="kept")
    assert [one.outcome for one in result.judgements] == [Outcome.ACCEPT, Outcome.UNSURE]
    assert result.judgements[0].reason.endswith("guaranteed from there")


def test_the_commands_begin_a_job_under_it_and_tell_of_its_checks(
    guaranteed, store: Store, tmp_path: Path, capsys
) -> None:
    served, client = guaranteed
    for shade in range(20):
        (tmp_path / f"{shade}.png").write_bytes(png(shade=shade))
    create = ["job", "create", "j", str(tmp_path), "--guarantee", "g", "--watch"]
    assert run([*create, "--server", served.address]) == 0
    assert "j: done, 20 labelled, 0 failed" in capsys.readouterr().out
    assert client.jobs.get("j").guarantee == "g"
    waiting = client.reviews.queue("g-checks").total
    assert waiting > 1
    (row,) = store.guarantees.page()
    status = checks_status(store, row)
    assert status is not None and str(status) == f"0 checked, 0 wrong; {waiting} to answer"
