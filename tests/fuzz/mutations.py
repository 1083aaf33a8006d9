"""Damage, by what a file is made of: JSON trees, lines, bytes, protocol buffers, GGUF.

Everything is drawn from one ``random.Random``, so that a number names an input for ever. A content knows how to write
itself whole and damaged.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from dataclasses import dataclass, field
from typing import Any, Protocol


class Content(Protocol):
    """A file of a seed."""

    def whole(self) -> bytes: ...
    def damaged(self, rng: random.Random) -> bytes: ...


# --- bytes -----------------------------------------------------------------------------------------------------------

TELLING = [struct.pack("<Q", number) for number in (0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)]
TELLING += [struct.pack("<I", number) for number in (0, 1, 2, 7, 8, 9, 13, 2**20, 2**31, 2**32 - 1)]
TELLING += [struct.pack("<f", number) for number in (float("nan"), float("inf"), -1.0, 1e38)]
TELLING += [
    b"\xff",
    b"\x00",
    b'"',
    b"{",
    b"[",
    b"}",
    b",",
    b"-",
    b"1e999",
    b"\n",
    b" ",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
]


def damaged_bytes(whole: bytes, rng: random.Random, header: int = 2**20) -> bytes:
    """One to four changes, most of them within the first ``header`` bytes."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4))):
        end = len(data) if rng.random() < 0.2 else min(header, len(data))
        at = rng.randrange(end) if end else 0
        match rng.randrange(7):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                new = rng.choice(TELLING)
                data[at : at + len(new)] = new
            case 2:
                data[at:at] = rng.choice(TELLING) if rng.random() < 0.7 else rng.randbytes(rng.randrange(16))
            case 3:
                del data[at : at + rng.randint(1, 64)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 200)] * rng.choice((1, 1, 1, 50))
            case 5:
                del data[at:]
            case _ if data:
                data[at] = rng.randrange(256)
    return bytes(data)


@dataclass(frozen=True)
class Binary:
    """Bytes whose numbers stand mostly in the first ``header`` of them."""

    data: bytes
    header: int = 2**20

    def whole(self) -> bytes:
        return self.data

    def damaged(self, rng: random.Random) -> bytes:
        return damaged_bytes(self.data, rng, self.header)


@dataclass(frozen=True)
class Known:
    """A file that once was a bomb, or ended in somebody else's exception: as it is, or damaged once more."""

    valid: Content
    hostile: Content

    def whole(self) -> bytes:
        return self.valid.whole()

    def damaged(self, rng: random.Random) -> bytes:
        return self.hostile.whole() if rng.random() < 0.3 else self.hostile.damaged(rng)


# --- JSON ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """Text that stands in the file as it is."""

    text: str


class Pairs(list):
    """An object as a list of pairs, so that a key can be there twice."""


def dump(value: Any) -> str:
    """JSON, with what Python's own writer cannot say: keys twice, numbers of 400 digits, text that is no JSON."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{dump(item)}" for key, item in value) + "}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


SCALARS: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 255, 1.5, -0.0, 1e-30, 1e30, 1e308, 65536, 2**20, 2**31 - 1, 2**31, 2**32 - 1,
    2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"),
    Raw("1" + "0" * 400), Raw("-1" + "0" * 400), Raw("1" + "0" * 5000), Raw("0." + "0" * 400 + "1"), "", " ", "x", "1",
    "true", "\u0000", "\n", "\ud800", "a\udfffb", "é" * 50, "x" * 5000, "{}", "../x", "/etc/passwd", "▁", "😀",
    [], {}, [1], ["x"], [None], [[]], {"a": 1}, {"content": "x"}, {"": None}, [-1], [1.5], [True],
    {"content": "\ud800"},
]  # fmt: skip


def scalar(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(SCALARS))  # some are lists, which the next change would change for all


def _nested(rng: random.Random) -> Any:
    depth = rng.choice((50, 900, 200_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opening * depth + "0" + closing * depth)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value of a tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    return found


def _shallow(places: list[tuple[Any, Any]], rng: random.Random) -> tuple[Any, Any]:
    """A place; each container is as likely as another, so that a vocabulary does not hide the rest."""
    containers = {id(node): node for node, _ in places}
    node = rng.choice(list(containers.values()))
    keys = list(node) if isinstance(node, dict) else range(len(node))
    return node, rng.choice(list(keys))


def damaged_tree(tree: Any, rng: random.Random) -> Any:
    """A tree with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            return scalar(rng)
        node, key = _shallow(places, rng) if rng.random() < 0.7 else rng.choice(places)
        value = node[key]
        match rng.randrange(13):
            case 0 | 1 | 2 | 3:
                node[key] = scalar(rng)
            case 4:
                del node[key]
            case 5 if len(places) < 4096:
                node[key] = rng.choice(
                    ([value], {"a": value}, str(value) if not isinstance(value, (dict, list)) else [value, value])
                )
            case 6:
                other, place = rng.choice(places)
                node[key] = copy.deepcopy(other[place])  # of the tree as it was: no cycle
            case 7 if isinstance(value, int) and not isinstance(value, bool):
                node[key] = rng.choice(
                    (-value, value + 1, value - 1, value * 2, value * 1000, value << 20, float(value), value + 0.5)
                )
            case 7 if isinstance(value, list) and value:
                node[key] = value * rng.choice((2, 8, 40, 300))
            case 8:
                node[key] = _nested(rng)
            case 9 if isinstance(node, dict):
                name = rng.choice(("", "\ud800", "\u001b[2J", "x" * 300, rng.choice(places)[1], f"{key}x"))
                node[name if isinstance(name, str) else str(name)] = node.pop(key)
            case 10 if isinstance(value, dict):
                pairs = Pairs(value.items())
                if pairs:
                    name, item = rng.choice(pairs)
                    pairs.insert(rng.randrange(len(pairs) + 1), (name, rng.choice((item, scalar(rng)))))
                    node[key] = Raw(dump(pairs))
            case 11 if isinstance(value, str):
                node[key] = rng.choice(
                    (value * 2, value * 100, value[:-1], value + "\ud800", value.upper(), value + "\0")
                )
            case 12 if isinstance(value, dict) and len(value) < 4096:
                for number in range(rng.choice((3, 900))):
                    value[f"{rng.choice(list(value) or ['a'])}{number}"] = copy.deepcopy(
                        rng.choice(list(value.values()) or [0])
                    )
            case _:
                node[key] = scalar(rng)
    return tree


@dataclass(frozen=True)
class Json:
    """A JSON document; ``more``: keys that it does not have and that readers know, with values to begin from."""

    tree: Any
    more: dict[str, Any] = field(default_factory=dict)

    def whole(self) -> bytes:
        return dump(self.tree).encode()

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.1:
            return damaged_bytes(self.whole(), rng)
        tree = self.tree
        if self.more and isinstance(tree, dict) and rng.random() < 0.6:
            names = rng.sample(list(self.more), min(len(self.more), rng.choice((1, 1, 2))))
            tree = tree | {name: self.more[name] if rng.random() < 0.5 else scalar(rng) for name in names}
        text = dump(damaged_tree(tree, rng))
        return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class JsonLines:
    """A JSON document a line."""

    trees: list[Any]

    def whole(self) -> bytes:
        return b"".join(dump(tree).encode() + b"\n" for tree in self.trees)

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return damaged_bytes(self.whole(), rng)
        place = rng.randrange(len(self.trees))
        damaged = [damaged_tree(tree, rng) if at == place else tree for at, tree in enumerate(self.trees)]
        return b"".join(dump(tree).encode("utf-8", "surrogatepass") + b"\n" for tree in damaged)


@dataclass(frozen=True)
class Text:
    """Lines of words: merges, ranks, YAML, a template."""

    text: str
    words: tuple[str, ...] = ()

    def whole(self) -> bytes:
        return self.text.encode()

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return damaged_bytes(self.whole(), rng)
        lines = self.text.split("\n")
        for _ in range(rng.choice((1, 2))):
            at = rng.randrange(len(lines))
            parts = lines[at].split(" ")
            place = rng.randrange(len(parts))
            match rng.randrange(6):
                case 0:
                    parts[place] = rng.choice((*self.words, "", "x", "\ud800", "\0", "1" * 400, "[" * 500, "nan", "-1"))
                case 1:
                    parts.insert(place, rng.choice((*self.words, "", "x", parts[place])))
                case 2:
                    del parts[place]
                case 3:
                    lines.insert(at, lines[rng.randrange(len(lines))])
                case 4:
                    parts = parts * rng.choice((2, 100))
                case _:
                    rng.shuffle(lines)
                    continue
            lines[at] = " ".join(parts)
        return "\n".join(lines).encode("utf-8", "surrogatepass")


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
            described[at] = (name, sizes, rng.choice((0, 1, 2, 8, 12, 16, 30, 255, 2**32 - 1)), offset)
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


Folder = dict[str, Content]
