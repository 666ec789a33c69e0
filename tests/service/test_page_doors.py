"""Who reaches the page: tokens and roles at each of its endpoints, TLS, and the names it has."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from certificates import Authority, authority
from door_callers import Web, callers, page_calls_of_everybody, shown, token
from serving import png, server_settings, serving

from secondlook.core.access import Role, new_secret
from secondlook.store import Store, open_store
from secondlook_client import Client
from secondlook_client.errors import BadSetting

INFO = "/secondlook.v1.LabelingService/GetServerInfo"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store; the databases are tested elsewhere."""
    with open_store(tmp_path / "data") as opened:
        yield opened


def _trusting(by: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=by.certificate.decode())


def test_every_endpoint_of_the_page_ends_as_declared_for_everybody(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.server.auth.ATTEMPTS", 10**6)
    audit = tmp_path / "audit.log"
    options = server_settings(web_port=0, audit_log=str(audit))
    wrong: list[object] = []
    count = 0
    with serving(store=store, options=options) as s, Web(s.server.web_address) as web:
        with Client(s.address) as client:
            image = client.label(png(), keep="street").sha256
        images = [f"/images/{image}?width=64", f"/originals/{image}"]
        assert web.call(INFO, {}, streams=False, secret=None) == "in"  # until there is a token
        assert [web.get(path, None) for path in images] == ["in", "in"]
        people = callers(store)
        for called in page_calls_of_everybody(web, people):
            count += 1
            if not called.as_declared:
                wrong.append(called)
        for stream in ("LabelingService/LabelStream", "ModelService/AddVersion"):
            assert web.ask(f"/secondlook.v1.{stream}", b"{}")[0] == 501  # not served over HTTP
        for caller in people:
            reads = caller.roles and "device" not in caller.who
            denied = "PERMISSION_DENIED" if caller.roles else "UNAUTHENTICATED"
            for path in images:
                if (got := web.get(path, caller.secret)) != ("in" if reads else denied):
                    wrong.append((path, caller.who, got))
            for path in ("/", "/app.js", "/app.css"):  # without them nobody could log in
                assert web.get(path, caller.secret) == "in"
    assert wrong == []
    assert count > 500
    told = [json.loads(line) for line in audit.read_text().splitlines()]
    assert {"UNAUTHENTICATED", "PERMISSION_DENIED"} <= {one["result"] for one in told}
    assert {one["method"] for one in told} >= {"images", "ListRuns", "CreateJob"}
    assert {one["address"] for one in told} == {"127.0.0.1"}


def test_guesses_are_limited_and_the_page_learns_what_its_token_may(store: Store) -> None:
    secret = token(store, "eva", Role.REVIEWER)
    options = server_settings(web_port=0)
    with serving(store=store, options=options) as s, Web(s.server.web_address) as web:
        ended = [
            web.ask(path, body, Authorization=f"Bearer {new_secret()}")[0]
            for path, body in [(INFO, b"{}"), (f"/images/{'0' * 64}", None)] * 7
        ]
        assert ended[:10] == [401] * 10
        assert 429 in ended[10:]
        status, content = web.ask(INFO, b"{}", Authorization=f"Bearer {secret}")
        assert (status, json.loads(content)["caller"]) == (
            200,
            {"name": "eva", "roles": ["ROLE_REVIEWER"]},
        )
        cookie = web.ask(INFO, b"{}", Cookie=f"token={secret}; Authorization=Bearer {secret}")
        assert cookie[0] in (401, 429)


def test_the_page_goes_to_a_network_by_https_with_tokens_and_known_names(
    store: Store, tmp_path: Path
) -> None:
    cert, key = authority().certify("server").write(tmp_path, "server")
    files = {"tls_cert": cert, "tls_key": key}
    opened = {"web_port": 0, "web_host": "0.0.0.0", "web_names": "labels.lan, other.lan"}

    def refused(**settings: object) -> str:
        options = server_settings(**opened, **settings)
        with pytest.raises(BadSetting) as failure, serving(store=store, options=options):
            pass
        return str(failure.value)

    assert "--web-host 0.0.0.0 opens the server to the network, which takes TLS" in refused()
    assert "takes a token in the store" in refused(**files)
    secret = token(store, "eva", Role.VIEWER)
    following = Authority("the next one")
    before, after = _trusting(authority()), _trusting(following)
    with serving(store=store, options=server_settings(**opened, **files)) as s:
        port = urlsplit(s.server.web_address).port
        here = f"https://127.0.0.1:{port}"

        def status(host: str, origin: str = "") -> int:
            headers = {"Host": host, **shown(secret), **({"Origin": origin} if origin else {})}
            with Web(here, before) as web:
                return web.ask(INFO, b"{}", **headers)[0]

        assert status("labels.lan", "https://labels.lan") == status("Other.LAN:443") == 200
        assert status("127.0.0.1", "https://127.0.0.1") == 200
        assert status("labels.lan", "http://labels.lan") == 403
        assert status("labels.lan", "https://other.lan") == 403
        assert status("stranger.example") == status("10.1.2.3") == status("0.0.0.0.lan") == 403
        with pytest.raises(OSError), Web(f"http://127.0.0.1:{port}") as plain:
            plain.ask("/")

        open_before = Web(here, before)
        assert open_before.ask("/")[0] == 200
        following.certify("server").write(tmp_path, "server")
        with Web(here, after) as web:  # 127.0.0.1 is no name, so none is in the handshake
            assert web.ask("/")[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError), Web(here, before) as web:
            web.ask("/")
        assert open_before.ask("/")[0] == 200  # goes on with what it began with
        open_before.__exit__()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority().certificate)
    mine = authority().certify("eva").write(tmp_path, "eva")
    with serving(
        store=store, options=server_settings(**opened, **files, tls_client_ca=str(ca))
    ) as s:
        here = f"https://127.0.0.1:{urlsplit(s.server.web_address).port}"
        with pytest.raises(OSError), Web(here, after) as web:
            web.ask("/")
        after.load_cert_chain(*mine)
        with Web(here, after) as web:
            assert web.ask(INFO, b"{}", **shown(secret))[0] == 200
