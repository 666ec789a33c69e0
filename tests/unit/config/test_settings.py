import ast
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config.settings import SOURCES, ModelSettings, Settings, load_settings
from secondlook.config.spec import SettingGroup
from secondlook.edge.settings import EdgeSettings
from secondlook.training.settings import TrainingSettings
from secondlook_client.errors import BadSetting, NotFound


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
    server = settings.server
    assert settings == Settings()
    assert (server.host, server.port, server.metrics_port) == ("127.0.0.1", 50051, None)
    assert settings.models.trust_remote_code is False


def test_flag_over_environment_over_file_over_default() -> None:
    file("port = 1\nmax_boxes = 1\nscore_floor = 0.3")
    environ = {"SECONDLOOK_PORT": "2", "SECONDLOOK_MAX_BOXES": "2", "HOME": "/root"}
    settings = load_settings({"port": 3, "host": None}, environ=environ)
    assert (settings.server.port, settings.pipeline.max_boxes) == (3, 2)
    assert settings.pipeline.score_floor == 0.3
    assert settings.server.host == "127.0.0.1"


def test_file_may_be_named_by_flag_or_variable() -> None:
    file("port = 7")
    other = file("port = 8", "other.toml")
    assert load_settings(environ={"SECONDLOOK_CONFIG": "other.toml"}).server.port == 8
    assert load_settings(file=other, environ={"SECONDLOOK_CONFIG": "absent.toml"}).server.port == 8
    with pytest.raises(NotFound, match=r"absent\.toml"):
        load_settings(environ={"SECONDLOOK_CONFIG": "absent.toml"})


def test_models_sets_both_and_gives_way_to_either() -> None:
    both = load_settings({"models": "other"}, environ={})
    assert (both.models.proposer, both.models.verifier) == ("other", "other")
    mixed = load_settings({"verifier": "none", "models": "other"}, environ={})
    assert (mixed.models.proposer, mixed.models.verifier) == ("other", "none")
    flag_wins = load_settings({"models": "demo"}, environ={"SECONDLOOK_VERIFIER": "none"})
    assert flag_wins.models.verifier == "demo"


@pytest.mark.parametrize(
    ("flags", "environ", "text", "said"),
    [
        ({"port": 70_000}, {}, "", "--port: expected a whole number from 0 to 65535, got 70000"),
        ({}, {"SECONDLOOK_PORT": "many"}, "", "variable SECONDLOOK_PORT: .* got 'many'"),
        ({}, {}, "port = 1.5", "setting 'port' in 'secondlook.toml': .* got 1.5"),
        ({}, {}, "port = true", "got True"),
        ({}, {}, "prot = 1", "'prot' in 'secondlook.toml' is unknown; did you mean 'port'"),
        ({}, {}, "[server]\nport = 1", "'server' in 'secondlook.toml' is unknown; .* outside of"),
        ({}, {}, "port = ", "cannot be read as TOML"),
        ({"zzz": 1}, {}, "", "--zzz is unknown; known are proposer"),
        ({"dtype": "int4"}, {}, "", "one of auto, float32"),
        ({"log_level": "loud"}, {}, "", "--log-level: expected one of debug"),
        ({"trust_remote_code": "perhaps"}, {}, "", "true or false, got 'perhaps'"),
        ({"score_floor": float("nan")}, {}, "", "from 0 to 1, got nan"),
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
    assert (
        load_settings(environ={"SECONDLOOK_TRUST_REMOTE_CODE": word}).models.trust_remote_code
        is True
    )


def test_foreign_variables_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    environ = {
        "SECONDLOOK_PORT": "tcp://10.0.0.1:50051",  # from Kubernetes, not from a person
        "SECONDLOOK_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "SECONDLOOK_SERVICE_HOST": "10.0.0.1",
        "SECONDLOOK_TEST_DATA": "/data",
        "SECONDLOOK_EDGE_FPS": "3",
        "SECONDLOOK_TOKEN": "slt_secret",  # of clients
    }
    assert load_settings(environ=environ) == Settings()
    assert not caplog.records
    load_settings(environ={"SECONDLOOK_VERIFYER": "none"})
    assert "did you mean 'verifier'" in caplog.text


def test_values_given_in_code_are_checked_too() -> None:
    assert ModelSettings(backend_timeout_s=5).backend_timeout_s == 5.0
    with pytest.raises(BadSetting, match="setting 'model_batch'"):
        ModelSettings(model_batch=0)
    with pytest.raises(BadSetting, match="setting 'port'"):
        Settings().replace(port=-1)


def test_settings_are_replaced_by_name_wherever_they_stand() -> None:
    changed = Settings().replace(port=1, max_boxes=2, ontology="a.yaml")
    assert (changed.server.port, changed.pipeline.max_boxes, changed.ontology) == (1, 2, "a.yaml")
    assert changed.models == Settings().models
    with pytest.raises(TypeError, match="prot"):
        Settings().replace(prot=1)


PROGRAMS = (Settings, EdgeSettings, TrainingSettings)


def groups(settings: type[SettingGroup]) -> Iterator[type[SettingGroup]]:
    """A group and all groups inside."""
    yield settings
    for own in fields(settings):
        if isinstance(own.default, SettingGroup):
            yield from groups(type(own.default))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_has_a_name_of_its_own_a_help_line_and_an_allowed_default(
    program: type[SettingGroup],
) -> None:
    names = [own.name for group in groups(program) for own in fields(group)]
    inside = [n for n in names if n not in program.specs()]
    assert len(names) - len(inside) == len(program.specs()), "two settings share a name"
    for name, spec in program.specs().items():
        assert spec.help[0].isupper() and spec.help.endswith("."), name
        assert spec.read(spec.default, name) == spec.default


ELSEWHERE = {
    ("grounding_dino.py", "start"): "a token",
    ("guarantee.py", "budget"): "answers of a person, not bytes of a device",
    ("loop_record.py", "batch"): "images of a round, not of a training's step",
    ("runner.py", "threads"): "threads that read images, not those of a model",
}
"""Defaults of other things that have a setting's name."""


def test_no_default_is_defined_twice() -> None:
    """Nothing else that has the name of a setting says its default again, or another.

    Fields for the settings of all programs, parameters for those of the service, as the others are
    common words. An empty default (None, 0, "", False) says that nothing is given.
    """
    fields = {name for program in PROGRAMS for name in program.specs()}
    package = Path(sys.modules["secondlook"].__path__[0])
    twice = {
        f"{path.relative_to(package)}: {name} = {ast.unparse(default)}"
        for path in package.rglob("*.py")
        for name, default, is_field in defaults(ast.parse(path.read_text(encoding="utf-8")))
        if name in (fields if is_field else Settings.specs())
        and (path.name, name) not in ELSEWHERE
        and is_definition(default)
    }
    assert not twice


def defaults(module: ast.Module) -> Iterator[tuple[str, ast.expr, bool]]:
    """(name, default, whether it is a field) of every field and parameter of a module."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, field.value or ast.Constant(None), True
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            takes = node.args
            by_place = [*takes.posonlyargs, *takes.args][::-1]
            for argument, default in (
                *zip(by_place, takes.defaults[::-1], strict=False),
                *zip(takes.kwonlyargs, takes.kw_defaults, strict=True),
            ):
                yield argument.arg, default or ast.Constant(None), False


def is_definition(default: ast.expr) -> bool:
    """Whether it is a value that is written there, rather than a name of one or none."""
    try:
        return bool(ast.literal_eval(default))
    except ValueError:  # names and calls; products, such as 64 * 2**20, are values, too
        return not any(isinstance(n, ast.Name | ast.Call) for n in ast.walk(default))


def test_a_second_definition_is_found() -> None:
    code = """
class Limits:
    port: int = 50051
    max_image_bytes: int = 64 * 2**20
    device: str = ModelSettings.device
    data: str = ""
    host: str

def listen(address, port=8080, *, grace_s=30.0, seed=0, data=None): ...
"""
    found = [n for n, default, _ in defaults(ast.parse(code)) if is_definition(default)]
    assert found == ["port", "max_image_bytes", "port", "grace_s"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("port", "Port of the service; 0: any free port.  [0 to 65535; default: 50051]"),
        (
            "metrics_port",
            "Port of the Prometheus metrics; 0: any free port.  [0 to 65535; default: off]",
        ),
        (
            "log_level",
            "Minimum severity of log messages.  [debug, info, warning, error; default: info]",
        ),
        ("ontology", "YAML file with the classes that are labelled by default.  [default: none]"),
    ],
)
def test_help_tells_what_is_allowed_and_the_default(name: str, line: str) -> None:
    assert Settings.specs()[name].help_line == line


@pytest.mark.parametrize(
    ("name", "written", "bytes_read"),
    [
        ("max_image_bytes", "64 MiB", 64 * 2**20),
        ("max_image_bytes", "100KiB", 100 * 2**10),
        ("max_decoded_bytes", "1 GiB", 2**30),
        ("max_image_bytes", "5_000", 5000),
    ],
)
def test_bytes_are_written_with_units_or_without(name: str, written: str, bytes_read: int) -> None:
    file(f'{name} = "{written}"')
    assert getattr(load_settings(environ={}).images, name) == bytes_read


@pytest.mark.parametrize("written", ["64 MB", "MiB", "-1 MiB", "0.5 GiB", "3 GiB"])
def test_other_units_of_bytes_are_refused(written: str) -> None:
    with pytest.raises(BadSetting, match=r"of|from 1 to 2_147_418_112"):
        load_settings({"max_image_bytes": written}, environ={})
    with pytest.raises(BadSetting, match="expected a whole number"):
        load_settings({"max_boxes": "1 KiB"}, environ={})


@pytest.mark.parametrize("program", PROGRAMS)
def test_numbers_are_told_as_they_can_be_given(program: type[SettingGroup]) -> None:
    for name, spec in program.specs().items():
        if spec.kind in (int, float) and spec.default is not None:
            told = [spec.default_text, spec.number(spec.low or 0), spec.number(spec.high or 1)]
            read = [spec.read(text, name) for text in told[:1]]
            assert read == [spec.default], name
            assert not any(len(text) > 6 and text.isdecimal() for text in told), name


@given(st.dictionaries(st.sampled_from(SOURCES.names), st.text(max_size=12)))
def test_any_text_in_the_environment_is_read_or_refused(values: dict[str, str]) -> None:
    environ = {f"SECONDLOOK_{name.upper()}": text for name, text in values.items()}
    try:
        load_settings(environ=environ)
    except BadSetting as refused:
        assert "SECONDLOOK_" in str(refused)
