"""Options of the commands that write datasets: formats, splits, and images in doubt."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.params import NamedNumber, NameList
from secondlook.config.entrypoint import Command, SectionOption
from secondlook.datasets.writers import DoubtfulImages
from secondlook_client.values import GroupBy

if TYPE_CHECKING:
    from secondlook.datasets.query import SplitShare

SECTION = "Datasets"
"""Of these options in the help."""


def format_option(formats: Iterable[str]) -> Callable[[Command], Command]:
    """``--format``."""
    return click.option(
        "--format",
        "formats",
        type=NameList(formats),
        default="coco",
        show_default=True,
        metavar="FORMAT,…",
        help=f"Any of {', '.join(formats)}, separated by commas.",
    )


def split_options(default: str) -> Callable[[Command], Command]:
    """``--split`` and ``--group-by``; ``default`` says what is done without the first."""

    def decorate(command: Command) -> Command:
        shares = click.option(
            "--split",
            type=NamedNumber("train=0.8"),
            multiple=True,
            metavar="NAME=SHARE",
            help=f"A split and its share. Repeat for each split.  [default: {default}]",
        )
        group_by = click.option(
            "--group-by",
            cls=SectionOption,
            section=SECTION,
            type=click.Choice([str(group_by) for group_by in GroupBy]),
            default=GroupBy.AUTO.value,
            show_default=True,
            help="Which images stay together in one split. auto: near duplicates, and frames of "
            "one stream; folder: near duplicates, and images of one folder; similarity: near "
            "duplicates; time: consecutive images, for one fixed camera.",
        )
        return shares(group_by(command))

    return decorate


def doubt_options(nothing_proposed: DoubtfulImages) -> Callable[[Command], Command]:
    """``--unsure`` and ``--nothing-proposed``, which has this default: what YOLO makes of images
    in doubt."""

    def option(flag: str, default: DoubtfulImages, kinds: Iterable[str], text: str) -> Any:
        return click.option(
            flag,
            cls=SectionOption,
            section=SECTION,
            type=click.Choice([str(kind) for kind in kinds]),
            default=default.value,
            show_default=True,
            help=text,
        )

    def decorate(command: Command) -> Command:
        unsure = option(
            "--unsure",
            DoubtfulImages.SEPARATE,
            DoubtfulImages,
            "What YOLO, which has no ignore regions, makes of images with an unsure box. separate: "
            "they are in unsure/; leave-out: they are not written; background: the box is left "
            "out, and learnt as background; label: the box is a label.",
        )
        unproposed = option(
            "--nothing-proposed",
            nothing_proposed,
            (kind for kind in DoubtfulImages if kind is not DoubtfulImages.LABEL),
            "What YOLO makes of images on which nothing was proposed, so that nobody looked twice. "
            "separate: they are in nothing_proposed/; leave-out: they are not written; background: "
            "they are images without an object, in COCO too.",
        )
        decorated: Command = unsure(unproposed(command))
        return decorated

    return decorate


def doubt_choices(flags: dict[str, Any]) -> dict[str, DoubtfulImages]:
    """The values of ``doubt_options`` by name; removes them from ``flags``."""
    return {name: DoubtfulImages(flags.pop(name)) for name in ("unsure", "nothing_proposed")}


def split_shares(split: Iterable[tuple[str, float]]) -> "tuple[SplitShare, ...]":
    """The values of ``--split``. Raises ``InvalidInput``."""
    from secondlook.datasets.query import SplitShare

    return tuple(SplitShare(*share) for share in split)
