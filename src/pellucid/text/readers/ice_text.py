"""ChatGLM-6B's ``ice_text.model``: a SentencePiece model with tokens for line ends, tabs, runs of spaces; behind each
text stands the prompt's end, ``[gMASK] <sop>``.

Source: THUDM/chatglm-6b, ``tokenization_chatglm.py``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.base.typed import is_whole, shown
from pellucid.text.pieces import Span
from pellucid.text.readers.sentencepiece_model import SentencePieceTokenizer, Template
from pellucid.text.readers.sentencepiece_proto import read_pieces, unused_pieces
from pellucid.text.tokenizer_files import read_bytes

MAX_FILE_BYTES = 64 * 2**20
MAX_IMAGE_TOKENS = 2**17
NAMES = {
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
_BLANK = re.compile(r"<\|blank_(\d+)\|>")
_SPACES = re.compile("[\n\t]| {2,80}")


def load_ice_text(path: Path, config: Mapping[str, Any]) -> IceTextTokenizer:
    """Raises: TokenizerError where it is no SentencePiece model, or lacks ChatGLM's tokens."""
    images = config.get("num_image_tokens", 0)
    if not is_whole(images) or not 0 <= images <= MAX_IMAGE_TOKENS:
        raise TokenizerError("num_image_tokens cannot be", where=path, received=shown(images))
    model = unused_pieces([f"<image_{place}>" for place in range(images)]) + read_bytes(path, MAX_FILE_BYTES)
    return IceTextTokenizer(model, {**NAMES, **config, "num_image_tokens": images}, path)


class IceTextTokenizer(SentencePieceTokenizer):
    """``num_image_tokens`` ids stand before the pieces, of which no text is made."""

    vocabulary_file = "ice_text.model"
    padding_side = "left"

    def __init__(self, model: bytes, config: Mapping[str, Any], where: object) -> None:
        super().__init__(model, config, where)
        self._end = tuple(self._id_of(str(config[name])) for name in ("gmask_token", "bos_token", "eos_token"))
        lacking = [token for token in ("<n>", "<|tab|>", "<|blank_2|>") if self._id_of(token) is None]
        if lacking or None in self._end:
            raise TokenizerError("tokens of ChatGLM-6B are missing", where=where, expected=", ".join(lacking) or NAMES)

    def _template(self, pair: bool) -> Template:
        gmask, sop, eop = self._end
        template: Any = ("text", gmask, sop, *(("pair", eop) if pair else ()))
        return template

    def _add_ends(self, bos: bool, eos: bool) -> None:
        raise TokenizerError(
            "ChatGLM's prompt ends in its own way", where=self.where, remedy="add_special_tokens=False"
        )

    def _ids(self, text: str, from_template: bool = False) -> list[int]:
        ids: list[int] = []
        for start, end, settled in self._segments(text, from_template):
            if settled is None:
                ids += self._processor_at(start).encode(_SPACES.sub(_written, text[start:end]))
            else:
                ids += settled
        return ids

    def _spans(self, text: str, from_template: bool = False) -> list[Span]:
        spans: list[Span] = []
        at = 0
        for start, end, settled in self._segments(text, from_template):
            part = text[start:end]
            size = len(part.encode("utf-8"))
            if settled is not None:
                spans += [(token_id, at, at + size) for token_id in settled]
            else:
                places = _Places(part)
                proto = self._processor_at(start).encode(places.written, out_type="serialized_proto")
                pieces = self._spread_bytes(read_pieces(proto))
                spans += [(piece, at + places.before(first), at + places.after(last)) for piece, first, last in pieces]
            at += size
        return spans

    @cached_property
    def _texts(self) -> list[str | int | None]:
        texts = super()._texts
        for place, text in enumerate(texts):
            if isinstance(text, str) and text.startswith("<"):
                blank = _BLANK.fullmatch(text)
                length = min(int(blank.group(1)), 80) if blank else 0
                texts[place] = {"<n>": "\n", "<|tab|>": "\t"}.get(text, " " * length or text)
        return texts

    def _save_vocabulary(self, folder: Path) -> list[Path]:
        images = len(unused_pieces([f"<image_{place}>" for place in range(self.config["num_image_tokens"])]))
        model, self._model = self._model, self._model[images:]
        try:
            return super()._save_vocabulary(folder)
        finally:
            self._model = model

    def saved_config(self) -> dict[str, Any]:
        return {**super().saved_config(), "tokenizer_class": "ChatGLMTokenizer"}


def _written(spaces: re.Match[str]) -> str:
    found = spaces.group()
    return {"\n": "<n>", "\t": "<|tab|>"}.get(found) or f"<|blank_{len(found)}|>"


class _Places:
    """A text as it is written for the model, and where each of its bytes stands in the original's."""

    def __init__(self, text: str) -> None:
        parts: list[str] = []
        self._written, self._original = [0], [0]  # the byte at which each stretch begins, in either
        self._replaced = [False]
        done = written = original = 0
        for spaces in _SPACES.finditer(text):
            for part, source, replaced in (
                (text[done : spaces.start()], text[done : spaces.start()], False),
                (_written(spaces), spaces.group(), True),
            ):
                self._mark(written, original, replaced)
                parts.append(part)
                written += len(part.encode("utf-8"))
                original += len(source.encode("utf-8"))
            done = spaces.end()
        self._mark(written, original, False)
        parts.append(text[done:])
        self.written = "".join(parts)

    def _mark(self, written: int, original: int, replaced: bool) -> None:
        self._written.append(written)
        self._original.append(original)
        self._replaced.append(replaced)

    def before(self, byte: int) -> int:
        place = bisect_right(self._written, byte) - 1
        return self._original[place] + (0 if self._replaced[place] else byte - self._written[place])

    def after(self, byte: int) -> int:
        place = bisect_right(self._written, byte) - 1
        if self._replaced[place] and byte > self._written[place]:
            return self._original[place + 1]
        return self.before(byte)
