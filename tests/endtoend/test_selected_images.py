"""Choosing images of stored labels by the embedded models, and asking about them."""

import json
from pathlib import Path
from typing import Any

from installed import Kept, Run


def test_images_are_chosen_with_reasons_and_asked_about(
    kept: Kept, world: Path, secondlook: Run, tmp_path: Path
) -> None:
    def chosen(*words: object) -> list[dict[str, Any]]:
        line = ("select", "street", "--data", kept.data, "--json", *words)
        done = secondlook(*line, cwd=tmp_path)
        return [json.loads(row) for row in done.stdout.splitlines()]

    names = {path.name for path in (world / "images").iterdir()}
    mixed = chosen("--count", 3, "--out", "chosen.html")
    assert len({row["image"] for row in mixed} & names) == 3
    assert all("entropy" in row["reason"] for row in mixed)
    assert mixed[0]["reason"] in (tmp_path / "chosen.html").read_text()
    (first,) = chosen("--count", 1, "--strategy", "transfer", "--target", world / "images")
    assert "similarity 1.00" in first["reason"] and first["image"] in first["reason"]
    start = ("review", "start", "street", "--data", kept.data, "--order", "mixed")
    done = secondlook(*start, "--count", 5, "--name", "by-image", cwd=tmp_path)
    assert "queue 'by-image': 0 of 5" in done.stdout, done.stdout
