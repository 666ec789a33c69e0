"""Write the page's types from the protos: ``src/api/messages.ts``.

    python clients/web/generate.py            write the file
    python clients/web/generate.py --check    exit 1 when it differs from what the protos give

The page speaks Connect's JSON form, in which a message is a plain object. So types are all that is
needed: no code of protobuf is in the page. Names, kinds and paths come from the descriptors of the
compiled protos; what a field means stands in ``protos/``.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
)

from secondlook_client.v1 import access_pb2

ROOT = Path(__file__).resolve().parent.parent.parent
PROTOS = ROOT / "protos/secondlook/v1"
OUT = Path(__file__).resolve().parent / "src/api/messages.ts"
HEAD = """\
// Written by clients/web/generate.py from protos/; not by hand.
//
// Messages as Connect's JSON form has them: a field of its default value may be absent, 64-bit
// numbers are strings, bytes are base64, enums are names.

import { stream, unary } from "./method";
"""
BIG = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}
TEXT = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES} | BIG
UNUSED = {"access", "bounds"}
"""Protos that have no message of a call."""
ROLE = access_pb2.DESCRIPTOR.enum_types_by_name["Role"]


def files() -> Iterator[FileDescriptor]:
    """The descriptors of the protos, by name."""
    for path in sorted(PROTOS.glob("*.proto")):
        if path.stem not in UNUSED:
            module = importlib.import_module(f"secondlook_client.v1.{path.stem}_pb2")
            yield module.DESCRIPTOR


def type_of(field: FieldDescriptor) -> str:
    """The TypeScript type of one value of a field."""
    if (of := field.message_type or field.enum_type) is not None:
        return str(of.name)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "boolean"
    return "string" if field.type in TEXT else "number"


def field_line(field: FieldDescriptor) -> str:
    """One field of an interface."""
    kind = type_of(field)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        kind = f"Record<string, {type_of(entry.fields_by_name['value'])}>"
    elif field.is_repeated:
        kind += "[]"
    return f"  {field.json_name}?: {kind};"


def interface(message: Descriptor) -> str:
    """A message."""
    lines = [field_line(field) for field in message.fields]
    return "\n".join([f"export interface {message.name} {{", *lines, "}"])


def names(enum: EnumDescriptor) -> str:
    """The values of an enum."""
    return f"export type {enum.name} =\n" + "\n".join(f'  | "{v.name}"' for v in enum.values) + ";"


def call(method: MethodDescriptor) -> str:
    """A call. Those that stream requests cannot be made from a page, and are left out."""
    kind = "stream" if method.server_streaming else "unary"
    path = f"{method.containing_service.full_name}/{method.name}"
    types = f"{method.input_type.name}, {method.output_type.name}"
    name = method.name[0].lower() + method.name[1:]
    numbers = method.GetOptions().Extensions[access_pb2.access].roles
    roles = ", ".join(f'"{ROLE.values_by_number[number].name}"' for number in numbers)
    written = f'"{path}",\n  [{roles}],'
    return f"export const {name} = /* @__PURE__ */ {kind}<{types}>(\n  {written}\n);"


def written() -> str:
    """The whole file."""
    parts = [HEAD, names(ROLE)]
    for file in files():
        parts += [names(enum) for enum in file.enum_types_by_name.values()]
        parts += [interface(message) for message in file.message_types_by_name.values()]
        methods = [m for s in file.services_by_name.values() for m in s.methods]
        parts += [call(method) for method in methods if not method.client_streaming]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Ends with status 1 when --check found a file that is not as the protos say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, refuse a stale file")
    fresh = written()
    if not parser.parse_args().check:
        OUT.write_text(fresh, encoding="utf-8")
    elif not OUT.is_file() or OUT.read_text(encoding="utf-8") != fresh:
        sys.exit(f"stale: {OUT.relative_to(ROOT)}; run `python clients/web/build.py`")


if __name__ == "__main__":
    main()
