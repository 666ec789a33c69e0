"""Server reflection as ``grpc.reflection.v1`` and ``v1alpha``, methods included.

grpcio-reflection knows v1alpha alone; v1 has the same messages under another package, so its
servicer answers both. And the protocol lets a client ask for ``package.Service.Method``, while
Python's pool of descriptors finds files by services and messages only: ``grpcurl describe`` of a
method, and ghz with any call, were told "symbol not found".
"""

from collections.abc import Sequence
from contextlib import suppress

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1 = "grpc.reflection.v1.ServerReflection"


def enable(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Let clients ask ``server`` what ``services``, and reflection itself, look like."""
    pool = PoolWithMethods(descriptor_pool.Default(), _v1_file())
    names = (*services, reflection.SERVICE_NAME, V1)
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": info})
    server.add_generic_rpc_handlers((handler,))


class PoolWithMethods:
    """A descriptor pool that also finds the file of a method, and one more file."""

    def __init__(self, pool: DescriptorPool, other: FileDescriptor) -> None:
        self._pool = pool
        self._other = other

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802 (protobuf's own spelling)
        """The file of that name. Raises ``KeyError``."""
        return self._other if name == self._other.name else self._pool.FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        """The file that declares ``symbol``. Raises ``KeyError`` when none does."""
        with suppress(KeyError):
            return self._pool.FindFileContainingSymbol(symbol)
        with suppress(KeyError):
            return self._other.pool.FindFileContainingSymbol(symbol)
        service, _, method = symbol.rpartition(".")
        pool = self._other.pool if service == V1 else self._pool
        return pool.FindServiceByName(service).methods_by_name[method].containing_service.file

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)


def _v1_file() -> FileDescriptor:
    """``grpc/reflection/v1/reflection.proto``, made of its predecessor."""
    file = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)
