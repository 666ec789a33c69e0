"""The actors of a Ray cluster as plain classes, without Ray."""

import threading
from pathlib import Path

import pytest
from fakes import make_image

from secondlook.config.settings import Settings
from secondlook.jobs.image_source import PreparedImage
from secondlook.jobs.in_flight import LabelledItem
from secondlook.jobs.ray_actors import ModelActor
from secondlook.labeling.pipeline import Task
from secondlook.store.images import NewImage
from secondlook_client.errors import BadImage
from secondlook_client.ontology import ClassSpec, Ontology


def batch_of(*names: str) -> list[PreparedImage | Exception]:
    ontology = Ontology((ClassSpec("dog"),))
    images = [make_image(name, shade=ord(name)) for name in names]  # of alike ones one is asked
    return [PreparedImage(Task(one, ontology), NewImage(one.sha256, 1, "png"), 0) for one in images]


def test_an_actor_has_the_work_of_its_models_on_one_batch_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "looked-at"
    monkeypatch.setenv("SCRIPTED_LOG", str(log))
    actor = ModelActor(
        Settings().replace(
            proposer="scripted_models:bright_half:0",
            verifier="scripted_models:agreeable_slowly:0.1",
        )
    )
    assert actor.ready().proposer == ("bright-half", "1")
    batches = [[*batch_of("a", "b"), BadImage("no image")], batch_of("c", "d")]
    ended: list[list[LabelledItem | Exception]] = []
    calls = [
        threading.Thread(target=lambda one=one: ended.append(actor.label(one, None)))
        for one in batches
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(map(len, ended)) == [2, 3]
    assert sum(isinstance(one, LabelledItem) for outcomes in ended for one in outcomes) == 4
    done = ["question" if "(" in line else "image" for line in log.read_text().splitlines()]
    of_one_batch = done[: len(done) // 2]
    assert of_one_batch[:2] == ["image"] * 2 and set(of_one_batch[2:]) == {"question"}
    assert done == of_one_batch * 2
