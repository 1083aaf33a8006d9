"""RWKV's vocabulary: byte strings, of which a text is cut into the longest that fits, from its beginning on.

Source: BlinkDL/RWKV-LM, ``rwkv_vocab_v20230424.txt``; llama.cpp, ``src/llama-vocab.cpp`` (how GGUF writes bytes).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.added_tokens import AddedToken, AddedTokenSplitter
from pellucid.text.encoding import Encoded
from pellucid.text.pieces import Span, char_ranges
from pellucid.text.readers.gguf_keys import WHERE, Keys
from pellucid.text.stream import TextStream
from pellucid.text.tokenizer import Tokenizer

_ESCAPED = {"t": b"\t", "n": b"\n", "r": b"\r"}


def rwkv_tokenizer(keys: Keys) -> RwkvTokenizer:
    """Raises: TokenizerError where two tokens are the same bytes, or a byte has no token."""
    return RwkvTokenizer([unescaped(token) for token in keys.tokens], keys.types, keys.config({}, add_bos=False))


def unescaped(token: str) -> bytes:
    """``"\\\\n\\\\xe4a"`` → ``b"\\n\\xe4a"``."""
    out, parts = bytearray(), iter(token)
    for char in parts:
        if char != "\\":
            out += char.encode("utf-8")
            continue
        kind = next(parts, "")
        if kind != "x":
            out += _ESCAPED.get(kind, kind.encode("utf-8"))
            continue
        try:
            out.append(int(next(parts, "") + next(parts, ""), 16))
        except ValueError:
            raise TokenizerError("a byte is not written in two digits", where=WHERE, received=repr(token)) from None
    return bytes(out)


class RwkvTokenizer(Tokenizer):
    """``tokens``: the bytes of each id. Added tokens are cut out of texts first."""

    vocabulary_file = "tokenizer.gguf"

    def __init__(self, tokens: Sequence[bytes], types: Sequence[int], config: Mapping[str, Any]) -> None:
        super().__init__(config, WHERE)
        self._tokens = list(tokens)
        self._added = dict(config.get("added_tokens_decoder") or {})
        self._ids: dict[bytes, int] = {}
        for place, token in enumerate(self._tokens):
            if place not in self._added and self._ids.setdefault(token, place) != place:
                raise TokenizerError(
                    "two tokens are the same bytes", where=WHERE, received=f"{self._ids[token]}, {place}"
                )
        lacking = next((byte for byte in range(256) if bytes([byte]) not in self._ids), None)
        if lacking is not None:
            raise TokenizerError(f"no token for the byte {lacking}", where=WHERE, expected="all 256")
        self._lengths: dict[bytes, list[int]] = {}
        for token in self._ids:
            self._lengths.setdefault(token[:2], []).append(len(token))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        self._read_special_tokens(config, WHERE)

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def get_vocab(self) -> dict[str, int]:
        """Bytes that are no text by themselves are written as Python would (``\\xe4``), so that no two are the same."""
        return {self._token_of(place) or "": place for place in range(len(self._tokens))}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(self._added)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 0

    def _add_tokens(self, tokens: list[AddedToken]) -> int:
        if any(self._id_of(token.content) is None for token in tokens):
            raise TokenizerError("RWKV's vocabulary takes no further tokens", where=self.where)
        return 0

    def _add_ends(self, bos: bool, eos: bool) -> None:
        if bos or eos:
            raise TokenizerError("RWKV's texts have no beginning or end of their own", where=self.where)

    def _special_tokens_changed(self) -> None:
        for name in ("_splitter", "special_ids"):
            vars(self).pop(name, None)

    def _token_of(self, token_id: int) -> str | None:
        if token_id in self._added:
            return self._added[token_id].content
        if token_id >= len(self._tokens):
            return None
        return self._tokens[token_id].decode("utf-8", "backslashreplace")

    def _id_of(self, token: str) -> int | None:
        place = next((place for place, added in self._added.items() if added.content == token), None)
        return self._ids.get(token.encode("utf-8")) if place is None else place

    # --- text to ids -------------------------------------------------------------------------------------------------

    @cached_property
    def _splitter(self) -> AddedTokenSplitter:
        return AddedTokenSplitter(
            token for token in self._added.values() if not (token.special and self.split_special_tokens)
        )

    def _spans(self, text: str) -> list[Span]:
        return list(self._spans_of(text, self._splitter))

    def _spans_of(self, text: str, splitter: AddedTokenSplitter) -> Iterator[Span]:
        at = 0
        for start, end, content in splitter.split(text):
            data = text[start:end].encode("utf-8")
            if content is not None:
                token_id = self._id_of(content)
                assert token_id is not None
                yield token_id, at, at + len(data)
            else:
                yield from ((token_id, at + first, at + last) for token_id, first, last in self._longest(data))
            at += len(data)

    def _longest(self, data: bytes) -> Iterator[Span]:
        ids, lengths, at = self._ids, self._lengths, 0
        while at < len(data):
            for length in lengths.get(data[at : at + 2], ()):
                token_id = ids.get(data[at : at + length])
                if token_id is not None and at + length <= len(data):
                    break
            else:
                token_id, length = ids[data[at : at + 1]], 1
            yield token_id, at, at + length
            at += length

    def encode_texts(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        add_special_tokens: bool,
        details: bool,
        from_template: bool = False,
    ) -> list[Encoded]:
        splitter = AddedTokenSplitter(self._added.values()) if from_template else self._splitter
        encoded = []
        for parts in zip(texts, *([pairs] if pairs is not None else []), strict=True):
            ids: list[int] = []
            offsets: list[tuple[int, int]] = []
            sequence: list[int | None] = []
            for place, text in enumerate(parts):
                spans = list(self._spans_of(text, splitter))
                ids += [span[0] for span in spans]
                if details:
                    offsets += char_ranges(text, spans)
                    sequence += [place] * len(spans)
            encoded.append(Encoded(ids, offsets, sequence) if details else Encoded(ids))
        return encoded

    # --- ids to text -------------------------------------------------------------------------------------------------

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(place for place, token in self._added.items() if token.special)

    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        return _BytesStream(self._bytes_of, self.special_ids if skip_special_tokens else frozenset())

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].content.encode("utf-8")
        return self._tokens[token_id] if token_id < len(self._tokens) else b""

    def token_bytes(self) -> list[bytes]:
        return [self._bytes_of(token_id) for token_id in range(len(self))]

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        stream = self.text_stream(skip_special_tokens)
        return "".join([stream.push(i) for i in ids]) + stream.flush()

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        data = b"".join(
            token.encode("utf-8") if place is None else self._bytes_of(place)
            for token, place in ((token, self._id_of(token)) for token in tokens)
        )
        return data.decode("utf-8", "replace")

    def _save_vocabulary(self, folder: Path) -> list[Path]:
        raise TokenizerError(
            "no file of a folder holds RWKV's vocabulary", where=self.where, remedy="keep the GGUF file: it has it"
        )


class _BytesStream:
    def __init__(self, bytes_of: Callable[[int], bytes], skipped: frozenset[int]) -> None:
        self._bytes_of, self._skipped = bytes_of, skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return "" if token_id in self._skipped else self._decoder.decode(self._bytes_of(token_id))

    def pause(self) -> str:
        return ""  # a whole character never waits

    def flush(self) -> str:
        return self._decoder.decode(b"", True)
