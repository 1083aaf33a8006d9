"""SentencePiece vocabularies (``tokenizer.model``), with Llama's habits: BOS first, byte fallback, a leading space."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pellucid.base.errors import TokenizerError
from pellucid.base.files import atomic_write
from pellucid.text.added_tokens import AddedToken, AddedTokenSplitter
from pellucid.text.encoding import Encoded
from pellucid.text.pieces import Span, char_ranges
from pellucid.text.readers.byte_tokens import byte_of_token
from pellucid.text.readers.sentencepiece_proto import normalizer_spec, read_pieces
from pellucid.text.stream import TextStream
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import sentencepiece

SPACE = "▁"
MAX_GAP = 2**20  # ids beyond the pieces; models have some thousands there, padding included

# A stretch of text in characters, [start, end), with its ids where they are settled: those of an added token.
Segment = tuple[int, int, tuple[int, ...] | None]
# A template of special tokens: ids, and where the text and its pair go.
Template = tuple[int | Literal["text", "pair"], ...]


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with added tokens around it.

    ``legacy`` (Llama's default): each stretch of text between special tokens gets the model's leading space; otherwise
    only the text's beginning does.
    """

    vocabulary_file = "tokenizer.model"
    strips_at_start = True  # decoding drops the first piece's leading space, which encoding put there
    _only_in_templates: frozenset[str] = (
        frozenset()
    )  # special tokens that a user's text cannot write, only a chat template

    def __init__(self, model: bytes, config: Mapping[str, Any], where: object) -> None:
        super().__init__(config, where)
        self._model = model
        self._processor = _load(model, where)
        self._size: int = self._processor.get_piece_size()
        self._added: dict[str, int] = {}
        self._added_tokens: dict[int, AddedToken] = {}
        self._legacy = bool(config.get("legacy", True))
        self._adds_prefix = _adds_prefix(self._processor)
        if config.get("add_prefix_space") is not None:
            self.add_prefix_space = bool(config["add_prefix_space"])
        defaults = {
            name: self._piece(getattr(self._processor, f"{name[:3]}_id")())
            for name in ("bos_token", "eos_token", "unk_token")
        }
        wanted = self._read_special_tokens({**defaults, **config}, where)
        self._place_model_tokens()
        for token_id, token in sorted((config.get("added_tokens_decoder") or {}).items()):
            self._place(token, token_id)
        self._add_tokens(wanted)
        self._adds_bos = bool(config.get("add_bos_token", True)) and self.bos_token_id is not None
        self._adds_eos = bool(config.get("add_eos_token", False)) and self.eos_token_id is not None

    # --- vocabulary --------------------------------------------------------------------------------------------------

    def _piece(self, token_id: int) -> str | None:
        return self._processor.id_to_piece(token_id) if 0 <= token_id < self._size else None

    @property
    def vocab_size(self) -> int:
        return self._size

    @property
    def serialized(self) -> bytes:
        """The model as ``tokenizer.model`` holds it, and after it what the config changes."""
        changed = _adds_prefix(_load(self._model, self.where)) != self._adds_prefix
        return self._model + (normalizer_spec(add_dummy_prefix=self._adds_prefix) if changed else b"")

    def __len__(self) -> int:
        return max(self._size, 1 + max(self._added_tokens, default=-1))

    def get_vocab(self) -> dict[str, int]:
        vocab = {self._processor.id_to_piece(i): i for i in range(self._size) if i not in self._added_tokens}
        return vocab | self._added

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self._added_tokens.items()))

    def _token_of(self, token_id: int) -> str | None:
        added = self._added_tokens.get(token_id)
        return added.content if added else self._piece(token_id)

    def _id_of(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        token_id = self._processor.piece_to_id(token)
        return token_id if self._piece(token_id) == token else None

    def _place_model_tokens(self) -> None:
        """Where a model's own code appends tokens to the pieces, they are placed here."""

    def _place(self, token: AddedToken, token_id: int) -> None:
        if not 0 <= token_id <= self._size + MAX_GAP:  # the same for all: a row is kept for every id below the last
            raise TokenizerError(
                f"the added token {token.content!r} has an impossible id", where=self.where, received=token_id
            )
        self._added[token.content] = token_id
        self._added_tokens[token_id] = token

    def _add_tokens(self, tokens: list[AddedToken]) -> int:
        before = len(self)
        for token in tokens:
            known = self._id_of(token.content)
            if known is None:
                self._place(token, len(self))
            elif known not in self._added_tokens or (token.special and not self._added_tokens[known].special):
                self._place(token, known)
        self._forget()
        return len(self) - before

    def _special_tokens_changed(self) -> None:
        self._forget()

    def _forget(self) -> None:
        for name in ("_splitter", "_template_splitter", "_texts", "special_ids"):
            vars(self).pop(name, None)

    # --- text to ids -------------------------------------------------------------------------------------------------

    def _template(self, pair: bool) -> Template:
        """Llama's: BOS and EOS around each text."""
        bos = (self._id_of(self.bos_token or ""),) if self._adds_bos else ()
        eos = (self._id_of(self.eos_token or ""),) if self._adds_eos else ()
        template: Any = (*bos, "text", *eos, *((*bos, "pair", *eos) if pair else ()))
        return template

    def _add_ends(self, bos: bool, eos: bool) -> None:
        self._adds_bos, self._adds_eos = bos, eos

    @property
    def add_prefix_space(self) -> bool:
        """Whether encoding puts a space before a text, and decoding drops it. It can be set."""
        return self._adds_prefix

    @add_prefix_space.setter
    def add_prefix_space(self, value: bool) -> None:
        if bool(value) != self._adds_prefix:
            self.config["add_prefix_space"] = bool(value)
            self._processor = _load(self._model + normalizer_spec(add_dummy_prefix=bool(value)), self.where)
            self._adds_prefix = bool(value)
            vars(self).pop("_without_prefix", None)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return sum(isinstance(part, int) for part in self._template(pair))

    @cached_property
    def _splitter(self) -> AddedTokenSplitter:
        return AddedTokenSplitter(
            token
            for token in self._added_tokens.values()
            if token.content not in self._only_in_templates and not (token.special and self.split_special_tokens)
        )

    @cached_property
    def _template_splitter(self) -> AddedTokenSplitter:
        return AddedTokenSplitter(self._added_tokens.values())

    @cached_property
    def _without_prefix(self) -> sentencepiece.SentencePieceProcessor:
        return (
            _load(self._model + normalizer_spec(add_dummy_prefix=False), self.where)
            if self._adds_prefix
            else self._processor
        )

    def _segments(self, text: str, from_template: bool) -> Iterator[Segment]:
        splitter = self._template_splitter if from_template else self._splitter
        for start, end, content in splitter.split(text):
            yield start, end, None if content is None else (self._added[content],)

    def _processor_at(self, start: int) -> sentencepiece.SentencePieceProcessor:
        return self._processor if self._legacy or start == 0 else self._without_prefix

    def _ids(self, text: str, from_template: bool = False) -> list[int]:
        ids: list[int] = []
        for start, end, settled in self._segments(text, from_template):
            ids.extend(self._processor_at(start).encode(text[start:end]) if settled is None else settled)
        return ids

    def _spans(self, text: str, from_template: bool = False) -> list[Span]:
        spans: list[Span] = []
        at = 0
        for start, end, settled in self._segments(text, from_template):
            size = len(text[start:end].encode("utf-8"))
            if settled is None:
                proto = self._processor_at(start).encode(text[start:end], out_type="serialized_proto")
                spans.extend(
                    (piece, at + first, at + last) for piece, first, last in self._spread_bytes(read_pieces(proto))
                )
            elif len(settled) == size:
                spans.extend((token_id, at + place, at + place + 1) for place, token_id in enumerate(settled))
            else:
                spans.extend((token_id, at, at + size) for token_id in settled)
            at += size
        return spans

    def _spread_bytes(self, pieces: list[Span]) -> Iterator[Span]:
        """SentencePiece gives a character that fell back to bytes to its last byte's piece; each piece gets its own."""
        waiting: list[Span] = []
        for piece in pieces:
            token_id, first, last = piece
            if first == last and self._processor.is_byte(token_id):
                waiting.append(piece)
                continue
            group = [*waiting, piece]
            if waiting and last - first == len(group):
                yield from ((one[0], first + place, first + place + 1) for place, one in enumerate(group))
            else:
                yield from ((one[0], first, last) for one in group)
            waiting = []
        yield from waiting

    def encode_texts(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        add_special_tokens: bool,
        details: bool,
        from_template: bool = False,
    ) -> list[Encoded]:
        template: Template = ("text", "pair") if pairs is not None else ("text",)
        if add_special_tokens:
            template = self._template(pairs is not None)
        return [
            self._fill(template, {"text": text, "pair": pair}, details, from_template)
            for text, pair in zip(texts, pairs if pairs is not None else [""] * len(texts), strict=True)
        ]

    def _fill(self, template: Template, texts: Mapping[str, str], details: bool, from_template: bool) -> Encoded:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        sequence: list[int | None] = []
        for part in template:
            if isinstance(part, int):
                ids.append(part)
                offsets.append((0, 0))
                sequence.append(None)
            elif not details:
                ids.extend(self._ids(texts[part], from_template))
            else:
                spans = self._spans(texts[part], from_template)
                ids.extend(span[0] for span in spans)
                offsets.extend(char_ranges(texts[part], spans))
                sequence.extend([int(part == "pair")] * len(spans))
        return Encoded(ids, offsets, sequence) if details else Encoded(ids)

    # --- ids to text -------------------------------------------------------------------------------------------------

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(i for i, token in self._added_tokens.items() if token.special)

    @cached_property
    def _texts(self) -> list[str | int | None]:
        """What each id adds to a text: a string, a byte, or None for an id that is no token."""
        processor = self._processor
        texts: list[str | int | None] = []
        for token_id in range(self._size):
            piece = processor.id_to_piece(token_id)
            texts.append(byte_of_token(piece) if processor.is_byte(token_id) else piece.replace(SPACE, " "))
        texts += [None] * (len(self) - self._size)
        for token_id, token in self._added_tokens.items():
            texts[token_id] = token.content
        return texts

    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        return PieceStream(
            self._texts, self.special_ids, skip_special_tokens, strip_now=self.strips_at_start and self._adds_prefix
        )

    def token_bytes(self) -> list[bytes]:
        spelled = ("" if text is None else text for text in self._texts)
        return [bytes([text]) if isinstance(text, int) else text.encode("utf-8") for text in spelled]

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        stream = self.text_stream(skip_special_tokens)
        return "".join([stream.push(i) for i in ids]) + stream.flush()

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        stream = self.text_stream(skip_special_tokens=False)
        ids = [self._id_of(token) for token in tokens]
        return (
            "".join([token if i is None else stream.push(i) for i, token in zip(ids, tokens, strict=True)])
            + stream.flush()
        )

    def _save_vocabulary(self, folder: Path) -> list[Path]:
        path = folder / self.vocabulary_file
        with atomic_write(path) as file:
            file.write(self._model)
        return [path]

    def saved_config(self) -> dict[str, Any]:
        return {
            "tokenizer_class": "LlamaTokenizer",
            **super().saved_config(),
            "add_bos_token": self._adds_bos,
            "add_eos_token": self._adds_eos,
        }


class PieceStream:
    """Pieces to text: bytes joined to characters, ``▁`` as a space, the leading space dropped where encoding added it.

    A byte that belongs to no character becomes U+FFFD, each one, as in SentencePiece.
    """

    def __init__(
        self, texts: Sequence[str | int | None], special: frozenset[int], skip_special_tokens: bool, strip_now: bool
    ) -> None:
        self._texts, self._special, self._skip = texts, special, skip_special_tokens
        self._strip = strip_now
        self._bytes = codecs.getincrementaldecoder("utf-8")(_EACH_BYTE)

    def push(self, token_id: int) -> str:
        text = self._texts[token_id] if token_id < len(self._texts) else None
        if text is None:
            return ""
        if token_id in self._special:
            return "" if self._skip else self._special_text(token_id, str(text))
        if isinstance(text, int):
            self._strip = False
            return self._bytes.decode(bytes([text]))
        if self._strip:
            text = text.removeprefix(" ")
            self._strip = False
        return self._finish_bytes() + text

    def _special_text(self, token_id: int, text: str) -> str:
        self._strip = False
        return self._finish_bytes() + text

    def _finish_bytes(self) -> str:
        return self._bytes.decode(b"", final=True)

    def pause(self) -> str:
        return ""  # a byte that makes a character whole is not held back

    def flush(self) -> str:
        return self._finish_bytes()


_EACH_BYTE = "pellucid.each-byte"
codecs.register_error(_EACH_BYTE, lambda error: ("\ufffd" * (error.end - error.start), error.end))  # pyright: ignore


def _adds_prefix(processor: sentencepiece.SentencePieceProcessor) -> bool:
    probe = processor.encode("a", out_type=str)
    return bool(probe) and probe[0].startswith(SPACE)


def _load(model: bytes, where: object) -> sentencepiece.SentencePieceProcessor:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not model or not processor.LoadFromSerializedProto(model):
            raise RuntimeError("no pieces")
        size = processor.get_piece_size()
        processor.id_to_piece(
            list(range(size))
        )  # each is decoded: what is not UTF-8 is found here, where it can be said
    except Exception as error:
        raise TokenizerError(
            f"not a SentencePiece model: {error}", where=where, remedy="the file may be truncated; download it again"
        ) from None
    if size == 0:
        raise TokenizerError("the SentencePiece model has no pieces", where=where)
    return processor
