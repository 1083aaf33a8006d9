"""The decoders of tokenizer.json as streams: tokens in, one at a time, certain text out.

Each stage maps tokens to tokens as its namesake in the ``tokenizers`` library does, but with a bounded memory, and a
chain of stages gives the same text as the library's decoder gives for the whole list. A chain that cannot be streamed
holds everything back until the end: late, but never different.

Source: huggingface/tokenizers, ``src/decoders/`` and ``decoder`` implementations in ``src/pre_tokenizers/``.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pellucid.base.errors import UnsupportedError
from pellucid.text.readers.byte_level import to_bytes
from pellucid.text.readers.byte_tokens import byte_of_token


class Stage(Protocol):
    """One decoder of a chain."""

    def push(self, token: str) -> list[str]: ...

    def flush(self) -> list[str]: ...


class ByteLevel:
    """Bytes of all tokens joined, then UTF-8; what is malformed becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> list[str]:
        return [self._decoder.decode(to_bytes(token))]

    def flush(self) -> list[str]:
        return [self._decoder.decode(b"", final=True)]


class ByteFallback:
    """Runs of ``<0xE4>``-like tokens as UTF-8; a run that is malformed anywhere becomes one U+FFFD a byte.

    So a run is certain only at its end.
    """

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, token: str) -> list[str]:
        byte = byte_of_token(token)
        if byte is not None:
            self._run.append(byte)
            return []
        return [*self.flush(), token]

    def pause(self) -> list[str]:
        """The run so far, if it is whole characters: a token without text may end it."""
        try:
            text = self._run.decode("utf-8")
        except UnicodeDecodeError:
            return []
        self._run.clear()
        return [text] if text else []

    def flush(self) -> list[str]:
        run, self._run = bytes(self._run), bytearray()
        if not run:
            return []
        try:
            return [run.decode("utf-8")]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class EachToken:
    """A function of one token, with or without its index."""

    def __init__(self, function: Callable[[int, str], str]) -> None:
        self._function, self._index = function, 0

    def push(self, token: str) -> list[str]:
        self._index += 1
        return [self._function(self._index - 1, token)]

    def spell(self, token: str) -> str:
        """What becomes of a token that is not the first."""
        return self._function(1, token)

    def flush(self) -> list[str]:
        return []


class StripFused:
    """Removes up to ``start`` leading characters ``content`` of the whole text."""

    def __init__(self, content: str, start: int) -> None:
        self._content, self._left = content, start

    def push(self, token: str) -> list[str]:
        while self._left and token:
            if token[0] != self._content:
                self._left = 0
            else:
                token, self._left = token[1:], self._left - 1
        return [token]

    def spell(self, token: str) -> str:
        return token

    def flush(self) -> list[str]:
        return []


class HoldLast:
    """BPE with an end-of-word suffix: it becomes a space, but nothing in the last token."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._last: str | None = None

    def spell(self, token: str) -> str:
        """What becomes of a token that is not the last."""
        return token.replace(self._suffix, " ")

    def push(self, token: str) -> list[str]:
        ready = [] if self._last is None else [self._last.replace(self._suffix, " ")]
        self._last = token
        return ready

    def flush(self) -> list[str]:
        return [] if self._last is None else [self._last.replace(self._suffix, "")]


class HoldAll:
    """For decoders that cannot be streamed: the library decodes everything at the end."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._tokens: list[str] = []

    def push(self, token: str) -> list[str]:
        self._tokens.append(token)
        return []

    def flush(self) -> list[str]:
        return [self._decode(self._tokens)]


def stages(spec: Mapping[str, Any] | None, decode: Callable[[list[str]], str]) -> list[Stage]:
    """The chain for tokenizer.json's ``decoder``; ``decode`` is the library's own, for what cannot be streamed."""
    if spec is None:
        return [EachToken(lambda index, token: token if index == 0 else " " + token)]
    parts = spec.get("decoders", []) if spec.get("type") == "Sequence" else [spec]
    chain: list[Stage] = []
    fused = False  # all before has been joined to one token, so a stage sees the beginning and end of the text only
    for part in parts:
        kind = part.get("type")
        if kind == "Fuse":
            fused = True
            continue
        stage = _fused_stage(kind, part) if fused else _stage(kind, part)
        if stage is None:
            return [HoldAll(decode)]
        chain.append(stage)
        fused = fused or kind == "ByteLevel"
    return chain


def bytes_of_token(spec: Mapping[str, Any] | None, where: object) -> Callable[[str], bytes]:
    """What one token adds to a text that has begun, by tokenizer.json's ``decoder``: perhaps part of a character.

    Raises: UnsupportedError for a chain that says it only of a whole text.
    """
    chain = stages(spec, lambda tokens: "".join(tokens))
    if any(isinstance(stage, HoldAll) for stage in chain):
        raise UnsupportedError(
            "this tokenizer's decoder gives no token bytes of its own", where=where, received=(spec or {}).get("type")
        )

    def spell(token: str) -> bytes:
        for stage in chain:
            if isinstance(stage, ByteLevel):
                return to_bytes(token)
            if isinstance(stage, ByteFallback):
                byte = byte_of_token(token)
                if byte is not None:
                    return bytes([byte])
            elif isinstance(stage, EachToken | StripFused | HoldLast):
                token = stage.spell(token)
        return token.encode("utf-8")

    return spell


def _fused_stage(kind: str | None, part: Mapping[str, Any]) -> Stage | None:
    if kind == "Strip" and part["stop"] == 0:
        return StripFused(part["content"], part["start"])
    return None


def _stage(kind: str | None, part: Mapping[str, Any]) -> Stage | None:
    if kind == "ByteLevel":
        return ByteLevel()
    if kind == "ByteFallback":
        return ByteFallback()
    if kind == "Replace" and "String" in part["pattern"]:
        old, new = part["pattern"]["String"], part["content"]
        return EachToken(lambda _, token: token.replace(old, new))
    if kind == "Strip":
        return EachToken(lambda _, token: _strip(token, part["content"], part["start"], part["stop"]))
    if kind == "Metaspace":
        first = " " if part.get("prepend_scheme", "always") == "never" else ""
        return EachToken(lambda index, token: token.replace(part["replacement"], " " if index else first))
    if kind == "WordPiece":
        return EachToken(lambda index, token: _word_piece(index, token, part["prefix"], part["cleanup"]))
    if kind == "BPEDecoder":
        return HoldLast(part["suffix"])
    return None


def _strip(token: str, content: str, start: int, stop: int) -> str:
    for _ in range(start):
        token = token.removeprefix(content)
    for _ in range(stop):
        token = token.removesuffix(content)
    return token


def _word_piece(index: int, token: str, prefix: str, cleanup: bool) -> str:
    if index:
        token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
    if cleanup:
        for old, new in WORD_PIECE_CLEANUP:
            token = token.replace(old, new)
    return token


WORD_PIECE_CLEANUP: Sequence[tuple[str, str]] = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class StagedStream:
    """A ``TextStream`` over a chain of stages; ``token_of`` gives a token's string, or None for one without text."""

    def __init__(self, token_of: Callable[[int], str | None], chain: Sequence[Stage]) -> None:
        self._token_of, self._chain = token_of, chain

    def push(self, token_id: int) -> str:
        token = self._token_of(token_id)
        return "" if token is None else self._run([token], 0)

    def pause(self) -> str:
        waiting = ((stage.pause(), place) for place, stage in enumerate(self._chain) if isinstance(stage, ByteFallback))
        return "".join([self._run(tokens, place + 1) for tokens, place in waiting])

    def flush(self) -> str:
        return "".join([self._run(stage.flush(), place + 1) for place, stage in enumerate(self._chain)])

    def _run(self, tokens: list[str], place: int) -> str:
        for stage in self._chain[place:]:
            tokens = [part for token in tokens for part in stage.push(token)]
        return "".join(tokens)
