"""What TLS and tokens cost: 16 clients of a server with both, and of one with neither.

Both servers have a store, and one engine with the embedded models and without the verdict cache.
They take turns, so both sides meet the same machine.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from certificates import Authority

from bench import fixtures
from bench.paired_timing import Figure, of_pairs
from bench.serving import CLIENTS, EACH, ClientProcess
from secondlook.config.settings import Settings
from secondlook.core.access import Role, TokenAccess
from secondlook.labeling.engine import Engine
from secondlook.server.app import running_server
from secondlook.store import open_store
from secondlook_client.addresses import CA_VARIABLE, TLS, TOKEN_VARIABLE

ROUNDS = 5
AT_LEAST = 0.97


def run() -> list[Figure | str]:
    """Throughput and the 95th percentile of latencies, with ÷ without."""
    engine = Engine(fixtures.pipeline())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shut = stack.enter_context(_shut(Path(folder), engine))
        plain = stack.enter_context(_open(Path(folder), engine))
        for side in (shut, plain):
            stack.callback(side.close)
        figures = _figures(shut, plain)
    engine.close()
    return figures


def _figures(shut: ClientProcess, plain: ClientProcess) -> list[Figure | str]:
    _round(shut), _round(plain)
    rounds = []
    for number in range(ROUNDS):
        first, second = (shut, plain) if number % 2 else (plain, shut)
        measured = {first: _round(first), second: _round(second)}
        rounds.append((measured[shut], measured[plain]))
    rates = [(with_both[0], without[0]) for with_both, without in rounds]
    latencies = [(without[1], with_both[1]) for with_both, without in rounds]
    return [
        of_pairs("with TLS and tokens ÷ without", rates, at_least=AT_LEAST, unit="images/s"),
        of_pairs(
            "p95 of 96 calls without ÷ with TLS and tokens",
            latencies,
            at_least=AT_LEAST,
            unit="ms",
        ),
    ]


def _round(side: ClientProcess) -> tuple[float, float]:
    """Images a second, and the 95th percentile of the latencies in milliseconds."""
    side.latencies_s.clear()
    started = time.perf_counter()
    images = side.images()
    rate = images / (time.perf_counter() - started)
    return rate, _p95(side.latencies_s) * 1000


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


@contextmanager
def _shut(folder: Path, engine: Engine) -> Iterator[ClientProcess]:
    authority = Authority()
    cert, key = authority.certify("server").write(folder, "server")
    ca = folder / "ca.crt"
    ca.write_bytes(authority.certificate)
    settings = Settings().replace(port=0, tls_cert=cert, tls_key=key)
    with open_store(folder / "shut") as store:
        secret = store.tokens.create("bench", TokenAccess(frozenset({Role.LABELER})))
        with running_server(engine, fixtures.ontology(), settings, store=store) as server:
            access = {TOKEN_VARIABLE: secret, CA_VARIABLE: str(ca)}
            yield ClientProcess(f"{TLS}{server.address}", CLIENTS, EACH, access)


@contextmanager
def _open(folder: Path, engine: Engine) -> Iterator[ClientProcess]:
    settings = Settings().replace(port=0)
    with (
        open_store(folder / "open") as store,
        running_server(engine, fixtures.ontology(), settings, store=store) as server,
    ):
        yield ClientProcess(server.address, CLIENTS, EACH)
