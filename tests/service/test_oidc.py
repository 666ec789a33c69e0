"""JWTs of an OpenID Connect issuer in place of tokens; the issuer is a small one, on loopback."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from door_callers import token
from joserfc.jwk import ECKey, KeySet, RSAKey
from joserfc.jwt import encode
from serving import Serving, png, server_settings, serving

from secondlook.config.redaction import HIDDEN, redacted
from secondlook.config.settings import OidcSettings
from secondlook.core.access import Role, TokenAccess
from secondlook.server import oidc
from secondlook.server.oidc import read_keys, roles_by_value
from secondlook.store import Store, open_store
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import (
    BadSetting,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    SecondlookError,
)

AT_ONCE = RetryPolicy(unavailable_s=0)
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
NEXT = ECKey.generate_key("P-256", {"kid": "next"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
AUDIENCE = "secondlook"


class Issuer:
    """Serves its public keys over HTTP, and signs."""

    def __init__(self) -> None:
        self.keys = [RSA, EC]
        self.asked = 0
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                if self.path == "/elsewhere":
                    self.send_response(302)
                    self.send_header("Location", "/keys")
                    self.end_headers()
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(KeySet(issuer.keys).as_dict(private=False)).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def jwt(self, key: Any = RSA, alg: str = "RS256", **changed: Any) -> str:
        """A sound one but for what is ``changed``; None leaves a claim out."""
        claims = {
            "iss": self.address,
            "aud": ["other", AUDIENCE],
            "sub": "eva",
            "exp": time.time() + 600,
            "realm": {"roles": ["staff", "label-team"]},
            **changed,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return encode({"alg": alg, "kid": key.kid}, kept, key, algorithms=[alg])


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(tmp_path_factory.mktemp("oidc")) as opened:
        yield opened


@pytest.fixture(scope="module")
def s(issuer: Issuer, store: Store) -> Iterator[Serving]:
    """A server of the issuer's; its store has no token yet."""
    options = server_settings(
        oidc_issuer=issuer.address,
        oidc_audience=AUDIENCE,
        oidc_keys=f"{issuer.address}/keys",
        oidc_claim="realm.roles",
        oidc_roles="label-team=labeler, readers=viewer",
    )
    with serving(store=store, options=options) as running:
        yield running


@pytest.fixture(autouse=True)
def _many_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.server.auth.ATTEMPTS", 10**6)


@contextmanager
def caller(s: Serving, secret: str) -> Iterator[Client]:
    with Client(s.address, token=secret, retry=AT_ONCE) as client:
        yield client


def test_a_jwt_gives_the_roles_of_its_claim_and_a_name(s: Serving, issuer: Issuer) -> None:
    for key, alg in ((RSA, "RS256"), (RSA, "PS256"), (EC, "ES256")):
        with caller(s, issuer.jwt(key, alg)) as eva:
            assert eva.info().version
    with caller(s, issuer.jwt()) as eva:
        eva.label(png(), keep="street")
        assert eva.jobs.get("street").created_by == "oidc:eva"
    with caller(s, issuer.jwt(sub="ida", realm={"roles": "readers"})) as ida:
        assert ida.jobs.get("street").name == "street"
        with pytest.raises(NotAllowed):
            ida.jobs.cancel("street")
    asked = issuer.asked
    for _ in range(2):
        with caller(s, issuer.jwt(sub="tom")) as tom, pytest.raises(NotAllowed):
            tom.jobs.cancel("street")
    assert issuer.asked == asked  # the keys are known


def unsigned(issuer: Issuer) -> str:
    _, claims, _ = issuer.jwt().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').rstrip(b"=").decode()
    return f"{none}.{claims}."


def signed_with_the_public_key_as_secret(issuer: Issuer) -> str:
    _, claims, _ = issuer.jwt().split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').rstrip(b"=").decode()
    secret = RSA.as_pem(private=False)
    mac = hmac.new(secret, f"{header}.{claims}".encode(), hashlib.sha256).digest()
    return f"{header}.{claims}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_no_other_jwt_gets_in(s: Serving, issuer: Issuer) -> None:
    sound = issuer.jwt()
    assert redacted(f"Bearer {sound}, and so on") == f"Bearer {HIDDEN}, and so on"
    now = time.time()
    refused = {
        "unsigned": unsigned(issuer),
        "HS256 with the public key": signed_with_the_public_key_as_secret(issuer),
        "of a stranger with the same kid": issuer.jwt(STRANGER),
        "an unknown kid": issuer.jwt(NEXT, "ES256"),
        "signed, then changed": sound[:-6] + "AAAAAA",
        "expired": issuer.jwt(exp=now - 60),
        "without an end": issuer.jwt(exp=None),
        "not yet": issuer.jwt(nbf=now + 300),
        "another issuer": issuer.jwt(iss="https://elsewhere"),
        "another audience": issuer.jwt(aud="other"),
        "no audience": issuer.jwt(aud=None),
        "nobody": issuer.jwt(sub=None),
        "a name with a line end": issuer.jwt(sub="eva\nroot"),
        "no role": issuer.jwt(realm={"roles": ["staff"]}),
        "no claim": issuer.jwt(realm=7),
        "admin, which is not in the mapping": issuer.jwt(realm={"roles": ["admin"]}),
        "too long": issuer.jwt(more="x" * 7000),
        "no JWT": "a.b.c",
        "empty": "..",
    }
    for what, jwt in refused.items():
        with caller(s, jwt) as stranger:
            try:
                stranger.info()
            except NotAuthenticated:
                continue
            pytest.fail(f"a JWT was accepted: {what}")
    with Client(s.address, retry=AT_ONCE) as nobody, pytest.raises(NotAuthenticated):
        nobody.info()  # though the store has no token


def test_a_new_key_of_the_issuer_is_found_and_tokens_go_on(
    s: Serving, issuer: Issuer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.keys.append(NEXT)
    monkeypatch.setattr(oidc, "MIN_FETCH_S", 0.0)
    with caller(s, issuer.jwt(NEXT, "ES256")) as eva:
        assert eva.info().version
    with caller(s, token(store, "tom", Role.VIEWER)) as tom:
        assert tom.info().version
    with pytest.raises(InvalidInput, match="are of an OIDC issuer"):
        store.tokens.create("oidc:eva", TokenAccess(frozenset({Role.ADMIN})))


def test_a_call_ends_with_its_jwt(
    s: Serving, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "LEEWAY_S", 0)
    with caller(s, issuer.jwt(exp=time.time() + 2)) as eva:
        eva.jobs.create("long")
        with pytest.raises(SecondlookError, match=r"has ended while the call was open|expired"):
            list(eva.jobs.watch("long"))


def test_keys_come_from_a_file_or_where_nobody_can_change_them(
    issuer: Issuer, tmp_path: Path, store: Store
) -> None:
    file = tmp_path / "keys.json"
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}
    keys = KeySet([EC]).as_dict(private=False)["keys"]
    file.write_text(json.dumps({"keys": [*keys, secret, {"kty": "EC"}]}))
    assert [key.kid for key in read_keys(str(file)).keys] == ["ec"]
    file.write_text(json.dumps({"keys": ["x" * 300_000]}))
    with pytest.raises(ValueError, match="more than"):
        read_keys(str(file))
    with pytest.raises(OSError):
        read_keys(f"{issuer.address}/elsewhere")
    assert roles_by_value("a=b=viewer, x=admin,x=viewer") == {
        "a=b": (Role.VIEWER,),
        "x": (Role.ADMIN, Role.VIEWER),
    }
    sound = {
        "oidc_issuer": "https://i",
        "oidc_audience": "a",
        "oidc_keys": "https://i/keys",
        "oidc_roles": "x=viewer",
    }
    oidc.OidcIssuer(OidcSettings(**sound))
    for wrong in (
        {"oidc_keys": "http://keys.example/jwks"},
        {"oidc_keys": ""},
        {"oidc_roles": "x=device"},
        {"oidc_roles": "viewer"},
        {"oidc_audience": ""},
    ):
        with pytest.raises(BadSetting, match="oidc_"):
            oidc.OidcIssuer(OidcSettings(**{**sound, **wrong}))
    with (
        pytest.raises(BadSetting, match="takes a store"),
        serving(options=server_settings(**sound)),
    ):
        pass
