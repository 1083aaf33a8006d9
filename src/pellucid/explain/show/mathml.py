"""The LaTeX that our equations are written in → MathML, which browsers set without help.

A small grammar: letters, numbers, operators, ``\\frac{}{}``, ``\\sqrt{}``, ``_`` and ``^``, primes, ``\\hat``,
``\\tilde``, ``\\text{}``, ``\\operatorname{}``, ``\\left( \\right)``, ``\\sum`` and ``\\max`` with limits below and
above, Greek letters, spaces.

By hand, because what is shown must be safe and an error in an equation must be one: latex2mathml (3.81), tried on all
of ours, sets them alike, but puts ``\\text{<b>}`` into the page as markup, lets ``\\unknown`` and ``\\frac{1}`` pass,
and refuses the square of x''.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?(?:e[+-]?\d+)?|'+|.", re.S)
_GREEK = {
    name: chr(code)
    for name, code in (
        ("alpha", 0x3B1), ("beta", 0x3B2), ("gamma", 0x3B3), ("epsilon", 0x3B5), ("eta", 0x3B7), ("theta", 0x3B8),
        ("mu", 0x3BC), ("pi", 0x3C0), ("rho", 0x3C1), ("sigma", 0x3C3), ("ell", 0x2113), ("infty", 0x221E),
        ("top", 0x22A4), ("Delta", 0x394),
    )
}  # fmt: skip
_OPERATORS = {
    "odot": "⊙", "cdot": "·", "times": "×", "le": "≤", "ge": "≥", "mapsto": "↦", "approx": "≈", "lfloor": "⌊",
    "rfloor": "⌋", "dots": "…", "pm": "±", "to": "→", "in": "∈",
}  # fmt: skip
_FUNCTIONS = {"sin", "cos", "exp", "ln", "log", "max", "tanh"}
_SPACES = {"quad": "1em", ";": "0.28em", ",": "0.17em", " ": "0.25em"}
_ACCENTS = {"hat": "^", "tilde": "~", "bar": "¯"}
_BIG = {"sum": "∑"}
_FENCES = "()[]⌊⌋|‖"


@lru_cache(4096)
def mathml(latex: str, display: str = "block") -> str:
    """A ``<math>`` element. Raises: ValueError for LaTeX outside the grammar."""
    rows = _Parser(_TOKEN.findall(latex)).rows(None)
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="{display}">{rows}</math>'


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def rows(self, stop: str | None) -> str:
        """Everything up to ``stop``."""
        parts: list[str] = []
        while self.at < len(self.tokens) and self.tokens[self.at] != stop:
            parts.append(self._scripted())
        if stop is not None:
            if self.at == len(self.tokens):
                raise ValueError(f"no closing {stop}")
            self.at += 1
        return f"<mrow>{''.join(parts)}</mrow>"

    def _scripted(self) -> str:
        """An atom with what stands below and above it."""
        start = self.tokens[self.at]
        base, below, above = self._atom(), "", ""
        while self.at < len(self.tokens) and (
            self.tokens[self.at] in ("_", "^") or self.tokens[self.at].startswith("'")
        ):
            mark = self.tokens[self.at]
            self.at += 1
            if mark == "_":
                below = self._atom()
            elif mark == "^":
                above += self._atom()
            else:
                above += f"<mo>{'′' * len(mark)}</mo>"
        above = f"<mrow>{above}</mrow>" if above else ""
        limits = start in ("\\sum", "\\max")
        if below and above:
            tag = "munderover" if limits else "msubsup"
            return f"<{tag}>{base}{below}{above}</{tag}>"
        if below:
            tag = "munder" if limits else "msub"
            return f"<{tag}>{base}{below}</{tag}>"
        if above:
            tag = "mover" if limits else "msup"
            return f"<{tag}>{base}{above}</{tag}>"
        return base

    def _atom(self) -> str:
        token = self._next()
        if token == "{":
            return self.rows("}")
        if token.startswith("\\"):
            return self._command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{escape(token)}</mi>"
        if token.isspace():
            return ""
        if token in "_^}":
            raise ValueError(f"{token} is out of place")
        stretchy = ' stretchy="false"' if token in _FENCES else ""
        return f"<mo{stretchy}>{escape('−' if token == '-' else token)}</mo>"

    def _command(self, name: str) -> str:
        if name in _GREEK:
            return f"<mi>{_GREEK[name]}</mi>"
        if name in _OPERATORS:
            return f'<mo stretchy="false">{_OPERATORS[name]}</mo>'
        if name in _FUNCTIONS:
            return f"<mi>{name}</mi>"
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}"/>'
        if name in _BIG:
            return f"<mo>{_BIG[name]}</mo>"
        if name == "frac":
            return f"<mfrac>{self._atom()}{self._atom()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self._atom()}</msqrt>"
        if name in _ACCENTS:
            return f'<mover accent="true">{self._scriptless()}<mo>{_ACCENTS[name]}</mo></mover>'
        if name in ("text", "operatorname", "mathrm"):
            return (
                f"<mtext>{escape(self._literal())}</mtext>" if name == "text" else f"<mi>{escape(self._literal())}</mi>"
            )
        if name == "left":
            return f"<mrow><mo>{escape(self._next())}</mo>{self._until_right()}</mrow>"
        raise ValueError(f"\\{name} is not in the grammar")

    def _scriptless(self) -> str:
        while not (atom := self._atom()):  # spaces
            pass
        return atom

    def _next(self) -> str:
        if self.at == len(self.tokens):
            raise ValueError("the formula ends too soon")
        self.at += 1
        return self.tokens[self.at - 1]

    def _until_right(self) -> str:
        inside = self.rows("\\right")
        return f"{inside}<mo>{escape(self._next())}</mo>"

    def _literal(self) -> str:
        if self._next() != "{":
            raise ValueError("expected {")
        start = self.at
        while self._next() != "}":
            pass
        return "".join(self.tokens[start : self.at - 1])
