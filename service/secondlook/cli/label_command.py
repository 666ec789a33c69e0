"""``secondlook label``: a folder of pictures in, labels out."""

from pathlib import Path
from typing import Any

import click

from secondlook.cli.options import looked_for, models, ontology_of, setting_option, settings_of
from secondlook.cli.tables import counted
from secondlook.formats import WRITERS


class FormatList(click.ParamType):
    """Names of formats with commas between."""

    name = "formats"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Checked names, in the order given."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in WRITERS:
                self.fail(f"'{name}' is none of {', '.join(WRITERS)}", param, ctx)
        return names


@click.command("label")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("labels"),
    show_default=True,
    help="Folder for the labels; the same one resumes the run.",
)
@looked_for
@click.option(
    "--format",
    "formats",
    type=FormatList(),
    default="coco",
    show_default=True,
    help=f"Any of {', '.join(WRITERS)}, with commas between.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Pictures shown in gallery.html at most, the doubtful first.",
)
@click.option("--fresh", is_flag=True, help="Remove what an earlier run left in --out first.")
@click.option("--retry-failed", is_flag=True, help="Try pictures again that could not be labelled.")
@models
@setting_option("cascade")
@setting_option("audit_share")
@setting_option("agreement")
@setting_option("data")
@setting_option("database_url")
@setting_option("blob_url")
def command(
    pictures: tuple[Path, ...],
    out: Path,
    lines: tuple[str, ...],
    ontology: Path | None,
    formats: tuple[str, ...],
    shown: int,
    fresh: bool,
    retry_failed: bool,
    server: str | None,
    **flags: Any,
) -> int:
    """Label PICTURES: folders, searched with all that is in them, or single files.

    Ctrl-C, a crash or a full disk loses nothing: the same command goes on where it stopped.
    Pictures that cannot be labelled are listed in failed.jsonl, each with its reason. What models
    run here say is kept in --out, or in --data; a service used with --server keeps it there.

    With --cascade a student labels what it is certain of, as long as audits by the models agree.
    """
    from secondlook.cli.labelling import label_into
    from secondlook.cli.session import connected, say_what_demo_knows
    from secondlook.runs.folder import select
    from secondlook.runs.out_folder import OutFolder
    from secondlook_client import LabelPath

    settings = settings_of(flags)
    selection = select(pictures, out)
    if not server:
        say_what_demo_knows(settings)
    wanted = ontology_of(lines, ontology)
    with OutFolder(out) as folder:

        def ready() -> Path:
            if fresh:
                folder.clear()
            return folder.store

        with connected(server, settings, wanted, ready) as session:
            run = label_into(
                folder,
                session,
                selection,
                formats=formats,
                shown=shown,
                retry_failed=retry_failed,
            )
    written, totals = run.written, run.written.totals
    click.echo(
        f"{counted(totals.pictures, 'picture')}: {counted(totals.accepted, 'box')} accepted, "
        f"{totals.rejected:,} rejected, {totals.unsure:,} unsure; "
        f"{counted(totals.verified_empty, 'picture')} verified empty"
    )
    if by_student := totals.by_path[LabelPath.STUDENT]:
        click.echo(
            f"{by_student} pictures by the student alone; the models were needed for "
            f"{1 - by_student / totals.pictures:.0%}"
        )
    if totals.without_verdict:
        click.echo(
            f"unsure for want of a verdict: {counted(totals.without_verdict, 'box')}; the first "
            f"because: {totals.first_error}"
        )
    if written.failed:
        failed = counted(written.failed, "picture")
        click.echo(f"{failed} failed; the reasons are in {out / 'failed.jsonl'}")
    for path in written.paths:
        click.echo(f"  {path}")
    return 1 if written.failed and not totals.pictures else 0
