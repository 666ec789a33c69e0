"""The version of the installed package."""

import functools
from importlib import metadata


@functools.cache  # it searches every folder of sys.path
def installed_version() -> str:
    """For example ``0.1.0``; ``unknown`` in a checkout that is not installed."""
    try:
        return metadata.version("secondlook")
    except metadata.PackageNotFoundError:
        return "unknown"
