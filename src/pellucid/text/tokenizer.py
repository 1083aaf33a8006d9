"""``Tokenizer``: the one interface, with Hugging Face's names and behaviour, over every kind of vocabulary.

A ``Backend`` says how one text becomes ids and ids become text; the face that is the same for all of them (calls,
batches, chats, saving) is here. Kinds: ``tokenizer_json``, ``sentencepiece_model``, ``chatglm``, ``llama2c``, ``gguf``;
``load`` chooses one for a folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.arguments import refuse_unknown
from pellucid.base.errors import TokenizerError
from pellucid.text.backend import check_ids, check_text
from pellucid.text.batching import plain
from pellucid.text.chat import ChatOptions, encode_chats, render_chats
from pellucid.text.cleanup import clean_up_tokenization
from pellucid.text.encoding import BatchEncoding, truncate
from pellucid.text.familiar import CALL_ELSEWHERE, Familiar, beside
from pellucid.text.pieces import Piece, make_pieces
from pellucid.text.tokenizer_config import refuse_rivals, save_config

if TYPE_CHECKING:
    import numpy as np


CALL = (
    *("text", "text_pair", "text_target", "add_special_tokens", "padding", "truncation", "max_length"),
    *("pad_to_multiple_of", "padding_side", "return_tensors", "return_offsets_mapping", "return_attention_mask"),
    *("return_token_type_ids", "return_special_tokens_mask", "return_length"),
)


class Tokenizer(Familiar):
    """Text ↔ token ids. Reading is thread-safe; adding or renaming tokens is not."""

    # --- text to ids -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
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
        return_token_type_ids: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        text_target: str | Sequence[str] | None = None,
        verbose: bool = True,
        **unknown: Any,
    ) -> BatchEncoding:
        """Encode a text, or a list of texts.

        ``padding``: True or ``"longest"`` to the longest of the batch, ``"max_length"`` to ``max_length``.
        ``truncation``: True or ``"longest_first"``, ``"only_first"``, ``"only_second"``. ``return_tensors``: ``"np"``
        or ``"pt"``, always with a batch axis; else lists. ``return_offsets_mapping`` adds each token's (start, end) in
        characters; ``return_special_tokens_mask`` 1 for each that was added, ``return_length`` their number;
        ``text_target`` is encoded alike, as ``labels``.

        Raises: TokenizerError for text that is no valid Unicode, and for arguments that contradict each other;
        TypeError for one that nobody knows.
        """
        refuse_unknown("tokenizer(…)", unknown, CALL, CALL_ELSEWHERE)
        if text_target is not None:
            target = self(
                text_target, None, add_special_tokens, padding, truncation, max_length, pad_to_multiple_of,
                padding_side, return_tensors,
            )  # fmt: skip
            if text is None:
                return target
        if text is None:
            raise TokenizerError("a text must be a string", received="None", remedy="tokenizer(text)")
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
        wants_more = bool(return_offsets_mapping or return_special_tokens_mask or return_token_type_ids)
        encoded = self.encode_texts(
            texts,
            pairs,
            add_special_tokens=add_special_tokens,
            details=wants_more or strategy is not None,
        )
        if strategy is not None and limit is not None:
            encoded = [truncate(one, limit, strategy, self.truncation_side) for one in encoded]
        made = self.columns(
            encoded,
            batched,
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_tensors=return_tensors,
            return_offsets_mapping=return_offsets_mapping,
            return_attention_mask=return_attention_mask,
            more=beside(encoded, return_special_tokens_mask, return_token_type_ids),
        )
        if return_length:
            ids = made["input_ids"]
            made["length"] = [len(row) for row in (ids if batched or return_tensors else [ids])]
        if text_target is not None:
            made["labels"] = target["input_ids"]
        return made

    def encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        """An older name of the call."""
        return self(text, *args, **kwargs)

    batch_encode_plus = encode_plus

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """The ids of one text; an array with a batch axis where ``return_tensors`` is given."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, return_attention_mask=False, **kwargs)[
            "input_ids"
        ]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[np.ndarray]:
        """The ids of each text as an array of uint32: ``encode`` for a whole corpus, without a Python object an id."""
        import numpy as np

        for text in texts:
            check_text(text)
        ids, starts = self.encode_corpus(texts)
        parts = np.split(ids, starts[1:-1]) if len(texts) else []
        if not add_special_tokens:
            return parts
        before, after = (np.array(added, np.uint32) for added in self.around())
        return [np.concatenate([before, part, after]) for part in parts]

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

        An id beyond the vocabulary adds no text: a model's output layer is often padded. Raises: TokenizerError for
        what cannot be an id (−1, 2.5).
        """
        ids = plain(token_ids)
        if isinstance(ids, list) and ids and not hasattr(ids[0], "__index__") and hasattr(plain(ids[0]), "__len__"):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        ids = check_ids(ids if isinstance(ids, list) else [ids], self.where)
        text = self._decode(ids, skip_special_tokens)
        return clean_up_tokenization(text) if self.wants_clean_up(clean_up_tokenization_spaces) else text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """The texts of several lists of ids."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in plain(sequences)]

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
        if kwargs.pop("tokenizer_kwargs", None):
            raise TokenizerError("apply_chat_template takes no tokenizer_kwargs here", remedy="pass them directly")
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
        folder = Path(folder)
        refuse_rivals(folder, self)
        written = [*self._save_vocabulary(folder), *save_config(self, folder)]
        return tuple(str(path) for path in written)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.where)!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )
