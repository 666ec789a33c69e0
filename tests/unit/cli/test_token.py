"""``secondlook token``: the secret is printed once, lists and errors never have it."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from secondlook.cli import run
from secondlook.cli.jobs import job_command
from secondlook.core.access import Role, is_secret
from secondlook.store import open_store
from secondlook_client.channel import ServerAccess


def test_the_life_of_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path / "data")]
    assert run(["token", "list", *data]) == 2  # no store there yet
    create = ["token", "create", *data, "--role", "device", "--name", "gate-3", "--model", "street"]
    limits = ["--limit", "images_per_minute=600", "--limit", "stored_bytes=64 MiB"]
    assert run([*create, "--expires", "8w", *limits]) == 0
    out, err = capsys.readouterr()
    secret = out.strip()
    assert is_secret(secret) and "only time" in err
    assert run(create) == 2 and "revoke it first" in capsys.readouterr().err
    with open_store(tmp_path / "data") as store:
        [row] = store.tokens.all()
    assert (row.access.streams, row.access.models) == ({"gate-3"}, {"street"})
    assert row.access.roles == {Role.DEVICE}
    assert dict(row.access.limits) == {"images_per_minute": 600, "stored_bytes": 64 * 2**20}
    assert row.expires_at is not None
    assert round(row.expires_at - row.created_at) == 8 * 7 * 86_400
    assert run(["token", "list", *data]) == run(["token", "list", "--json", *data]) == 0
    listed = capsys.readouterr().out
    assert "gate-3, street" in listed and secret not in listed
    told = json.loads(listed.splitlines()[-1])
    assert told["valid"] is True and told["limits"]["images_per_minute"] == 600
    assert run(["token", "revoke", "gate-3", *data]) == 0
    assert run(["token", "list", *data]) == 0 and "revoked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--role", "viewer", "--stream", "a"], "--role device"),
        (["--role", "king"], "king"),
        (["--role", "viewer", "--expires", "soon"], "12h, 30d"),
        (["--role", "viewer", "--limit", "images=5"], "images_per_minute"),
        (["--role", "viewer", "--limit", "streams=-1"], "from 0 to"),
        (["--role", "viewer", "--limit", "streams"], "a whole number"),
        ([], "--role"),
    ],
)
def test_what_makes_no_token(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create = ["token", "create", "--data", str(tmp_path / "data"), "--name", "eva"]
    assert run([*create, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_options_of_a_connection_hold_while_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("token", "ca"):
        (tmp_path / name).write_text("slt_secret")
    seen = []
    monkeypatch.setattr(
        "secondlook_client.Client", lambda server: seen.append(ServerAccess.given({})) or 1 / 0
    )
    given = ["--token-file", str(tmp_path / "token"), "--ca", str(tmp_path / "ca"), "--plain-token"]
    CliRunner().invoke(job_command, ["list", "--server", "tls://labels.lan:50051", *given])
    assert seen == [ServerAccess(token="slt_secret", ca=str(tmp_path / "ca"), plain_token=True)]
    assert "slt_secret" not in repr(seen)
    assert not [
        name for name in os.environ if name.startswith(("SECONDLOOK_TOKEN", "SECONDLOOK_CA"))
    ]
