"""Stubs in Go come out of the protos as they are; a client of them builds and works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import png, serving

ROOT = Path(__file__).resolve().parents[3]
PROTOS = ROOT / "protos"
CACHE = ROOT / ".cache" / "peers" / "go_client"
PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
)
GRPC = "google.golang.org/grpc@v1.85.0"


@pytest.fixture(scope="session")
def program() -> Path:
    """The client, built."""
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        pytest.skip("no Go to build a client with")
    CACHE.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"GOBIN": str(CACHE / "bin"), "GOFLAGS": "-mod=mod"}

    def run(*words: str) -> None:
        subprocess.run([go, *words], cwd=CACHE, env=environment, check=True, timeout=1500)

    for plugin in PLUGINS:
        run("install", plugin)
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"),
            *(f"--go_out={CACHE}", "--go_opt=module=secondlook"),
            *(f"--go-grpc_out={CACHE}", "--go-grpc_opt=module=secondlook"),
            *(
                str(path.relative_to(PROTOS))
                for path in sorted(PROTOS.glob("secondlook/v1/*.proto"))
            ),
        ],
        check=True,
        env=os.environ | {"PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}"},
    )
    (CACHE / "go.mod").write_text("module secondlook\n\ngo 1.24\n")
    shutil.copy(Path(__file__).with_name("main.go"), CACHE)
    run("get", GRPC)
    run("build", "-o", "client", ".")
    return CACHE / "client"


def test_a_client_in_go_labels_and_is_told_what_is_wrong(program: Path) -> None:
    with serving() as s:
        done = subprocess.run(
            [program, s.address], input=png(), capture_output=True, timeout=60, check=True
        )
    assert done.stdout.decode().splitlines() == [
        "label dog",
        "code InvalidArgument",
        "reason secondlook BAD_REQUEST",
        "field ontology.classes[1].name",
        "classes 2000",
        "health SERVING",
    ]
