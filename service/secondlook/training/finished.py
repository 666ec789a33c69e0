"""Whether a training was done before, by the files in its folder; it needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secondlook.datasets.samples import TrainingSet
from secondlook.detector.manifest import StudentManifest, read_manifest, verify_files
from secondlook.detector.runtime import OnnxDetector
from secondlook.training.progress import CHECKPOINTS, TORCH, read_record
from secondlook.training.settings import RENAMED, TrainingSettings
from secondlook_client.errors import Damaged, NotFound, OutputExists

FORMAT = 1
_WAY_OUT = "give another --out, or remove that folder to begin anew"


def finished_student(
    data: TrainingSet, settings: TrainingSettings, out: Path
) -> StudentManifest | None:
    """The student in ``out`` if it is this very one and opens; None where there is none such yet.

    Raises ``OutputExists`` for that of another training, and ``MissingExtra``.
    """
    if not has_ended(out, identity_of(data, settings)):
        return None
    try:
        manifest = read_manifest(out)
        verify_files(out, manifest)
        OnnxDetector.open(out, "fp32").close()
    except (NotFound, Damaged):
        return None
    return manifest


def identity_of(data: TrainingSet, settings: TrainingSettings) -> dict[str, Any]:
    """What two trainings have in common of which the one may go on with the other's state."""
    return {
        "format": FORMAT,
        "classes": list(data.classes),
        "digest": data.digest,
        "split": data.split,
        "settings": settings.shaping(),
    }


def check_identity(known: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """Raises ``OutputExists``, which says what differs, unless both are the same."""
    if isinstance(settings := known.get("settings"), Mapping):
        renamed = {RENAMED.get(name, name): value for name, value in settings.items()}
        known = {**known, "settings": renamed}
    if known == wanted:
        return
    if known.get("format") != wanted["format"]:
        raise OutputExists(f"{out} holds a training by another version; {_WAY_OUT}")
    if known.get("classes") != wanted["classes"]:
        before, now = (", ".join(map(str, of["classes"][:5])) for of in (known, wanted))
        raise OutputExists(
            f"{out} holds a training of other classes ({before}, not {now}); {_WAY_OUT}"
        )
    if known.get("digest") != wanted["digest"] or known.get("split") != wanted["split"]:
        raise OutputExists(
            f"{out} holds a training on other data ({str(known.get('digest'))[:12]}, not "
            f"{wanted['digest'][:12]}); {_WAY_OUT}"
        )
    theirs, ours = known.get("settings") or {}, wanted["settings"]
    other = [name for name in ours if theirs.get(name) != ours[name]]
    told = ", ".join(f"{name} {theirs.get(name)} instead of {ours[name]}" for name in other[:4])
    raise OutputExists(
        f"{out} holds a training with other settings ({told}); give the same ones to go on with "
        f"it, or {_WAY_OUT}"
    )


def has_ended(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether this training left its weights in ``out``, and nothing to go on with.

    Raises ``OutputExists`` where the weights are those of another training.
    """
    record = read_record(out / TORCH)
    if record is None:
        return False
    check_identity(record.identity, identity, out)
    return not (out / CHECKPOINTS).exists()
