"""The page and the RPCs over HTTP, on a real server: what is answered, and what is refused."""

import base64
import http.client
import io
import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import ScriptedVerifier
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from random_calls import every_method
from random_messages import MessageMaker
from serving import Serving, png, server_settings, serving, wait_until

from secondlook.server.bridge import bounded_http, connect
from secondlook.server.bridge.plain_messages import plain_message
from secondlook.store import open_store
from secondlook_client import Client
from secondlook_client.errors import BadSetting

JSON = "application/json"
STREAM = "application/connect+json"
SERVICE = "/secondlook.v1."
INFO = f"{SERVICE}LabelingService/GetServerInfo"
GET_JOB = f"{SERVICE}JobService/GetJob"
IMAGE = png(200, 100)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def plain(self) -> Any:
        return json.loads(self.content)

    @property
    def messages(self) -> list[tuple[int, Any]]:
        """Of a stream: flags and JSON of each."""
        found, rest = [], self.content
        while rest:
            flags, size = struct.unpack_from(">BI", rest)
            found.append((flags, json.loads(rest[5 : 5 + size])))
            rest = rest[5 + size :]
        return found


@dataclass
class Web:
    """A client of HTTP, which sends what it is told."""

    serving: Serving

    @property
    def host(self) -> str:
        return self.serving.server.web_address.removeprefix("http://")

    @property
    def place(self) -> tuple[str, int]:
        name, _, port = self.host.rpartition(":")
        return name, int(port)

    def counted(self, method: str, reason: str) -> float:
        """Calls that ended so."""
        labels = {"method": method, "reason": reason}
        found = self.serving.metrics.registry.get_sample_value("secondlook_calls_total", labels)
        return found or 0.0

    def send(self, method: str, path: str, body: bytes | str = b"", **headers: str) -> Answer:
        line = http.client.HTTPConnection(self.host, timeout=20)
        line.putrequest(method, path, skip_host="Host" in headers)
        content = body.encode() if isinstance(body, str) else body
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            line.putheader(name.replace("_", "-"), value)
        line.endheaders(content)
        answer = line.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        line.close()
        return found

    def call(self, path: str, body: Any = None, **headers: str) -> Answer:
        text = body if isinstance(body, bytes | str) else json.dumps(body or {})
        return self.send("POST", path, text, **{"Content_Type": JSON, **headers})

    def stream(self, path: str, body: Any) -> Answer:
        text = json.dumps(body).encode()
        envelope = struct.pack(">BI", 0, len(text)) + text
        return self.send("POST", path, envelope, Content_Type=STREAM)


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[Web]:
    """A server with a store, in which one image is kept as the run ``kept``."""
    options = server_settings(web_port=0, receive_timeout_s=0.5)
    with (
        open_store(tmp_path_factory.mktemp("data")) as store,
        serving(store=store, options=options) as running,
    ):
        found = Web(running)
        image = base64.b64encode(IMAGE).decode()
        kept = found.call(f"{SERVICE}LabelingService/Label", {"image": image, "keep": "kept"})
        assert kept.status == 200
        found.call(f"{SERVICE}JobService/FinishUpload", {"job": "kept"})
        yield found


@pytest.fixture(scope="module")
def sha256(web: Web) -> str:
    results = web.stream(f"{SERVICE}JobService/ListResults", {"job": "kept"}).messages
    (result,) = results[0][1]["results"]
    return str(result["labelled"]["sha256"])


def test_a_call_by_http_is_answered_as_by_grpc_and_counted(web):
    with Client(web.serving.address) as client:
        by_grpc = client.info()
    answer = web.call(INFO)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    known = answer.plain
    assert (known["version"], known["proposer"]) == (by_grpc.version, by_grpc.proposer)
    assert known["defaultOntology"]["classes"][0]["name"] == "dog"
    assert web.call(INFO, b"", Connect_Protocol_Version="1").plain == known
    assert web.counted("GetServerInfo", "ok") >= 3


DEEP = '{"ontology":' * 50_000
REFUSED = {
    "no JSON": ("{", {}, 400, "invalid_argument", "no JSON of this method"),
    "not UTF-8": (b"\xff\xfe{}", {}, 400, "invalid_argument", "not UTF-8"),
    "NaN": ('{"job": NaN}', {}, 400, "invalid_argument", "NaN is no number"),
    "infinite": ('{"job": Infinity}', {}, 400, "invalid_argument", "Infinity is no number"),
    "a list": ("[]", {}, 400, "invalid_argument", "no JSON of this method"),
    "a number for a text": ('{"job": 7}', {}, 400, "invalid_argument", "job"),
    "a text for a flag": ('{"paths": "yes"}', {}, 400, "invalid_argument", "paths"),
    "an unknown field": ('{"jobs": "a"}', {}, 400, "invalid_argument", "no field named"),
    "a field twice": ('{"job": "a", "job": "b"}', {}, 400, "invalid_argument", "given twice"),
    "a text over its bound": (json.dumps({"job": "a" * 201}), {}, 400, "invalid_argument", "200"),
    "deep nesting": ("[" * 100_000, {}, 400, "invalid_argument", "nested too deeply"),
    "a long number": ('{"job": ' + "9" * 9999 + "}", {}, 400, "invalid_argument", "no JSON"),
    "a huge body": (b" " * 500_000, {}, 400, "invalid_argument", "expected at most 327,680"),
    "a page of a stranger": ("{}", {"Origin": "http://evil.example"}, 403, "permission_denied", ""),
    "a page on another port": (
        "{}",
        {"Origin": "http://localhost:1"},
        403,
        "permission_denied",
        "pages of",
    ),
    "no origin": ("{}", {"Origin": "null"}, 403, "permission_denied", "pages of 'null'"),
    "another site": ("{}", {"Sec_Fetch_Site": "same-site"}, 403, "permission_denied", "another"),
    "a rebound name": ("{}", {"Host": "evil.example"}, 403, "permission_denied", "evil.example"),
    "a name that looks local": (
        "{}",
        {"Host": "localhost.evil.example:80"},
        403,
        "permission_denied",
        "",
    ),
    "a form": ("{}", {"Content_Type": "text/plain"}, 415, "unknown", "expected Content-Type"),
    "another charset": (
        "{}",
        {"Content_Type": "application/json; charset=utf-16"},
        415,
        "unknown",
        "",
    ),
    "compressed": ("{}", {"Content_Encoding": "gzip"}, 501, "unimplemented", "Content-Encoding"),
    "no time": ("{}", {"Connect_Timeout_Ms": "soon"}, 400, "invalid_argument", "Timeout-Ms"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_told_why_and_the_server_serves_on(web, what):
    body, headers, status, code, words = REFUSED[what]
    answer = web.call(GET_JOB, body, **headers)
    assert (answer.status, answer.plain["code"]) == (status, code)
    assert words in answer.plain["message"]
    assert web.call(GET_JOB, {"job": "kept"}).plain["job"]["name"] == "kept"


@pytest.mark.parametrize(
    "path",
    [
        f"{SERVICE}JobService/Nothing",
        f"{SERVICE}NoService/GetJob",
        f"{SERVICE}JobService",
        f"{SERVICE}JobService/GetJob/more",
        f"{SERVICE}%00/%ff",
        f"{SERVICE}LabelingService/LabelStream",
    ],
)
def test_what_is_no_method_here_is_unimplemented(web, path):
    answer = web.call(path)
    assert (answer.status, answer.plain["code"]) == (501, "unimplemented")


def test_other_services_of_the_server_are_not_reached_by_http(web):
    answer = web.call("/grpc.health.v1.Health/Check")
    assert answer.status == 405
    assert web.send("GET", "/grpc.health.v1.Health/Check").status == 404


def test_an_error_has_the_details_of_grpc_for_programs(web):
    answer = web.call(GET_JOB, {"job": "x" * 300})
    assert answer.headers["secondlook-reason"] == "bad_request"
    details = {one["type"]: one for one in answer.plain["details"]}
    assert details["google.rpc.ErrorInfo"]["debug"]["reason"] == "BAD_REQUEST"
    (violation,) = details["google.rpc.BadRequest"]["debug"]["fieldViolations"]
    assert violation["field"] == "job"
    assert not details["google.rpc.ErrorInfo"]["value"].endswith("=")


def test_a_stream_is_answered_in_envelopes_and_its_end_says_how_it_ended(web):
    whole = web.stream(f"{SERVICE}JobService/ListResults", {"job": "kept"})
    assert (whole.status, whole.headers["Content-Type"]) == (200, "application/connect+json")
    flags = [flags for flags, _ in whole.messages]
    assert flags[-1] == connect.END_OF_STREAM and set(flags[:-1]) == {0}
    assert whole.messages[-1][1] == {}

    (ending,) = web.stream(f"{SERVICE}JobService/WatchJob", {"job": "nowhere"}).messages
    assert ending[0] == connect.END_OF_STREAM
    assert ending[1]["error"]["code"] == "not_found"
    assert ending[1]["metadata"]["secondlook-reason"] == ["not_found"]


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        (b"", "invalid_argument"),
        (b"\x00\x00\x00\x00\x09{}", "invalid_argument"),
        (b"\x01\x00\x00\x00\x02{}", "unimplemented"),
        (b"\x00\x00\x00\x00\x01{", "invalid_argument"),
    ],
)
def test_a_message_that_is_no_envelope_is_refused_in_the_stream(web, envelope, code):
    answer = web.send("POST", f"{SERVICE}JobService/WatchJob", envelope, Content_Type=STREAM)
    (ending,) = answer.messages
    assert answer.status == 200 and ending[1]["error"]["code"] == code


def test_every_answer_has_the_headers_that_keep_strangers_out(web, sha256):
    asked = [
        web.call(INFO),
        web.call(GET_JOB, "{"),
        web.send("GET", f"/images/{sha256}?width=64"),
        web.send("GET", "/nowhere"),
        web.send("OPTIONS", INFO, Origin="http://evil.example"),
    ]
    assert asked[-1].status == 405
    for answer in asked:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "*" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


def test_the_page_itself_and_programs_may_call(web):
    own = {"Origin": f"http://{web.host}", "Sec_Fetch_Site": "same-origin"}
    assert web.call(INFO, **own).status == 200
    port = web.host.rpartition(":")[2]
    for name in (f"localhost:{port}", f"LOCALHOST:{port}", "127.0.0.1", f"[::1]:{port}"):
        assert web.call(INFO, Host=name).status == 200


def test_images_are_encoded_anew_in_few_sizes_and_kept_by_the_browser(web, sha256):
    def size(query: str) -> tuple[int, int]:
        answer = web.send("GET", f"/images/{sha256}{query}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
        assert "immutable" in answer.headers["Cache-Control"]
        return PILImage.open(io.BytesIO(answer.content)).size

    assert size("") == size("?width=4096") == (200, 100)
    assert size("?width=100") == size("?width=128") == (128, 64)
    assert size("?crop=10,20,59.5,40") == (50, 20)
    assert size("?crop=-5,-5,1e9,2&width=64") == (64, 1)
    assert web.send("GET", f"/originals/{sha256}").content == IMAGE
    head = web.send("HEAD", f"/images/{sha256}?width=64")
    assert (head.status, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/images/{}?width=0", 400),
        ("/images/{}?width=-1", 400),
        ("/images/{}?width=99999999", 400),
        ("/images/{}?crop=1,2,3", 400),
        ("/images/{}?crop=nan,0,1,1", 400),
        ("/images/{}?size=1", 400),
        ("/images/" + "0" * 64, 404),
        ("/images/../../../../etc/passwd", 404),
        ("/images/..%2f..%2fsecondlook.db", 404),
        ("/originals/%2e%2e/secondlook.db", 404),
        ("/../server/app.py", 404),
        ("/..%2fapp.py", 404),
        ("/%2e%2e/bridge/endpoint.py", 404),
        ("//etc/passwd", 404),
        ("/index.html%00.js", 404),
    ],
)
def test_what_is_no_image_and_no_file_of_the_page_is_not_served(web, sha256, path, status):
    answer = web.send("GET", path.format(sha256))
    assert answer.status == status and answer.plain["message"]


def test_only_what_is_an_image_in_the_store_is_served(web):
    content = b'{"a manifest": "or a model"}'
    blob = web.serving.server.store.blobs.put(content)
    assert web.send("GET", f"/originals/{blob}").status == 404


def test_a_page_of_another_site_cannot_show_images(web, sha256):
    shown = web.send("GET", f"/images/{sha256}?width=64", Sec_Fetch_Site="cross-site")
    assert shown.status == 403


def test_a_body_that_comes_slowly_is_given_up(web):
    with socket.create_connection(web.place) as line:
        line.sendall(
            f"POST {GET_JOB} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        line.settimeout(10)
        told = line.recv(65536)
    assert told.startswith(b"HTTP/1.1 504") and b"did not arrive in time" in told


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 50_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_quietly(web, caplog, sent):
    with socket.create_connection(web.place) as line:
        line.sendall(sent)
        line.settimeout(10)
        told = line.recv(65536).decode()
    assert " 400 Bad Request" in told and "X-Content-Type-Options: nosniff" in told
    assert "aiohttp" not in told and not caplog.records


def test_connections_that_are_silent_are_closed_and_make_room(web, monkeypatch):
    monkeypatch.setattr(bounded_http, "HEAD_S", 0.2)
    lines = opened(web, 4)
    assert closed(lines, 10) == 4
    monkeypatch.setattr(bounded_http, "HEAD_S", 60)
    monkeypatch.setattr(bounded_http, "MAX_CONNECTIONS", 8)
    lines = opened(web, 24)
    assert web.call(INFO).status == 200
    assert closed(lines[:16], 10) == 16 and closed(lines[18:], 0.01) == 0
    for line in lines:
        line.close()


def opened(web: Web, count: int) -> list[socket.socket]:
    return [socket.create_connection(web.place) for _ in range(count)]


def closed(lines: list[socket.socket], wait_s: float) -> int:
    """How many of them the server closes."""
    found = 0
    for line in lines:
        line.settimeout(wait_s)
        with suppress(TimeoutError):
            try:
                found += line.recv(1) == b""
            except ConnectionResetError:
                found += 1
    return found


def test_a_deadline_holds_and_who_leaves_cancels_the_call(tmp_path):
    verifier = ScriptedVerifier(delay_s=0.6)
    with serving(verifier=verifier, options=server_settings(web_port=0)) as running:
        web = Web(running)
        label = {"image": base64.b64encode(IMAGE).decode()}
        late = web.call(f"{SERVICE}LabelingService/Label", label, Connect_Timeout_Ms="150")
        assert (late.status, late.plain["code"]) == (504, "deadline_exceeded")

        label, before = {"image": base64.b64encode(png(shade=9)).decode()}, verifier.calls
        line = http.client.HTTPConnection(web.host)
        line.request(
            "POST", f"{SERVICE}LabelingService/Label", json.dumps(label), {"Content-Type": JSON}
        )
        wait_until(lambda: verifier.calls > before)
        line.close()
        wait_until(lambda: web.counted("Label", "cancelled") > 0)


def test_the_page_is_for_this_machine_alone_without_tls_and_tokens():
    with (
        pytest.raises(BadSetting, match=r"--web-host 0\.0\.0\.0 opens the server to the network"),
        serving(options=server_settings(web_port=0, web_host="0.0.0.0")),
    ):
        pass


def test_a_port_in_use_is_told_and_what_was_opened_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadSetting, match=f":{port}.*in use"),
            serving(options=server_settings(web_port=port)),
        ):
            pass


NO_NUMBER = re.compile("NaN|Infinity")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
FIELDS = ("run", "job", "filter", "classes", "offset", "pageSize", "cursors", "order", "boxes")
UNARY = [method for method in every_method() if not method.server_streaming]


@settings(max_examples=60, deadline=None)
@given(method=st.sampled_from(UNARY), body=st.dictionaries(st.sampled_from(FIELDS), PLAIN) | PLAIN)
def test_no_json_makes_a_fault_of_ours(web, method, body):
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = web.call(path, json.dumps(body))
    assert answer.status != 500 or answer.plain["code"] == "data_loss", answer.plain


def test_every_request_and_answer_survives_its_json():
    maker = MessageMaker(7, [IMAGE])
    methods = [method for method in every_method() if not method.client_streaming]
    for method in methods:
        known = connect.find_method(f"/{method.containing_service.full_name}/{method.name}")
        for _ in range(8):
            request, answer = maker.message(method.input_type), maker.message(method.output_type)
            text = json_format.MessageToJson(request)
            if not NO_NUMBER.search(text):
                assert (
                    known.request.FromString(connect.message_bytes(known, text.encode())) == request
                )
            plain, expected = plain_message(answer), json_format.MessageToDict(answer)
            assert plain.keys() == expected.keys()
            if not NO_NUMBER.search(json.dumps(expected)):
                assert json_format.ParseDict(plain, known.response()) == answer


def test_an_answer_that_fails_in_the_middle_ends_its_connection_and_nothing_else(web, monkeypatch):
    def broken(method: object, answer: bytes) -> bytes:
        raise ValueError("a fault")

    monkeypatch.setattr(connect, "message_json", broken)
    with pytest.raises(http.client.IncompleteRead):
        web.stream(f"{SERVICE}JobService/ListResults", {"job": "kept"})
    failed = web.call(INFO)
    assert (failed.status, failed.plain["code"]) == (500, "internal")
    assert "a fault" not in failed.plain["message"] and "request id" in failed.plain["message"]
    monkeypatch.undo()
    assert web.call(INFO).status == 200
