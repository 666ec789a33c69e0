"""``secondlook segment``: one object of one image, outlined by clicks or a box."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import settings_of
from secondlook.cli.output import counted
from secondlook.cli.params import PixelNumbers, address_option
from secondlook.config.entrypoint import SectionedCommand, config_option, setting_options
from secondlook.config.extras import check_extras, extras_of_models
from secondlook.config.settings import ImageSettings, ModelSettings, Settings
from secondlook.config.terminal import echo
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask, Segmentation

if TYPE_CHECKING:
    from secondlook_client import Client

MAX_CANDIDATES = 3
CANDIDATES = ("best", "smallest", *(str(n + 1) for n in range(MAX_CANDIDATES)))
NEEDED = (
    "segmenter",
    "device",
    "dtype",
    "threads",
    "trust_remote_code",
    *ImageSettings.specs(),
)
"""The settings that a segmenter alone has a use for."""
DEMO = "demo"
NONE = "none"
OPEN_S = 600.0
"""A large segmenter takes a while to start."""


@dataclass(frozen=True)
class ObjectPrompt:
    """Where one object is, pixels of the upright image."""

    box: tuple[float, float, float, float] | None = None
    """Roughly around it, xyxy."""
    inside: Sequence[tuple[float, float]] = ()
    outside: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Outlined:
    """The masks that a prompt may have meant, and the one that was taken."""

    candidates: tuple[Segmentation, ...]
    """The best predicted quality first."""
    chosen: int

    @property
    def mask(self) -> Mask:
        """The one that was taken."""
        return self.candidates[self.chosen].mask


@click.command(
    "segment",
    cls=SectionedCommand,
    examples=[
        "secondlook segment photo.jpg --inside 120,80 --outside 40,50 --out mask.png",
        "secondlook segment photo.jpg --box 20,30,180,200 --crop --out dog.png",
    ],
)
@click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--inside",
    type=PixelNumbers("120,80"),
    multiple=True,
    metavar="X,Y",
    help="A point on the object, pixels of the upright image. Repeat for more.",
)
@click.option(
    "--outside",
    type=PixelNumbers("40,50"),
    multiple=True,
    metavar="X,Y",
    help="A point that is not on the object. Repeat for more.",
)
@click.option(
    "--box",
    type=PixelNumbers("20,30,180,200"),
    metavar="X1,Y1,X2,Y2",
    help="A box roughly around the object.",
)
@click.option(
    "--candidate",
    type=click.Choice(CANDIDATES),
    default=CANDIDATES[0],
    show_default=True,
    help="Of the masks that a single click may mean: the best predicted one, the smallest sensible "
    "one (a part, where the best is the whole), or by number.",
)
@click.option(
    "--crop", is_flag=True, help="Write the object itself, cut out, on a transparent background."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("mask.png"),
    show_default=True,
    help="PNG file, which is overwritten: white is the object; with --crop the object itself.",
)
@address_option("Use a running service; without it, the segmenter runs in this process.")
@config_option
@setting_options(ModelSettings, ImageSettings, only=NEEDED)
def segment_command(
    image: Path,
    inside: tuple[tuple[float, float], ...],
    outside: tuple[tuple[float, float], ...],
    box: tuple[float, float, float, float] | None,
    candidate: str,
    crop: bool,
    out: Path,
    server: str | None,
    **flags: Any,
) -> None:
    """Outline one object of IMAGE by points on it, points beside it, or a rough box.

    Writes its mask, or with --crop the object cut out. No class is needed: the object is whatever
    is there. To outline click by click, and to keep masks as reviews, use
    `client.segmentation` of the Python client.
    """
    from secondlook.core.files import check_can_write
    from secondlook.core.image_folder import read_image_file, select_images

    if not (inside or box):
        raise click.UsageError("say where the object is: --inside X,Y, or --box X1,Y1,X2,Y2")
    settings = settings_of(flags)
    check_can_write(out)
    (file,) = select_images([image]).walk()
    content = read_image_file(file, settings.images.max_image_bytes)
    with segmenting(server, settings) as client:
        found = outline(client, content, ObjectPrompt(box, inside, outside), candidate)
    if crop:
        write_cutout(out, content, found.mask, settings.images)
    else:
        write_mask(out, found.mask)
    _tell(out, found)


@contextmanager
def segmenting(server: str | None, settings: Settings) -> "Iterator[Client]":
    """A client of the service at ``server``, or of one here that has nothing but the segmenter.

    Raises what loading the segmenter raises.
    """
    from secondlook_client import Client

    if server:
        with Client(server) as client:
            yield client
        return
    if settings.models.segmenter in (NONE, DEMO):
        settings = settings.replace(segmenter=DEMO)
        echo(
            "note: the embedded demo segmenter knows only the synthetic images of `secondlook "
            "world`; for photos name another with --segmenter",
            err=True,
        )
    models = settings.models
    alone = settings.replace(proposer=DEMO, verifier=NONE)
    check_extras(
        "running a segmenter here",
        *extras_of_models(alone),
        otherwise="use a running service with --server",
    )
    from secondlook.models.registry import load_segmenter, prepare_process
    from secondlook.server.segmentation import segmentation_service

    prepare_process(models)
    segmenter = load_segmenter(models.segmenter, models)
    assert segmenter is not None
    cache = settings.server.encoding_cache_bytes
    with (
        segmentation_service(segmenter, settings.images, cache) as address,
        Client(address) as client,
    ):
        yield client


def outline(client: "Client", content: bytes, prompt: ObjectPrompt, candidate: str) -> Outlined:
    """The masks of an object, and which ``candidate`` (of ``CANDIDATES``) was asked for.

    Raises ``InvalidInput`` for a candidate that there is none of, and for an empty mask.
    """
    clicks = client.segmentation.open(content, timeout_s=OPEN_S)
    clicks.prompt(prompt.box, prompt.inside, prompt.outside)
    found = clicks.candidates
    if candidate.isdecimal() and int(candidate) > len(found):
        raise InvalidInput(
            f"there is no candidate {candidate}: the segmenter gave {len(found)}; a single click "
            f"has up to {MAX_CANDIDATES}"
        )
    clicks.choose(int(candidate) - 1 if candidate.isdecimal() else candidate)
    taken = Outlined(found, clicks.state.chosen)
    if not taken.mask.area:
        raise InvalidInput("the segmenter found no object there; click elsewhere, or draw a box")
    return taken


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as a PNG: 255 is the object, 0 is not."""
    from secondlook.core.cutout import mask_image
    from secondlook.core.files import explain_write_errors, replacing

    with explain_write_errors(path), replacing(path) as part:
        mask_image(mask).save(part, "PNG")


def write_cutout(path: Path, content: bytes, mask: Mask, limits: ImageSettings) -> None:
    """Write the object as a PNG of its tight box, with a transparent background."""
    from secondlook.core.cutout import cut_out
    from secondlook.core.files import explain_write_errors, replacing
    from secondlook.core.images import decode

    cut = cut_out(decode(content, path.name, limits).pixels, mask)
    with explain_write_errors(path), replacing(path) as part:
        cut.save(part, "PNG")


def _tell(out: Path, found: Outlined) -> None:
    """What was written, and what else it may have been."""
    one = found.candidates[found.chosen]
    box = " ".join(f"{edge:.0f}" for edge in one.mask.box or ())
    echo(
        f"{out}: {counted(one.mask.area, 'pixel')} in the box {box}, predicted IoU "
        f"{one.quality:.2f}"
    )
    if len(found.candidates) > 1:
        others = (
            f"{place}: {counted(other.mask.area, 'pixel')} ({other.quality:.2f})"
            for place, other in enumerate(found.candidates, start=1)
        )
        echo(f"candidate {found.chosen + 1} of {', '.join(others)}; choose with --candidate")
