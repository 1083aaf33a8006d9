"""ChatGLM2/3's tokenizer, natively, and GLM-4's: their special tokens, the ``[gMASK] sop`` prefix, their chat format.

Source: THUDM/chatglm3-6b and THUDM/glm-4-9b-chat, ``tokenization_chatglm.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.base.errors import TemplateError, TokenizerError
from pellucid.text.added_tokens import AddedToken
from pellucid.text.chat import ChatOptions, NativeChat, RenderedChat
from pellucid.text.encoding import Encoded
from pellucid.text.readers.byte_level_bpe import build_bpe
from pellucid.text.readers.pre_tokenizers import PRE_TOKENIZERS
from pellucid.text.readers.ranks import ranks_to_bpe, read_ranks
from pellucid.text.readers.sentencepiece_model import PieceStream, SentencePieceTokenizer, Template
from pellucid.text.readers.tokenizer_json import JsonTokenizer, library_errors
from pellucid.text.stream import TextStream

ROLES = ("system", "user", "assistant", "observation")
ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
SPECIAL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *ROLE_TOKENS)  # appended to the pieces in this order
PREFIX = ("[gMASK]", "sop")
TOOLS_PROMPT = "Answer the following questions as best as you can. You have access to the following tools:"
_ALIASES = {"tool": "observation", "function": "observation"}  # the API's names for what ChatGLM calls an observation


class ChatGLMTokenizer(SentencePieceTokenizer, NativeChat):
    """SentencePiece pieces, then ``SPECIAL_TOKENS``; ``[gMASK] sop`` before each text, padding on the left.

    A text cannot write the special tokens, so no user can forge a turn: ``<|user|>`` in it is ordinary characters. The
    config can allow the roles (``encode_special_tokens``) or list tokens to be cut out (``added_tokens_decoder``).
    """

    model_input_names = ("input_ids", "attention_mask", "position_ids")
    padding_side = "left"

    def __init__(self, model: bytes, config: Mapping[str, Any], where: object) -> None:
        listed = {token.content for token in (config.get("added_tokens_decoder") or {}).values()}
        listed |= set(ROLE_TOKENS) if config.get("encode_special_tokens") else set()
        self._only_in_templates = frozenset({*SPECIAL_TOKENS, "<s>"} - listed)
        names = {"bos_token": None, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
        super().__init__(model, {**config, **names}, where)

    def _place_model_tokens(self) -> None:
        for place, content in enumerate(SPECIAL_TOKENS):
            self._place(AddedToken(content, special=True, normalized=False), self._size + place)
        self._place(AddedToken("<s>", special=True, normalized=False), self._processor.bos_id())

    @property
    def vocab_size(self) -> int:
        return self._size + len(SPECIAL_TOKENS)

    @property
    def stop_token_ids(self) -> list[int]:
        """As their ``chat``: the end of sequence, or the beginning of a turn that is not the assistant's."""
        return [self._added[token] for token in ("</s>", "<|user|>", "<|observation|>")]

    def _template(self, pair: bool) -> Template:
        prefix = tuple(self._added[token] for token in PREFIX)
        return (*prefix, "text", "pair", self._added["</s>"]) if pair else (*prefix, "text")

    def _add_ends(self, bos: bool, eos: bool) -> None:
        raise TokenizerError(
            "ChatGLM's prefix and end are its own", where=self.where, remedy="add_special_tokens=False"
        )

    def text_stream(self, skip_special_tokens: bool) -> TextStream:
        return _SpacedStream(self._texts, self.special_ids, skip_special_tokens, strip_now=True)

    def native_chat(self, messages: Sequence[Mapping[str, Any]], options: ChatOptions) -> RenderedChat:
        """As ``build_chat_input``: each turn is its role's token, the metadata's line, and the content, as ids."""
        if options.documents:
            raise TemplateError("ChatGLM's chat format has no place for documents", where=self.where)
        ids = [self._added[token] for token in PREFIX]
        mask, text = [0] * len(ids), "".join(PREFIX)
        for message in _with_tools(messages, options.tools):
            role = _ALIASES.get(message.get("role", ""), message.get("role"))
            content, metadata = message.get("content", ""), message.get("metadata", "")
            if role not in ROLES or not isinstance(content, str) or not isinstance(metadata, str):
                raise TemplateError(
                    "not a message that ChatGLM's chat format can write",
                    expected=f"a role of {', '.join(ROLES)}, and content that is a string",
                    received=repr(dict(message))[:200],
                )
            if "tools" in message:
                content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
            head = [self._added[f"<|{role}|>"], *self._processor.encode(f"{metadata}\n")]
            body = self._processor.encode(content)
            ids += head + body
            mask += [0] * len(head) + [int(role == "assistant")] * len(body)
            text += f"<|{role}|>{metadata}\n {content}"
        if options.add_generation_prompt:
            ids.append(self._added["<|assistant|>"])
            mask.append(0)
            text += "<|assistant|>"
        return RenderedChat(text, encoded=Encoded(ids), assistant_mask=mask)

    def saved_config(self) -> dict[str, Any]:
        """The tokens that their code makes are left out: listed, they would be cut out of texts."""
        saved = {**super().saved_config(), "tokenizer_class": "ChatGLMTokenizer"}
        made = {*self._only_in_templates, "<unk>", "</s>"}
        saved["added_tokens_decoder"] = {
            i: token for i, token in saved["added_tokens_decoder"].items() if token["content"] not in made
        }
        return saved


def _with_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> list[Mapping[str, Any]]:
    """The tools belong to the system message; without one, ChatGLM3's own words introduce them."""
    if not tools:
        return list(messages)
    if messages and messages[0].get("role") == "system":
        return [{"tools": tools, **messages[0]}, *messages[1:]]
    return [{"role": "system", "content": TOOLS_PROMPT, "tools": tools}, *messages]


class _SpacedStream(PieceStream):
    """Special tokens and the stretches of text between them, one space between each, as the slow tokenizers decode."""

    _begun = False  # something has been written
    _in_text = False

    def push(self, token_id: int) -> str:
        if token_id in self._special or token_id >= len(self._texts) or self._texts[token_id] is None:
            return super().push(token_id)
        gap = " " if self._begun and not self._in_text else ""
        self._begun = self._in_text = True
        return gap + super().push(token_id)

    def _special_text(self, token_id: int, text: str) -> str:
        text = (" " if self._begun else "") + text
        text = self._finish_bytes() + text
        self._begun, self._in_text, self._strip = True, False, True
        return text


class ChatGLM4Tokenizer(JsonTokenizer):
    """GLM-4's: tiktoken ranks, special tokens from the config, ``[gMASK]<sop>`` before a text, padding on the left."""

    model_input_names = ("input_ids", "attention_mask", "position_ids")
    padding_side = "left"


def load_chatglm4(path: Path, config: Mapping[str, Any]) -> ChatGLM4Tokenizer:
    """Raises: TokenizerError where the ranks or the config's special tokens are not what GLM-4's code expects."""
    import tokenizers
    from tokenizers import processors

    vocab, merges = ranks_to_bpe(read_ranks(path))
    backend = build_bpe(vocab, merges, PRE_TOKENIZERS["glm4"], path)
    for token_id, token in sorted((config.get("added_tokens_decoder") or {}).items()):
        backend.add_special_tokens([tokenizers.AddedToken(token.content, special=True, normalized=False)])
        if backend.token_to_id(token.content) != token_id:
            raise TokenizerError(
                f"{token.content!r} does not follow the ranks",
                where=path,
                expected=f"id {token_id}",
                received=backend.token_to_id(token.content),
            )
    prefix, end = ("[gMASK]", "<sop>"), config.get("eos_token") or "<|endoftext|>"
    special = [(token, backend.token_to_id(token)) for token in (*prefix, str(end))]
    if any(token_id is None for _, token_id in special):
        raise TokenizerError(
            "the config lacks special tokens of GLM-4", where=path, expected=", ".join(token for token, _ in special)
        )
    with library_errors("the prefix cannot be made", path):
        backend.post_processor = processors.TemplateProcessing(
            single=[*prefix, "$A"], pair=[*prefix, "$A", "$B", str(end)], special_tokens=special
        )
    return ChatGLM4Tokenizer(backend, config, path)
