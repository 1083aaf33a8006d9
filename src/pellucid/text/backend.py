"""``Backend``: a vocabulary and what its config says of it; the bottom of the room, to which ``Tokenizer`` is the face.

What a kind of vocabulary must provide is abstract here; what can be said once for all of them is said here or in
``tokenizer``. In between (``chat``, ``tokenizer_config``) stands what works on any backend.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pellucid.base.errors import TokenizerError
from pellucid.text.added_tokens import AddedToken, as_added_token
from pellucid.text.batching import UNLIMITED, Batching, checked_side, plain
from pellucid.text.encoding import Encoded
from pellucid.text.pieces import Span
from pellucid.text.stream import TextStream

if TYPE_CHECKING:
    import numpy as np


class Backend(Batching):
    """Text ↔ token ids. Reading is thread-safe; adding or renaming tokens is not."""

    cleans_up = False  # cleaning up spaces was made for WordPiece; it would damage BPE's text, so BPE ignores the wish

    def __init__(self, config: Mapping[str, Any], where: object) -> None:
        self.where = where
        self.config = dict(config)  # tokenizer_config.json's content; unknown keys are kept and saved again
        self.model_max_length = int(config.get("model_max_length") or config.get("max_len") or UNLIMITED)
        self.padding_side = checked_side(config.get("padding_side") or type(self).padding_side, "padding_side", where)
        self.truncation_side = checked_side(config.get("truncation_side") or "right", "truncation_side", where)
        self.clean_up_tokenization_spaces = bool(config.get("clean_up_tokenization_spaces"))
        self._split_special_tokens = bool(config.get("split_special_tokens"))
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

    def encode_corpus(self, texts: Sequence[str], size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The ids of checked texts end to end, none added around them; and where each begins and the last one ends.

        ``size``: characters of all that is to come, where that is more than these: a large corpus is worth the proof
        that a faster library gives the same ids.
        """
        import numpy as np

        encoded = self.encode_texts(texts, None, add_special_tokens=False, details=False)
        starts = np.cumsum([0, *(len(one.ids) for one in encoded)])
        return np.fromiter(chain.from_iterable(one.ids for one in encoded), np.uint32, int(starts[-1])), starts

    @property
    def split_special_tokens(self) -> bool:
        """Whether a special token in a text is ordinary characters; in what a chat template wrote it never is."""
        return self._split_special_tokens

    @split_special_tokens.setter
    def split_special_tokens(self, value: bool) -> None:
        self._split_special_tokens = bool(value)
        self._special_tokens_changed()

    def around(self) -> tuple[list[int], list[int]]:
        """The ids that ``encode`` puts before a text and after it: ``[1], []`` with Llama's, ``[], []`` with Qwen's.

        Who joins texts himself (scoring, packing) adds these, and no others.
        """
        ordinary = (i for i in range(min(len(self), 64)) if i not in self.special_ids)
        for text in chain(("a", "0"), (self._decode([i], False) for i in ordinary)):  # a vocabulary may lack "a"
            try:
                encoded = self.encode_texts([text], None, add_special_tokens=True, details=True)[0]
            except TokenizerError:
                continue  # no token for it, not even an unknown one
            own = [place for place, sequence in enumerate(encoded.sequence or []) if sequence is not None]
            if own:
                return encoded.ids[: own[0]], encoded.ids[own[-1] + 1 :]
        return self.encode_texts([""], None, add_special_tokens=True, details=False)[0].ids, []

    @property
    def add_bos_token(self) -> bool:
        """Whether ``encode`` puts the beginning-of-sequence token before a text. It can be set."""
        return self.bos_token_id is not None and self.bos_token_id in self.around()[0]

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_ends(self._wanted_end("bos_token", value), self.add_eos_token)

    @property
    def add_eos_token(self) -> bool:
        """Whether ``encode`` puts the end-of-sequence token after a text. It can be set."""
        return self.eos_token_id is not None and self.eos_token_id in self.around()[1]

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_ends(self.add_bos_token, self._wanted_end("eos_token", value))

    def _wanted_end(self, name: str, value: bool) -> bool:
        if value and self._named.get(name) is None:
            raise TokenizerError(f"add_{name}: the tokenizer has no {name}", where=self.where)
        return bool(value)

    @abstractmethod
    def _add_ends(self, bos: bool, eos: bool) -> None:
        """Put the beginning- and end-of-sequence tokens, or none, around each text, and nothing else."""

    @abstractmethod
    def _spans(self, text: str) -> list[Span]:
        """(id, first byte, end byte) of each token in the UTF-8 of ``text``, without special tokens added."""

    @abstractmethod
    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str: ...

    @abstractmethod
    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        """A decoder that takes one id at a time; its output joined is ``decode``'s, before any clean-up."""

    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """What each id, from 0, adds to a text that has begun, as ``text_stream`` writes it without skipping any.

        ``b""`` where there is no token. Raises: UnsupportedError where tokens have no bytes by themselves.
        """

    @abstractmethod
    def _save_vocabulary(self, folder: Path) -> list[Path]: ...

    vocabulary_file: str  # the file that _save_vocabulary writes

    # --- tokens and ids -----------------------------------------------------------------------------------------------

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of ids; None for an id beyond the vocabulary, as in transformers.

        Raises: TokenizerError for what cannot be an id.
        """
        ids = plain(ids)
        if not isinstance(ids, list):
            return self._token_of(*check_ids([ids], self.where))
        skip = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token_of(i) for i in check_ids(ids, self.where) if i not in skip]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of tokens; unknown ones get the unknown token's id, or None."""
        if isinstance(tokens, str):
            token_id = self._id_of(tokens)
            unknown = self._named.get("unk_token")
            return self._id_of(unknown) if token_id is None and unknown is not None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @property
    @abstractmethod
    def special_ids(self) -> frozenset[int]:
        """The ids that ``decode(skip_special_tokens=True)`` drops."""

    def skipped_text(self, token_id: int) -> str | None:
        """The text of a token that ``decode(skip_special_tokens=True)`` drops; None for any other id."""
        return self._token_of(token_id) if token_id in self.special_ids else None

    def wants_clean_up(self, wish: bool | None = None) -> bool:
        """Whether decoded text has its spaces cleaned up: the wish, else the config's, and never for BPE."""
        return self.cleans_up and (self.clean_up_tokenization_spaces if wish is None else wish)

    @property
    def stop_token_ids(self) -> list[int]:
        """Ids after which an answer is over: the ones generation config or GGUF name, else the EOS token's."""
        if named := self.config.get("stop_token_ids"):
            return list(named)
        return [] if self.eos_token_id is None else [self.eos_token_id]

    # --- added tokens ------------------------------------------------------------------------------------------------

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens that the vocabulary lacks, at its end; returns how many. The model's embeddings must grow, too."""
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken, Mapping)) else list(new_tokens)
        checked = [as_added_token(token, "add_tokens", special=special_tokens) for token in tokens]
        if any(not token.content for token in checked):
            raise TokenizerError("a token needs at least one character", where="add_tokens")
        added = self._add_tokens(checked)
        self._special_tokens_changed()
        return added

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Added token → id, in the order of ids."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        return self.added_tokens_encoder

    # --- saving -------------------------------------------------------------------------------------------------------

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
        if self.split_special_tokens or "split_special_tokens" in saved:
            saved["split_special_tokens"] = self.split_special_tokens
        saved["clean_up_tokenization_spaces"] = self.clean_up_tokenization_spaces
        saved["added_tokens_decoder"] = {str(i): token.to_dict() for i, token in self.added_tokens_decoder.items()}
        saved.pop("chat_template", None)
        return saved


def check_ids(ids: Any, where: object = None) -> list[int]:
    """The ids as ints. One beyond the vocabulary is an id, too: a model's output layer is often padded.

    Raises: TokenizerError for what is no whole number, negative, or larger than any vocabulary (2³² and more).
    """
    checked: list[int] = []
    for one in ids:
        if isinstance(one, bool) or not hasattr(one, "__index__"):
            raise TokenizerError("a token id must be a whole number", where=where, received=repr(one)[:80])
        token_id = one.__index__()
        if not 0 <= token_id < 2**32:
            remedy = (
                "−1 and −100 mark padding and ignored labels: take them out before decoding" if token_id < 0 else None
            )
            raise TokenizerError(
                "no token has this id", where=where, expected="0 or more, below 2³²", received=token_id, remedy=remedy
            )
        checked.append(token_id)
    return checked


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
