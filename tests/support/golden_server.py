"""A server for the golden scenario: TLS, tokens, a device's model; and images to send to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import authority
from door_callers import token
from encoded_images import encoded
from installed import served
from PIL import Image as PILImage
from registered import add_version
from serving import server_settings, serving
from students import write_student

from secondlook.core.access import Role, new_secret
from secondlook.demo.world import write_world
from secondlook.store import Store, open_store

__all__ = ["world"]
"""A fixture."""

MAX_IMAGE_BYTES = 2**20
SETTINGS = {
    "max_image_bytes": MAX_IMAGE_BYTES,
    "client_stored_bytes": 700_000,
    "client_streams": 1,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six unseen scenes and their ontology, and the certificates of a server."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, seed=4242, count=6, size=320)
    authority().certify("server").write(folder, "server")
    (folder / "ca.crt").write_bytes(authority().certificate)
    return folder


def prepared(store: Store, folder: Path) -> dict[str, Any]:
    """A token for each role, and a model of the device; the secrets by role."""
    secrets = {str(r): token(store, str(r), r) for r in Role if r is not Role.DEVICE}
    write_student(folder)
    add_version(store, folder, "gate-3")
    store.model_versions.promote("gate-3", 1, "the first one", None)
    return secrets | {"device": token(store, "gate-3", Role.DEVICE), "wrong": new_secret()}


@contextmanager
def golden_server(world: Path, data: Path, embedded: bool) -> Iterator[dict[str, Any]]:
    """A server with TLS and tokens; its ``address``, and what else the steps name."""
    given = {"ca": str(world / "ca.crt")}
    settings = SETTINGS | {
        "tls_cert": str(world / "server.crt"),
        "tls_key": str(world / "server.key"),
    }
    with open_store(data) as store:
        given |= prepared(store, data / "student")
        if not embedded:
            with serving(store=store, options=server_settings(**settings)) as s:
                yield given | {"address": s.address}
            return
    flags = [
        word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), value)
    ]
    with served("--data", data, "--ontology", world / "ontology.yaml", *flags) as (address, _):
        yield given | {"address": address.removeprefix("tls://")}


def images(world: Path) -> dict[str, bytes]:
    """What the steps send."""
    scenes = sorted((world / "images").iterdir())
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    return {
        **{f"scene{number}": path.read_bytes() for number, path in enumerate(scenes)},
        "noise": encoded(PILImage.fromarray(noise), "PNG"),
        "text": b"no image",
        "long": bytes(MAX_IMAGE_BYTES + 1),
        "huge": bytes(8 * MAX_IMAGE_BYTES),
    }
