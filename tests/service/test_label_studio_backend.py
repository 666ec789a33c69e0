"""A backend of Label Studio on a real service, with a Label Studio that only gives images."""

import asyncio
import base64
import http.client
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedSegmenter
from serving import png, serving, wait_until

from secondlook.cli import run
from secondlook.datasets.readers.label_studio import decode_brush
from secondlook.server.label_studio import endpoint as http_endpoint
from secondlook.server.label_studio.backend import LabelStudioBackend, RunImages
from secondlook.server.label_studio.endpoint import LabelStudioEndpoint, check_bind
from secondlook.server.label_studio.task_images import (
    LabelStudioSite,
    TaskImages,
    opened_session,
)
from secondlook.server.loop_thread import in_own_thread
from secondlook.store import Store, open_store
from secondlook_client import AsyncClient, Client, RetryPolicy
from secondlook_client.channel import ServerAccess
from secondlook_client.errors import BadSetting

CONFIG = """<View><Image name="img" value="$image"/>
<RectangleLabels name="rect" toName="img"><Label value="dog"/><Label value="cat"/></RectangleLabels>
<BrushLabels name="brush" toName="img"><Label value="dog"/></BrushLabels>
<KeyPointLabels name="point" toName="img" smart="true"><Label value="dog"/></KeyPointLabels>
</View>"""
PASSWORD, TOKEN = "a pass:wörd", "account-token"
MAX_IMAGE = 100_000
PERSONAL = "h.p.s"


class LabelStudioImages(http.server.BaseHTTPRequestHandler):
    """Gives images to who shows the token, and counts what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers["Authorization"] not in (f"Token {TOKEN}", "Bearer access"):
            self.send_error(401)
        elif self.path.startswith("/data/upload/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/secret")
            self.end_headers()
        elif self.path.startswith("/data/upload/"):
            large = self.path.endswith("large.png")
            content = bytes(MAX_IMAGE + 1) if large else png(shade=len(self.path))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.asked.append(self.path)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"access": "access"} if asked == {"refresh": PERSONAL} else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *given: Any) -> None:
        pass


@dataclass
class Backend:
    """Where everything is."""

    place: tuple[str, int]
    images: str
    """Address of the Label Studio."""
    asked: list[str]
    store: Store
    client: Client

    def call(self, path: str, plain: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a request."""
        line = http.client.HTTPConnection(*self.place, timeout=30)
        kind = {"Content-Type": "application/json"} if plain is not None else {}
        body = plain if isinstance(plain, bytes) else json.dumps(plain).encode()
        method = "GET" if plain is None else "POST"
        line.request(method, path, None if plain is None else body, {**kind, **headers})
        answer = line.getresponse()
        try:
            return answer.status, json.loads(answer.read())
        finally:
            line.close()

    def predict(self, *places: str, context: Any = None, **data: Any) -> tuple[int, Any]:
        """The prediction of tasks at these places."""
        tasks = [
            {"id": at, "data": {"image": place, **data}} for at, place in enumerate(places, start=1)
        ]
        params = {"login": None, "password": None, "context": context}
        asked = {"tasks": tasks, "project": "5.1700000000", "label_config": CONFIG}
        return self.call("/predict", {**asked, "params": params})

    def hand_in(self, place: str, result: list[Any], **more: Any) -> tuple[int, Any]:
        """What Label Studio sends when person 7 hands an annotation in."""
        annotation = {"id": 3, "task": 9, "completed_by": 7, "lead_time": 8.0, "result": result}
        return self.call(
            "/webhook",
            {
                "action": "ANNOTATION_CREATED",
                "annotation": {**annotation, **more},
                "task": {"id": 9, "data": {"image": place}},
                "project": {"id": 5, "label_config": CONFIG},
            },
        )


@asynccontextmanager
async def listening(service: str, site: LabelStudioSite, files: Path, password: str = "") -> Any:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(service))
        channel = ServerAccess.given({}).channel(service, aio=True)
        stack.push_async_callback(channel.close)
        session = await stack.enter_async_context(opened_session())
        images = TaskImages(site, files, MAX_IMAGE, session)
        known = RunImages(channel, RetryPolicy(), service)
        endpoint = LabelStudioEndpoint(LabelStudioBackend(client, known, images), password)
        yield await stack.enter_async_context(endpoint.listening("127.0.0.1", 0))


@contextmanager
def backend(
    service: str, client: Client, store: Store, files: Path, password: str = "", token: str = TOKEN
) -> Iterator[Backend]:
    """A backend of the service, and the Label Studio that its images come from."""
    asked: list[str] = []
    handler = type("Images", (LabelStudioImages,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as studio:
        threading.Thread(target=studio.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{studio.server_port}"
        site = LabelStudioSite.parse(address, token)
        opened = in_own_thread("backend", lambda: listening(service, site, files, password))
        with opened as at:
            host, _, port = at.removeprefix("http://").partition(":")
            yield Backend((host, int(port)), address, asked, store, client)
        studio.shutdown()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("backend")
    (folder / "files").mkdir()
    (folder / "files" / "a.png").write_bytes(png(shade=3))
    (folder / "secret.png").write_bytes(png(shade=4))
    proposer = ScriptedProposer(lambda *_: [((10, 8, 30, 22), {"dog": 0.8})])
    segmenter = ScriptedSegmenter()
    with (
        open_store(folder / "data") as store,
        serving(proposer, store=store, segmenter=segmenter) as server,
        Client(server.address) as client,
        backend(server.address, client, store, folder / "files") as found,
    ):
        yield found


def rectangles(prediction: Any) -> list[Any]:
    return [one for one in prediction["result"] if one["type"] == "rectanglelabels"]


def test_health_and_setup(one: Backend) -> None:
    assert one.call("/health") == (200, {"status": "UP", "model_class": "secondlook"})
    told = {"project": "5.1", "schema": CONFIG, "hostname": "http://evil", "access_token": "x"}
    status, plain = one.call("/setup", told)
    assert status == 200 and plain["model_version"].startswith("secondlook scripted")
    status, without = one.call("/setup", {**told, "schema": "<View></View>"})
    assert status == 200 and without["model_version"].endswith("no-classes")
    assert one.call("/train", {})[0] == 200


def test_predictions_have_boxes_masks_and_scores(one: Backend) -> None:
    places = (
        "/data/upload/5/0123abcd-p.png",
        "/data/none.png",
        "/data/upload/6/q.png",
    )
    status, plain = one.predict(*places)
    assert status == 200
    first, second, third = plain["results"]
    assert second == [] and third["result"], "one without an image costs that one alone"
    (rectangle,) = rectangles(first)
    (stroke,) = (one for one in first["result"] if one["type"] == "brushlabels")
    assert (rectangle["from_name"], rectangle["to_name"]) == ("rect", "img")
    assert rectangle["value"]["rectanglelabels"] == ["dog"]
    assert first["score"] == rectangle["score"] == stroke["score"] > 0.5
    pixels = decode_brush(stroke["value"]["rle"], 40, 30)
    (result,) = (r.result for r in one.client.jobs.results(job_of(one)) if r.result.name == "p.png")
    assert (pixels == result.labels[0].mask.to_array()).all()
    fetched = len(one.asked)
    assert one.predict(places[0])[1]["results"] == [first]
    assert len(one.asked) == fetched, "an image that is known is not fetched again"


def job_of(one: Backend) -> str:
    return next(
        job.name for job in one.client.jobs.list() if job.name.startswith("label-studio-5-")
    )


def test_a_click_gives_a_mask(one: Backend) -> None:
    click = {
        "type": "keypointlabels",
        "is_positive": True,
        "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["dog"]},
    }
    other = {**click, "is_positive": False, "value": {**click["value"], "x": 5}}
    box = {"x": 25, "y": 25, "width": 50, "height": 50, "rectanglelabels": ["dog"]}
    drawn = {"type": "rectanglelabels", "value": box}
    for clicks in ([click], [click, other], [drawn]):
        status, plain = one.predict("/data/upload/5/c.png", context={"result": clicks})
        assert status == 200, plain
        ((stroke,),) = (found["result"] for found in plain["results"])
        assert stroke["value"]["brushlabels"] == ["dog"] and 0 < stroke["score"] <= 1
        assert decode_brush(stroke["value"]["rle"], 40, 30)[15, 20]
    assert one.predict("/data/upload/5/c.png", context={"result": [{"type": "x"}]})[0] == 400


def test_what_is_handed_in_becomes_reviews(one: Backend) -> None:
    place = "/data/upload/5/handed.png"
    result = one.predict(place)[1]["results"][0]["result"]
    (rectangle,) = rectangles({"result": result})
    assert one.hand_in(place, result) == (201, {"reviews": 1})
    assert one.hand_in(place, result) == (201, {"reviews": 0}), "it is not said twice"
    assert one.hand_in(place, [], was_cancelled=True) == (201, {"reviews": 0})
    wider = {**rectangle["value"], "width": rectangle["value"]["width"] + 10}
    cat = {**rectangle, "id": "n", "meta": {}, "value": {"x": 0, "y": 0, "width": 20, "height": 20}}
    cat["value"] |= {"rectanglelabels": ["cat"], "rotation": 0}
    changed = [{**rectangle, "value": wider}, cat]
    assert one.hand_in(place, changed, completed_by=8) == (201, {"reviews": 2})
    reviews = [*one.client.reviews.list()]
    assert [(r.answer.value, r.class_name, r.person, r.seconds) for r in reviews] == [
        ("right", "dog", "Label Studio user 7", 8.0),
        ("wrong", "dog", "Label Studio user 8", 4.0),
        ("missing", "cat", "Label Studio user 8", 4.0),
    ]
    assert reviews[1].new_box and reviews[1].new_box[2] == pytest.approx(reviews[1].box[2] + 4)
    shown = one.predict(place)[1]["results"][0]
    assert sorted(r["value"]["rectanglelabels"][0] for r in rectangles(shown)) == ["cat", "dog"]
    assert {r["score"] for r in shown["result"]} == {1.0}, "a person outranks every model"


def test_an_image_that_nobody_labelled_before_can_be_handed_in(one: Backend) -> None:
    assert one.hand_in("/data/upload/5/nobody-yet.png", []) == (201, {"reviews": 1})


def test_other_events_are_ignored(one: Backend) -> None:
    about = {"action": "PROJECT_UPDATED", "project": {"id": 5}}
    assert one.call("/webhook", about) == (200, {"status": "ignored"})


def test_a_slow_event_is_answered_and_kept(one: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "WEBHOOK_S", 0.0)
    before = len([*one.client.reviews.list()])
    assert one.hand_in("/data/upload/5/slow.png", []) == (201, {"status": "accepted"})
    wait_until(lambda: len([*one.client.reviews.list()]) == before + 1)


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("http://127.0.0.1:1/data/upload/x.png", 403),
        ("http://127.0.0.1@evil/data/upload/x.png", 403),
        ("//evil/data/upload/x.png", 403),
        ("\\\\evil\\x.png", 403),
        ("https://example.com/x.png", 403),
        ("file:///etc/passwd", 501),
        ("s3://bucket/x.png", 501),
        ("data:image/png;base64,AAAA", 501),
        ("/data/upload/elsewhere.png", 503),
        ("/data/upload/large.png", 400),
        ("/data/other.png", 404),
        ("", 400),
        ("/data/local-files/?d=../secret.png", 403),
        ("/data/local-files/?d=/../secret.png", 403),
        ("/data/local-files/?d=none.png", 404),
        ("/data/local-files/", 404),
    ],
)
def test_images_come_from_label_studio_alone(one: Backend, place: str, status: int) -> None:
    found, plain = one.predict(place)
    assert found == status and plain["error"], plain
    assert not any("secret" in path for path in one.asked)


def test_images_by_address_by_local_file_and_by_hash(one: Backend) -> None:
    status, plain = one.predict(f"{one.images}/data/upload/8/address.png")
    assert status == 200 and rectangles(plain["results"][0])
    status, plain = one.predict("/data/local-files/?d=a.png")
    assert status == 200 and rectangles(plain["results"][0])
    (found,) = (r for r in one.client.jobs.results(job_of(one)) if r.result.name == "a.png")
    fetched = len(one.asked)
    status, plain = one.predict("s3://far/away.png", sha256=found.result.sha256)
    assert status == 200 and rectangles(plain["results"][0]) and len(one.asked) == fetched


def test_requests_that_are_refused(one: Backend) -> None:
    assert one.call("/predict", b"{")[0] == 400
    assert one.call("/predict", b"[" * 100_000)[0] == 400
    assert one.call("/predict", [])[0] == 400
    assert one.call("/predict", {"tasks": [], "label_config": CONFIG})[0] == 400
    assert one.call("/predict", {"tasks": [1], "label_config": CONFIG, "project": 1})[0] == 400
    assert one.call("/predict", {"tasks": [{}], "label_config": "<!DOCTYPE a>"})[0] == 400
    assert one.call("/elsewhere", {})[0] == 404 and one.call("/predict")[0] == 404
    assert one.call("/webhook", {"action": "ANNOTATION_CREATED"})[0] == 400
    odd = [5, {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": 7}}]
    odd += [{"type": "brushlabels", "value": {"rle": [300] * 9}, "original_width": 40}]
    answer = one.hand_in("/data/upload/5/odd.png", odd, task=[], completed_by={"email": "\ud800"})
    assert answer == (201, {"reviews": 1}), "what cannot be read is left out"
    assert one.call("/webhook", {}, **{"Content-Type": "text/plain"})[0] == 400
    assert one.call("/webhook", {}, Host="evil.example")[0] == 403
    assert one.call("/webhook", {}, Origin="http://evil.example")[0] == 403


def test_a_password_and_a_personal_token(one: Backend, tmp_path: Path) -> None:
    service = one.client.address
    with backend(service, one.client, one.store, tmp_path, PASSWORD, PERSONAL) as guarded:
        assert guarded.call("/health")[0] == 200
        for shown in ("", "Basic ?", basic("wrong"), f"Token {TOKEN}", "Digest x", "Basic é"):
            header = shown.encode("utf-8").decode("latin-1")
            assert guarded.call("/setup", {"schema": CONFIG}, Authorization=header)[0] == 401
        told = {"tasks": [{"data": {"image": "/data/upload/1/z.png"}}], "label_config": CONFIG}
        for shown in (basic(PASSWORD), f"Token {PASSWORD}".encode().decode("latin-1")):
            status, plain = guarded.call(
                "/predict", told, Authorization=shown, Host="label-studio.lan"
            )
            assert status == 200 and plain["results"][0]["result"]
        assert guarded.asked == ["/api/token/refresh", "/data/upload/1/z.png"]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def test_without_a_password_it_listens_to_this_machine_alone() -> None:
    with pytest.raises(BadSetting, match="password-file"):
        check_bind("0.0.0.0", "")
    check_bind("0.0.0.0", PASSWORD)
    check_bind("::1", "")
    for address in ("label-studio:8080", "ftp://host", "http://a@b", "http://host?x", "http://"):
        with pytest.raises(BadSetting, match="no address"):
            LabelStudioSite.parse(address)
    site = LabelStudioSite.parse("https://host/studio/", "t")
    assert site.path_of("https://host:443/studio/data/x?a=1") == "/data/x?a=1"
    assert site.path_of("https://host/other/x") is None
    assert np.all([site.path_of(place) is None for place in ("http://host/studio/x", "//host/x")])


def test_the_command_serves_a_running_service(
    one: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "password").write_text(f"{TOKEN}\n")
    told: list[tuple[int, Any]] = []

    async def asked(_: Callable[[], bool]) -> None:
        address = capsys.readouterr().out.split()[-1].removeprefix("http://")
        host, _, port = address.partition(":")
        backend = replace(one, place=(host, int(port)))
        told.append(await asyncio.to_thread(backend.call, "/setup", {"schema": CONFIG}))
        shown = {"Authorization": f"Token {TOKEN}"}
        told.append(await asyncio.to_thread(backend.call, "/setup", {"schema": CONFIG}, **shown))

    monkeypatch.setattr("secondlook.cli.label_studio._until", asked)
    words = ["label-studio", "--port", "0"]
    password = ["--password-file", str(tmp_path / "password")]
    assert run([*words, "--server", one.client.address, *password]) == 0
    assert [status for status, _ in told] == [401, 200]
    assert run([*words]) == 2 and "--data DIR" in capsys.readouterr().err
    assert run([*words, "--data", "x", "--host", "0.0.0.0"]) == 2
    assert run([*words, "--data", "x", "--local-files", str(tmp_path / "none")]) == 2
