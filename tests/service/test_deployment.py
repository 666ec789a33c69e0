"""What ``deploy/`` and its page name exists: metrics, settings, commands, targets, values.

The linters of the files themselves are in ``deploy/check.sh``.
"""

import json
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serving import png, server_settings, serving
from snippets import Snippet, snippets
from walkthrough import PROGRAMS, check_extras, resolved

from secondlook.cli import run
from secondlook.config.settings import SOURCES
from secondlook.edge.health import Health, prometheus
from secondlook.edge.settings import load_settings as load_edge_settings
from secondlook.jobs.guarantee_checks import ChecksStatus
from secondlook.store.queue import QueueDepth
from secondlook_client import Client

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXTS = (*DEPLOY.glob("grafana/dashboards/*.json"), *DEPLOY.glob("prometheus/*.yml"))
OF_PROMETHEUS = {"alertname", "alertstate", "instance", "job", "le", "namespace", "pod"}
"""Labels that a scrape, its cluster or an alert adds."""
QUERIES = ("expr", "query", "seriesQuery")
"""Keys whose values are PromQL."""
CHART = (DEPLOY / "chart/templates/_helpers.tpl").read_text()
OF_VALUES = {"SECONDLOOK_GRACE_S": "30", "SECONDLOOK_MAX_JOBS": "8"}
"""Variables whose values the chart takes from its own."""
VALUES = (DEPLOY / "chart/values.yaml").read_text()
COMPOSE: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def metrics() -> Mapping[str, set[str]]:
    """The labels of each metric that a server or a device serves, by the name of its series."""
    found: dict[str, set[str]] = {}
    with serving(options=server_settings(metrics_port=0)) as running:
        status: Any = ChecksStatus(*[1] * len(fields(ChecksStatus)))
        running.metrics.watch_guarantees(lambda: [replace(status, name="street")])
        running.metrics.watch_jobs(QueueDepth)
        with Client(running.address) as client:
            client.label(png())
        url = f"http://127.0.0.1:{running.server.metrics_port}/metrics"
        page = urllib.request.urlopen(url, timeout=5).read().decode()
        registered = running.metrics.registry.collect()
    for family in (*text_string_to_metric_families(page), *registered):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        total = f"{family.name}_total" if family.type == "counter" else family.name
        found.setdefault(total, set())
        if family.type == "histogram":
            for series in ("_bucket", "_sum", "_count"):
                found.setdefault(family.name + series, set())
    for metric in running.metrics.__dict__.values():  # those that counted nothing yet
        for name in [one for one in found if one.startswith(getattr(metric, "_name", "-"))]:
            found[name].update(metric._labelnames)
    device = prometheus(Health(selected={"novel": 1}))
    for family in text_string_to_metric_families(device):
        found[family.name] = {label for sample in family.samples for label in sample.labels}
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Each PromQL expression of the dashboards, alerts and the chart, and where it stands."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (value[key] for key in QUERIES if isinstance(value.get(key), str))
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, dict | list):
                yield from inside(one)

    for path in TEXTS:
        for written in inside(yaml.safe_load(path.read_text())):
            yield path.name, written
    yield (
        "alerts_test.yml",
        "\n".join(
            re.findall(r"series: '(.+)'", (DEPLOY / "prometheus/alerts_test.yml").read_text())
        ),
    )
    scaled_on = re.findall(r"metric: \{name: (\w+)\}", CHART)
    adapter = (DEPLOY / "prometheus/adapter.yml").read_text()
    assert scaled_on and all(f"seriesQuery: '{name}{{" in adapter for name in scaled_on)
    yield "chart", " ".join(scaled_on)


def test_every_metric_that_is_named_is_served_with_these_labels(
    metrics: Mapping[str, set[str]],
) -> None:
    wrong, checked = [], 0
    for where, written in expressions():
        for name, labels in re.findall(r"\b(secondlook_\w+)(?:\{([^}]*)\})?", written):
            checked += 1
            asked = set(re.findall(r"(\w+)\s*[=!]~?", labels)) - OF_PROMETHEUS
            if name not in metrics or not asked <= metrics[name]:
                wrong.append(f"{where}: {name}{{{labels}}}")
        grouped = re.findall(r"by \(([^)]*)\)", written)
        series = set(re.findall(r"\b(secondlook_\w+)", written))
        for label in {label.strip() for group in grouped for label in group.split(",")}:
            if label not in OF_PROMETHEUS and not all(label in metrics[one] for one in series):
                wrong.append(f"{where}: by ({label}) of {series}")
    assert not wrong
    assert checked > 60


def test_dashboards_are_whole() -> None:
    for path in DEPLOY.glob("grafana/dashboards/*.json"):
        board = json.loads(path.read_text())
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids) > 5
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places), "panels lie on each other"
        assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """What each container is given, with a value where only a cluster knows it."""
    stages = re.split(r"(?m)^FROM .* AS ", (DEPLOY / "Dockerfile").read_text())[1:]
    for stage in stages:
        given = dict(re.findall(r"(?m)^(?:ENV| ) +(SECONDLOOK_\w+)=(\S+)", stage))
        if given:
            yield stage.split()[0], given
    given = COMPOSE["x-service"]["environment"]
    yield "compose", {key: re.sub(r"\$\{.*?:-(.*?)\}", r"\1", text) for key, text in given.items()}
    written = re.findall(r"name: (SECONDLOOK_\w+), value: ([^}{]+|\{\{.*?\}\})\}", CHART)
    yield "chart", {key: text.strip("\"' ") for key, text in written} | OF_VALUES
    settings = yaml.safe_load(VALUES)["settings"]
    yield "values", {f"SECONDLOOK_{key.upper()}": str(value) for key, value in settings.items()}


@pytest.mark.parametrize("where, given", [pytest.param(*one, id=one[0]) for one in environments()])
def test_every_variable_is_a_setting(
    where: str, given: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert given
    if where == "edge":
        assert load_edge_settings({}, environ=given).health_port == 9477
    else:
        SOURCES.load({}, None, environ=given)
    assert not caplog.messages, "what is not a setting is ignored with a warning"


def test_the_locks_of_the_images_are_parts_of_the_lock() -> None:
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", path.read_text()))

    whole = pins(ROOT / "requirements.lock")
    for name in ("server", "edge"):
        part = pins(DEPLOY / f"locks/{name}.txt")
        assert {k: v for k, v in part.items() if whole.get(k, v) != v} == {}, "run make lock"
        assert ("torch" in part) == (name == "server")
        assert "pytest" not in part


BLOCKS = snippets(ROOT / "docs/deploy.md", "text")
SERVICES = COMPOSE["services"]
STAGES = set(re.findall(r"(?m)^FROM \S+ AS (\S+)", (DEPLOY / "Dockerfile").read_text()))


def check_ours(words: list[str]) -> None:
    """A command line of ours parses."""
    command, arguments, start = resolved(words[: words.index(">")] if ">" in words else words)
    with command.make_context(" ".join(words[:start]), list(arguments)):
        pass


def check_docker(words: list[str]) -> None:
    """A build names a stage, a run of an image our commands, and Compose its services."""
    if words[1] == "build":
        assert (ROOT / words[words.index("--file") + 1]).is_file()
        assert words[words.index("--target") + 1] in STAGES
        return
    if words[1] == "run":
        image = next(place for place, word in enumerate(words) if word.startswith("secondlook:"))
        check_ours(["secondlook", *words[image + 1 :]])
        return
    assert words[1:4] == ["compose", "--file", "deploy/compose.yaml"]
    assert any(words[5] in service.get("profiles", ()) for service in SERVICES.values())
    verb, rest = words[6], words[7:]
    assert verb in ("build", "up", "run", "exec")
    if verb in ("run", "exec"):
        named = next(word for word in rest if not word.startswith("-"))
        assert named in SERVICES
        if verb == "run":
            check_ours(["secondlook", *rest[rest.index(named) + 1 :]])


def check_helm(words: list[str]) -> None:
    """Values are those of the chart."""
    assert words[3] == "deploy/chart"
    for given in (words[place + 1] for place, word in enumerate(words) if word == "--set"):
        value = yaml.safe_load(VALUES)
        for key in given.partition("=")[0].split("."):
            value = value[key]


def check_kubectl(words: list[str]) -> None:
    """A secret has the name that the chart expects, an exec goes where our commands are."""
    if words[1:3] == ["create", "secret"]:
        assert words[4] in VALUES
    elif words[1] == "exec":
        assert f"- name: {words[words.index('--container') + 1]}" in CHART
        check_ours(words[words.index("--") + 1 :])
    else:
        assert words[1:] == ["create", "namespace", "labels"]


def check_script(words: list[str]) -> None:
    """It is there and may be run."""
    subprocess.run(["test", "-x", ROOT / words[0]], check=True)


CHECKS = {
    "docker": check_docker,
    "helm": check_helm,
    "kubectl": check_kubectl,
    "pip": lambda words: check_extras(words[2]),
    "deploy/make-secrets.sh": check_script,
    **dict.fromkeys(PROGRAMS, check_ours),
}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_of_the_page_names_what_there_is(block: Snippet) -> None:
    lines = list(block.commands())
    assert lines
    for words in lines:
        while re.match(r"[A-Z_]+=", words[0]):  # variables before it
            words = words[1:]
        CHECKS[words[0]](words)


def test_the_health_command_asks_the_server_of_this_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # sockets have short paths: not below tmp_path
        monkeypatch.setattr("tempfile.tempdir", folder)
        assert run(["health", "--server", "127.0.0.1:1"]) == 1
        with serving(options=server_settings(web_port=0)) as running:  # it has a private socket
            assert running.server.own_address.startswith(f"unix:{folder}")
            assert run(["health"]) == 0
            assert run(["health", "--live", "--server", running.address]) == 0
    assert capsys.readouterr().out == "SERVING\nSERVING\n"
