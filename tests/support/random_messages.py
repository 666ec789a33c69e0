"""Random messages of any type, made from its descriptor: many sound, others strange.

Names come from a small pool, so that calls meet each other's jobs, snapshots and models. How
strange a message is, is drawn for each: in most no value is, in some every second one.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

NAMES = ("a", "b", "c", "street", "images", "gate-3", "1", "2")
STRANGE_TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "../../etc/passwd",
    "/",
    "/etc",
    "C:\\x",
    "%00",
    "\u202eabc",
    "\x1b[2J",
    "👩\u200d👩\u200d👧",
    "\ud7ff\ue000",
    "ß" * 300,
    "'; drop table images; --",
    "{}",
    '{"a": [1e999]}',
    "[" * 1000,
    "s3://x/y",
    "0" * 64,
    "nan",
    "a" * 5000,
)
NUMBERS = (0, 1, 2, 3, 7, 100, 2**31 - 1, 2**31, 2**32, 2**63 - 1)
FLOATS = (0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"))
MOST_ITEMS = (0, 1, 1, 2, 3, 3, 8)
DEEPEST = 5
STRANGENESS = (0.0, 0.0, 0.0, 0.05, 0.05, 0.5)
"""Share of the values of a message that nobody should send."""
HUGE_SHARE = 0.02
"""Of strange texts and lists: far too long."""
HUGE_TEXT, HUGE_LIST = 300_000, 20_000

_INTEGERS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class MessageMaker:
    """Makes messages; the same seed makes the same ones."""

    def __init__(self, seed: int, contents: Sequence[bytes]) -> None:
        """``contents``: what fields of bytes hold, besides rubbish."""
        self.random = random.Random(seed)
        self._contents = contents
        self._strangeness = 0.0
        self._huge = False
        """Whether something in the message is far too long already: once is enough."""
        self._scalars: Mapping[int, Callable[[], Any]] = {
            FieldDescriptor.CPPTYPE_BOOL: lambda: self.random.random() < 0.5,
            FieldDescriptor.CPPTYPE_FLOAT: self._number,
            FieldDescriptor.CPPTYPE_DOUBLE: self._number,
        }

    def message(self, kind: Descriptor) -> Message:
        """A random message of a type."""
        self._strangeness, self._huge = self.random.choice(STRANGENESS), False
        return self._filled(message_factory.GetMessageClass(kind)(), 0)

    def altered(self, message: Message) -> Message:
        """A copy of a message in which none or a few fields are random."""
        copy = type(message)()
        copy.CopyFrom(message)
        self._strangeness, self._huge = self.random.choice(STRANGENESS), False
        for _ in range(self.random.choice((0, 1, 1, 2))):
            field = self.random.choice(copy.DESCRIPTOR.fields)
            copy.ClearField(field.name)
            self._fill(copy, field, 0)
        return copy

    def encoded(self, message: Message) -> bytes:
        """A message as bytes; one in six of them is damaged."""
        data = message.SerializeToString()
        return self.damaged(data) if self.random.random() < 1 / 6 else data

    def damaged(self, data: bytes) -> bytes:
        """Some of its bytes changed, cut out, doubled or cut off."""
        draw, changed = self.random, bytearray(data)
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(len(changed) + 1)
            action = draw.randrange(4)
            if action == 0 and place < len(changed):
                changed[place] = draw.choice((0, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            elif action == 1:
                del changed[place : place + draw.randint(1, 9)]
            elif action == 2:
                changed[place:place] = changed[place : place + draw.randint(1, 64)]
            elif action == 3 and draw.random() < 0.2:
                del changed[place:]
        return bytes(changed)

    def _filled(self, message: Message, depth: int) -> Message:
        for field in message.DESCRIPTOR.fields:
            if self.random.random() < (0.75 if depth < DEEPEST else 0.1):
                self._fill(message, field, depth)
        return message

    def _fill(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field.message_type)
        elif field.is_repeated:
            self._fill_list(getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            self._filled(getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, self._scalar(field))

    def _fill_list(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        huge = self._is_huge()
        if field.message_type is not None:
            if huge:
                one = self._filled(values.add(), DEEPEST)
                values.extend([one] * HUGE_LIST)
                return
            for _ in range(self.random.choice(MOST_ITEMS)):
                self._filled(values.add(), depth + 1)
        elif huge:
            values.extend([self._scalar(field)] * HUGE_LIST)
        else:
            values.extend(self._scalar(field) for _ in range(self.random.choice(MOST_ITEMS)))

    def _fill_map(self, values: Any, entry: Descriptor) -> None:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self.random.choice(MOST_ITEMS)):
            if value.message_type is not None:
                self._filled(values[self._scalar(key)], DEEPEST)
            else:
                values[self._scalar(key)] = self._scalar(value)

    def _scalar(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind in _INTEGERS:
            low, high = _INTEGERS[kind]
            if not self._strange():
                return self.random.choice((0, 1, 2, 3, 100))
            number = self.random.choice((*NUMBERS, high, low, self.random.randint(low, high)))
            return max(low, min(number, high))
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            numbers = [value.number for value in field.enum_type.values]
            return 99 if self._strange() else self.random.choice(numbers)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._bytes()
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._text()
        return self._scalars[kind]()

    def _strange(self) -> bool:
        return self.random.random() < self._strangeness

    def _is_huge(self) -> bool:
        if self._huge or not self._strange() or self.random.random() > HUGE_SHARE:
            return False
        self._huge = True
        return True

    def _number(self) -> float:
        # Float32 holds less; protobuf turns what is too large into infinity.
        return self.random.choice(FLOATS) if self._strange() else self.random.random()

    def _text(self) -> str:
        if not self._strange():
            return self.random.choice(NAMES)
        return "n" * HUGE_TEXT if self._is_huge() else self.random.choice(STRANGE_TEXTS)

    def _bytes(self) -> bytes:
        content = self.random.choice(self._contents)
        if not self._strange() and self.random.random() < 0.7:
            return content
        rubbish = self.random.randbytes(self.random.randrange(200))
        return self.random.choice((self.damaged(content), rubbish))
