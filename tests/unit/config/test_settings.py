from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config.settings import ModelOptions, Settings, load_settings, rules
from secondlook.core.errors import BadSetting, NotFound


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def file(text: str, name: str = "secondlook.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.metrics_port) == ("127.0.0.1", 50051, None)
    assert settings.trust_remote_code is False


def test_flag_over_environment_over_file_over_default() -> None:
    file("port = 1\nmax_boxes = 1\nfloor = 0.3")
    environ = {"SECONDLOOK_PORT": "2", "SECONDLOOK_MAX_BOXES": "2", "HOME": "/root"}
    settings = load_settings({"port": 3, "host": None}, environ=environ)
    assert (settings.port, settings.max_boxes, settings.floor) == (3, 2, 0.3)
    assert settings.host == "127.0.0.1"


def test_file_may_be_named_by_flag_or_variable() -> None:
    file("port = 7")
    other = file("port = 8", "other.toml")
    assert load_settings(environ={"SECONDLOOK_CONFIG": "other.toml"}).port == 8
    assert load_settings(file=other, environ={"SECONDLOOK_CONFIG": "absent.toml"}).port == 8
    with pytest.raises(NotFound, match=r"absent\.toml"):
        load_settings(environ={"SECONDLOOK_CONFIG": "absent.toml"})


def test_models_sets_both_and_gives_way_to_either() -> None:
    both = load_settings({"models": "other"}, environ={})
    assert (both.proposer, both.verifier) == ("other", "other")
    mixed = load_settings({"verifier": "none", "models": "other"}, environ={})
    assert (mixed.proposer, mixed.verifier) == ("other", "none")
    flag_wins = load_settings({"models": "demo"}, environ={"SECONDLOOK_VERIFIER": "none"})
    assert flag_wins.verifier == "demo"


@pytest.mark.parametrize(
    ("flags", "environ", "text", "said"),
    [
        ({"port": 70_000}, {}, "", "--port: expected a whole number from 0 to 65535, got 70000"),
        ({}, {"SECONDLOOK_PORT": "many"}, "", "variable SECONDLOOK_PORT: .* got 'many'"),
        ({}, {}, "port = 1.5", "setting 'port' in 'secondlook.toml': .* got 1.5"),
        ({}, {}, "port = true", "got True"),
        ({}, {}, "prot = 1", "'prot' in 'secondlook.toml' is unknown; did you mean 'port'"),
        ({}, {}, "[server]\nport = 1", "'server' in 'secondlook.toml' is unknown"),
        ({}, {}, "port = ", "cannot be read as TOML"),
        ({"zzz": 1}, {}, "", "--zzz is unknown; known are proposer"),
        ({"dtype": "int4"}, {}, "", "one of auto, float32"),
        ({"log_level": "loud"}, {}, "", "--log-level: expected one of debug"),
        ({"trust_remote_code": "perhaps"}, {}, "", "true or false, got 'perhaps'"),
        ({"floor": float("nan")}, {}, "", "from 0 to 1, got nan"),
        ({"metrics_port": -1}, {}, "", "--metrics-port: expected"),
        ({"propose_batch": 0}, {}, "", "from 1 to 1024, got 0"),
        ({"host": 5}, {}, "", "--host: expected text, got 5"),
    ],
)
def test_a_bad_value_names_its_source(flags: dict, environ: dict, text: str, said: str) -> None:
    file(text)
    with pytest.raises(BadSetting, match=said):
        load_settings(flags, environ=environ)


@pytest.mark.parametrize("word", ["true", "YES", "on", "1"])
def test_words_for_true(word: str) -> None:
    assert load_settings(environ={"SECONDLOOK_TRUST_REMOTE_CODE": word}).trust_remote_code is True


def test_foreign_variables_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    environ = {
        "SECONDLOOK_PORT": "tcp://10.0.0.1:50051",  # from Kubernetes, not from a person
        "SECONDLOOK_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "SECONDLOOK_SERVICE_HOST": "10.0.0.1",
        "SECONDLOOK_TEST_DATA": "/data",
        "SECONDLOOK_EDGE_FPS": "3",
    }
    assert load_settings(environ=environ) == Settings()
    assert not caplog.records
    load_settings(environ={"SECONDLOOK_VERIFYER": "none"})
    assert "did you mean 'verifier'" in caplog.text


def test_values_given_in_code_are_checked_too() -> None:
    assert Settings(timeout_s=5).timeout_s == 5.0
    with pytest.raises(BadSetting, match="setting 'port'"):
        Settings(port=-1)
    with pytest.raises(BadSetting, match="setting 'batch'"):
        ModelOptions(batch=0)


def test_model_options_follow_the_settings() -> None:
    settings = Settings(device="cuda:1", dtype="bfloat16", view_batch=3, timeout_s=2, concurrency=9)
    assert settings.model_options() == ModelOptions("cuda:1", "bfloat16", 3, False, 2.0, 9)


def test_every_setting_is_explained_and_its_default_allowed() -> None:
    for name, rule in rules().items():
        assert rule.help.endswith("."), name
    shared = {f.name for f in fields(ModelOptions)} & set(rules())
    assert all(getattr(Settings(), name) == getattr(ModelOptions(), name) for name in shared)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("port", "Port of the service; 0 picks a free one.  [0 to 65535; default: 50051]"),
        (
            "metrics_port",
            "Port of the Prometheus metrics; off by default.  [0 to 65535; default: off]",
        ),
        (
            "log_level",
            "Least severe messages logged.  [debug, info, warning, error; default: info]",
        ),
        ("ontology", "YAML file with the classes served by default.  [default: none]"),
    ],
)
def test_help_tells_what_is_allowed_and_the_default(name: str, line: str) -> None:
    assert rules()[name].help_line == line


@given(st.dictionaries(st.sampled_from(list(rules())), st.text(max_size=12)))
def test_any_text_in_the_environment_is_read_or_refused(values: dict[str, str]) -> None:
    environ = {f"SECONDLOOK_{name.upper()}": text for name, text in values.items()}
    try:
        load_settings(environ=environ)
    except BadSetting as refused:
        assert "SECONDLOOK_" in str(refused)
