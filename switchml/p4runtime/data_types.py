"""P4Data, the representation of any P4 type, and the plain integers that a pipeline has (P4Runtime specification, 8.5).

A value of a type is a row of leaves, each an unsigned integer: a struct of three fields is three of them, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from typing_extensions import override

from switchml.p4runtime import bytestrings
from switchml.p4runtime.refusals import invalid, unimplemented
from switchml.p4runtime.stubs import p4data_pb2


class DataType(Protocol):
    """leaves: how many integers a value has."""

    @property
    def leaves(self) -> int:
        """How many integers a value has."""

    def encode(self, values: Iterator[int], data: Any) -> None:
        """Puts the next `leaves` values into a P4Data."""

    def decode(self, data: Any, what: str) -> list[int]:
        """Raises INVALID_ARGUMENT for another type's data, OUT_OF_RANGE for a number that does not fit."""


@dataclass(frozen=True)
class BitType(DataType):
    """bit<width> and int<width>; a serializable enum travels as its value, in `field`."""

    width: int
    signed: bool = False
    field: str = "bitstring"
    leaves: int = 1

    @override
    def encode(self, values: Iterator[int], data: Any) -> None:
        setattr(data, self.field, self.encode_value(next(values)))

    def encode_value(self, value: int) -> bytes:
        """The bytes of one value."""
        return bytestrings.encode_signed(value, self.width) if self.signed else bytestrings.encode(value)

    @override
    def decode(self, data: Any, what: str) -> list[int]:
        _expect(data, self.field, what)
        read = bytestrings.decode_signed if self.signed else bytestrings.decode
        return [read(getattr(data, self.field), self.width, what)]


@dataclass(frozen=True)
class BoolType(DataType):
    """bool: 0 or 1 in the pipeline."""

    leaves: int = 1

    @override
    def encode(self, values: Iterator[int], data: Any) -> None:
        data.bool = bool(next(values))

    @override
    def decode(self, data: Any, what: str) -> list[int]:
        _expect(data, "bool", what)
        return [int(data.bool)]


@dataclass(frozen=True)
class StructType(DataType):
    """A struct or tuple, by the name of its field in P4Data."""

    members: tuple[DataType, ...]
    field: str

    @property
    @override
    def leaves(self) -> int:
        return sum(member.leaves for member in self.members)

    @override
    def encode(self, values: Iterator[int], data: Any) -> None:
        struct = getattr(data, self.field)
        struct.SetInParent()
        for member in self.members:
            member.encode(values, struct.members.add())

    @override
    def decode(self, data: Any, what: str) -> list[int]:
        _expect(data, self.field, what)
        given = getattr(data, self.field).members
        if len(given) != len(self.members):
            raise invalid(f"{what}: {len(given)} members where the type has {len(self.members)}")
        return [
            leaf
            for member, value in zip(self.members, given, strict=True)
            for leaf in member.decode(value, what)
        ]


@dataclass(frozen=True)
class HeaderType(DataType):
    """A header, always a valid one: a pipeline's message has no leaf for validity."""

    members: tuple[BitType, ...]

    @property
    @override
    def leaves(self) -> int:
        return len(self.members)

    @override
    def encode(self, values: Iterator[int], data: Any) -> None:
        data.header.is_valid = True
        data.header.bitstrings.extend(member.encode_value(next(values)) for member in self.members)

    @override
    def decode(self, data: Any, what: str) -> list[int]:
        _expect(data, "header", what)
        if len(data.header.bitstrings) != len(self.members):
            raise invalid(f"{what}: {len(data.header.bitstrings)} fields where the header has {self.leaves}")
        return [
            member.decode(p4data_pb2.P4Data(bitstring=field), what)[0]
            for member, field in zip(self.members, data.header.bitstrings, strict=True)
        ]


@dataclass(frozen=True)
class EnumType(DataType):
    """An enum without values of its own: its members' names in P4Data, their places in the pipeline."""

    names: tuple[str, ...]
    field: str = "enum"
    leaves: int = 1

    @override
    def encode(self, values: Iterator[int], data: Any) -> None:
        setattr(data, self.field, self.names[next(values)])

    @override
    def decode(self, data: Any, what: str) -> list[int]:
        _expect(data, self.field, what)
        name = getattr(data, self.field)
        if name not in self.names:
            raise invalid(f"{what}: {name!r} is none of {', '.join(self.names)}")
        return [self.names.index(name)]


def encode_all(kind: DataType, values: Sequence[int], data: Any) -> None:
    """Puts a whole value into a P4Data. Raises RuntimeRequestError when the number of leaves is another."""
    if len(values) != kind.leaves:
        raise invalid(f"{len(values)} values where the type has {kind.leaves}")
    kind.encode(iter(values), data)


def data_type(spec: Any, type_info: Any) -> DataType:
    """The type of a P4DataTypeSpec. Raises UNIMPLEMENTED for varbit, unions and stacks, INVALID_ARGUMENT for unknown names."""
    kind = spec.WhichOneof("type_spec")
    if kind == "bitstring":
        return _bits(spec.bitstring)
    if kind == "bool":
        return BoolType()
    if kind == "tuple":
        return StructType(tuple(data_type(member, type_info) for member in spec.tuple.members), "tuple")
    if kind == "struct":
        members = _named(type_info.structs, spec.struct.name).members
        return StructType(tuple(data_type(member.type_spec, type_info) for member in members), "struct")
    if kind == "header":
        members = _named(type_info.headers, spec.header.name).members
        return HeaderType(tuple(_bits(member.type_spec) for member in members))
    if kind == "serializable_enum":
        enum = _named(type_info.serializable_enums, spec.serializable_enum.name)
        return BitType(enum.underlying_type.bitwidth, field="enum_value")
    if kind == "enum":
        members = _named(type_info.enums, spec.enum.name).members
        return EnumType(tuple(member.name for member in members))
    if kind == "error":
        return EnumType(tuple(type_info.error.members), field="error")
    if kind == "new_type":
        new = _named(type_info.new_types, spec.new_type.name)
        if new.WhichOneof("representation") == "original_type":
            return data_type(new.original_type, type_info)
        if new.translated_type.WhichOneof("sdn_type") == "sdn_bitwidth":
            return BitType(new.translated_type.sdn_bitwidth)
        raise unimplemented(
            f"P4Info: type {spec.new_type.name}: values translated to strings are not supported"
        )
    raise unimplemented(f"P4Info: data of type {kind or '(none)'} is not supported")


def _bits(spec: Any) -> BitType:
    kind = spec.WhichOneof("type_spec")
    if kind == "bit":
        return BitType(spec.bit.bitwidth)
    if kind == "int":
        return BitType(spec.int.bitwidth, signed=True)
    raise unimplemented(f"P4Info: data of type {kind or '(none)'} is not supported")


def _named(types: Any, name: str) -> Any:
    if name not in types:  # the map would make it
        raise invalid(f"P4Info: there is no type {name!r}")
    return types[name]


def _expect(data: Any, field: str, what: str) -> None:
    given = data.WhichOneof("data")
    if given != field:
        raise invalid(f"{what}: data of type {given or '(none)'} where the P4Info has {field}")
