"""Tokenizers of the ``tokenizers`` library: ``tokenizer.json``, and every byte-level BPE built in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import TokenizerError
from pellucid.base.files import atomic_write
from pellucid.base.notice import notice
from pellucid.text.added_tokens import AddedToken
from pellucid.text.encoding import Encoded
from pellucid.text.pieces import Span, byte_of_char
from pellucid.text.readers.byte_level import to_bytes
from pellucid.text.readers.byte_tokens import byte_of_token
from pellucid.text.readers.decoders import StagedStream, bytes_of_token, stages
from pellucid.text.readers.growth import check_growth
from pellucid.text.readers.tokenizer_class import (
    BACKEND,
    TokenizerClass,
    class_of,
    contradicts,
    is_byte_level,
    parts_of,
    shape,
    with_names,
)
from pellucid.text.stream import TextStream
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import tokenizers

    from pellucid.text.readers.fast import FastEncoder

CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"  # transformers' name for it
MAX_GAP = 2**20  # ids that no token has; models have some thousands such


@contextmanager
def library_errors(what: str, where: object, remedy: str | None = None) -> Iterator[None]:
    """Turn the library's errors into ours, its panics too: PanicException is no Exception."""
    try:
        yield
    except TokenizerError:
        raise
    except Exception as error:
        raise TokenizerError(f"{what}: {error}", where=where, remedy=remedy) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: it contradicts itself ({error})", where=where, remedy=remedy) from None


def add_template(backend: tokenizers.Tokenizer, prefix: Sequence[str], suffix: Sequence[str]) -> None:
    """Make ``add_special_tokens=True`` put ``prefix`` before each text and ``suffix`` after it."""
    from tokenizers import processors

    def around(text: str, type_id: int) -> list[str]:
        return [f"{part}:{type_id}" for part in (*prefix, text, *suffix)]

    single = around("$A", 0)
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *around("$B", 1)],
        special_tokens=[(token, backend.token_to_id(token)) for token in {*prefix, *suffix}],
    )


class JsonTokenizer(Tokenizer):
    """A ``tokenizers.Tokenizer`` behind the common interface."""

    vocabulary_file = "tokenizer.json"

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any],
        where: object,
        kind: TokenizerClass = BACKEND,
    ) -> None:
        super().__init__(config, where)
        self._backend, self._kind = backend, kind
        backend.no_truncation()  # lengths are the caller's business, not the file's
        backend.no_padding()
        self.cleans_up = type(backend.model).__name__ != "BPE" or bool(config.get(CLEAN_UP_BPE))
        listed = [token for _, token in sorted((config.get("added_tokens_decoder") or {}).items())]
        flags = {token.content: token for token in [*self.added_tokens_decoder.values(), *listed]}
        named = self._read_special_tokens(config, where)
        self._add_tokens([*listed, *(replace(flags.get(token.content, token), special=True) for token in named)])

    @classmethod
    def from_file(cls, path: Path, config: Mapping[str, Any], model: Mapping[str, Any]) -> JsonTokenizer:
        """``model`` is config.json's content, ``{}`` where there is none: it may say which class the tokenizer is of.

        Raises: TokenizerError where the file is no tokenizer.json.
        """
        import tokenizers

        with library_errors("not a tokenizer.json", path, "the file may be truncated; download it again"):
            backend = tokenizers.Tokenizer.from_file(str(path))
        for part in ("normalizer", "decoder"):  # so far nothing has been run
            if (built := getattr(backend, part)) is not None:
                check_growth(part, json.loads(built.__getstate__()), path)
        with library_errors("not a tokenizer.json", path):
            kind = class_of(config, model, byte_level=is_byte_level(backend))
            if contradicts(backend, kind):
                notice(f"{path}: it cuts text otherwise than the tokenizer_class beside it would, and is followed")
            shape(backend, kind, config)
            config = with_names(config, kind, backend.get_vocab(with_added_tokens=True) if kind.names else {})
        tokenizer = cls(backend, config, path, kind)
        if kind.ends is not None:
            tokenizer._add_ends(kind.ends[0] and tokenizer.bos_token is not None, kind.ends[1])
        return tokenizer

    @property
    def add_prefix_space(self) -> bool:
        """Whether encoding puts a space before a text. It can be set where the tokenizer's class allows it."""
        return any(
            part.get("add_prefix_space")
            or part.get("prepend_scheme") in ("always", "first")
            or part.get("type") == "Prepend"
            for stage in (self._backend.normalizer, self._backend.pre_tokenizer)
            for part in parts_of(stage)
        )

    @add_prefix_space.setter
    def add_prefix_space(self, value: bool) -> None:
        if self._kind.prefix_space is None and bool(value) != self.add_prefix_space:
            raise TokenizerError(
                "add_prefix_space has no effect: this class takes tokenizer.json as it is",
                where=self.where,
                remedy="put the space into the text",
            )
        self.config["add_prefix_space"] = bool(value)
        shape(self._backend, self._kind, self.config)
        for name in ("_decoder_spec", "_is_byte_level", "_fast"):
            vars(self).pop(name, None)

    def to_json(self) -> dict[str, Any]:
        """What tokenizer.json says of it."""
        return json.loads(self._serialized())

    def _serialized(self, pretty: bool = False) -> str:
        """tokenizer.json, for which the library makes room for every id up to the last.

        Raises: TokenizerError for ids that leave out more than ``MAX_GAP``.
        """
        last = max(self.get_vocab().values(), default=0)
        if last > len(self) + MAX_GAP:
            raise TokenizerError(
                "a token has an impossible id", where=self.where, expected=f"about {len(self)} at most", received=last
            )
        return self._backend.to_str(pretty=pretty)

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        return self._backend.get_vocab(with_added_tokens=True)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return {
            i: AddedToken(token.content, token.special, token.lstrip, token.rstrip, token.single_word, token.normalized)
            for i, token in sorted(self._backend.get_added_tokens_decoder().items())
        }

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return self._backend.num_special_tokens_to_add(pair)

    def _add_ends(self, bos: bool, eos: bool) -> None:
        named = self._named
        add_template(self._backend, [named["bos_token"]] if bos else [], [named["eos_token"]] if eos else [])

    def _add_tokens(self, tokens: list[AddedToken]) -> int:
        import tokenizers

        before = len(self)
        theirs = [
            tokenizers.AddedToken(
                token.content,
                special=token.special,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
                normalized=token.normalized,
            )
            for token in tokens
        ]
        self._backend.add_tokens(theirs)  # one call: each builds the matcher of all added tokens again
        self._special_tokens_changed()
        return len(self) - before

    def _token_of(self, token_id: int) -> str | None:
        return self._backend.id_to_token(token_id) if token_id < 2**32 else None

    def _id_of(self, token: str) -> int | None:
        return self._backend.token_to_id(token)

    def encode_texts(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        add_special_tokens: bool,
        details: bool,
        from_template: bool = False,
    ) -> list[Encoded]:
        inputs: Any = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        backend = self._reader(from_template)
        encode = backend.encode_batch if details else backend.encode_batch_fast
        with library_errors("the tokenizer failed", self.where):
            encodings = encode(inputs, add_special_tokens=add_special_tokens)
        if not details:
            return [Encoded(encoding.ids) for encoding in encodings]
        return [Encoded(encoding.ids, encoding.offsets, encoding.sequence_ids) for encoding in encodings]

    def encode_corpus(self, texts: Sequence[str], size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        from pellucid.text.readers.fast import WORTH_IT, DifferentIdsError

        large = max(size, sum(map(len, texts))) >= WORTH_IT and not self.split_special_tokens
        if not large or self._fast is None:
            return super().encode_corpus(texts)
        try:
            return self._fast.encode(texts)
        except DifferentIdsError:
            vars(self)["_fast"] = None  # from now on the slow way
            if size:
                raise
            return super().encode_corpus(texts)

    @cached_property
    def _fast(self) -> FastEncoder | None:
        from pellucid.text.readers.fast import fast_encoder

        return fast_encoder(self._backend)

    def _spans(self, text: str) -> list[Span]:
        """Byte ranges. The library knows characters only; where a token's own bytes stand next in the text, they are
        it.

        They do wherever no normalizer changed the text, so tokens that split a character get exact bytes, and the space
        before a word belongs to its token even where the file trims offsets. What a normalizer composed (NFC) belongs
        whole to its token.
        """
        encoding = self._reader(False).encode(text, add_special_tokens=False)
        data, first_byte = text.encode("utf-8"), byte_of_char(text)
        added = self._backend.get_added_tokens_decoder()
        spans: list[Span] = []
        at = 0
        for token_id, token, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
            own = token.encode("utf-8") if token_id in added else self._bytes_of(token)
            first, last = first_byte[start], first_byte[end]
            for place in (at, max(at, first)):
                if own and data.startswith(own, place):
                    first, last = place, place + len(own)
                    break
            if first > at and spans and self._is_byte_level:
                spans[-1] = (*spans[-1][:2], first)
            spans.append((token_id, first, last))
            at = max(at, last)
        return spans

    def _bytes_of(self, token: str) -> bytes | None:
        """The bytes an ordinary token stands for, where the vocabulary is one of bytes."""
        if self._is_byte_level:
            return to_bytes(token)
        byte = byte_of_token(token)
        return None if byte is None else bytes([byte])

    @cached_property
    def _decoder_spec(self) -> dict[str, Any] | None:
        decoder = self._backend.decoder
        return None if decoder is None else json.loads(decoder.__getstate__())

    @cached_property
    def _is_byte_level(self) -> bool:
        spec = self._decoder_spec or {}
        return any(part.get("type") == "ByteLevel" for part in spec.get("decoders", [spec]))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)

    def _special_tokens_changed(self) -> None:
        for name in ("special_ids", "_splitting", "_fast"):
            vars(self).pop(name, None)

    def _reader(self, from_template: bool) -> tokenizers.Tokenizer:
        """What encodes: special tokens in a text are text where they are to be split, but not those of a template."""
        return self._splitting if self.split_special_tokens and not from_template else self._backend

    @cached_property
    def _splitting(self) -> tokenizers.Tokenizer:
        import tokenizers

        backend = tokenizers.Tokenizer.from_str(
            self._backend.to_str()
        )  # the flag is the backend's, and threads share it
        backend.encode_special_tokens = True
        return backend

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        if self._backend.decoder is None or not tokens:
            return " ".join(tokens)
        with library_errors("the decoder failed", self.where):
            return self._backend.decoder.decode(list(tokens))

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        skipped = self.special_ids if skip_special_tokens else frozenset()
        if not any(i not in skipped and self._token_of(i) is not None for i in ids):
            return ""  # some decoders of the library panic on nothing
        with library_errors("the decoder failed", self.where):
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        skip = self.special_ids if skip_special_tokens else frozenset()

        def token_of(token_id: int) -> str | None:
            return None if token_id in skip else self._token_of(token_id)

        return StagedStream(token_of, stages(self._decoder_spec, self.convert_tokens_to_string))

    def token_bytes(self) -> list[bytes]:
        vocab = self.get_vocab()
        table = [b""] * (1 + max(vocab.values(), default=-1))
        spell = bytes_of_token(self._decoder_spec, self.where)
        for token, token_id in vocab.items():
            table[token_id] = spell(token)
        return table

    def _save_vocabulary(self, folder: Path) -> list[Path]:
        path = folder / self.vocabulary_file
        with atomic_write(path, "w") as file:
            file.write(self._serialized(pretty=True))
        return [path]
