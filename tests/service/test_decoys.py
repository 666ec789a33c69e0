"""Decoys of a job over a loopback server, on both databases: they change nothing but themselves."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from job_client import wait
from prometheus_client import generate_latest
from serving import png, server_settings
from stored import street_ontology

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Decoy, Image, LabelledImage
from secondlook.evaluation.run_stats import RunStats
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.reports import gallery
from secondlook.server.app import running_server
from secondlook.server.metrics import Metrics
from secondlook.store import Store
from secondlook_client import Client, LabelResult
from secondlook_client.values import JobResult, SnapshotQuery

SIZE = (160, 120)
ROWS: tuple[Row, ...] = (
    ((4, 4, 48, 80), {"person": 0.8}),
    ((80, 20, 150, 60), {"dog": 0.7}),
    ((82, 20, 150, 62), {"dog": 0.3}),
    ((8, 80, 36, 116), {"dog": 0.6}),
)
ANSWERS = {"On?": 0.95, "Off?": 0.2, "Dog?": 0.7}
COUNTED = re.compile(r"^(secondlook_(answers|judgements|decoys)_total\S* \S+)$", re.MULTILINE)


def proposed(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """Fewer boxes on darker images."""
    return ROWS[: 1 + int(image.pixels[0, 0, 0]) % 4]


def labelled(
    store: Store, name: str, share: float
) -> tuple[list[JobResult], LabelResult, list[str]]:
    """A job of 24 images, one image alone, and what was counted meanwhile."""
    metrics = Metrics()
    settings = PipelineSettings(score_floor=0.1, decoys=share)
    pipeline = Pipeline(ScriptedProposer(proposed), ScriptedVerifier(ANSWERS), settings)
    engine = Engine(pipeline, observe=metrics.batch_done)
    ontology = street_ontology()
    try:
        with (
            running_server(engine, ontology, server_settings(), metrics, store) as server,
            Client(server.address) as client,
        ):
            alone = client.label(png(*SIZE, shade=3))
            client.jobs.create(name)
            images = ((number, png(*SIZE, shade=number)) for number in range(24))
            dict(client.jobs.upload(name, images, number=lambda number: number))
            client.jobs.finish(name)
            assert wait(client, name).done == 24
            found = sorted(client.jobs.results(name), key=lambda one: one.key)
            query = SnapshotQuery([name], hard_negatives=True)
            client.datasets.create(f"{name}-frozen", query)
    finally:
        engine.close()
    return found, alone, lines(metrics)


def lines(metrics: Metrics) -> list[str]:
    return [found[0] for found in COUNTED.findall(generate_latest(metrics.registry).decode())]


def timeless(result: LabelResult) -> dict[str, object]:
    plain = result.to_dict()
    del plain["timings_ms"]
    for judgement in plain["judgements"]:
        del judgement["verify_ms"], judgement["cached"]
    return plain


@pytest.fixture
def both(store: Store):
    """The same images labelled without decoys and with many."""
    return labelled(store, "plain", 0.0), labelled(store, "audited", 0.3)


def test_labels_figures_and_datasets_are_the_same_and_decoys_are_kept_apart(both, store, tmp_path):
    (plain, alone, counted), (audited, alone_again, counted_again) = both
    assert [timeless(one.result) for one in plain] == [timeless(one.result) for one in audited]
    assert timeless(alone) == timeless(alone_again)
    assert RunStats.of(one.result for one in plain) == RunStats.of(one.result for one in audited)
    assert sum(len(one.result.labels) for one in plain) > 20

    decoys = [line for line in counted_again if "decoys" in line]
    assert counted == [line for line in counted_again if "decoys" not in line]
    asked = store.decoys.counts(store.results.run("audited").id)
    assert not store.decoys.counts(store.results.run("plain").id)
    assert len({kind for kind, _, _ in asked}) == 4
    assert 0 < asked.total() <= sum(int(float(line.split()[-1])) for line in decoys)

    frozen = [store.snapshots.get(f"{name}-frozen") for name in ("plain", "audited")]
    assert frozen[0].manifest == frozen[1].manifest  # labels, ignore regions, hard negatives
    pages = [page(tmp_path, found) for found in (plain, audited)]
    assert pages[0] == pages[1]


def page(folder, found: list[JobResult]) -> str:
    images = [LabelledImage(one.result.name, one.result) for one in found]
    stats = RunStats.of(one.result for one in images)
    path = gallery.write(
        folder / "gallery.html",
        "street",
        stats,
        gallery.pick(images, 99),
        lambda name: np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8),
    )
    return path.read_text()


def test_a_stream_and_a_kept_image_have_decoys_too(store: Store) -> None:
    told: list[Decoy] = []
    settings = PipelineSettings(score_floor=0.1, decoys=0.5)
    pipeline = Pipeline(ScriptedProposer(proposed), ScriptedVerifier(ANSWERS), settings)
    engine = Engine(pipeline)
    try:
        with (
            running_server(engine, street_ontology(), server_settings(), store=store) as server,
            Client(server.address) as client,
        ):
            pipeline.observe_decoys = told.extend
            client.label(png(*SIZE, shade=3), keep="kept")
            assert store.decoys.counts(store.results.run("kept").id).total() == len(told) > 0
            before = len(told)
            with client.stream() as stream:
                stream.send(png(*SIZE, shade=7))
                assert next(iter(stream)).result
            assert len(told) > before
    finally:
        engine.close()
