"""What an ONNX file may contain, checked before onnxruntime reads it.

The format can name other files of the disk as the place of its weights ("external data"), and can
hold loops and functions. Some operations take sizes from the values of a tensor, which could depend
on what an image shows. A student needs none of these, so a file that has any is refused: it reads
no file of the device, and each image of the input's size costs the same time and memory.
"""

from collections import defaultdict
from collections.abc import Collection
from functools import cache
from typing import Any

from secondlook_client.errors import Damaged

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Tensor": {
        "name": (8, "text"),
        "external_data": (13, "Skipped"),
        "data_location": (14, ""),
    },
    "Skipped": {},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Skipped"),
        "tensors": (10, "Tensor"),
        "graphs": (11, "Skipped"),
        "sparse_tensor": (22, "Skipped"),
        "sparse_tensors": (23, "Skipped"),
    },
    "Node": {
        "input": (1, "text"),
        "output": (2, "text"),
        "op_type": (4, "text"),
        "attribute": (5, "Attribute"),
        "domain": (7, "text"),
    },
    "Value": {"name": (1, "text")},
    "Graph": {
        "node": (1, "Node"),
        "initializer": (5, "Tensor"),
        "input": (11, "Value"),
        "sparse_initializer": (15, "Skipped"),
    },
    "Model": {
        "graph": (7, "Graph"),
        "training_info": (20, "Skipped"),
        "functions": (25, "Skipped"),
    },
}
"""The part of ``onnx.proto`` that can lead to another file, to a body that runs more than once or
to sizes: field numbers and types. A test compares it with the ``onnx`` package."""
_SINGLE = {
    ("Model", "graph"),
    ("Attribute", "t"),
    ("Attribute", "g"),
    ("Attribute", "sparse_tensor"),
    ("Tensor", "name"),
    ("Value", "name"),
    ("Node", "op_type"),
    ("Node", "domain"),
}
_AXES = {1}
_ALL = frozenset(range(16))
_SIZES: dict[str, set[int] | frozenset[int]] = {
    **{
        f"Reduce{kind}": _AXES
        for kind in (
            *("L1", "L2", "LogSum", "LogSumExp", "Max"),
            *("Mean", "Min", "Prod", "Sum", "SumSquare"),
        )
    },
    "AffineGrid": {1},
    "BlackmanWindow": {0},
    "CenterCropPad": {1},
    "Col2Im": {1, 2},
    "Compress": {1},
    "ConstantOfShape": {0},
    "DFT": {1, 2},
    "Expand": {1},
    "GRU": {4},
    "HammingWindow": {0},
    "HannWindow": {0},
    "ImageDecoder": {0},
    "LSTM": {4},
    "MaxUnpool": {2},
    "MelWeightMatrix": _ALL,
    "NonMaxSuppression": _ALL,
    "NonZero": {0},
    "OneHot": {1},
    "Pad": {1, 3},
    "RNN": {4},
    "Range": _ALL,
    "Reshape": {1},
    "Resize": {1, 2, 3},
    "STFT": {1, 3},
    "SequenceAt": {1},
    "SequenceErase": {1},
    "SequenceInsert": {2},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "SplitToSequence": {1},
    "Squeeze": _AXES,
    "StringNormalizer": {0},
    "StringSplit": {0},
    "Tile": {1, 2},
    "TopK": {1},
    "Unique": {0},
    "Unsqueeze": _AXES,
    "Upsample": {1},
}
"""By operation of ONNX, the inputs whose values decide how large its outputs are. All others give
sizes that follow from the sizes of their inputs."""
_NEVER_LARGER = {"Compress", "Reshape", "Slice", "Split", "Squeeze", "TopK", "Unsqueeze"}
"""Of these, the operations whose outputs hold no more than their inputs, whatever the values."""
_FEW_TIMES_LARGER = {"NonMaxSuppression", "NonZero"}
"""Those that give up to a few numbers for each of their inputs."""
MAX_SUPPRESSIONS = 4
"""Of these, in a graph that may suppress duplicates: in a row, each could treble the sizes."""
_OWN_DOMAINS = (b"", b"ai.onnx")


def refuse_unsafe(model: bytes, *, suppression: bool = False, fixed: Collection[str] = ()) -> None:
    """Raises ``Damaged`` for bytes that are no ONNX model or one that holds more than a student.

    With ``suppression`` a graph may pick some of its boxes by what an image shows, as detectors do
    that suppress duplicates: memory then differs by image, within a bound. ``fixed`` names inputs
    that always get the same values, in a trial and later: sizes may depend on them. Reads the
    skeleton only; the weights are not copied.
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
    _refuse_content_sizes(parsed.graph, suppression, fixed)


def _refuse_content_sizes(graph: Any, suppression: bool, fixed: Collection[str]) -> None:
    """Raises ``Damaged`` when a size in the graph depends on the values of its input."""
    allowed = _NEVER_LARGER | _FEW_TIMES_LARGER if suppression else set()
    suppressions: set[bytes] = set()
    readers = defaultdict(list)
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers[name].append((place, node))
    known = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    known -= {name.encode() for name in fixed}
    waiting = [*known]
    while waiting:
        for place, node in readers[waiting.pop()]:
            operation = node.op_type.decode("ascii", "replace")
            if node.domain not in _OWN_DOMAINS:
                raise Damaged(
                    f"the model uses '{operation:.40}', which is no operation of ONNX itself; "
                    "export it without extensions of a runtime"
                )
            if place in _SIZES.get(operation, ()) and operation not in allowed:
                raise Damaged(
                    f"the model has sizes that depend on what an image shows ('{operation}'), "
                    "which could take any amount of memory; export it without them"
                )
            if operation in _FEW_TIMES_LARGER:
                suppressions.update(node.output[:1])
            if operation in ("Shape", "Size"):
                continue
            for name in node.output:
                if name and name not in known:
                    known.add(name)
                    waiting.append(name)
    if len(suppressions) > MAX_SUPPRESSIONS:
        raise Damaged(
            f"the model picks from its outputs {len(suppressions)} times by what an image shows, "
            f"at most {MAX_SUPPRESSIONS} are allowed; export it without the suppression"
        )


def _field_type(field: Any, kind: str) -> int:
    if kind in _MESSAGES:
        return int(field.TYPE_MESSAGE)
    return int(field.TYPE_BYTES if kind else field.TYPE_INT32)


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
                type=_field_type(field, kind),
                type_name=f".skeleton.{kind}" if kind in _MESSAGES else None,
            )
    pool = descriptor_pool.DescriptorPool()  # of its own: the default one may hold onnx's
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("skeleton.Model"))
