"""What an ONNX file may contain, checked before onnxruntime reads it.

The format can name other files of the disk as the place of its weights ("external data"), and can
hold loops and functions. A student needs none of these, so a file that has any is refused: it reads
no file of the device, and its running time is what its nodes cost once.
"""

from functools import cache
from typing import Any

from secondlook_client.errors import Damaged

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Tensor": {"external_data": (13, "Skipped"), "data_location": (14, "")},
    "Skipped": {},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Skipped"),
        "tensors": (10, "Tensor"),
        "graphs": (11, "Skipped"),
        "sparse_tensor": (22, "Skipped"),
        "sparse_tensors": (23, "Skipped"),
    },
    "Node": {"attribute": (5, "Attribute")},
    "Graph": {
        "node": (1, "Node"),
        "initializer": (5, "Tensor"),
        "sparse_initializer": (15, "Skipped"),
    },
    "Model": {
        "graph": (7, "Graph"),
        "training_info": (20, "Skipped"),
        "functions": (25, "Skipped"),
    },
}
"""The part of ``onnx.proto`` that can lead to another file or to a body that runs more than once:
field numbers and types. A test compares it with the ``onnx`` package."""
_SINGLE = {
    ("Model", "graph"),
    ("Attribute", "t"),
    ("Attribute", "g"),
    ("Attribute", "sparse_tensor"),
}


def refuse_unsafe(model: bytes) -> None:
    """Raises ``Damaged`` for bytes that are no ONNX model or one that holds more than a student.

    Reads the skeleton only; the weights are not copied.
    """
    parsed = _message_class()()
    try:
        parsed.ParseFromString(model)
    except Exception as cause:  # protobuf's errors differ by its implementation
        raise Damaged("the model is no ONNX file: it is truncated or something else") from cause
    if not parsed.graph.node:
        raise Damaged("the model is no ONNX file, or one without a single node")
    if parsed.functions or parsed.training_info or parsed.graph.sparse_initializer:
        raise Damaged("the model holds functions or sparse weights, which no student does")
    attributes = [attribute for node in parsed.graph.node for attribute in node.attribute]
    for a in attributes:
        if a.HasField("g") or a.graphs or a.HasField("sparse_tensor") or a.sparse_tensors:
            raise Damaged("the model holds loops or branches, which no student does")
    tensors = [*parsed.graph.initializer]
    for a in attributes:
        tensors += [*([a.t] if a.HasField("t") else []), *a.tensors]
    if any(tensor.external_data or tensor.data_location for tensor in tensors):
        raise Damaged("the model keeps weights in other files, which is not allowed")


@cache
def _message_class() -> Any:
    """A protobuf class that knows ``_MESSAGES`` and skips all the rest."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="skeleton.proto", package="skeleton")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for of, (number, kind) in fields.items():
            single = not kind or (name, of) in _SINGLE
            message.field.add(
                name=of,
                number=number,
                label=field.LABEL_OPTIONAL if single else field.LABEL_REPEATED,
                type=field.TYPE_MESSAGE if kind else field.TYPE_INT32,
                type_name=f".skeleton.{kind}" if kind else None,
            )
    pool = descriptor_pool.DescriptorPool()  # of its own: the default one may hold onnx's
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("skeleton.Model"))
