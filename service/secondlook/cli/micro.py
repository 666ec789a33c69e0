"""``secondlook micro``: small models that know one thing in one scene, from about five labels.

They serve as proposers: ``secondlook label clip.mp4 --proposer micro:FOLDER``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import fps_option, settings_of
from secondlook.cli.output import bar, counted, duration, local_time, print_facts
from secondlook.cli.store import opened_store, run_of
from secondlook.config.entrypoint import (
    MORE,
    CommandGroup,
    SectionedCommand,
    SectionOption,
    complete_models,
    gentle_interrupts,
    setting_options,
)
from secondlook.config.extras import check_extras
from secondlook.config.settings import (
    EMBEDDERS,
    PROPOSERS,
    ImageSettings,
    ModelSettings,
    Settings,
)
from secondlook.config.terminal import echo, print_json
from secondlook_client.errors import Cancelled, InvalidInput, NotFound

if TYPE_CHECKING:
    from secondlook.models.micro import MicroProposer
    from secondlook.models.micro_folder import MicroManifest
    from secondlook.models.micro_set import MicroSet
    from secondlook.training.micro import MicroProgress, MicroTraining
    from secondlook.training.micro_labels import FrameLabels

DEMO = "demo"
MINUTES = 3.0
STEPS = 480
"""A minute of one core."""
NEEDED = ("device", "dtype", "threads", "model_batch", *ImageSettings.specs())
"""The settings that finder and embedder have a use for."""


@click.group("micro", cls=CommandGroup)
def micro_command() -> None:
    """Train and show micro-models: one thing in one scene, from about five labels.

    A micro-model labels its clip as a proposer: `secondlook label clip.mp4 --proposer
    micro:FOLDER`. In other scenes it proposes nothing.
    """


@micro_command.command(
    "train",
    cls=SectionedCommand,
    examples=[
        "secondlook micro train --clip a.mp4 --labels five.json --phrase car --out taxi",
        "secondlook micro train --clip a.mp4 --continue --reviews labels --out taxi",
    ],
)
@click.option(
    "--clip",
    required=True,
    type=click.Path(path_type=Path),
    help="The video, or a folder of images of one scene.",
)
@click.option(
    "--labels",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="COCO file of the target in about five frames, in which all else is something else. "
    "Boxes of other classes are look-alikes. Repeat for more.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the micro-model; with --continue that of the version before.",
)
@click.option(
    "--class",
    "class_name",
    default="",
    metavar="NAME",
    help="The class to find, where --labels has several.",
)
@click.option(
    "--phrase",
    default="",
    help="What kind of object it is, as the finder knows it.  [default: the class]",
)
@click.option(
    "--continue",
    "goes_on",
    is_flag=True,
    help="Train the next version, on the labels of the one before and these.",
)
@click.option(
    "--reviews",
    "runs",
    multiple=True,
    metavar="RUN",
    help="Learn from what people said of this run of the clip: wrong boxes are not it; right, "
    "corrected and missing ones are. An output folder of `secondlook label`. Repeat for more.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.01, 600),
    default=MINUTES,
    show_default=True,
    metavar="N",
    help="Maximum time of the training.",
)
@click.option(
    "--finder",
    default="",
    metavar="MODEL",
    help="Proposer among whose boxes the target is told apart, by a registered name such as demo "
    "or transformers:IDEA-Research/grounding-dino-tiny.  [default: demo]",
    shell_complete=lambda ctx, option, typed: complete_models(typed, PROPOSERS),
)
@click.option(
    "--embedder",
    cls=SectionOption,
    section=MORE,
    default="",
    metavar="MODEL",
    help="Model that knows the scene, by a registered name such as efficientnet-lite.  "
    "[default: demo]",
    shell_complete=lambda ctx, option, typed: complete_models(typed, EMBEDDERS),
)
@click.option(
    "--start",
    cls=SectionOption,
    section=MORE,
    default=DEMO,
    show_default=True,
    metavar="FOLDER",
    help="Student whose backbone it begins with: demo (embedded), or the --out of `secondlook "
    "distill`.",
)
@click.option(
    "--steps",
    cls=SectionOption,
    section=MORE,
    type=click.IntRange(1, 10**6),
    default=STEPS,
    show_default=True,
    metavar="N",
    help="Maximum training steps.",
)
@click.option(
    "--seed",
    cls=SectionOption,
    section=MORE,
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed.",
)
@fps_option
@setting_options(ModelSettings, ImageSettings, only=NEEDED)
def train(clip: Path, files: tuple[Path, ...], out: Path, goes_on: bool, **flags: Any) -> None:
    """Train a micro-model on a few labels of a clip.

    Frames are named as `secondlook label` names them, such as clip.mp4@00-00-12.400.jpg; images of
    a folder by their path in it. Takes a minute or two of two cores.
    """
    runs = flags.pop("runs")
    if runs and not goes_on:
        raise click.UsageError("--reviews goes with --continue")
    if not files and not runs:
        raise click.UsageError("give --labels FILE, or --continue with --reviews RUN")
    check_extras("training a micro-model", "serve", "distill")
    class_name, fps = flags.pop("class_name"), flags.pop("fps")
    asked = {name: flags.pop(name) for name in _HOW}
    settings = settings_of(flags)
    from secondlook.models.registry import prepare_process

    prepare_process(settings.models)
    from secondlook.core.clips import clips_in
    from secondlook.core.image_folder import select_images
    from secondlook.training.micro import load_parts, previous_version, train_micro

    before = previous_version(out)
    if goes_on and before is None:
        raise NotFound(f"{out} holds no micro-model to continue; leave out --continue")
    if before is not None and not goes_on:
        raise click.UsageError(f"{out} holds a micro-model; --continue trains its next version")
    class_name, labels = _all_labels(files, runs, out, before, class_name)
    how = _how(class_name, before, asked)
    selection = select_images([clip], None, clips_in([clip], settings.images, fps))
    parts = load_parts(how, settings.models)
    with _shown(how.steps) as tell, gentle_interrupts("stopping the training") as stop:
        try:
            manifest, warnings = train_micro(
                selection, labels, how, parts, out, settings.images, tell, stop
            )
        except Cancelled as stopped:
            raise KeyboardInterrupt(str(stopped)) from stopped
    for warning in warnings:
        echo(f"warning: {warning}", err=True)
    _print_trained(manifest, clip, out)


_HOW = ("finder", "phrase", "embedder", "start", "steps", "minutes", "seed")


def _how(class_name: str, before: "MicroManifest | None", flags: dict[str, Any]) -> "MicroTraining":
    """The training that the flags ask for, the rest as in the version before."""
    from secondlook.training.micro import MicroTraining

    known = {
        "finder": before.finder if before else DEMO,
        "phrase": before.phrase if before else class_name,
        "embedder": before.embedder if before else DEMO,
    }
    return MicroTraining(class_name, **(flags | {k: flags[k] or v for k, v in known.items()}))


def _all_labels(
    files: Sequence[Path],
    runs: Sequence[str],
    out: Path,
    before: "MicroManifest | None",
    class_name: str,
) -> "tuple[str, list[FrameLabels]]":
    """The class, and the labels of the version before, of files and of reviews."""
    from secondlook.models.micro_folder import LABELS
    from secondlook.training.micro_labels import contradictions, merged, read_labels

    if before and class_name and class_name != before.class_name:
        raise InvalidInput(f"{out} finds '{before.class_name}'; another class is another --out")
    groups = []
    if before:
        class_name = before.class_name
        groups.append(read_labels(out / LABELS, class_name)[1])
    given = []
    for file in files:
        class_name, found = read_labels(file, class_name)
        given.append(found)
    if count := contradictions(given):
        about = counted(count, "box")
        echo(
            f"warning: the files contradict each other about {about}; the later --labels counts",
            err=True,
        )
    groups += given
    groups += [_labels_of_run(run, class_name) for run in runs]
    return class_name, merged(groups)


def _labels_of_run(run: str, class_name: str) -> "list[FrameLabels]":
    """What people said of a run. Raises ``InvalidInput`` where nobody said anything."""
    from secondlook.training.micro_labels import labels_of_reviews

    places: dict[str, Any] = {"data": "", "database_url": "", "blob_url": "", "config": None}
    _, name = run_of(run, places)
    with opened_store(places) as store:
        from secondlook.review.local_reviews import LocalReviews

        reviews = LocalReviews(store)
        said = list(reviews.list(run=name))
        names = reviews.image_names({review.image for review in said})
    found = labels_of_reviews(said, names, class_name)
    if not found:
        raise InvalidInput(f"nobody reviewed '{class_name}' in {run}; see `secondlook review`")
    return found


@contextmanager
def _shown(steps: int) -> "Iterator[Callable[[MicroProgress], None]]":
    with bar("training", steps, unit="steps") as step:
        yield lambda progress: step(progress.step, progress.of)


def _print_trained(manifest: "MicroManifest", clip: Path, out: Path) -> None:
    echo(
        f"version {manifest.version} of '{manifest.name}' finds {manifest.class_name}: "
        f"{counted(manifest.labels, 'label')} and {manifest.negatives} that are not it in "
        f"{counted(manifest.frames, 'frame')}, {duration(manifest.seconds)}"
    )
    echo(
        f'label the clip: secondlook label {clip} -c "{manifest.class_name}" --proposer '
        f"micro:{out} --verifier none"
    )


def micro_digest(spec: str) -> str:
    """The digests of the micro-models that a proposer's spec names, and what an assembly line adds
    to them; empty for other proposers.

    Raises ``NotFound``, ``Damaged`` and ``BadSetting``.
    """
    if (found := _micro_set(spec)) is None:
        return ""
    from secondlook.models.micro_folder import read_micro_manifest

    digests = [read_micro_manifest(folder).digest for folder in found.folders]
    return " ".join([*digests, found.told]).strip()


def with_outline(settings: Settings) -> Settings:
    """``settings`` with the segmenter of an assembly line as their own, unless they name another.

    Raises ``NotFound`` and ``BadSetting``.
    """
    found = _micro_set(settings.models.proposer)
    if found is None or not found.outline or settings.models.segmenter.strip() != "none":
        return settings
    return settings.replace(segmenter=found.outline)


def _micro_set(spec: str) -> "MicroSet | None":
    """The micro-models that a proposer's spec names; None for other proposers."""
    name, _, path = spec.strip().partition(":")
    if name != "micro":
        return None
    from secondlook.models.micro_set import read_micro_set

    return read_micro_set(Path(path).expanduser())


@micro_command.command(
    "show",
    cls=SectionedCommand,
    examples=["secondlook micro show batman", "secondlook micro show batman other-street/"],
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
@fps_option
@setting_options(ModelSettings, ImageSettings, only=NEEDED)
def show(model: Path, images: tuple[Path, ...], as_json: bool, fps: float, **flags: Any) -> None:
    """Show a micro-model, or those of a set; with IMAGES, in whose scene each image is.

    MODEL is what follows `micro:` in --proposer: a folder, a folder of several, or a YAML file.
    """
    from secondlook.models.micro_folder import read_micro_manifest
    from secondlook.models.micro_set import read_micro_set

    found = read_micro_set(model)
    folders = found.folders
    if not images and found.told and not as_json:
        echo(f"assembly line: {found.told}")
    if not images:
        for folder in folders:
            _print_manifest(read_micro_manifest(folder), folder, as_json)
        return
    check_extras("a micro-model", "serve", "edge")
    from secondlook.models.micro import load
    from secondlook.models.registry import prepare_process

    settings = settings_of(flags)
    prepare_process(settings.models)
    proposer = load(str(model), settings.models)
    for line in _scenes_of(proposer, folders, images, fps, settings.images):
        if as_json:
            print_json(line)
        else:
            where = line["scene"] or "no known scene"
            nearest = f"{line['remoteness']:.2f} of the limit of {line['nearest']}"
            echo(f"{line['image']}: {where} ({nearest})")


def _scenes_of(
    proposer: "MicroProposer",
    folders: Sequence[Path],
    images: Sequence[Path],
    fps: float,
    limits: ImageSettings,
) -> Iterator[dict[str, Any]]:
    """Of each image the micro-model of its scene, and how far the nearest one is."""
    import threading

    from secondlook.core.clips import clips_in
    from secondlook.core.decoding import ImageDecoder
    from secondlook.core.image_folder import select_images
    from secondlook.models.micro import remoteness

    selection = select_images(images, None, clips_in(images, limits, fps))
    with closing(ImageDecoder(limits)) as decoder:
        for file in selection.walk():
            data = selection.read(file, limits.max_image_bytes)
            image = decoder.decode(data, file.name, threading.Event())
            far = remoteness(proposer.models, [image])[0]
            nearest = int(far.argmin())
            name = str(folders[nearest])
            yield {
                "image": file.name,
                "scene": name if far[nearest] <= 1 else "",
                "nearest": name,
                "remoteness": round(float(far[nearest]), 4),
            }


def _print_manifest(manifest: "MicroManifest", folder: Path, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({"folder": str(folder), "digest": manifest.digest, **asdict(manifest)})
        return
    print_facts(
        {
            "micro-model": f"{manifest.name}, version {manifest.version}",
            "folder": str(folder),
            "digest": manifest.digest,
            "version before": manifest.parent or "none",
            "finds": manifest.class_name,
            "finder": f"{manifest.finder}, asked for '{manifest.phrase}'",
            "scene": f"{manifest.clip}, to a distance of {manifest.scene_distance:.4f} by "
            f"{manifest.embedder}",
            "trained on": f"{counted(manifest.labels, 'label')} and {manifest.negatives} that are "
            f"not it, in {counted(manifest.frames, 'frame')}",
            "training": duration(manifest.seconds),
            "created": local_time(manifest.created_at),
        }
    )
