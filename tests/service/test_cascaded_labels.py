"""A student before the teachers, over a loopback server: only the teachers are scripted."""

import io
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from PIL import Image as PILImage
from registered import add_version
from serving import server_settings
from students import COLOURS, image, truncate, write_student

from secondlook.cascade.router import Cascade
from secondlook.cascade.threshold import MIN_COMPARISONS
from secondlook.cli.jobs import print_job
from secondlook.cli.label import label_command
from secondlook.cli.local_service import running_engine
from secondlook.config.settings import BatchingSettings, Settings
from secondlook.core.ontology_yaml import dump
from secondlook.core.types import Image, Pixels
from secondlook.detector.runtime import OnnxDetector
from secondlook.labeling.pipeline import Pipeline
from secondlook.review.redecide import redecide
from secondlook.server.app import running_server
from secondlook.server.metrics import Metrics
from secondlook.store import Store
from secondlook_client import Client, LabelPath, LabelResult
from secondlook_client.errors import BadSetting, Damaged, NotFound
from secondlook_client.ontology import ClassSpec, Ontology

STREET = Ontology((ClassSpec("person"), ClassSpec("dog")))


def quarters(image: Image, phrases: Sequence[str]) -> list[Row]:
    """What the student's own rule finds, in fog too: a person is red, a dog blue."""
    rows: list[Row] = []
    half_w, half_h = image.width // 2, image.height // 2
    for top in (0, half_h):
        for left in (0, half_w):
            part = image.pixels[top : top + half_h, left : left + half_w].reshape(-1, 3).mean(0)
            red, _, blue = (part / max(part.max(), 1) > 0.8).tolist()
            if red != blue:
                name = "person" if red else "dog"
                rows.append(((left, top, left + half_w, top + half_h), {name: 0.9}))
    return rows


def frame(number: int, fog: bool = False) -> bytes:
    """A person or a dog somewhere. In fog the student is sure that nobody is there."""
    pixels = image((number % 4, number // 4 % 2))
    return encoded(pixels // 2 + 127 if fog else pixels)


def encoded(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    PILImage.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("student")
    write_student(made, ontology=dump(STREET))
    return made


@contextmanager
def served(
    folder: Path, store: Store | None = None
) -> Iterator[tuple[Client, ScriptedProposer, int]]:
    """(client, proposer, port of the metrics) of a server with a cascade."""
    proposer, metrics = ScriptedProposer(quarters), Metrics()
    student = OnnxDetector.open(folder, threads=1)
    pipeline = Pipeline(proposer, ScriptedVerifier())
    limits = BatchingSettings(batching_window_ms=0)  # images come one by one here
    engine = Cascade(pipeline, student, None, limits, metrics.batch_done, metrics.passed)
    options = server_settings(metrics_port=0)
    try:
        with (
            running_server(engine, STREET, options, metrics, store) as server,
            Client(server.address) as client,
        ):
            assert server.metrics_port
            yield client, proposer, server.metrics_port
    finally:
        engine.close()
        student.close()


def label(client: Client, count: int, fog: bool = False) -> list[LabelResult]:
    return [client.label(frame(number, fog), name=f"f{number}") for number in range(count)]


def test_labels_say_their_path_and_the_teachers_are_back_after_a_change(folder: Path) -> None:
    with served(folder) as (client, proposer, port):
        assert client.info().student.startswith("student:street@")
        day = label(client, 300)
        assert {result.path for result in day[:MIN_COMPARISONS]} == {LabelPath.TEACHERS}
        assert {result.path for result in day[MIN_COMPARISONS : MIN_COMPARISONS + 30]} == {
            LabelPath.AUDIT
        }
        assert sum(result.path is LabelPath.STUDENT for result in day[-150:]) > 100
        assert len(proposer.seen) == sum(r.path is not LabelPath.STUDENT for r in day)
        by_student = next(result for result in day if result.path is LabelPath.STUDENT)
        (found,) = by_student.labels
        assert by_student.proposer == client.info().student
        assert (by_student.verifier, found.p_yes, found.question) == ("", None, "")
        assert found.score == found.probability > 0.9
        assert found.reason.startswith("the student was certain (0.9")
        assert day[0].proposer == "scripted@p0" and day[0].labels[0].p_yes == 1.0
        fog = label(client, 100, fog=True)
        assert LabelPath.STUDENT not in {result.path for result in fog[50:]}
        assert all(result.labels for result in fog[50:])
        told = scraped(port)
        assert told['secondlook_images_total{path="student"}'] > 100
        assert told["secondlook_student_trusted"] == 0
        assert told["secondlook_student_watched"] == 1
        assert told["secondlook_audit_agreement_count"] > 50


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_a_job_keeps_who_labelled_what(
    store: Store, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(folder, store) as (client, _, _):
        client.jobs.create("street")
        # Each image is another one for the store: its name makes its number.
        images = ((number, encoded(noted(number))) for number in range(260))
        for _ in client.jobs.upload("street", images, number=lambda n: n, concurrency=4):
            pass
        client.jobs.finish("street")
        results = list(client.jobs.results("street", follow=True))
        paths = [found.result.path for found in results]
        assert paths.count(LabelPath.STUDENT) > 50
        job = client.jobs.get("street", paths=True)
        told = [sum(getattr(part, path.value) for part in job.paths) for path in LabelPath]
        assert told == [paths.count(path) for path in LabelPath]
        assert client.jobs.get("street").paths == ()
        print_job(job)
        assert "by the models" in capsys.readouterr().out
    run = store.results.run("street")
    assert run.settings["cascade"].startswith("student:street@")
    assert run.settings["audit_share"] == 0.1
    assert run.proposer == "scripted@p0"
    again = redecide(store, "street", "again", STREET).run
    for old, new in zip(
        store.results.page(run.id, limit=300),
        store.results.page(again.id, limit=300),
        strict=True,
    ):
        assert old.labelled.judgements == new.labelled.judgements


def noted(number: int) -> Pixels:
    pixels = image((number % 4, number // 4 % 2))
    pixels[0, 0] = (number % 256, number // 256, 0)
    return pixels


def test_a_live_stream_and_single_images_have_trusts_of_their_own(folder: Path) -> None:
    with served(folder) as (client, _, _):
        label(client, 200)
        assert client.label(frame(0)).path is not None
        with client.stream(stream_id="gate") as stream:
            stream.send(frame(1))
            answer = next(stream)
        assert answer.result is not None
        assert answer.result.path is LabelPath.TEACHERS


def test_settings_lead_to_a_cascade(folder: Path) -> None:
    settings = Settings().replace(
        proposer="scripted_models:bright_half:0",
        verifier="scripted_models:agreeable:dog",
        student=str(folder),
        audit_share=0.2,
        agreement=0.8,
    )
    with running_engine(settings, Metrics()) as engine:
        assert isinstance(engine, Cascade)
        cascade = engine.cascade_settings
    assert (cascade.audit_share, cascade.agreement) == (0.2, 0.8)
    flags = {option for param in label_command.params for option in param.opts}
    assert {"--student", "--audit-share", "--agreement"} <= flags


def test_settings_lead_to_the_version_that_is_promoted(folder: Path, store: Store) -> None:
    settings = Settings().replace(
        proposer="scripted_models:bright_half:0",
        verifier="scripted_models:agreeable:dog",
        student="model:gate",
    )
    with pytest.raises(BadSetting, match="give --data"), running_engine(settings, Metrics()):
        pass
    kept = add_version(store, folder, "gate")
    assert store.model_versions.promote("gate", kept.version, "a test", None)
    with running_engine(settings, Metrics(), store) as engine:
        assert engine.student == f"student:street@{kept.digest[:12]}"
        assert engine.recorded_settings["cascade"] == "model:gate"


def test_a_student_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    models = {
        "proposer": "scripted_models:bright_half:0",
        "verifier": "scripted_models:agreeable:dog",
    }
    missing = Settings().replace(student=str(tmp_path / "none"), **models)  # type: ignore[arg-type]
    with pytest.raises(NotFound), running_engine(missing, Metrics()):
        pass
    write_student(tmp_path / "cut")
    truncate(tmp_path / "cut")
    cut = Settings().replace(student=str(tmp_path / "cut"), **models)  # type: ignore[arg-type]
    with pytest.raises(Damaged), running_engine(cut, Metrics()):
        pass
    assert len(COLOURS) == 4
