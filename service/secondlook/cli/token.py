"""``secondlook token``: who may call a service. Works on its store, beside the service."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import console, local_time, table
from secondlook.cli.params import Age
from secondlook.cli.store import opened_store, store_options
from secondlook.config.entrypoint import CommandGroup
from secondlook.config.terminal import echo, print_json
from secondlook.core.access import LIMITS, Role, TokenAccess, read_limit
from secondlook_client.errors import BadSetting

if TYPE_CHECKING:
    from secondlook.store.tokens import TokenRow


class Lifetime(Age):
    """An age, or ``never``."""

    name = "lifetime"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds; 0 for ``never``."""
        if value in ("never", 0.0):
            return 0.0
        return super().convert(value, param, ctx)


class Limit(click.ParamType):
    """``NAME=VALUE``, of ``LIMITS``."""

    name = "limit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Name and value."""
        name, _, number = str(value).partition("=")
        try:
            return read_limit(name.strip(), number)
        except BadSetting as failure:
            self.fail(str(failure), param, ctx)


@click.group("token", cls=CommandGroup)
def token_command() -> None:
    """Say who may call a service: make, list and revoke tokens.

    From the first token on the service asks every caller for one, and it goes on asking when all
    were revoked. Callers give the secret as SECONDLOOK_TOKEN, --token-file or Client(token=…).
    """


@token_command.command(
    "create",
    examples=[
        "secondlook token create --data data --role device --name gate-3 --model street",
        "secondlook token create --data data --role reviewer --name eva --expires 30d",
        "secondlook token create --data data --role labeler --name b --limit streams=2",
    ],
)
@click.option("--name", required=True, metavar="NAME", help="What logs and lists call it.")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    required=True,
    help="viewer reads everything; labeler labels, reviewer reviews, trainer trains and promotes, "
    "and all of them read; device sends its streams and fetches its models; admin may do all. "
    "Repeat for more.",
)
@click.option(
    "--expires",
    type=Lifetime(),
    default="90d",
    show_default=True,
    metavar="AGE",
    help="When it ends: 12h, 90d, 8w or never.",
)
@click.option(
    "--stream",
    "streams",
    multiple=True,
    metavar="NAME",
    help="A stream of the device; repeat for more.  [default: as --name]",
)
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A model of the device, likewise."
)
@click.option(
    "--limit",
    "limits",
    type=Limit(),
    multiple=True,
    metavar="NAME=VALUE",
    help="A limit of its own, in place of the setting client_NAME of the service; 0: none. NAME is "
    f"one of {', '.join(LIMITS)}. Repeat for more.",
)
@store_options
def create(
    name: str,
    roles: tuple[str, ...],
    expires: float,
    streams: tuple[str, ...],
    models: tuple[str, ...],
    limits: tuple[tuple[str, float], ...],
    **flags: Any,
) -> None:
    """Make a token and print its secret, once: only a hash of it is kept."""
    chosen = frozenset(map(Role, roles))
    if Role.DEVICE in chosen:
        streams = streams or (name,)
    elif streams or models:
        raise click.UsageError("--stream and --model are of a token with --role device")
    own = tuple(dict(limits).items())
    access = TokenAccess(chosen, frozenset(streams), frozenset(models), own)
    with opened_store(flags, new=True) as store:
        secret = store.tokens.create(name, access, time.time() + expires if expires else None)
    echo(secret)
    echo("this is the only time that the secret is shown; keep it like a password", err=True)


@token_command.command("list", examples=["secondlook token list --data data"])
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
@store_options
def list_tokens(as_json: bool, **flags: Any) -> None:
    """List all tokens, the newest first; those that ended for 90 days."""
    with opened_store(flags) as store:
        found = store.tokens.all()
    moment = time.time()
    for row in found if as_json else ():
        access = {"roles": row.access.roles, "streams": row.access.streams}
        access |= {"models": row.access.models}
        times = {"created_at": row.created_at, "expires_at": row.expires_at}
        times |= {"revoked_at": row.revoked_at, "used_at": row.used_at}
        lists = {key: sorted(names) for key, names in access.items()}
        limits = {"limits": dict(row.access.limits)}
        print_json({"name": row.name, **lists, **limits, **times, "valid": not row.ended(moment)})
    if not as_json:
        _print_tokens(found, moment)


@token_command.command("revoke", examples=["secondlook token revoke gate-3 --data data"])
@click.argument("name")
@store_options
def revoke(name: str, **flags: Any) -> None:
    """End the token NAME now; services refuse it, and end its open calls, within 2 s."""
    with opened_store(flags) as store:
        store.tokens.revoke(name)
    echo(f"revoked {name}")


def _print_tokens(found: "Sequence[TokenRow]", moment: float) -> None:
    rows = table("name", "roles", "streams and models", "limits", "ends", "last used")
    for row in found:
        rows.add_row(
            row.name,
            ", ".join(sorted(row.access.roles)),
            ", ".join(sorted(row.access.streams | row.access.models)),
            ", ".join(f"{name}={value:g}" for name, value in row.access.limits),
            row.ended(moment) or _time(row.expires_at) or "never",
            _time(row.used_at) or "never",
        )
    console().print(rows)


def _time(moment: float | None) -> str:
    return local_time(moment) if moment is not None else ""
