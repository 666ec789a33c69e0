"""Requests against the bounds that the protos declare (``protos/secondlook/v1/bounds.proto``).

A request is checked before anything works on it, in two steps. Its bytes are measured before they
are parsed: millions of empty elements fit into the megabytes that an image may have, and parsing
them would stop the event loop. Then each field of the message is checked against what is declared
beside it. Both are compiled once a method: a request with ten classes takes about 20 µs.

protovalidate was considered: it checks messages only once they are parsed, accepts a field without
any rule, and is a second protobuf runtime of 11 MB.
"""

from collections.abc import Callable, Collection
from functools import cache, lru_cache
from math import isfinite
from operator import attrgetter
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError

from secondlook_client.errors import BadRequest
from secondlook_client.v1 import bounds_pb2

REQUEST_BYTES = 64 * 2**10
"""Of a request without its fields of type bytes, where the method declares nothing."""
OTHER_CHARS = 4096
"""Characters of a text in other people's protocols (health, reflection), which declare nothing."""
MAX_FIELDS = 100
"""Fields of a request before its image: each costs a step, and a sensible client has a few."""
LARGEST = 2**63 - 1
"""What databases hold of an unsigned number of 64 bits."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Check = Callable[[Any], BadRequest | None]
"""Looks at a message; the first field that is over its bound."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UNSIGNED_64 = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)
_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


def request_reader(
    method: str, deserialize: Callable[[bytes], Any]
) -> Callable[[bytes], Any | BadRequest]:
    """What turns the bytes of one message of ``method`` (``/package.Service/Name``) into a request.

    gRPC calls it where an exception would be answered with INTERNAL, so a refusal is returned.
    """
    bounds = _method(method)
    size_failure = _size_check(bounds)
    check = message_check(bounds.input_type) if bounds else lambda request: None

    def read(data: bytes) -> Any | BadRequest:
        if failure := size_failure(data):
            return failure
        try:
            request = deserialize(data)
        except DecodeError:
            return BadRequest("the bytes are no message of this method; do client and server fit?")
        return check(request) or request

    return read


def declared(field: FieldDescriptor) -> bounds_pb2.FieldBounds:
    """What the protos declare of a field."""
    return field.GetOptions().Extensions[bounds_pb2.bounds]


def request_size(method: MethodDescriptor) -> tuple[int, bool]:
    """Bytes that a request of ``method`` may have without its fields of type bytes, and whether it
    has such fields."""
    most = method.GetOptions().Extensions[bounds_pb2.request].max_bytes or REQUEST_BYTES
    return most, bool(_large_fields(method.input_type))


@cache
def message_check(message: Descriptor) -> Check:
    """The check of a message and all that is in it. It changes text that may be cut."""
    kinds = _FieldKinds(message)
    texts, floats, numbers = (
        _values(group) for group in (kinds.texts, kinds.floats, kinds.numbers)
    )
    text_bounds, number_bounds = tuple(kinds.texts.items()), tuple(kinds.numbers.items())

    # Written out, not one check a field: it takes a third of the time.
    def first_failure(request: Any) -> BadRequest | None:
        for name, most in kinds.cut.items():
            _cut(request, name, most)
        for text, (name, most) in zip(texts(request), text_bounds, strict=False):
            if len(text) > most or "\x00" in text:
                return _text_failure(name, text, most)
        for name, most in kinds.items.items():
            if len(getattr(request, name)) > most:
                return _over(name, f"at most {most:,} items", f"{len(getattr(request, name)):,}")
        for name, most in kinds.text_lists.items():
            for place, text in enumerate(getattr(request, name)):
                if len(text) > most or "\x00" in text:
                    return _text_failure(f"{name}[{place}]", text, most)
        for number, (name, most) in zip(numbers(request), number_bounds, strict=False):
            if number > most:
                return _number_failure(name, number, most)
        for name, most in kinds.number_lists.items():
            for place, number in enumerate(getattr(request, name)):
                if number > most:
                    return _number_failure(f"{name}[{place}]", number, most)
        for number, name in zip(floats(request), kinds.floats, strict=False):
            if not isfinite(number):
                return _over(name, "a finite number", str(number))
        for name, most in kinds.contents.items():
            if len(getattr(request, name)) > most:
                return _over(name, f"at most {most:,} bytes", f"{len(getattr(request, name)):,}")
        for name, kind in kinds.messages.items():
            if request.HasField(name) and (failure := _nested(getattr(request, name), kind)):
                return _within(name, failure)
        for name, kind in kinds.message_lists.items():
            check = message_check(kind)
            for place, item in enumerate(getattr(request, name)):
                if failure := check(item):
                    return _within(f"{name}[{place}]", failure)
        return None

    return first_failure


def _nested(message: Any, kind: Descriptor) -> BadRequest | None:
    """The failure of a message in another one."""
    if _holds_messages(kind):  # an ontology: the same in most requests, and slow to walk through
        return _failure_of_bytes(kind, message.SerializeToString())
    return message_check(kind)(message)


@cache
def _holds_messages(kind: Descriptor) -> bool:
    return any(field.is_repeated and field.message_type for field in kind.fields)


@lru_cache(maxsize=32)
def _failure_of_bytes(kind: Descriptor, encoded: bytes) -> BadRequest | None:
    return message_check(kind)(message_factory.GetMessageClass(kind).FromString(encoded))


class _FieldKinds:
    """The fields of a message by how they are checked: names and bounds."""

    def __init__(self, message: Descriptor) -> None:
        self.items: dict[str, int] = {}
        self.texts: dict[str, int] = {}
        self.text_lists: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        self.number_lists: dict[str, int] = {}
        self.floats: dict[str, int] = {}
        self.contents: dict[str, int] = {}
        self.messages: dict[str, Descriptor] = {}
        self.message_lists: dict[str, Descriptor] = {}
        for field in message.fields:
            self._add(field, declared(field))

    def _add(self, field: FieldDescriptor, bounds: bounds_pb2.FieldBounds) -> None:
        name, repeated = field.name, field.is_repeated
        if repeated and bounds.max_items:
            self.items[name] = bounds.max_items
        if field.message_type is not None:
            (self.message_lists if repeated else self.messages)[name] = field.message_type
        elif field.type == FieldDescriptor.TYPE_STRING:
            texts = self.cut if bounds.cut else self.text_lists if repeated else self.texts
            texts[name] = bounds.max_chars or OTHER_CHARS
        elif field.type == FieldDescriptor.TYPE_BYTES:
            if bounds.max_bytes:
                self.contents[name] = bounds.max_bytes
        elif bounds.max or field.type in _UNSIGNED_64:
            numbers = self.number_lists if repeated else self.numbers
            numbers[name] = bounds.max or LARGEST
        elif not repeated and field.type in _FLOATS:
            self.floats[name] = 0


def _values(names: Collection[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What reads these fields of a message in one call."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


def _cut(message: Any, name: str, most: int) -> None:
    text = getattr(message, name)
    if len(text) > most or "\x00" in text:
        setattr(message, name, text[:most].replace("\x00", REPLACEMENT))


def _method(path: str) -> MethodDescriptor | None:
    service, _, name = path.lstrip("/").partition("/")
    try:
        return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return None


def _text_failure(path: str, text: str, most: int) -> BadRequest:
    if len(text) > most:
        return _over(path, f"at most {most:,} characters", f"{len(text):,}")
    return BadRequest(f"{path} holds a NUL character; remove it", field=path)


def _number_failure(path: str, number: int, most: int) -> BadRequest:
    expected = "a number below 2^63" if most == LARGEST else f"at most {most:,}"
    return _over(path, expected, f"{number:,}")


def _over(path: str, expected: str, got: str) -> BadRequest:
    return BadRequest(f"{path}: expected {expected}, got {got}", field=path)


def _within(path: str, failure: BadRequest) -> BadRequest:
    """The failure of a field in the message at ``path``."""
    return BadRequest(f"{path}.{failure}", field=f"{path}.{failure.field}")


def _size_check(method: MethodDescriptor | None) -> Callable[[bytes], BadRequest | None]:
    """The check of a request's bytes before they are parsed; None: of a method that is not ours."""
    most, large = REQUEST_BYTES, dict[int, Any]()
    if method is not None:
        most, _ = request_size(method)
        large = _large_fields(method.input_type)

    def check(data: bytes) -> BadRequest | None:
        if len(data) <= most:
            return None
        if not large:
            return _too_large(most, len(data))
        rest = len(data) - _large_bytes(data, large)
        return _too_large(most, rest) if rest > most else None

    return check


def _too_large(most: int, size: int) -> BadRequest:
    return BadRequest(
        f"expected a request of at most {most:,} bytes without the content of images and files, "
        f"got {size:,}"
    )


def _large_fields(message: Descriptor) -> dict[int, Any]:
    """Numbers of the fields of type bytes: None; of messages that hold such fields: theirs."""
    found: dict[int, Any] = {}
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_BYTES:
            found[field.number] = None
        elif field.message_type is not None and (inside := _large_fields(field.message_type)):
            found[field.number] = inside
    return found


def _large_bytes(data: bytes, large: dict[int, Any]) -> int:
    """How many bytes of the encoded message are contents of the fields ``large``.

    Those behind the first ``MAX_FIELDS`` fields, or behind something that is no field, do not
    count. The parser is left to say what is wrong with them.
    """
    found, steps = 0, 0
    spans = [(0, len(data), large)]
    while spans:
        at, end, wanted = spans.pop()
        while at < end and steps < MAX_FIELDS:
            steps += 1
            tag, at = _varint(data, at, end)
            kind, number = tag & 7, tag >> 3
            if kind == _BYTES:
                size, at = _varint(data, at, end)
                if number in wanted:
                    inside = wanted[number]
                    if inside is None:
                        found += max(0, min(size, end - at))
                    else:
                        spans.append((at, min(at + size, end), inside))
                at += size
            elif kind == _VARINT:
                _, at = _varint(data, at, end)
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8
            else:
                break
    return found


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends; at the end of the data, whatever is there."""
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return number, at
