"""Random calls and images from many threads: the server answers all, in time and memory.

The bars are those of a whole attack with the models of the demo: no answer that only a fault of
ours explains, no crash, no wait of health over 2 seconds, at most 1.5 GB with all children.
"""

import pytest
from attacked_server import END_S, started_server
from encoded_images import FORMATS, encoded, gradient
from random_calls import abandoned_calls, attack_calls, every_method
from random_messages import MessageMaker

from secondlook_client import Client

WORST_WAIT_S = 2.0
GROWTH_MB = 900
SHARE = 0.08
"""Of all inputs; a call costs more than an input to a reader."""


def sound_images() -> list[bytes]:
    """One small image in each format that is read."""
    return [encoded(gradient(64, 48), form, **options) for form, options in FORMATS]


@pytest.mark.timeout(7200)
def test_random_calls(tmp_path, inputs):
    calls = int(inputs * SHARE)
    roots = tmp_path / "images"
    roots.mkdir()
    for number, content in enumerate(sound_images()):
        (roots / f"{number}.jpg").write_bytes(content)
    flags = ("--models", "demo", "--max-trainings", "0", "--grace-s", "3")
    with started_server(tmp_path, *flags, "--image-roots", str(roots)) as server:
        with Client(server.address) as client:
            before = client.label(sound_images()[0], classes=["ball"])
        outcomes = attack_calls(server.address, calls, 1, [*sound_images(), str(roots).encode()])
        abandoned_calls(server.address, min(calls // 20, 2000), 2, sound_images())
        with Client(server.address) as client:
            after = client.label(sound_images()[0], classes=["ball"])
        log = server.log_text()
        assert server.process.poll() is None
        assert not outcomes.offences, outcomes.offences[:10]
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
        assert server.worst_wait_s <= WORST_WAIT_S
        assert not server.refused
        assert server.growth_mb <= GROWTH_MB
        assert after.labels == before.labels
        assert server.terminate(20) <= 3 + END_S

    answered = {method for (method, status) in outcomes.statuses if status == "OK"}
    print(
        f"{outcomes.calls:,} calls, health at most {server.worst_wait_s:.2f} s, "
        f"{server.peak_mb:.0f} MB"
    )
    assert {"Label", "CreateJob", "GetJob", "ListJobs", "GetServerInfo"} <= answered
    assert {method for method, _ in outcomes.statuses} == {m.name for m in every_method()}


def test_the_same_seed_makes_the_same_calls():
    kind = every_method()[0].input_type
    first, second = (MessageMaker(5, sound_images()) for _ in range(2))
    assert [first.message(kind) for _ in range(50)] == [second.message(kind) for _ in range(50)]
    others = [MessageMaker(seed, [b"x"]).message(kind) for seed in range(50)]
    assert len({other.SerializeToString() for other in others}) > 40
