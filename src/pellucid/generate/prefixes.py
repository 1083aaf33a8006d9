"""``Prefixes``: which of many token sequences begin as a given one does, without looking at all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 16  # tokens of a step down the tree


class _Node:
    __slots__ = ("below", "numbers")

    def __init__(self) -> None:
        self.below: dict[bytes, _Node] = {}
        self.numbers: dict[int, None] = {}  # of the sequences that come by, the last one added last


class Prefixes:
    """A tree of blocks of tokens; each sequence, known by a number, is on every node from the root to its last whole
    block. To look for a prompt costs a dictionary's look-up a block, however many sequences there are.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._paths: dict[int, list[bytes]] = {}

    def add(self, number: int, token_ids: Sequence[int] | np.ndarray) -> None:
        """A sequence, or what has become of it."""
        self.remove(number)
        path = self._paths[number] = _blocks(token_ids)
        node = self._root
        node.numbers[number] = None
        for block in path:
            node = node.below.setdefault(block, _Node())
            node.numbers[number] = None

    def remove(self, number: int) -> None:
        """Forget a sequence, if it is there."""
        if number not in self._paths:
            return
        nodes = [self._root]
        for block in self._paths[number]:
            if block not in nodes[-1].below:  # an ``add`` that was interrupted
                break
            nodes.append(nodes[-1].below[block])
        for node in nodes:
            node.numbers.pop(number, None)
        for above, block in zip(nodes, self._paths[number], strict=False):
            if block in above.below and not above.below[block].numbers:
                del above.below[block]
                break
        del self._paths[number]

    def near(self, token_ids: Sequence[int] | np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """(agreed, numbers): sequences that agree in ``agreed`` tokens or up to ``BLOCK`` − 1 more, those that agree in
        most first, and of these the latest.
        """
        nodes = [self._root]
        for block in _blocks(token_ids):
            if block not in nodes[-1].below:
                break
            nodes.append(nodes[-1].below[block])
        deeper: dict[int, None] = {}
        for depth in range(len(nodes) - 1, -1, -1):
            if numbers := [number for number in reversed(nodes[depth].numbers) if number not in deeper]:
                yield depth * BLOCK, numbers
            deeper = nodes[depth].numbers


def _blocks(token_ids: Sequence[int] | np.ndarray) -> list[bytes]:
    ids = np.ascontiguousarray(token_ids, np.int32)
    return [ids[start : start + BLOCK].tobytes() for start in range(0, len(ids) - BLOCK + 1, BLOCK)]


def agreement(ids: np.ndarray, others: np.ndarray) -> int:
    """Tokens in which two sequences agree, from the first."""
    most = min(len(ids), len(others))
    different = np.flatnonzero(ids[:most] != others[:most])
    return int(different[0]) if len(different) else most
