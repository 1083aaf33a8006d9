"""Which format a model writes, told by its chat template."""

from __future__ import annotations

from collections.abc import Mapping

from pellucid.text.backend import Backend
from pellucid.text.tools.bare import Generic, Llama3
from pellucid.text.tools.deepseek import DeepSeek
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.gemma import FunctionGemma, Gemma
from pellucid.text.tools.glm import Glm
from pellucid.text.tools.harmony import Harmony
from pellucid.text.tools.hermes import Hermes
from pellucid.text.tools.mistral import Mistral
from pellucid.text.tools.qwen_xml import QwenXml

# What only that format's templates say, all of it; the first that fits.
_MARKS: tuple[tuple[type[ToolFormat], tuple[str, ...]], ...] = (
    (Harmony, ("<|channel|>", "<|message|>")),
    (DeepSeek, ("<｜tool▁calls▁begin｜>",)),
    (Glm, ("<arg_key>", "<arg_value>")),
    (QwenXml, ("<function=", "<parameter=")),
    (Gemma, ("<|tool_call>", "<tool_call|>")),
    (FunctionGemma, ("<start_function_call>",)),
    (Mistral, ("[TOOL_CALLS]",)),
    (Hermes, ("<tool_call>",)),
    (Llama3, ('"parameters": ', "ipython")),
)


def tool_format(template: str | None, special: Mapping[str, int] | None = None) -> ToolFormat:
    """The format of this chat template; ours (``Generic``) where it says nothing of tools.

    ``special``: the tokenizer's special tokens, text → id, which the answers' texts then contain.
    """
    template = template or ""
    kind = next((kind for kind, marks in _MARKS if all(mark in template for mark in marks)), Generic)
    return kind(template, special)


def format_of(tokenizer: Backend, template: str | None = None) -> ToolFormat:
    """The format of a tokenizer's model, by its chat template for tools, or by ``template`` where one is given."""
    own = tokenizer.chat_template
    if isinstance(own, Mapping):
        own = own.get("tool_use", own.get("default"))
    special = {text: i for i in tokenizer.special_ids if (text := tokenizer.convert_ids_to_tokens(i))}
    return tool_format(template if template is not None else own, special)
