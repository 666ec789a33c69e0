"""A real Label Studio with our backend: predictions, a click, and an annotation becomes reviews.

Label Studio and the backend are processes of their own; nothing is faked but the person. Making
its database takes Label Studio a minute or two.
"""

import json
import os
import re
import site
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

requests = pytest.importorskip("requests")
pytest.importorskip("label_studio")

CONFIG = """<View><Image name="img" value="$image"/>
<RectangleLabels name="rect" toName="img"><Label value="person"/><Label value="ball"/>
</RectangleLabels>
<BrushLabels name="brush" toName="img"><Label value="person"/><Label value="ball"/></BrushLabels>
<KeyPointLabels name="point" toName="img" smart="true"><Label value="ball"/></KeyPointLabels>
</View>"""
EMAIL, PASSWORD = "ada@example.com", "Correct-horse-7"
SETTINGS = {
    "SSRF_PROTECTION_ENABLED": "false",  # or it calls no address of this machine
    "ML_BLOCK_LOCAL_IP": "false",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}


def project_python() -> str:
    """The interpreter that has secondlook, whose packages this environment sees behind its own."""
    (line,) = Path(site.getsitepackages()[0], "project.pth").read_text().splitlines()
    purelib = re.search("'(.*)'", line)
    assert purelib
    return str(Path(purelib[1]).parents[2] / "bin" / "python")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as line:
        return line.getsockname()[1]


@contextmanager
def running(command, log, address, **settings):
    """A process that answers at ``address``."""
    with log.open("w") as told:
        environment = {**os.environ, **settings}
        process = subprocess.Popen(command, stdout=told, stderr=told, env=environment)
    try:
        ends = time.monotonic() + 700
        while True:
            assert process.poll() is None and time.monotonic() < ends, log.read_text()[-2000:]
            try:
                requests.get(address, timeout=5)
                break
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait(60)


class Studio:
    """A person's session."""

    def __init__(self, address):
        self.address, self.session = address, requests.Session()
        page = self.session.get(f"{address}/user/login/").text
        form = {"email": EMAIL, "password": PASSWORD}
        form["csrfmiddlewaretoken"] = re.search('csrfmiddlewaretoken" value="(.*?)"', page)[1]
        self.session.headers["Referer"] = f"{address}/user/login/"
        assert "sessionid" in self.session.post(f"{address}/user/login/", form).request.headers.get(
            "Cookie", ""
        )
        self.session.headers["X-CSRFToken"] = self.session.cookies["csrftoken"]

    def call(self, method, path, **given):
        answer = self.session.request(method, f"{self.address}/api/{path}", timeout=120, **given)
        assert answer.ok, answer.text[:500]
        return answer.json()


def secondlook(*words, cwd):
    command = [project_python(), "-m", "secondlook", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


def test_from_a_project_to_reviews_and_back(tmp_path):
    secondlook("world", "--seed", "7", "--count", "2", "--out", "world", cwd=tmp_path)
    studio_at, backend_at = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    port = studio_at.rpartition(":")[2]
    start = [str(Path(sys.executable).with_name("label-studio")), "start", "--no-browser"]
    start += ["--port", port, "--username", EMAIL, "--password", PASSWORD]
    data = {"LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "studio"), **SETTINGS}
    with ExitStack() as stack:
        stack.enter_context(running(start, tmp_path / "studio.log", f"{studio_at}/health", **data))
        studio = Studio(studio_at)
        (tmp_path / "token").write_text(studio.call("POST", "token/", json={})["token"])
        backend = [project_python(), "-m", "secondlook", "label-studio", "--segmenter", "demo"]
        backend += ["--data", str(tmp_path / "data"), "--port", backend_at.rpartition(":")[2]]
        backend += ["--ontology", str(tmp_path / "world" / "ontology.yaml")]
        backend += ["--label-studio", studio_at, "--label-studio-token", str(tmp_path / "token")]
        stack.enter_context(running(backend, tmp_path / "backend.log", f"{backend_at}/health"))
        exported = annotate(studio, backend_at, sorted((tmp_path / "world/images").iterdir()))
    (tmp_path / "export.json").write_text(json.dumps(exported))
    told = [
        *map(
            json.loads,
            secondlook("review", "list", "--data", "data", "--json", cwd=tmp_path).splitlines(),
        )
    ]
    answers = [one["answer"] for one in told]
    assert answers.count("missing") == 1 and answers.count("wrong") == 1
    assert "right" in answers and {one["person"] for one in told} == {"Label Studio user 1"}
    (run,) = set(re.findall("label-studio-[0-9]+-[0-9a-f]{8}", runs(tmp_path)))
    again = secondlook(
        "review", "import", "export.json", "--data", "data", "--run", run, cwd=tmp_path
    )
    assert again.startswith("0 new reviews"), "the webhook has brought everything"


def runs(tmp_path):
    import sqlite3

    (file,) = (tmp_path / "data").glob("*.db")
    with sqlite3.connect(file) as database:
        return " ".join(name for (name,) in database.execute("SELECT name FROM runs"))


def annotate(studio, backend_at, images):
    """Make a project, connect the backend, click, and hand an annotation in; the export."""
    project = studio.call("POST", "projects", json={"title": "trial", "label_config": CONFIG})["id"]
    files = [(f"file{n}", (one.name, one.read_bytes())) for n, one in enumerate(images)]
    studio.call("POST", f"projects/{project}/import", files=files)
    wanted = {"url": backend_at, "project": project, "is_interactive": True, "title": "secondlook"}
    model = studio.call("POST", "ml", json=wanted)
    assert model["state"] == "CO" and model["model_version"].startswith("secondlook demo-proposer")
    every = {"selectedItems": {"all": True, "excluded": []}}
    studio.call("POST", f"dm/actions?id=retrieve_tasks_predictions&project={project}", json=every)
    tasks = studio.call("GET", f"tasks?project={project}")["tasks"]
    predicted = [studio.call("GET", f"tasks/{one['id']}")["predictions"] for one in tasks]
    task, ((prediction,),) = tasks[0]["id"], predicted[:1]
    assert len(predicted) == len(images) and all(predicted)
    regions = prediction["result"]
    assert {one["type"] for one in regions} == {"rectanglelabels", "brushlabels"}
    box = next(one for one in regions if one["type"] == "rectanglelabels")["value"]
    value = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "width": 0.5}
    click = {"type": "keypointlabels", "value": {**value, "keypointlabels": ["ball"]}}
    asked = {"task": task, "context": {"result": [{**click, "is_positive": True}]}}
    answer = studio.call("POST", f"ml/{model['id']}/interactive-annotating", json=asked)
    (stroke,) = answer["data"]["result"]
    assert stroke["type"] == "brushlabels" and stroke["value"]["brushlabels"] == ["ball"]
    box["x"] += 3
    new = {**stroke, "id": "new", "type": "rectanglelabels", "from_name": "rect", "meta": {}}
    new["value"] = {"x": 1, "y": 1, "width": 12, "height": 12, "rotation": 0}
    new["value"]["rectanglelabels"] = ["ball"]
    done = {"result": [*regions, new], "lead_time": 12.5}
    studio.call("POST", f"tasks/{task}/annotations/", json=done)
    time.sleep(5)  # for what is kept behind the answer
    return studio.call("GET", f"projects/{project}/export?exportType=JSON")
