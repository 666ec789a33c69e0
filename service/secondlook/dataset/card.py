"""The README.md of an export: what is in it and how to open it."""

from collections.abc import Sequence

import yaml

from secondlook.dataset.manifest import BoxKind, Manifest
from secondlook.store.snapshots import Snapshot

_HOW = {
    "coco": "COCO: `annotations/SPLIT.json`, pictures in `images/SPLIT`. Regions that nobody is "
    "sure of have `iscrowd` 1; rejected boxes are under `hard_negatives`.",
    "yolo": "YOLO: `yolo detect train data=data.yaml`. Pictures with a region to ignore are in "
    "`unsure.txt` and no other list.",
    "voc": "Pascal VOC: `voc/Annotations/SPLIT`, pictures in `images/SPLIT`. Regions that nobody "
    "is sure of have `difficult` 1.",
    "parquet": 'Parquet: `datasets.load_dataset("parquet", data_dir="data")`. Each object has a '
    "`kind`: `label`, `ignore` or `hard_negative`.",
}


def card(snapshot: Snapshot, manifest: Manifest, formats: Sequence[str]) -> str:
    """The text. With Parquet it begins with what Hugging Face ``datasets`` looks for."""
    lines = [
        f"# {snapshot.name}",
        "",
        f"A snapshot by secondlook: {snapshot.pictures:,} pictures, manifest",
        f"`{snapshot.manifest}`. The same hash is the same content, everywhere.",
        "",
        *_counts(snapshot, manifest),
        "",
        "Boxes are in pixels of the upright picture: apply the EXIF orientation first. A picture",
        "without a box was looked at twice and shows none of the classes.",
        "",
        *(f"- {_HOW[name]}" for name in formats),
        "",
        f"Labelled by {', '.join(manifest.models)}.",
        "",
        "![some of the pictures](contact_sheet.png)",
    ]
    head = _head(manifest) if "parquet" in formats else ""
    return head + "\n".join(lines) + "\n"


def _head(manifest: Manifest) -> str:
    files = [
        {"split": split, "path": f"data/{split}-*.parquet"}
        for split in manifest.splits
        if manifest.count(split)
    ]
    content = {"configs": [{"config_name": "default", "data_files": files}]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---\n"


def _counts(snapshot: Snapshot, manifest: Manifest) -> list[str]:
    splits = snapshot.statistics["splits"]
    names = [name for name in manifest.splits if name in splits]
    rows = [
        ["pictures", *(f"{splits[n]['pictures']:,}" for n in names)],
        ["groups", *(f"{splits[n]['groups']:,}" for n in names)],
        ["verified empty", *(f"{splits[n]['verified_empty']:,}" for n in names)],
    ]
    for kind in BoxKind:
        counts = {n: splits[n]["classes"] for n in names}
        for class_name in manifest.classes:
            found = [counts[n][class_name][kind] for n in names]
            if kind is BoxKind.LABEL or any(found):
                what = "" if kind is BoxKind.LABEL else f" ({kind.value.replace('_', ' ')})"
                cell = class_name.replace("|", "\\|")
                rows.append([f"{cell}{what}", *(f"{number:,}" for number in found)])
    head = [["", *names], ["---", *("--:" for _ in names)]]
    return [f"| {' | '.join(row)} |" for row in head + rows]
