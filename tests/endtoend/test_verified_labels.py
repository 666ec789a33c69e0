"""Labels of drawn scenes with known errors, verified by the embedded models in each format."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from corrupted_labels import RIGHT, WRONG_CLASS, corrupted
from installed import Run

from secondlook.datasets.annotated_images import AnnotatedSet
from secondlook.datasets.checked_files import kept_labels
from secondlook.datasets.open import read_path
from secondlook.datasets.writers import write_format


class Verified:
    """A COCO file with errors, and what verification made of it."""

    def __init__(self, world: Path, folder: Path, secondlook: Run) -> None:
        self.truth = json.loads((world / "truth.json").read_text())
        after, self.errors = corrupted(self.truth, random.Random(7))
        self.path = folder / "labels.json"
        self.path.write_text(json.dumps(after))
        words = ("--ontology", world / "ontology.yaml", "--images", world / "images")
        self.said = secondlook("verify", self.path, *words, "--suggest", cwd=folder).stdout
        self.kept = json.loads((folder / "verified/verified.json").read_text())["annotations"]
        self.findings = rows_of(folder / "verified")


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "findings.jsonl").read_text().splitlines()]


def places(rows: list[dict[str, Any]]) -> set[tuple[object, ...]]:
    """Image, class and corner of what was rejected."""
    return {
        (Path(row["image"]).stem, row["class"], round(row["x1"]), round(row["y1"]))
        for row in rows
        if row["outcome"] == "reject"
    }


@pytest.fixture(scope="module")
def verified(world: Path, tmp_path_factory: pytest.TempPathFactory, secondlook: Run) -> Verified:
    return Verified(world, tmp_path_factory.mktemp("verified"), secondlook)


def test_most_swapped_classes_are_found_and_few_right_ones_lost(verified: Verified) -> None:
    assert "wrong class" in verified.said
    ids = {entry["id"] for entry in verified.kept}

    def share_kept(error: str) -> float:
        numbers = [number for number, put in verified.errors.items() if put == error]
        return sum(number in ids for number in numbers) / len(numbers)

    assert share_kept(WRONG_CLASS) < 0.1
    assert share_kept(RIGHT) > 0.95


def test_mostly_the_true_noun_is_suggested(verified: Verified) -> None:
    names = {category["id"]: category["name"] for category in verified.truth["categories"]}
    true = {e["id"]: names[e["category_id"]] for e in verified.truth["annotations"]}
    wrong = [
        (row["suggested_class"], true[row["annotation_id"]])
        for row in verified.findings
        if verified.errors.get(row["annotation_id"]) == WRONG_CLASS
    ]
    nouns = [(suggested, name) for suggested, name in wrong if " " not in name]
    assert len(nouns) > 10
    assert sum(suggested == name for suggested, name in nouns) > 0.5 * len(nouns)


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_other_formats_lose_the_same_boxes(
    form: str, world: Path, verified: Verified, tmp_path: Path, secondlook: Run
) -> None:
    annotated = AnnotatedSet.of(read_path(verified.path, world / "images"))
    folder = write_format(form, kept_labels(annotated, {}, {}), tmp_path)
    secondlook("verify", folder, "--ontology", world / "ontology.yaml", cwd=tmp_path)
    coco, other = places(verified.findings), places(rows_of(tmp_path / "verified"))
    # Boxes of VOC are whole pixels, so a doubtful answer may come out differently.
    assert len(coco) > 20 and len(coco ^ other) <= 0.15 * len(coco)
