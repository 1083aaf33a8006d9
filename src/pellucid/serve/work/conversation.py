"""A conversation as its model reads it, and how the answer is to be read: thoughts, text, calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.serve.http.errors import ApiError, invalid
from pellucid.serve.work.ask import Ask
from pellucid.text.chat import ChatOptions, encode_chat
from pellucid.text.tools.asked import Asked, asked
from pellucid.text.tools.choose import format_of
from pellucid.text.tools.format import AnswerParser, ToolFormat
from pellucid.text.tools.messages import render_with_tools

if TYPE_CHECKING:
    from pellucid.grammar.source import Grammar
    from pellucid.text.chat import RenderedChat
    from pellucid.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Conversation:
    """``form`` and ``wanted`` are None for a model that does not chat, whose messages are a text to be continued."""

    text: str
    token_ids: list[int]
    form: ToolFormat | None = None
    wanted: Asked | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the answer is its text, and nothing has to be told apart in it."""
        return self.form is None or (self.form.thought is None and self.form.name == "generic" and not self.calls)

    @property
    def calls(self) -> bool:
        return self.wanted is not None and self.wanted.calls

    def parser(self) -> AnswerParser:
        """Reads one answer."""
        assert self.form is not None
        return self.form.parser(self.wanted, self.text)

    def grammar(self) -> Grammar | None:
        """What holds the answer to its tools and its form; None: nothing does. Raises: RequestError for a tool that is
        ``strict`` with a schema that nothing can be held to.
        """
        from pellucid.grammar.answers import answer_grammar

        assert self.form is not None
        assert self.wanted is not None
        return answer_grammar(self.form, self.wanted, self.text)


def conversation(tokenizer: Tokenizer, ask: Ask, template: str | None, rule: str | None = None) -> Conversation:
    """``template``: in place of the model's own; ``rule``: Lark that the answer's text is held to.

    Raises: ApiError, TemplateError where there is no template, or it fails.
    """
    assert ask.messages is not None
    template = ask.template or template
    if ask.plain_if_no_template and template is None and not tokenizer.chat_template:
        plain = "\n".join(str(message.get("content") or "") for message in ask.messages)
        return Conversation(plain, tokenizer.encode(plain))
    tools = [] if ask.tool_choice == "none" else list(ask.tools)
    wanted = asked(tools, ask.tool_choice, ask.parallel_tool_calls, rule)
    form = format_of(tokenizer, template)
    options = ChatOptions(
        tools=tools or None,
        chat_template=template,
        add_generation_prompt=not ask.continue_final,
        continue_final_message=ask.continue_final,
        template_kwargs={**thinking(ask.reasoning_effort, form.template), **ask.template_kwargs},
    )
    messages = [readable(message, form.template) for message in ask.messages]
    rendered = render_with_tools(tokenizer, form, messages, wanted, options)
    return Conversation(rendered.text, _ids(tokenizer, rendered), form, wanted)


def _ids(tokenizer: Tokenizer, rendered: RenderedChat) -> list[int]:
    return list(encode_chat(tokenizer, rendered)[0].ids)


def thinking(effort: str | None, template: str) -> dict[str, Any]:
    """What a template is told of how long to think: by the words that it has. Raises: ApiError where it has none, and
    thoughts are asked for.
    """
    if effort is None:
        return {}
    if "reasoning_effort" in template:
        return {"reasoning_effort": {"none": "low", "minimal": "low", "xhigh": "high"}.get(effort, effort)}
    thinks = effort not in ("none", "minimal")
    for word in ("enable_thinking", "thinking"):
        if word in template:
            return {word: thinks}
    if thinks:
        raise ApiError(
            400,
            "reasoning_effort: this model's template knows no thinking",
            param="reasoning_effort",
            code="unsupported_parameter",
        )
    return {}


def readable(message: Mapping[str, Any], template: str) -> dict[str, Any]:
    """A message as templates know it: text in place of parts, no keys that are null, and a role that the template has a
    word for.
    """
    plain = {name: value for name, value in message.items() if value is not None}
    if isinstance(plain.get("content"), list):
        plain["content"] = joined(plain["content"])
    plain.setdefault("content", "")
    if plain.get("role") == "developer" and "developer" not in template:
        plain["role"] = "system"
    return plain


def joined(parts: Sequence[Any]) -> str:
    """The text of a content that comes in parts. Raises: ApiError for a part that is not text."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise invalid(f"messages: a part of kind {str(kind)[:80]!r} cannot be read here; only text can", "messages")
    return "".join(texts)
