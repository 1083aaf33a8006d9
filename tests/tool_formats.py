"""The tool-call formats that tests go through: a chat template of each, real where ../shared has one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.text.templates.chat_template import render
from pellucid.text.tools.asked import Asked, asked
from pellucid.text.tools.choose import tool_format
from pellucid.text.tools.format import ToolFormat
from pellucid.text.tools.messages import prepared, with_instructions

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 30, "description": "where"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9, "description": "how many"},
                "unit": {"type": "string", "enum": ["C", "F"], "description": "of degrees"},
                "tags": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 9},
                    "maxItems": 3,
                    "description": "words",
                },
            },
            "required": ["city", "days"],
        },
    },
}
NOW = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}
TOOLS = [WEATHER, NOW]
ARGUMENTS = {"city": 'Zürich "x" \n</b> {', "days": 3, "unit": "C", "tags": ["a", "b}"]}

_TURNS = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% if m.tool_calls %}{% for call in m.tool_calls %}CALL{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}{# TOOLS #}"""
_QWEN_XML = """<tool_call>
<function={{ call.function.name }}>
{% for k, v in call.function.arguments.items() %}<parameter={{ k }}>
{{ v if v is string else v | tojson }}
</parameter>
{% endfor %}</function>
</tool_call>"""
_GEMMA = """{%- macro value(v) -%}{%- if v is string -%}Q{{ v }}Q{%- elif v is mapping -%}{{ '{' }}{%- for k, x in
 v.items() -%}{{ k }}:{{ value(x) }}{{ ',' if not loop.last }}{%- endfor -%}{{ '}' }}{%- elif v is iterable -%}[
{%- for x in v -%}{{ value(x) }}{{ ',' if not loop.last }}{%- endfor -%}]{%- else -%}{{ v | tojson }}{%- endif -%}
{%- endmacro -%}
"""
_GEMMA_CALL = "Bcall:{{ call.function.name }}{{ value(call.function.arguments) }}E"


def _gemma(begin: str, end: str, quote: str) -> str:
    call = _GEMMA_CALL.replace("B", begin).replace("E", end)
    return _GEMMA.replace("Q{{ v }}Q", f"{quote}{{{{ v }}}}{quote}") + _TURNS.replace("CALL", call)


_FENCED = (
    "{% if loop.first %}<｜tool▁calls▁begin｜>{% endif %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
    "{{ call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```<｜tool▁call▁end｜>' }}"
    "{% if loop.last %}<｜tool▁calls▁end｜>{% endif %}"
)
TEMPLATES = {  # written here after the documentation that each format's file names
    "qwen-xml": _TURNS.replace("CALL", _QWEN_XML),
    "gemma4": _gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "functiongemma": _gemma("<start_function_call>", "<end_function_call>", "<escape>"),
    "mistral-v11": _TURNS.replace(
        "CALL", "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}"
    ),
    "deepseek-v3": _TURNS.replace("CALL", _FENCED),
    "none": _TURNS.replace("CALL", ""),
}
FILES = {
    "glm": "GLM-4.6.jinja",
    "qwen2.5": "Qwen-Qwen2.5-7B-Instruct.jinja",
    "qwen3": "Qwen-Qwen3-0.6B.jinja",
    "deepseek-v3.1": "deepseek-ai-DeepSeek-V3.1.jinja",
    "llama3": "meta-llama-Llama-3.1-8B-Instruct.jinja",
    "mistral-nemo": "mistralai-Mistral-Nemo-Instruct-2407.jinja",
    "gpt-oss": "openai-gpt-oss-120b.jinja",
    "phi3.5": "microsoft-Phi-3.5-mini-instruct.jinja",
    "gemma2": "google-gemma-2-2b-it.jinja",
}
KINDS = {
    "glm": "glm",
    "qwen2.5": "hermes",
    "qwen3": "hermes",
    "deepseek-v3.1": "deepseek",
    "llama3": "llama3",
    "mistral-nemo": "mistral",
    "gpt-oss": "harmony",
    "phi3.5": "generic",
    "gemma2": "generic",
    "qwen-xml": "qwen-xml",
    "gemma4": "gemma",
    "functiongemma": "functiongemma",
    "mistral-v11": "mistral",
    "deepseek-v3": "deepseek",
    "none": "generic",
}
ONE_CALL = ("llama3", "gpt-oss")  # whose templates refuse, or leave out, a second call
# Tokens that are special in the real vocabularies, so that decoding would drop them.
SPECIAL = {
    "mistral-nemo": ["[TOOL_CALLS]"],
    "mistral-v11": ["[TOOL_CALLS]", "[ARGS]"],
    "gpt-oss": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"],
    "llama3": ["<|python_tag|>"],
    "gemma4": ["<|tool_call>", "<tool_call|>", '<|"|>'],
}


@dataclass(frozen=True)
class Case:
    """A template and its format, with two tools."""

    name: str
    template: str
    form: ToolFormat
    asked: Asked

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        tools: list[Any] | None = TOOLS
        for text in (False, True):
            given = prepared(messages, self.form, arguments_as_text=text)
            for system in (True, False):
                if said := self.form.instructions(self.asked):
                    given, tools = with_instructions(prepared(messages, self.form), said, system=system), None
                try:
                    return render(self.template, given, tools=tools, special_tokens=MARKS, **options).text
                except Exception as failed:
                    error = failed
        raise error

    def said(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, str]:
        """The prompt, and the text of an answer that makes these calls, as the template writes them."""
        user = {"role": "user", "content": "What is the weather?"}
        made = [
            {"id": None, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for name, arguments in calls
        ]
        prompt = self.render([user], add_generation_prompt=True)
        whole = self.render([user, {"role": "assistant", "content": None, "tool_calls": made}])
        assert whole.startswith(prompt)
        answer = whole[len(prompt) :]
        for end in ENDS:
            answer = answer.removesuffix("\n").removesuffix(end)
        return prompt, answer


MARKS = {"bos_token": "<s>", "eos_token": "</s>"}
ENDS = ("<|im_end|>", "<|eot_id|>", "</s>", "<|end|>", "<｜end▁of▁sentence｜>", "<|call|>", "<end_of_turn>")


def case(name: str, shared: Path, special: Mapping[str, int] | None = None) -> Case:
    template = TEMPLATES.get(name) or (shared / "chat_templates" / FILES[name]).read_text(encoding="utf-8")
    if special is None:
        special = {text: place for place, text in enumerate(SPECIAL.get(name, []), 100)}
    return Case(name, template, tool_format(template, special), asked(TOOLS))
