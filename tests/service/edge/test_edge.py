"""The agent against a real server: models from it and frames to it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from edge_trial import camera_image
from running_agent import (
    SEND_ALL,
    BackgroundAgent,
    add_and_promote,
    add_images,
    frames_on_server,
    never,
    promote,
    settings,
    stream_names,
)
from serving import Serving
from sqlalchemy import select
from students import CLASSES, replace_model, write_student

from secondlook.core.ontology_yaml import ontology_from_lines
from secondlook.edge.app import run_agent
from secondlook.edge.health import Health
from secondlook.store import Store
from secondlook.store.schema import items
from secondlook_client import Client
from secondlook_client.errors import NotFound


def test_a_folder_is_processed_and_sent_with_the_servers_model(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    digest = add_and_promote(server, tmp_path / "student")
    health = run_agent(settings(tmp_path, server.address, **SEND_ALL), [], never)
    assert (health.frames, health.spooled, health.acknowledged, health.pending) == (6, 6, 6, 0)
    assert (health.model, health.model_version, health.model_digest) == ("street", 1, digest)
    (stream,) = stream_names(store)
    assert stream.startswith("gate-")
    assert frames_on_server(store, stream) == {
        f"random/{n:04d}.png": camera_image(n) for n in range(6)
    }
    assert not list((tmp_path / "spool").glob("*.frame"))
    assert store.queue.get(stream).device_model == "street, version 1"


def test_frames_carry_the_reason_of_their_selection(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add_and_promote(server, tmp_path / "student")
    health = run_agent(settings(tmp_path, server.address, random_share=0.0), [], never)
    (stream,) = stream_names(store)
    names = list(frames_on_server(store, stream))
    assert len(names) == sum(health.selected.values()) > 0
    assert {name.split("/")[0] for name in names} == {r for r, n in health.selected.items() if n}


def test_the_users_classes_go_to_the_stream_of_the_given_name(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add_and_promote(server, tmp_path / "student")
    given = ontology_from_lines(["cat"])
    run_agent(settings(tmp_path, server.address, **SEND_ALL), [], never, ontology=given)
    assert stream_names(store) == ["gate"]
    assert len(frames_on_server(store, "gate")) == 6
    assert store.queue.get("gate").device_model == "street, version 1"


def test_without_a_server_it_begins_with_the_last_good_model_and_keeps_the_frames(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add_and_promote(server, tmp_path / "student")
    run_agent(settings(tmp_path, server.address, **SEND_ALL), [], never)
    offline = settings(tmp_path, "127.0.0.1:1", **SEND_ALL, flush_s=0.1)
    health = run_agent(offline, [], never)
    assert (health.frames, health.model_version, health.acknowledged) == (6, 1, 0)
    assert health.pending == 6 and not health.connected
    assert "no secondlook server answers" in health.problems["sending"]
    add_images(camera, [77])
    health = run_agent(settings(tmp_path, server.address, **SEND_ALL), [], never)
    assert health.acknowledged == 13
    (stream,) = stream_names(store)
    with store.database.reading() as connection:
        count = len(connection.execute(select(items.c.id)).all())
    assert count == 6 + 6 + 7 and stream.startswith("gate-")


def test_no_model_anywhere_says_the_way_out_or_waits(
    server: Serving, camera: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"promoted no version of 'street'.*--student.*--wait"):
        run_agent(settings(tmp_path, server.address), [], never)
    waiting = settings(tmp_path, server.address, wait_for_model=True, follow=True)
    with BackgroundAgent(waiting) as agent:
        agent.until(lambda health: health.not_processed == 6)
        add_and_promote(server, tmp_path / "student")
        numbers = iter(range(100, 10_000))
        agent.until(
            lambda health: health.model_version == 1 or bool(add_images(camera, [next(numbers)]))
        )
    assert agent.frames


def test_models_are_swapped_refused_and_rolled_back_while_frames_flow(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add_and_promote(server, tmp_path / "v1", seed=1)
    number = 10
    follow = settings(tmp_path, server.address, **SEND_ALL, follow=True, max_slowdown=0.0)

    def until(true: Callable[[Health], bool]) -> Health:
        nonlocal number

        def flowing(health: Health) -> bool:
            nonlocal number
            add_images(camera, range(number, number + 4))
            number += 4
            return true(health)

        return agent.until(flowing)

    with BackgroundAgent(follow) as agent:
        until(lambda health: health.model_version == 1)
        add_and_promote(server, tmp_path / "v2", seed=2)
        until(lambda health: health.model_version == 2)
        truncated = write_student(tmp_path / "v3", seed=3)
        whole = (tmp_path / "v3" / "model.onnx").read_bytes()
        replace_model(tmp_path / "v3", truncated, whole[:300])
        bad = promote(server, tmp_path / "v3")
        until(lambda health: bad in health.refused_models)
        assert agent.health.model_version == 2
        add_and_promote(server, tmp_path / "v4", seed=4, classes=(*CLASSES, "cat"))
        until(lambda health: health.model_version == 4)
        with Client(server.address) as client:
            before = client.models.rollback("street").version
        until(lambda health: health.model_version == before or bad in health.refused_models)
        with Client(server.address) as client:
            client.models.promote("street", 1, force=True)
        until(lambda health: health.model_version == 1)
        health = agent.until(lambda health: health.frames == health.acknowledged == number - 4)
    assert list(health.refused_models) == [bad]
    assert health.not_processed == 0 and health.unreadable == 0
    assert health.acknowledged == health.spooled == number - 4
    both = stream_names(store)
    assert len(both) == 2, "other classes have a stream of their own"
    assert sum(len(frames_on_server(store, stream)) for stream in both) == number - 4
    assert len([path for path in (tmp_path / "models").iterdir() if path.is_dir()]) <= 3
