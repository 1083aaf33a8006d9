"""``Tokenizer``: the one interface, with Hugging Face's names and behaviour, over every kind of vocabulary.

A backend says how one text becomes ids and ids become text; everything that can be said once for all of them (batches,
padding, truncation, special tokens, chats, saving) is here. Backends: ``tokenizer_json``, ``sentencepiece_model``,
``chatglm``, ``llama2c``, ``gguf``; ``load`` chooses one for a folder.
"""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pellucid.base.errors import TokenizerError
from pellucid.text.added_tokens import AddedToken, as_added_token
from pellucid.text.batching import UNLIMITED, Batching, checked_side, plain
from pellucid.text.cleanup import clean_up_tokenization
from pellucid.text.detokenizer import TextStream
from pellucid.text.encoding import BatchEncoding, Encoded, truncate
from pellucid.text.pieces import Piece, Span, make_pieces


class Tokenizer(Batching):
    """Text ↔ token ids. Reading is thread-safe; adding or renaming tokens is not."""

    cleans_up = False  # cleaning up spaces was made for WordPiece; it would damage BPE's text, so BPE ignores the wish

    def __init__(self, config: Mapping[str, Any], where: object) -> None:
        self.where = where
        self.config = dict(config)  # tokenizer_config.json's content; unknown keys are kept and saved again
        self.model_max_length = int(config.get("model_max_length") or UNLIMITED)
        self.padding_side = checked_side(config.get("padding_side") or type(self).padding_side, "padding_side", where)
        self.truncation_side = checked_side(config.get("truncation_side") or "right", "truncation_side", where)
        self.clean_up_tokenization_spaces = bool(config.get("clean_up_tokenization_spaces"))
        self.chat_template: str | dict[str, str] | None = copy.copy(config.get("chat_template"))
        if names := config.get("model_input_names"):
            self.model_input_names = tuple(names)

    # --- what a backend provides -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Tokens in the vocabulary without the added ones; ``len(tokenizer)`` counts both."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """Token → id, added tokens included."""

    @property
    @abstractmethod
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id → added token, in the order of ids."""

    @abstractmethod
    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many tokens ``add_special_tokens=True`` adds to a text, or to a pair."""

    @abstractmethod
    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for."""

    @abstractmethod
    def _add_tokens(self, tokens: list[AddedToken]) -> int: ...

    @abstractmethod
    def _token_of(self, token_id: int) -> str | None: ...

    @abstractmethod
    def _id_of(self, token: str) -> int | None: ...

    @abstractmethod
    def encode_texts(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        add_special_tokens: bool,
        details: bool,
        from_template: bool = False,
    ) -> list[Encoded]:
        """Encode checked texts. ``details`` asks for offsets and sequence numbers.

        ``from_template``: the text was rendered by a chat template, so every special token in it is meant as one.
        """

    @abstractmethod
    def _spans(self, text: str) -> list[Span]:
        """(id, first byte, end byte) of each token in the UTF-8 of ``text``, without special tokens added."""

    @abstractmethod
    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str: ...

    @abstractmethod
    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        """A decoder that takes one id at a time; its output joined is ``decode``'s, before any clean-up."""

    @abstractmethod
    def _save_vocabulary(self, folder: Path) -> list[Path]: ...

    vocabulary_file: str  # the file that _save_vocabulary writes

    # --- text to ids -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        return_attention_mask: bool | None = None,
    ) -> BatchEncoding:
        """Encode a text, or a list of texts.

        ``padding``: True or ``"longest"`` to the longest of the batch, ``"max_length"`` to ``max_length``.
        ``truncation``: True or ``"longest_first"``, ``"only_first"``, ``"only_second"``. ``return_tensors``: ``"np"``
        or ``"pt"``, always with a batch axis; else lists. ``return_offsets_mapping`` adds each token's (start, end) in
        characters.

        Raises: TokenizerError for text that is no valid Unicode, and for arguments that contradict each other.
        """
        batched = isinstance(text, (list, tuple))
        texts: list[str] = list(text) if batched else [text]  # pyright: ignore[reportAssignmentType]
        pairs: list[str] | None = None
        if text_pair is not None:
            pairs = list(text_pair) if batched else [text_pair]  # pyright: ignore[reportAssignmentType]
        if pairs is not None and (isinstance(text_pair, str) == batched or len(pairs) != len(texts)):
            raise TokenizerError("text_pair must match text, one for one", expected=len(texts), received=len(pairs))
        for one in [*texts, *(pairs or [])]:
            check_text(one)
        strategy, limit = self.truncation_of(truncation, max_length, padding)
        encoded = self.encode_texts(
            texts, pairs, add_special_tokens=add_special_tokens, details=return_offsets_mapping or strategy is not None
        )
        if strategy is not None and limit is not None:
            encoded = [truncate(one, limit, strategy, self.truncation_side) for one in encoded]
        return self.columns(
            encoded,
            batched,
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_tensors=return_tensors,
            return_offsets_mapping=return_offsets_mapping,
            return_attention_mask=return_attention_mask,
        )

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """The ids of one text; an array with a batch axis where ``return_tensors`` is given."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, return_attention_mask=False, **kwargs)[
            "input_ids"
        ]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of one text as strings, in the vocabulary's own spelling (``▁Trans``, ``Ġworld``)."""
        return self.convert_ids_to_tokens(self.encode(text, pair, add_special_tokens=add_special_tokens))

    def pieces(self, text: str, add_special_tokens: bool = False) -> list[Piece]:
        """Each token with the bytes and characters of ``text`` that it stands for."""
        check_text(text)
        spans = self._spans(text)
        if add_special_tokens:
            ids = self.encode(text)
            extra = len(ids) - len(spans)
            before = next((n for n in range(extra + 1) if ids[n : n + len(spans)] == [span[0] for span in spans]), 0)
            end = len(text.encode("utf-8"))
            spans = [*((i, 0, 0) for i in ids[:before]), *spans, *((i, end, end) for i in ids[before + len(spans) :])]
        return make_pieces(text, spans, self.convert_ids_to_tokens([span[0] for span in spans]))

    # --- ids to text -------------------------------------------------------------------------------------------------

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """The text of ids (a list, an array, or one id); a list of texts for a list of lists.

        Raises: TokenizerError for an id that is no token.
        """
        ids = plain(token_ids)
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        self._check_ids(ids)
        text = self._decode(ids, skip_special_tokens)
        return clean_up_tokenization(text) if self.wants_clean_up(clean_up_tokenization_spaces) else text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """The texts of several lists of ids."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in plain(sequences)]

    def wants_clean_up(self, wish: bool | None = None) -> bool:
        """Whether decoded text has its spaces cleaned up: the wish, else the config's, and never for BPE."""
        return self.cleans_up and (self.clean_up_tokenization_spaces if wish is None else wish)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of ids. Raises: TokenizerError for an id that is no token."""
        ids = plain(ids)
        if isinstance(ids, int):
            self._check_ids([ids])
            return self._token_of(ids)
        self._check_ids(ids)
        skip = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token_of(i) for i in ids if i not in skip]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of tokens; unknown ones get the unknown token's id, or None."""
        if isinstance(tokens, str):
            found = self._id_of(tokens)
            unknown = self._named.get("unk_token")
            return self._id_of(unknown) if found is None and unknown is not None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def _check_ids(self, ids: Sequence[int]) -> None:
        if not ids:
            return
        for wrong in (one for one in ids if isinstance(one, bool) or not isinstance(one, int)):
            raise TokenizerError("a token id must be a whole number", received=repr(wrong))
        limit = len(self)
        if min(ids) >= 0 and max(ids) < limit:
            return
        for one in ids:
            if one < 0 or (one >= limit and self._token_of(one) is None):
                raise TokenizerError(
                    "no token has this id", where=self.where, expected=f"0 to {limit - 1}", received=one
                )

    # --- added tokens ------------------------------------------------------------------------------------------------

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens that the vocabulary lacks, at its end; returns how many. The model's embeddings must grow with it."""
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken, Mapping)) else list(new_tokens)
        added = self._add_tokens([as_added_token(token, "add_tokens", special=special_tokens) for token in tokens])
        self._special_tokens_changed()
        return added

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Added token → id, in the order of ids."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        return self.added_tokens_encoder

    @property
    def stop_token_ids(self) -> list[int]:
        """Ids after which an answer is over: the generation config's or the GGUF's, else the end-of-sequence token's."""
        if named := self.config.get("stop_token_ids"):
            return list(named)
        return [] if self.eos_token_id is None else [self.eos_token_id]

    # --- chats -------------------------------------------------------------------------------------------------------

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Messages (``{"role": …, "content": …}``), or a list of such conversations, as the model was trained to read
        them.

        With ``tokenize=False`` the text; with ``return_dict=False`` the ids alone. The template writes every special
        token itself, so none is added. ``return_assistant_tokens_mask`` adds ``assistant_masks``, 1 for what the
        template marks ``{% generation %}``. Further keywords go to the template (``enable_thinking``).

        Raises: TemplateError where there is no template, or it fails.
        """
        from pellucid.text.chat import ChatOptions, encode_chats, render_chats

        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise TokenizerError(
                "return_assistant_tokens_mask needs tokenize=True and return_dict=True", where="apply_chat_template"
            )
        options = ChatOptions(
            tools,
            documents,
            chat_template,
            add_generation_prompt,
            continue_final_message,
            return_assistant_tokens_mask,
            kwargs,
        )
        chats, batched = render_chats(self, conversation, options)
        if not tokenize:
            return [chat.text for chat in chats] if batched else chats[0].text
        encoding = encode_chats(
            self,
            chats,
            batched,
            options,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
        )
        return encoding if return_dict else encoding["input_ids"]

    # --- saving ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the tokenizer's files, each one whole or not at all; returns their paths.

        Raises: TokenizerError where the folder holds another tokenizer's file that would be read instead of these.
        """
        from pellucid.text.tokenizer_config import refuse_rivals, save_config

        folder = Path(folder)
        refuse_rivals(folder, self)
        written = [*self._save_vocabulary(folder), *save_config(self, folder)]
        return tuple(str(path) for path in written)

    def saved_config(self) -> dict[str, Any]:
        """tokenizer_config.json as it should be read back."""
        saved = {
            name: value
            for name, value in self.config.items()
            if not name.endswith("_token") or not isinstance(value, (str, Mapping))
        }
        saved |= self._named
        saved.pop("extra_special_tokens", None)
        saved |= {"additional_special_tokens": self._additional} if self._additional else {}
        if not self._additional:
            saved.pop("additional_special_tokens", None)
        saved["model_max_length"] = self.model_max_length
        saved["padding_side"], saved["truncation_side"] = self.padding_side, self.truncation_side
        saved["clean_up_tokenization_spaces"] = self.clean_up_tokenization_spaces
        saved["added_tokens_decoder"] = {str(i): token.to_dict() for i, token in self.added_tokens_decoder.items()}
        saved.pop("chat_template", None)
        return saved

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.where)!r}, vocab_size={self.vocab_size}, model_max_length={self.model_max_length}, "
            f"padding_side={self.padding_side!r}, special_tokens={self.special_tokens_map})"
        )


def check_text(text: Any) -> None:
    """Raises: TokenizerError where ``text`` is no string, or holds half a surrogate pair, which no UTF-8 can."""
    if not isinstance(text, str):
        remedy = "decode the bytes first: data.decode('utf-8')" if isinstance(text, (bytes, bytearray)) else None
        raise TokenizerError("a text must be a string", received=type(text).__name__, remedy=remedy)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            _surrogate(text, error)


def _surrogate(text: str, error: UnicodeEncodeError) -> NoReturn:
    raise TokenizerError(
        "the text is not valid Unicode: half of a surrogate pair, often from bytes that were no UTF-8",
        where=f"character {error.start}",
        received=repr(text[error.start : error.end]),
        remedy="replace it: text.encode('utf-8', 'replace').decode('utf-8')",
    ) from None
