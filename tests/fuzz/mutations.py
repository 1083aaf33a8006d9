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


Folder = dict[str, Content]
