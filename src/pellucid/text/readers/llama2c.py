"""llama2.c's ``tok*.bin``: a SentencePiece vocabulary with scores, written flat.

File, little-endian: int32 longest token in bytes, then for each token float32 score, int32 length, bytes. How many
tokens there are is the model's business (``vocab_size``); ``▁`` is written as a space.

Source: karpathy/llama2.c, ``tokenizer.py`` (writer) and ``run.c`` (``build_tokenizer``, ``encode``, ``decode``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.readers.byte_tokens import TOKEN_OF_BYTE
from pellucid.text.readers.sentencepiece_model import SPACE, PieceStream, Segment, SentencePieceTokenizer
from pellucid.text.readers.sentencepiece_proto import BYTE, CONTROL, NORMAL, UNKNOWN, build_model
from pellucid.text.stream import TextStream

UNK, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3
_MAX_FILE_BYTES = 64 * 2**20


def load_llama2c(path: Path, vocab_size: int | None = None) -> Llama2cTokenizer:
    """Read a ``tok*.bin``; ``vocab_size`` is the model's, to be checked against the file.

    Raises: TokenizerError where the file is truncated, or its numbers contradict its size.
    """
    return Llama2cTokenizer(_to_model(read_tokens(path, vocab_size), path), {"llama2c": True}, path)


def read_tokens(path: Path, vocab_size: int | None) -> list[tuple[bytes, float]]:
    """The file's pieces and their scores. Raises: TokenizerError, as ``load_llama2c``."""
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise TokenizerError(
            "too large for a llama2.c tokenizer", where=path, expected=f"at most {_MAX_FILE_BYTES} bytes", received=size
        )
    data = path.read_bytes()

    def broken(what: str, expected: object = None, received: object = None) -> TokenizerError:
        return TokenizerError(
            what,
            where=path,
            expected=expected,
            received=received,
            remedy="the file is truncated, or not a tokenizer of llama2.c",
        )

    if len(data) < 4:
        raise broken("the header is missing", "4 bytes", len(data))
    (longest,) = struct.unpack_from("<i", data)
    if not 0 < longest <= len(data):
        raise broken("the header's longest token cannot be", f"1 to {len(data)} bytes", longest)
    tokens: list[tuple[bytes, float]] = []
    at = 4
    while at < len(data):
        if at + 8 > len(data):
            raise broken(f"token {len(tokens)} is cut off", "8 bytes of score and length", len(data) - at)
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 < length <= min(longest, len(data) - at):
            raise broken(
                f"token {len(tokens)} has an impossible length", f"1 to {min(longest, len(data) - at)} bytes", length
            )
        if score != score:
            raise broken(f"token {len(tokens)} has no number for a score")
        tokens.append((data[at : at + length], score))
        at += length
    if vocab_size is not None and len(tokens) != vocab_size:
        raise TokenizerError(
            "the tokenizer is another model's", where=path, expected=f"{vocab_size} tokens", received=len(tokens)
        )
    return tokens


def _to_model(tokens: list[tuple[bytes, float]], path: Path) -> bytes:
    pieces: list[tuple[str, float, int]] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    for place, (data, score) in enumerate(tokens[FIRST_BYTE:], FIRST_BYTE):
        try:
            text = data.decode("utf-8").replace(" ", SPACE)
        except UnicodeDecodeError:
            raise TokenizerError(f"token {place} is not UTF-8", where=path, received=repr(data)) from None
        byte = place - FIRST_BYTE
        if byte < 256 and text != TOKEN_OF_BYTE[byte]:
            raise TokenizerError(
                f"token {place} must stand for a byte", where=path, expected=TOKEN_OF_BYTE[byte], received=repr(text)
            )
        pieces.append((text, score, BYTE if byte < 256 else NORMAL))
    if len(pieces) < FIRST_BYTE + 256 or all(piece != SPACE for piece, _, _ in pieces):
        raise TokenizerError(
            "the vocabulary lacks the 256 byte tokens, or the space", where=path, received=f"{len(tokens)} tokens"
        )
    return build_model(
        pieces, unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>", byte_fallback=True, add_dummy_prefix=True
    )


class Llama2cTokenizer(SentencePieceTokenizer):
    """As run.c: special tokens in a text are text, and decoding drops a leading space only right after BOS."""

    padding_side = "left"
    strips_at_start = False
    _only_in_templates = frozenset({"<unk>", "<s>", "</s>"})

    def __init__(self, model: bytes, config: Mapping[str, Any], where: object) -> None:
        super().__init__(model, {"legacy": False, **config}, where)

    def _segments(self, text: str, from_template: bool) -> Iterator[Segment]:
        """SentencePiece takes a ``▁`` in the text for a space; run.c spells it in bytes."""
        for start, end, settled in super()._segments(text, from_template):
            if settled is not None or SPACE not in text[start:end]:
                yield start, end, settled
                continue
            if text.startswith(SPACE):
                yield 0, 0, (self._processor.piece_to_id(SPACE),)
            at = start
            for part in text[start:end].split(SPACE):
                if at > start:
                    yield at - 1, at, tuple(FIRST_BYTE + byte for byte in SPACE.encode("utf-8"))
                if part:
                    yield at, at + len(part), None
                at += len(part) + 1

    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        return _StreamAfterBos(self._texts, self.special_ids, skip_special_tokens, strip_now=False)


class _StreamAfterBos(PieceStream):
    def push(self, token_id: int) -> str:
        text = super().push(token_id)
        if token_id == BOS:
            self._strip = True
        return text
