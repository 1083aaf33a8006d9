"""Damage by parts to binary formats that nest: protocol buffers and GGUF, each with a small writer of its own."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

from fuzz.mutations import damaged_bytes

# --- protocol buffers ------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """(tag, the value as it is written) of a valid message."""
    found, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        start = at
        match tag & 7:
            case 0:
                number()
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                size = number()
                at += size
        found.append((tag, data[start:at]))
    return found


@dataclass(frozen=True)
class Proto:
    """A serialized message of messages, such as SentencePiece's."""

    data: bytes

    def whole(self) -> bytes:
        return self.data

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damaged_bytes(self.data, rng, 400 if rng.random() < 0.5 else len(self.data))
        fields = _fields(self.data)
        kinds = sorted({tag for tag, _ in fields})
        kind = rng.choice(kinds)  # the specs are as likely as a piece
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.choice([place for place, (tag, _) in enumerate(fields) if tag == kind] or [0])
            tag, value = fields[at]
            match rng.randrange(6):
                case 0:
                    fields.insert(rng.randrange(len(fields)), fields[at])
                case 1 if len(fields) > 1:
                    del fields[at]
                case 2:
                    fields[at] = (rng.choice((tag, tag + 8, tag ^ 2, 2**29 << 3 | 2)), value)
                case _ if tag & 7 == 2:
                    fields[at] = (tag, _damaged_message(value, rng))
        return b"".join(varint(tag) + value for tag, value in fields)


def _damaged_message(value: bytes, rng: random.Random) -> bytes:
    size = 1
    while value[size - 1] > 0x7F:
        size += 1
    try:
        inner = _fields(value[size:])
    except IndexError:
        inner = []
    if not inner:
        body = damaged_bytes(value[size:], rng)
        return varint(len(body)) + body
    at = rng.randrange(len(inner))
    tag, item = inner[at]
    match tag & 7:
        case 0:
            inner[at] = (
                tag,
                varint(rng.choice((0, 1, 2, 3, 6, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))),
            )
        case 5:
            inner[at] = (
                tag,
                struct.pack("<f", rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf"), float("-inf")))),
            )
        case 2:
            body = rng.choice(
                (
                    b"",
                    b"\xff",
                    b"\xed\xa0\x80",
                    b"a",
                    "▁".encode(),
                    b"<0x41>",
                    b"\0",
                    b"x" * 5000,
                    damaged_bytes(item[1:], rng),
                )
            )
            inner[at] = (tag, varint(len(body)) + body)
    if rng.random() < 0.2:
        inner.insert(at, inner[rng.randrange(len(inner))])
    body = b"".join(varint(tag) + item for tag, item in inner)
    return varint(len(body)) + body


# --- GGUF ------------------------------------------------------------------------------------------------------------

_FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_OTHER: list[tuple[int, Any]] = [
    (0, 0), (1, -1), (4, 0), (4, 1), (4, 7), (4, 2**20), (4, 2**31), (4, 2**32 - 1), (5, -1), (5, -(2**31)), (6, 0.0),
    (6, -1.0), (6, float("nan")), (6, float("inf")), (6, 1e38), (6, 1e-38), (6, 1.5), (7, True), (8, ""), (8, "x"),
    (8, "é\u001b[2J"), (8, "x" * 5000), (10, 2**63), (10, 2**64 - 1), (11, -(2**63)), (12, float("nan")), (12, 1e300),
    (9, (4, [])), (9, (4, [1])), (9, (4, [1, 2])), (9, (5, [-1])), (9, (6, [1.0, float("nan")])), (9, (8, [])),
    (9, (8, ["a"])), (9, (8, ["", ""])), (9, (7, [True])), (9, (10, [2**64 - 1])), (9, (0, [255] * 300)),
]  # fmt: skip


@dataclass(frozen=True)
class Gguf:
    """Metadata as (key, type, value), tensors as (name, sizes, type, bytes); ``more``: keys that readers know."""

    metadata: list[tuple[str, int, Any]]
    tensors: list[tuple[str, tuple[int, ...], int, bytes]]
    more: tuple[str, ...] = ()

    def whole(self) -> bytes:
        return self.written(self.metadata, [(name, sizes, kind, None) for name, sizes, kind, _ in self.tensors])

    def written(
        self, metadata: list[tuple[str, int, Any]], described: list[tuple[str, tuple[int, ...], int, int | None]]
    ) -> bytes:
        data, offsets = bytearray(), []
        for _, _, _, values in self.tensors:
            data += bytes(-len(data) % 32)
            offsets.append(len(data))
            data += values
        head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(described), len(metadata)))
        for key, kind, value in metadata:
            head += _string(key) + struct.pack("<I", kind) + _value(kind, value)
        for place, (name, sizes, kind, offset) in enumerate(described):
            at = offsets[place % len(offsets)] if offset is None else offset
            head += _string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, at)
        return bytes(head + bytes(-len(head) % 32) + data)

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return damaged_bytes(self.whole(), rng, len(self.whole()) - sum(len(one[3]) for one in self.tensors))
        metadata: list[tuple[str, int, Any]] = list(self.metadata)
        described: list[tuple[str, tuple[int, ...], int, int | None]] = [
            (name, sizes, kind, None) for name, sizes, kind, _ in self.tensors
        ]
        for _ in range(rng.choice((1, 1, 2, 3))):
            if described and rng.random() < 0.25:
                _damage_tensor(described, rng)
            else:
                self._damage_pair(metadata, rng)
        return self.written(metadata, described)

    def _damage_pair(self, metadata: list[tuple[str, int, Any]], rng: random.Random) -> None:
        at = rng.randrange(len(metadata))
        key, kind, value = metadata[at]
        match rng.randrange(8):
            case 0:
                del metadata[at]
            case 1 if self.more:
                metadata.append((rng.choice(self.more), *rng.choice(_OTHER)))
            case 2 if kind in (4, 5) and isinstance(value, int):
                made = rng.choice((value + 1, value * 2, value << 10, value << 15, max(value - 1, 0)))
                metadata[at] = (key, 4, made & 0xFFFFFFFF)
            case 3 if kind == 9:
                inner, values = value
                values = list(values)
                if values:
                    place = rng.randrange(len(values))
                    new = (
                        rng.choice(("", "x", "\ud800", values[rng.randrange(len(values))]))
                        if inner == 8
                        else rng.choice((0, 1))
                    )
                    rng.choice(
                        (lambda: values.__setitem__(place, new), lambda: values.pop(place), lambda: values.append(new))
                    )()
                metadata[at] = (key, 9, (inner, values))
            case _:
                metadata[at] = (key, *rng.choice(_OTHER))


def _damage_tensor(described: list[tuple[str, tuple[int, ...], int, int | None]], rng: random.Random) -> None:
    at = rng.randrange(len(described))
    name, sizes, kind, offset = described[at]
    match rng.randrange(5):
        case 0:
            del described[at]
        case 1:
            described[at] = (rng.choice(("", "x", rng.choice(described)[0], name + ".x")), sizes, kind, offset)
        case 2:
            described[at] = (
                name,
                tuple(rng.choice((0, 1, 2**20, 2**31, 2**63, size, size * 2)) for size in sizes),
                kind,
                offset,
            )
        case 3:
            described[at] = (
                name,
                sizes,
                rng.choice((0, 1, 2, 8, 12, 15, 16, 19, 20, 23, 30, 34, 39, 40, 41, 255, 2**32 - 1)),
                offset,
            )
        case _:
            described[at] = (name, sizes, kind, rng.choice((0, 32, 1, 2**40, 2**64 - 32)))


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if kind == 8:
        return _string(value)
    if kind != 9:
        return struct.pack(_FORMS[kind], value)
    inner, values = value
    return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, one) for one in values)
