"""Tokens: only hashes are kept, and what ended stays ended."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from secondlook.config.redaction import redacted
from secondlook.core.access import Role, TokenAccess, is_secret, new_secret, secret_digest
from secondlook.store import Store
from secondlook.store.integrity import check
from secondlook.store.schema import tokens
from secondlook_client.errors import AlreadyExists, InvalidInput, NotFound

VIEWER = TokenAccess(frozenset({Role.VIEWER}))
DEVICE = TokenAccess(
    frozenset({Role.DEVICE}), frozenset({"a", "b"}), frozenset({"m"}), (("streams", 2),)
)


def test_a_secret_is_told_once_and_only_its_hash_is_kept(store: Store) -> None:
    before = store.tokens.version()
    secret = store.tokens.create("gate-3", DEVICE, time.time() + 60)
    [row] = store.tokens.all()
    assert (row.name, row.access, row.digest) == ("gate-3", DEVICE, secret_digest(secret))
    with store.database.reading() as connection:
        stored = repr(connection.execute(tokens.select()).all())
    assert secret not in stored and secret[4:] not in stored
    assert store.tokens.version() != before
    with pytest.raises(AlreadyExists, match="revoke it first"):
        store.tokens.create("gate-3", VIEWER)


def test_a_token_ends_by_its_time_or_by_hand_and_its_name_is_free_again(store: Store) -> None:
    told = []
    with store.tokens.changes.subscribed(lambda: told.append(1)):
        store.tokens.create("a", VIEWER, time.time() - 1)
        store.tokens.create("a", VIEWER)
        version = store.tokens.version()
        store.tokens.revoke("a")
    assert len(told) == 3 and store.tokens.version() != version
    assert [row.ended(time.time()) for row in store.tokens.all()] == ["revoked", "expired"]
    with pytest.raises(NotFound, match="no valid token 'a'"):
        store.tokens.revoke("a")
    store.tokens.note_used([row.id for row in store.tokens.all()])
    assert all(row.used_at for row in store.tokens.all())
    with store.database.writing() as connection:
        connection.execute(update(tokens).values(expires_at=1.0, revoked_at=1.0))
    store.tokens.create("b", VIEWER)
    assert [row.name for row in store.tokens.all()] == ["b"]


@pytest.mark.parametrize(
    ("name", "access"),
    [
        ("", VIEWER),
        (" a", VIEWER),
        ("a\nb", VIEWER),
        ("a" * 129, VIEWER),
        ("a", TokenAccess(frozenset())),
        ("a", TokenAccess(frozenset({Role.DEVICE}), frozenset({"x\x1b"}))),
        ("a", TokenAccess(frozenset({Role.DEVICE}), frozenset(map(str, range(101))))),
    ],
)
def test_what_no_list_could_show_is_refused(name: str, access: TokenAccess, store: Store) -> None:
    with pytest.raises(InvalidInput):
        store.tokens.create(name, access)
    assert store.tokens.all() == []


def test_a_token_of_before_there_were_limits_has_none_of_its_own(store: Store) -> None:
    store.tokens.create("a", VIEWER)
    written = '{"roles": ["viewer"], "streams": [], "models": []}'
    with store.database.writing() as connection:
        connection.execute(update(tokens).values(access=written))
    assert [row.access for row in store.tokens.all()] == [VIEWER]


def test_a_token_that_cannot_be_read_is_found_by_check(store: Store) -> None:
    store.tokens.create("a", VIEWER)
    with store.database.writing() as connection:
        connection.execute(update(tokens).values(access='{"roles": ["king"]}'))
    [found] = check(store)
    assert found.subject.startswith("token ")


ROLES = st.frozensets(st.sampled_from(Role), min_size=1)


@given(has=ROLES, needed=ROLES)
def test_a_role_more_never_allows_less(has: frozenset[Role], needed: frozenset[Role]) -> None:
    access = TokenAccess(has)
    allowed = access.grants(needed)
    assert allowed == (
        Role.ADMIN in has
        or bool(has & needed)
        or (Role.VIEWER in needed and bool(has - {Role.DEVICE}))
    )
    for more in Role:
        assert TokenAccess(has | {more}).grants(needed) >= allowed
    assert not TokenAccess(frozenset({Role.DEVICE})).grants_beyond_scope(needed)


def test_secrets_are_known_by_their_form_and_hidden() -> None:
    secret = new_secret()
    assert is_secret(secret) and secret != new_secret()
    assert not is_secret(secret[:-1]) and not is_secret(secret + "é")
    assert secret[4:] not in redacted(f"Bearer {secret}, and no more")
