"""``secondlook record``: a camera into a video file, which can then be labelled."""

from pathlib import Path

import click

from secondlook.cli.output import bar, counted
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.terminal import echo


@click.command(
    "record",
    cls=SectionedCommand,
    examples=[
        "secondlook record /dev/video0 --seconds 600 --out yard.mkv",
        "secondlook record rtsp://gate-3.local/stream --out gate.mkv",
    ],
)
@click.argument("camera")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 7 * 86_400),
    default=60.0,
    show_default=True,
    metavar="N",
    help="How long to record; Ctrl-C ends it before, and what was recorded stays.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("recording.mkv"),
    show_default=True,
    help="A new Matroska file.",
)
def record_command(camera: str, seconds: float, out: Path) -> int:
    """Record a CAMERA: a device such as /dev/video0, or the address of a network stream.

    Nothing is decoded or encoded. The file is labelled like any other video: `secondlook label`.
    """
    from secondlook.config.entrypoint import gentle_interrupts
    from secondlook.core.camera import record

    with (
        bar("recording", whole := round(seconds), unit="seconds") as step,
        gentle_interrupts("ending the recording") as stopped,
    ):
        found = record(camera, out, seconds, stopped, lambda passed, _: step(int(passed), whole))
    echo(f"{counted(found.frames, 'frame')} of {found.seconds:.0f} seconds in {out}")
    if not found.complete:
        echo("the camera gave nothing any more before the time was over", err=True)
    return 0 if found.complete else 1
