"""Descriptors for reflection, methods included.

The reflection protocol lets a client ask for ``package.Service.Method``. Python's pool of
descriptors finds files by services and messages only, so ``grpcurl describe`` of a method, and
ghz with any call, were told "symbol not found".
"""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool


class PoolWithMethods:
    """A descriptor pool that also finds the file of a method."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        """The file that declares ``symbol``. Raises ``KeyError`` when none does."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            return found.methods_by_name[method].containing_service.file

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)
