"""From a conversation to ids: choose the template, render it, encode what it wrote and add no special token twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pellucid.base.errors import TemplateError
from pellucid.text.backend import Backend, check_text
from pellucid.text.encoding import BatchEncoding, Encoded, truncate


@dataclass(frozen=True)
class ChatOptions:
    """What a caller of ``apply_chat_template`` asks of the rendering."""

    tools: list[Any] | None = None
    documents: list[dict[str, str]] | None = None
    chat_template: str | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    assistant_mask: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text; a native format has made its ids already."""

    text: str
    assistant_spans: Sequence[tuple[int, int]] = ()
    encoded: Encoded | None = None
    assistant_mask: list[int] | None = None


def choose_template(tokenizer: Backend, wanted: str | None, has_tools: bool) -> str | None:
    """The template: the one given or named, else the tokenizer's; None where only a native format is left.

    Raises: TemplateError where there is nothing to choose, or no default among several.
    """
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        if wanted is not None:
            return templates.get(wanted, wanted)
        if has_tools and "tool_use" in templates:
            return templates["tool_use"]
        if "default" in templates:
            return templates["default"]
        raise TemplateError(
            "there are several chat templates and none is the default",
            where=tokenizer.where,
            received=", ".join(sorted(templates)),
            remedy="name one: chat_template='…'",
        )
    if wanted is not None or templates is not None:
        return wanted if wanted is not None else templates
    if isinstance(tokenizer, NativeChat):
        return None
    raise TemplateError(
        "the tokenizer has no chat template, and none is guessed",
        where=tokenizer.where,
        remedy="pass chat_template=…, or give the model a plain prompt: it may not have been trained to chat",
    )


def render_chats(
    tokenizer: Backend, conversation: Sequence[Any], options: ChatOptions
) -> tuple[list[RenderedChat], bool]:
    """Render one conversation or several; the second value says which was given.

    Raises: TemplateError.
    """
    if isinstance(conversation, str):
        raise TemplateError(
            "a conversation is a list of messages",
            received=repr(conversation[:40]),
            remedy='[{"role": "user", "content": text}]',
        )
    if not conversation:
        raise TemplateError("the conversation is empty", expected="at least one message")
    batched = not isinstance(conversation[0], Mapping)
    conversations = conversation if batched else [conversation]
    if options.continue_final_message and options.add_generation_prompt:
        raise TemplateError(
            "continue_final_message and add_generation_prompt exclude each other", remedy="ask for one of them"
        )
    template = choose_template(tokenizer, options.chat_template, bool(options.tools))
    # APIs write content=None or tool_calls=None; templates know only the absence of a key.
    cleaned = [
        [{key: value for key, value in message.items() if value is not None} for message in chat]
        for chat in conversations
    ]
    if template is None:
        assert isinstance(tokenizer, NativeChat)
        return [tokenizer.native_chat(chat, options) for chat in cleaned], batched
    return [_render(tokenizer, template, chat, options) for chat in cleaned], batched


def _render(tokenizer: Backend, template: str, chat: list[dict[str, Any]], options: ChatOptions) -> RenderedChat:
    from pellucid.text.templates.chat_template import render  # imports numpy, which encoding can do without

    rendered = render(
        template,
        chat,
        tools=options.tools,
        documents=options.documents,
        add_generation_prompt=options.add_generation_prompt,
        continue_final_message=options.continue_final_message,
        special_tokens=tokenizer.special_tokens_map,
        **options.template_kwargs,
    )
    return RenderedChat(rendered.text, rendered.assistant_spans)


def encode_chats(
    tokenizer: Backend,
    chats: Sequence[RenderedChat],
    batched: bool,
    options: ChatOptions,
    *,
    padding: bool | str,
    truncation: bool | str,
    max_length: int | None,
    return_tensors: str | None,
) -> BatchEncoding:
    """Ids of rendered conversations, and the mask of what the assistant said."""
    pairs = [encode_chat(tokenizer, chat, with_mask=options.assistant_mask) for chat in chats]
    encoded, masks = [one for one, _ in pairs], [mask for _, mask in pairs] if options.assistant_mask else None
    strategy, limit = tokenizer.truncation_of(truncation, max_length, padding)
    if strategy is not None and limit is not None:
        if masks is not None:
            masks = [truncate(Encoded(mask), limit, strategy, tokenizer.truncation_side).ids for mask in masks]
        encoded = [truncate(one, limit, strategy, tokenizer.truncation_side) for one in encoded]
    more = None if masks is None else {"assistant_masks": masks}
    return tokenizer.columns(
        encoded, batched, padding=padding, max_length=max_length, return_tensors=return_tensors, more=more
    )


def encode_chat(tokenizer: Backend, chat: RenderedChat, *, with_mask: bool = False) -> tuple[Encoded, list[int]]:
    """The ids of one rendered conversation; ``with_mask``, their offsets, too, and 1 for each token that the assistant
    said (else no mask).
    """
    if chat.encoded is not None:
        encoded = chat.encoded
    else:
        check_text(chat.text)
        encoded = tokenizer.encode_texts(
            [chat.text], None, add_special_tokens=False, details=with_mask, from_template=True
        )[0]
    return encoded, _assistant_mask(chat, encoded) if with_mask else []


def _assistant_mask(chat: RenderedChat, encoded: Encoded) -> list[int]:
    """1 for each token that shares a character with what the assistant said."""
    if chat.assistant_mask is not None:
        return chat.assistant_mask
    offsets = encoded.offsets or []
    mask = [0] * len(offsets)
    spans = iter(sorted(chat.assistant_spans))
    span = next(spans, None)
    for index, (start, end) in enumerate(offsets):
        while span is not None and span[1] <= start:
            span = next(spans, None)
        if span is None:
            break
        mask[index] = int(end > span[0])
    return mask


class NativeChat:
    """A tokenizer whose model has a chat format of its own, written in ids and not in a template."""

    def native_chat(self, messages: Sequence[Mapping[str, Any]], options: ChatOptions) -> RenderedChat:
        """The conversation in the model's own format. Raises: TemplateError for a role it does not know."""
        raise NotImplementedError
