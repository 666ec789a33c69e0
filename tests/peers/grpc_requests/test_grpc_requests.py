"""A stock stranger in Python: a generic client that builds its calls from reflection alone.

The messages come from another descriptor pool than ours, so it runs in a process that has never
imported the stubs; the server is another process.
"""

import base64
import json
import subprocess
import sys

import pytest
from serving import png, serving

pytest.importorskip("grpc_requests", reason="pip install grpc-requests")
SERVICE = "secondlook.v1.LabelingService"

STRANGER = """
import base64, json, sys
from grpc_requests import Client

address, image = sys.argv[1], sys.argv[2]
client = Client.get_by_endpoint(address)
frames = [{"opening": {"stream_id": "s"}}, {"frame": {"sequence": 7, "image": image}}]
print(json.dumps({
    "services": list(client.service_names),
    "methods": sorted(client.service("%s").method_names),
    "info": client.request("%s", "GetServerInfo", {}),
    "label": client.request("%s", "Label", {"image": image, "name": "x"}),
    "stream": list(client.request("%s", "LabelStream", frames)),
}))
""".replace("%s", SERVICE)


def test_a_stranger_lists_and_calls_the_service():
    image = base64.b64encode(png()).decode()
    with serving() as s:
        command = [sys.executable, "-c", STRANGER, s.address, image]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert SERVICE in said["services"]
    assert said["methods"] == ["GetServerInfo", "Label", "LabelStream"]
    assert said["info"]["proposer"] == "scripted@p0"
    assert said["label"]["labelled"]["judgements"][0]["outcome"] == "OUTCOME_ACCEPT"
    assert [list(message) for message in said["stream"]] == [["opened"], ["answer"]]
    assert int(said["stream"][1]["answer"]["sequence"]) == 7
