"""The page passes on the token of its client, and shows nothing without one."""

from contextlib import ExitStack
from pathlib import Path

import httpx
from serving import png, server_settings, serving

from secondlook.core.access import Role, TokenAccess
from secondlook.store import open_store
from secondlook_client import Client


def test_the_page_shows_nothing_without_a_token_once_there_is_one(tmp_path: Path) -> None:
    options = server_settings(web_port=0)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(tmp_path / "data"))
        s = stack.enter_context(serving(store=store, options=options))
        with Client(s.address) as client:
            image = client.label(png(), keep="street").sha256
        web = stack.enter_context(httpx.Client(base_url=s.server.web_address))
        original = f"/originals/{image}"
        info = "/secondlook.v1.LabelingService/GetServerInfo"

        def seen(**headers: str) -> list[int]:
            answers = web.post(info, json={}, headers=headers), web.get(original, headers=headers)
            return [answer.status_code for answer in answers]

        assert seen() == [200, 200]
        secret = store.tokens.create("eva", TokenAccess(frozenset({Role.VIEWER})))
        device = store.tokens.create("gate-3", TokenAccess(frozenset({Role.DEVICE})))
        assert seen() == [401, 401]
        assert seen(Authorization=f"Bearer {secret}") == [200, 200]
        assert seen(Authorization=f"Bearer {device}") == [200, 403]
