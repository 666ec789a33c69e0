"""A stock stranger: grpcurl knows nothing of us but what reflection tells it."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import png, serving

ROOT = Path(__file__).resolve().parents[3]
MODULE = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
SERVICE = "secondlook.v1.LabelingService"


@pytest.fixture(scope="session")
def program() -> str:
    """Path of grpcurl."""
    folder = ROOT / ".cache" / "peers" / "bin"
    path = f"{os.environ['PATH']}:{folder}"
    found = shutil.which("grpcurl", path=path)
    if found is None and (go := shutil.which("go")):
        subprocess.run(
            [go, "install", MODULE], env=os.environ | {"GOBIN": str(folder)}, timeout=1500
        )
        found = shutil.which("grpcurl", path=path)
    if found is None:
        pytest.skip(f"no grpcurl on the PATH and no Go to build it: go install {MODULE}")
    return found


@pytest.fixture(scope="module")
def address():
    """Of a running server."""
    with serving() as s:
        yield s.address


def ask(program, address, *words, data=None):
    """grpcurl's exit status and all that it said."""
    given = ["-d", data] if data is not None else []
    command = [program, "-plaintext", *given, address, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_it_lists_the_services(program, address):
    status, said = ask(program, address, "list")
    assert status == 0
    reflection = {f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha")}
    assert {SERVICE, "grpc.health.v1.Health"} | reflection <= set(said.split())


def test_it_describes_methods_and_messages(program, address):
    status, said = ask(program, address, "describe", SERVICE)
    assert status == 0 and "rpc LabelStream ( stream .secondlook.v1.LabelStreamRequest )" in said
    status, said = ask(program, address, "describe", f"{SERVICE}.Label")
    assert status == 0 and "rpc Label ( .secondlook.v1.LabelRequest )" in said
    status, said = ask(program, address, "describe", "secondlook.v1.ClassSpec")
    assert status == 0 and "optional double threshold" in said and "max_chars" in said
    status, said = ask(program, address, "describe", "grpc.reflection.v1.ServerReflection")
    assert status == 0 and "stream .grpc.reflection.v1.ServerReflectionRequest" in said


def test_it_labels_a_image(program, address):
    image = base64.b64encode(png()).decode()
    classes = [{"name": "cat", "question": "Is it a cat?"}]
    data = json.dumps({"image": image, "name": "x.png", "ontology": {"classes": classes}})
    status, said = ask(program, address, f"{SERVICE}/Label", data=data)
    assert status == 0
    (judgement,) = json.loads(said)["labelled"]["judgements"]
    assert judgement["class_name"] == "cat" and judgement["outcome"] == "OUTCOME_ACCEPT"
    assert judgement["verdict"]["question"] == "Is it a cat?"


def test_it_streams_frames(program, address):
    image = base64.b64encode(png()).decode()
    said = [{"opening": {"streamId": "s"}}]
    said += [{"frame": {"sequence": n, "image": image}} for n in (1, 2)]
    status, out = ask(
        program, address, f"{SERVICE}/LabelStream", data="\n".join(map(json.dumps, said))
    )
    assert status == 0
    assert "opened" in out and out.count('"labelled"') == 2


def test_it_is_told_what_is_wrong(program, address):
    status, said = ask(program, address, f"{SERVICE}/Label", data='{"image": "AAAA"}')
    assert status != 0 and "InvalidArgument" in said and "not an image" in said
    assert '"reason": "BAD_IMAGE"' in said and '"domain": "secondlook"' in said
