"""What reads bytes that somebody else has written, each with sound inputs that attacks damage.

A reader may return or raise an error of ours; anything else is a fault, and so is taking long.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encoded_images import FORMATS, encoded, gradient
from labelled import judged, result
from masks import disc, with_mask
from random_messages import STRANGE_TEXTS, MessageMaker
from students import write_student
from training_sets import write_coco, write_voc, write_yolo

from secondlook.core.images import decode
from secondlook.core.ontology_yaml import classes_of_line, dump, ontology_from_yaml
from secondlook.datasets.corrected_sets import open_corrected
from secondlook.datasets.manifest import (
    Entry,
    ManifestBox,
    canonical_json,
    entry_to_json,
    part_entries,
)
from secondlook.datasets.open import open_training_set
from secondlook.datasets.readers.label_studio import parse_config
from secondlook.datasets.writers import UNSPLIT, Labels, write_format
from secondlook.detector.manifest import FILE_NAME, FP32, SELF_TEST, parse_manifest
from secondlook.detector.onnx_safety import refuse_unsafe
from secondlook.detector.self_test import read_self_test
from secondlook.evaluation.coco_files import truth_of
from secondlook.models.yes_no import answer_from_text
from secondlook_client import wire
from secondlook_client.errors import SecondlookError
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.spool import Spool
from secondlook_client.v1 import datasets_pb2, jobs_pb2, labeling_pb2, models_pb2, reviews_pb2
from secondlook_client.values import BoxKind, Review, ReviewAnswer

SLOWEST_S = 2.0
"""Of processor time for one input; an event loop may wait for some of these."""
ONTOLOGY = Ontology((ClassSpec("dog"), ClassSpec("ball", phrases=("ball", "toy"))))


@dataclass(frozen=True)
class Reader:
    """One reader and what it reads."""

    name: str
    read: Callable[[bytes], object]
    sound: Sequence[bytes]
    weight: int
    """How often it is tried, against the others."""


@dataclass
class Readings:
    """What became of the inputs."""

    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    offences: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""


def attack_readers(readers: Sequence[Reader], inputs: int, seed: int) -> Readings:
    """Try ``inputs`` inputs: sound ones, damaged ones, and parts of others' formats."""
    readings = Readings()
    maker = MessageMaker(seed, [])
    weights = [reader.weight for reader in readers]
    everything = [content for reader in readers for content in reader.sound]
    for _ in range(inputs):
        (reader,) = maker.random.choices(readers, weights)
        chance = maker.random.random()
        content = maker.random.choice(everything if chance < 0.03 else reader.sound)
        if chance > 0.06:
            content = _damaged(maker, content)
        began = time.thread_time()
        try:
            reader.read(content)
            readings.read[reader.name] += 1
        except SecondlookError:
            readings.refused[reader.name] += 1
        except Exception as failure:
            readings.offences.append(f"{reader.name}: {failure!r:.200} of {content[:200]!r}")
        took = time.thread_time() - began
        if took > readings.slowest_s:
            readings.slowest_s, readings.slowest = took, reader.name
    return readings


def _damaged(maker: MessageMaker, content: bytes) -> bytes:
    """Bytes changed anywhere; in a text also a number or word replaced by a strange one."""
    if not content.isascii() or maker.random.random() < 0.4:
        return maker.damaged(content)
    parts = content.decode("ascii").split(" ")
    strange = (*STRANGE_TEXTS, "-1", "1e999", "null", "NaN", "true", "0.0", '"0"', "[]", "9" * 40)
    for _ in range(maker.random.randint(1, 3)):
        parts[maker.random.randrange(len(parts))] = maker.random.choice(strange)
    return " ".join(parts).encode("utf-8", "surrogatepass")


def every_reader(folder: Path) -> tuple[Reader, ...]:
    """All of them; files that some read lie in ``folder``."""
    student = folder / "student"
    manifest = write_student(student)
    images = [encoded(gradient(48, 32), form, **options) for form, options in FORMATS]
    box = ManifestBox(0, (1, 2, 30, 40), BoxKind.LABEL, 0.9, 0.5, 0.9, "right")
    entry = Entry("0" * 64, "a.png", "png", 900, 64, 48, "train", "g", (box,))
    return (
        Reader("image", decode, images, 40),
        Reader("ontology", _of_text(ontology_from_yaml), [dump(ONTOLOGY).encode()], 10),
        Reader("class", _of_text(classes_of_line), [b"dog = big dog | hound", b"a, b"], 10),
        Reader("student", parse_manifest, [(student / FILE_NAME).read_bytes()], 10),
        Reader("onnx", refuse_unsafe, [(student / FP32).read_bytes()], 10),
        Reader(
            "self-test",
            lambda content: read_self_test(content, "fp32", manifest.input_size),
            [(student / SELF_TEST).read_bytes()],
            5,
        ),
        Reader(
            "snapshot part",
            lambda content: list(part_entries(content)),
            [canonical_json(entry_to_json(entry)) * 2],
            10,
        ),
        Reader("answer", _of_text(answer_from_text), [b"Yes, there is a dog.", b"**No**"], 10),
        *_message_readers(),
        *_folder_readers(folder),
        *_neighbour_readers(folder),
    )


def _of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode("utf-8", "replace"))


def _message_readers() -> list[Reader]:
    """The client reads what a server says."""
    labelled = wire.labelled_message(result(judged("dog"), judged("ball")))
    kinds: Mapping[str, tuple[Any, Callable[[Any], object], Any]] = {
        "labelled": (labeling_pb2.Labelled, wire.label_result, labelled),
        "job": (jobs_pb2.Job, wire.job, jobs_pb2.Job(name="a")),
        "result": (jobs_pb2.JobResult, wire.job_result, jobs_pb2.JobResult(labelled=labelled)),
        "snapshot": (datasets_pb2.Snapshot, wire.snapshot, datasets_pb2.Snapshot(name="a")),
        "model": (models_pb2.ModelVersion, wire.model_version, models_pb2.ModelVersion(name="a")),
        "training": (models_pb2.Training, wire.training, models_pb2.Training()),
        "review": (reviews_pb2.Review, wire.review, reviews_pb2.Review(answer=2, reason=1)),
        "box to review": (
            reviews_pb2.ReviewItem,
            wire.review_item,
            reviews_pb2.ReviewItem(label_id="1.0", judgements=labelled.judgements),
        ),
        "review queue": (
            reviews_pb2.ReviewQueue,
            wire.review_queue,
            reviews_pb2.ReviewQueue(name="a"),
        ),
    }
    maker = MessageMaker(7, [b"x"])
    readers = []
    for name, (kind, read, sound) in kinds.items():
        samples = [maker.message(kind.DESCRIPTOR).SerializeToString() for _ in range(300)]

        def parsed(content: bytes, kind: Any = kind, read: Any = read) -> object:
            try:
                message = kind.FromString(content)
            except Exception:  # gRPC's own error, before ours
                return None
            return read(message)

        readers.append(Reader(f"{name} message", parsed, [sound.SerializeToString(), *samples], 5))
    return readers


def _folder_readers(folder: Path) -> list[Reader]:
    """Readers of folders, in which one file is what is attacked."""
    coco = write_coco(folder / "coco", {"train": (1, 2), "val": (3,)})
    yolo = write_yolo(folder / "yolo", {"train": (1, 2), "val": (3,)})
    coco_file = next((coco / "annotations").glob("*train*.json"))
    voc = write_voc(folder / "voc", {"train": (1, 2), "val": (3,)})
    annotation, listed = next((voc / "Annotations").glob("*")), voc / "ImageSets/Main/train.txt"
    rows, config = next((yolo / "labels" / "train").glob("*.txt")), yolo / "data.yaml"
    spaced = json.dumps(json.loads(coco_file.read_text()), separators=(" , ", " : "))
    pose = rows.read_bytes().replace(b"\n", b" 0.5 0.5 2\n")
    return [
        Reader(
            "coco", _in_place(coco_file, lambda: open_training_set(str(coco))), [spaced.encode()], 3
        ),
        Reader("truth", _in_place(coco_file, lambda: truth_of(coco_file)), [spaced.encode()], 3),
        Reader(
            "voc",
            _in_place(annotation, lambda: open_training_set(str(voc))),
            [annotation.read_bytes()],
            3,
        ),
        Reader(
            "voc list",
            _in_place(listed, lambda: open_training_set(str(voc))),
            [listed.read_bytes()],
            1,
        ),
        Reader(
            "yolo rows",
            _in_place(rows, lambda: open_training_set(str(yolo))),
            [rows.read_bytes(), pose],
            3,
        ),
        Reader(
            "data.yaml",
            _in_place(config, lambda: open_training_set(str(yolo))),
            [config.read_bytes(), config.read_bytes() + b"kpt_shape: [ 1 , 3 ]\n"],
            3,
        ),
        Reader(
            "spool", lambda content: _read_spool(folder / "spool", content), [_frame(folder)], 2
        ),
    ]


def _neighbour_readers(folder: Path) -> list[Reader]:
    """Of what comes back from Label Studio, CVAT and FiftyOne."""
    said = (Review("0" * 64, "dog", (8, 4, 40, 36), ReviewAnswer.RIGHT, person="Ann", id=1),)
    found = with_mask(judged("dog", (8.0, 4.0, 40.0, 36.0)), disc(72, 64, (8, 4, 40, 36)))
    rows = [("a.png", result(found, judged("ball", (41, 40, 70, 60)), width=72, height=64))]
    labels = Labels(ONTOLOGY.names, lambda: iter(rows), lambda *_: None, reviews=lambda _: said)
    readers = []
    for name, inner in (
        ("label-studio", "tasks.json"),
        ("cvat", "default/annotations.xml"),
        ("fiftyone", "samples.json"),
    ):
        made = write_format(name, {UNSPLIT: labels}, folder / "neighbours")
        file = made / inner
        text = file.read_text().replace('"predictions": [{', '"annotations": [{')
        where = made if name == "fiftyone" else file
        read = _in_place(file, lambda where=where: open_corrected(where))
        readers.append(Reader(name, read, [text.encode()], 5))
    config = (folder / "neighbours" / "label-studio" / "label_config.xml").read_bytes()
    readers.append(Reader("labelling config", _of_text(parse_config), [config], 5))
    return readers


def _in_place(file: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    def replaced(content: bytes) -> object:
        whole = file.read_bytes()
        try:
            file.write_bytes(content)
            return read()
        finally:
            file.write_bytes(whole)

    return replaced


def _frame(folder: Path) -> bytes:
    """A frame as a spool keeps it."""
    with closing(Spool(folder / "sample")) as spool:
        number = spool.put(encoded(gradient(16, 16), "PNG"), "x.png")
        return _spooled(spool, number).read_bytes()


def _read_spool(folder: Path, content: bytes) -> object:
    with closing(Spool(folder)) as spool:
        number = spool.put(b"x")
        _spooled(spool, number).write_bytes(content)
        found = spool.after(-1)
        spool.remove(number or 0)
        return found


def _spooled(spool: Spool, number: int | None) -> Path:
    (path,) = spool.folder.glob(f"*{number}*")
    return path
