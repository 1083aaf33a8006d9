"""``State``: what a mixer keeps of the tokens that it has seen, and how far it can go back."""

from __future__ import annotations

from typing import Any, Protocol


class State(Protocol):
    """One layer's, of one sequence or one batch. How it is added to is between its kind of mixer and itself.

    Whoever wants to go back asks first: ``rollback`` says what may be planned for (wrong guesses), ``reaches`` what can
    be done now. A state that is interrupted in the middle of a change reaches nothing until it is cleared.
    """

    @property
    def rollback(self) -> int | None:
        """Tokens that can be taken back at any time; None: as many as there are."""
        ...

    @property
    def reason(self) -> str:
        """Why it cannot go back further than that."""
        ...

    @property
    def length(self) -> int:
        """Tokens seen."""
        ...

    def reaches(self, length: int) -> bool:
        """Whether it can become what it was after its first ``length`` tokens."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens, a length that it reaches."""
        ...

    def clear(self) -> None:
        """Forget all: as new."""
        ...

    def copy_from(self, other: Any, length: int) -> None:
        """Take over the first ``length`` tokens, which it reaches, of a state of the same kind; this one is new."""
        ...


class Stateless:
    """Of a layer without a mixer: nothing is kept, so any length is as good as another."""

    rollback = None
    reason = ""
    length = 0

    def reaches(self, length: int) -> bool:
        return True

    def truncate(self, length: int) -> None:
        pass

    def clear(self) -> None:
        pass

    def copy_from(self, other: Any, length: int) -> None:
        pass
