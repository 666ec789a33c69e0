"""What the doors let through, what they cost, and how they hold under overload.

Every call of everybody, by gRPC over TLS and through the page, is compared with the protos; random
messages over TLS meet a server in a process of its own. Cost: 16 clients of a server with TLS and
tokens, and of one with neither, in turn, with one engine, the embedded models and no verdict cache.
Overload: ten clients, a token each, call ten times as often as scripted models of 50 ms a batch
need, for SECONDLOOK_OVERLOAD_MINUTES (default 1; the bar is 10). SECONDLOOK_FUZZED_CALLS (default
10,000) are the random calls, most of one message; the bar is 1,000,000 messages.
"""

import os
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from attacked_server import started_server
from certificates import Authority
from door_callers import (
    Caller,
    DoorCall,
    Web,
    callers,
    calls_of_everybody,
    page_calls_of_everybody,
)
from encoded_images import encoded, gradient
from health_watcher import memory_mb
from random_calls import attack_calls

from bench import fixtures
from bench.overload import CLIENTS as FULL_LOAD
from bench.overload import MAX_RATIO, TIMES, CallerRound, calling, timed_models
from bench.paired_timing import Figure, against, none_of, not_above, of_pairs
from bench.serving import CLIENTS, LONG_EACH, LONG_ROUNDS, ClientProcess
from secondlook.config.settings import Settings
from secondlook.core.access import Role, TokenAccess
from secondlook.labeling.engine import Engine
from secondlook.server import auth
from secondlook.server.app import running_server
from secondlook.store import Store, open_store
from secondlook_client.addresses import CA_VARIABLE, TLS, TOKEN_VARIABLE
from secondlook_client.ontology import ClassSpec, Ontology

ROUNDS = int(os.environ.get("SECONDLOOK_DOOR_ROUNDS", LONG_ROUNDS))
AT_LEAST = 0.97
FUZZED = int(os.environ.get("SECONDLOOK_FUZZED_CALLS", "10000"))
MAX_GROWTH_MB = 900.0
"""Of a server under random calls: that of ``make attack``."""
OVERLOAD_S = 60 * float(os.environ.get("SECONDLOOK_OVERLOAD_MINUTES", "1"))
FULL_S = 20.0
"""Of full load, before the overload and after it."""
TOKENS = 10
MAX_UNEVEN, MAX_MEMORY = 0.1, 1.1


def run() -> list[Figure | str]:
    """Calls that did not end as declared, faults of fuzzed calls, cost, and overload."""
    with tempfile.TemporaryDirectory() as folder:
        found = [*_matrix(Path(folder) / "matrix"), *_fuzzed(Path(folder) / "fuzzed")]
        return found + _cost(Path(folder)) + _overloaded(Path(folder) / "overload")


# --- Who gets in ---


def _matrix(folder: Path) -> list[Figure | str]:
    """Every method and page endpoint × everybody, over TLS."""
    allowed, auth.ATTEMPTS = auth.ATTEMPTS, 10**6  # or guesses would be refused for their number
    tls, ca = _tls(folder)
    settings = Settings().replace(port=0, web_port=0, **tls)
    trusting = ssl.create_default_context(cafile=ca)
    wrong = count = 0
    try:
        with ExitStack() as stack:
            store = stack.enter_context(open_store(folder / "data"))
            people = callers(store)
            engine = Engine(timed_models())
            stack.callback(engine.close)
            server = stack.enter_context(running_server(engine, _dogs(), settings, store=store))
            credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
            channel = stack.enter_context(grpc.secure_channel(server.address, credentials))
            web = stack.enter_context(Web(server.web_address, trusting))
            for called in (
                *calls_of_everybody(channel, people),
                *page_calls_of_everybody(web, people),
                *(_image_asked_for(web, caller) for caller in people),
            ):
                count += 1
                if not called.as_declared:
                    wrong += 1
                    print("not as declared:", called, flush=True)
    finally:
        auth.ATTEMPTS = allowed
    return [
        none_of(f"calls of {len(people)} callers that did not end as declared, of {count:,}", wrong)
    ]


def _image_asked_for(web: Web, caller: Caller) -> DoorCall:
    """Somebody asks the page for an image, which is no method of the protos."""
    reads = caller.roles and "device" not in caller.who
    denied = "PERMISSION_DENIED" if caller.roles else "UNAUTHENTICATED"
    path = f"/originals/{'0' * 64}"
    return DoorCall(path, caller.who, web.get(path, caller.secret), "in" if reads else denied)


def _fuzzed(folder: Path) -> list[Figure | str]:
    """Random calls over TLS with the token of an administrator, who gets everywhere."""
    tls, ca = _tls(folder)
    with open_store(folder / "data") as store:
        secret = store.tokens.create("fuzz", TokenAccess(frozenset({Role.ADMIN})))
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in tls.items()]
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(Path(ca).read_bytes()),
        grpc.access_token_call_credentials(secret),
    )
    images = [encoded(gradient(64, 48), "JPEG"), encoded(gradient(64, 48), "PNG")]
    started = time.monotonic()
    flags += ["--models", "demo", "--max-trainings", "0"]
    with started_server(folder, *flags, ca=ca) as server:
        outcomes = attack_calls(server.address, FUZZED, 1, images, credentials=credentials)
        crashed = server.process.poll() is not None
        log = server.log_text()
    for offence in outcomes.offences[:10]:
        print(offence, flush=True)
    accepted = sum(count for (_, code), count in outcomes.statuses.items() if code == "OK")
    took_s = time.monotonic() - started
    return [
        none_of(
            f"faults in {outcomes.calls:,} random calls over TLS",
            len(outcomes.offences) + crashed + log.count("Traceback"),
        ),
        against(
            "memory that the server took meanwhile",
            max(server.growth_mb, 0.0),  # a short run may end before it was looked at
            MAX_GROWTH_MB,
            "MB",
        ),
        f"The random calls sent {outcomes.messages:,} messages; {accepted:,} ended with OK. They "
        f"took {took_s:.0f} s.",
    ]


# --- What it costs ---


def _cost(folder: Path) -> list[Figure | str]:
    """Throughput and the 95th percentile of latencies, with ÷ without."""
    engine = Engine(fixtures.pipeline())
    with ExitStack() as stack:
        shut = stack.enter_context(_shut(folder, engine))
        plain = stack.enter_context(_open(folder, engine))
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
            f"p95 of {CLIENTS * LONG_EACH} calls without ÷ with TLS and tokens",
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
    tls, ca = _tls(folder / "shut")
    settings = Settings().replace(port=0, **tls)
    with open_store(folder / "shut") as store:
        secret = _labeler(store, "bench")
        with running_server(engine, fixtures.ontology(), settings, store=store) as server:
            access = {TOKEN_VARIABLE: secret, CA_VARIABLE: ca}
            yield ClientProcess(f"{TLS}{server.address}", CLIENTS, LONG_EACH, access)


@contextmanager
def _open(folder: Path, engine: Engine) -> Iterator[ClientProcess]:
    settings = Settings().replace(port=0)
    with (
        open_store(folder / "open") as store,
        running_server(engine, fixtures.ontology(), settings, store=store) as server,
    ):
        yield ClientProcess(server.address, CLIENTS, LONG_EACH)


# --- Overload ---


def _overloaded(folder: Path) -> list[Figure | str]:
    """Full load, ten times as much for a while, full load again."""
    tls, ca = _tls(folder)
    settings, engine = Settings().replace(port=0, **tls), Engine(timed_models())
    with open_store(folder / "data") as store:
        tokens = [_labeler(store, f"client {number}") for number in range(TOKENS)]
        with (
            running_server(engine, _dogs(), settings, store=store) as server,
            calling(server.address, ca, tokens) as measure,
        ):
            before = measure(FULL_LOAD, FULL_S)
            with _Memory(os.getpid()) as memory:
                over = measure(FULL_LOAD * TIMES, OVERLOAD_S)
            after = measure(FULL_LOAD, FULL_S)
    engine.close()
    return [*_overload_figures(before, over, after), memory.flat()]


def _overload_figures(
    before: CallerRound, over: CallerRound, after: CallerRound
) -> list[Figure | str]:
    full_ms = (before.p95_s + after.p95_s) / 2 * 1000
    full_rate = (before.per_second + after.per_second) / 2
    mean = statistics.mean(over.served)
    uneven = max(abs(count - mean) for count in over.served) / mean
    return [
        not_above(
            f"p95 of accepted calls, {TIMES}× overload of {TOKENS} tokens ÷ full load",
            over.p95_s * 1000,
            full_ms,
            at_most=MAX_RATIO,
            unit="ms",
        ),
        none_of(f"refusals without a hint, of {over.refused:,}", over.unhinted),
        against("largest difference of a token's calls from their mean", uneven, MAX_UNEVEN, ""),
        f"Under overload {over.per_second:.1f} images/s were labelled, at full load "
        f"{full_rate:.1f}; the retry hint was {over.hint_s:.2f} s (median); each token had "
        f"{min(over.served):,} to {max(over.served):,} of {sum(over.served):,} accepted calls.",
    ]


class _Memory:
    """Memory of a process and its children, in megabytes, once a second."""

    def __init__(self, pid: int) -> None:
        self._seen: list[float] = [memory_mb(pid)]
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def flat(self) -> Figure:
        """The last third ÷ the second: the first warms up."""
        third = max(len(self._seen) // 3, 1)
        middle, late = self._seen[third : 2 * third], self._seen[-third:]
        return not_above(
            "memory at the end of the overload ÷ in its middle, callers included",
            statistics.median(late),
            statistics.median(middle or late),
            at_most=MAX_MEMORY,
            unit="MB",
        )

    def _look(self) -> None:
        while not self._over.wait(1.0):
            self._seen.append(memory_mb(self._pid))


def _tls(folder: Path) -> tuple[dict[str, str], str]:
    """Settings of TLS, and the file of the authority that clients trust."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority()
    cert, key = authority.certify("server").write(folder, "server")
    ca = folder / "ca.crt"
    ca.write_bytes(authority.certificate)
    return {"tls_cert": cert, "tls_key": key}, str(ca)


def _labeler(store: Store, name: str) -> str:
    return store.tokens.create(name, TokenAccess(frozenset({Role.LABELER})))


def _dogs() -> Ontology:
    return Ontology((ClassSpec("dog"),))
