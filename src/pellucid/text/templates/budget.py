"""The budget of one rendering: steps, characters, processor time.

A chat template is a program written by strangers, and the sandbox keeps it from the machine's secrets but not from the
machine's time and memory. Python cannot interrupt an operation that runs in C (``'a' * 10**10``, the comparison of two
lists that share their parts sixty levels deep), so the size of every operation is computed, and paid for, *before* it
runs. No single operation is then long, and the clock needs looking at only between operations.

One step pays for about one node of the template evaluated, one element stored, or 32 characters written; the number of
steps therefore bounds the memory too.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jinja2.utils import Namespace

CHARACTERS_PER_STEP = 32
MAX_DEPTH = 100  # nesting of values; also keeps clear of C code that recurses without a check (the hash of a tuple)
CHECK_EVERY = 256  # steps between looks at the clock

# A fixed allowance, and one in proportion to the conversation. A step for each character is 32 passes over the text.
BASE_STEPS, STEPS_PER_NODE, STEPS_PER_CHARACTER = 500_000, 64, 1
BASE_TEXT, TEXT_PER_CHARACTER = 4 * 2**20, 8
SECONDS = 1.5

VIEWS = (type({}.keys()), type({}.values()), type({}.items()))


class BudgetExceeded(Exception):
    """The template asked for more than it may have; the message says of what."""


class Weight(NamedTuple):
    """The size of a value written out as a tree."""

    nodes: int
    characters: int
    depth: int


class Lazy:
    """What ``map``, ``select`` and the like return: as the generator of stock Jinja it is true, has no length, and can
    be run through once. It is computed at once, since chained generators can be nested deeper than C can take apart.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = list(items)
        self._iterator = iter(self.items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)


class Budget:
    """Steps, characters in one text, and seconds of this thread's processor time that one rendering may use."""

    def __init__(self, steps: int = BASE_STEPS, max_text: int = BASE_TEXT, seconds: float = SECONDS) -> None:
        self.steps, self.max_text, self.seconds = steps, max_text, seconds
        self._deadline = time.thread_time() + seconds
        self._next_check = max(steps - CHECK_EVERY, 0)

    @classmethod
    def for_input(cls, variables: Any) -> Budget:
        """The budget of a rendering of ``variables``. Raises: BudgetExceeded where they are nested too deeply."""
        weight = cls(sys.maxsize, sys.maxsize, math.inf).weigh(variables)
        steps = BASE_STEPS + STEPS_PER_NODE * weight.nodes + STEPS_PER_CHARACTER * weight.characters
        return cls(steps, BASE_TEXT + TEXT_PER_CHARACTER * weight.characters)

    def charge(self, steps: int = 1) -> None:
        """Pay for ``steps`` to come. Raises: BudgetExceeded, and again at every later charge."""
        self.steps -= steps
        if self.steps < self._next_check:
            if self.steps < 0:
                raise BudgetExceeded("the template takes too many steps or too much memory")
            if time.thread_time() > self._deadline:
                raise BudgetExceeded(f"the template takes longer than {self.seconds:g} seconds")
            self._next_check = max(self.steps - CHECK_EVERY, 0)

    def charge_text(self, length: int, copies: int = 1) -> None:
        """Pay for ``copies`` passes over a text of ``length`` characters about to be written or searched."""
        if length > self.max_text:
            raise BudgetExceeded(f"the template writes a text of {length} characters, more than {self.max_text}")
        self.charge(1 + length * copies // CHARACTERS_PER_STEP)

    def weigh(self, value: Any, times: int = 1) -> Weight:
        """Pay ``times`` over for walking through ``value``, through shared parts as often as they occur.

        Comes before whatever walks through values in C: comparison, hashing, sorting, writing as text or JSON.
        """
        if isinstance(value, str):
            self.charge_text(len(value), times)
            return Weight(1, len(value), 0)
        if not isinstance(value, CONTAINERS):
            self.charge(
                len(value) // CHARACTERS_PER_STEP if isinstance(value, range) else 0
            )  # what looks for 1.5 in a range counts it through
            return Weight(1, 0, 0)
        nodes, characters, depth = 1, 0, 1
        parts = [_parts(value)]  # a stack of iterators: the nesting so far
        while parts:
            for part in parts[-1]:
                nodes += 1
                self.charge(times)
                if isinstance(part, str):
                    characters += len(part)
                    self.charge_text(len(part), times)
                elif isinstance(part, CONTAINERS):
                    parts.append(_parts(part))
                    depth = max(depth, len(parts))
                    if depth > MAX_DEPTH:
                        raise BudgetExceeded(f"a value is nested more than {MAX_DEPTH} levels deep")
                    break
            else:
                parts.pop()
        return Weight(nodes, characters, depth)

    def each(self, iterable: Any) -> Metered:
        """``iterable`` with every element paid for."""
        return Metered(self, iterable)


class Metered:
    """An iterable whose every element costs a step; its length is that of what it wraps, where that has one."""

    def __init__(self, budget: Budget, iterable: Any) -> None:
        self.budget, self.iterable = budget, iterable

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            self.budget.charge()
            yield item

    def __len__(self) -> int:
        return len(self.iterable)

    def __bool__(self) -> bool:
        return bool(self.iterable)


def budget_of(owner: Any) -> Budget:
    """The budget that a template's context, or its environment, carries."""
    return getattr(owner, "environment", owner).budget


CONTAINERS = (dict, list, tuple, *VIEWS, Lazy, Namespace)


def _parts(value: Any) -> Iterator[Any]:
    """The values directly inside a container."""
    if isinstance(value, dict):
        return (part for pair in value.items() for part in pair)
    if isinstance(value, Lazy):
        return iter(value.items)
    if isinstance(value, Namespace):
        return iter(value._Namespace__attrs.values())  # pyright: ignore  # its one name
    return iter(value)
