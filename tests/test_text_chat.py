"""Chats to ids: which template, no special token twice, whose tokens are the assistant's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pellucid.base.errors import TemplateError, TokenizerError
from pellucid.text.load import load_tokenizer
from pellucid.text.tokenizer import Tokenizer

MESSAGES = [
    {"role": "user", "content": "Hi 世界"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}},
    }
]
GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
)


@pytest.fixture(scope="module", params=["minimind_tokenizer", "qwen3_tokenizer"])
def both(request: pytest.FixtureRequest, shared: Path) -> tuple[Tokenizer, Any]:
    return load_tokenizer(shared / request.param), AutoTokenizer.from_pretrained(shared / request.param)


@pytest.fixture(scope="module")
def llama(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "llama2_tokenizer" / "tokenizer.model")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": True},
        {"tools": TOOLS},
        {"enable_thinking": False, "add_generation_prompt": True},
        {"tokenize": False},
        {"return_dict": False},
        {"truncation": True, "max_length": 5},
        {"max_length": 5},
        {"chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"},
    ],
    ids=str,
)
def test_a_chat_is_encoded_as_in_transformers(both: tuple[Tokenizer, Any], options: dict[str, Any]):
    ours, theirs = both
    mine, reference = ours.apply_chat_template(MESSAGES, **options), theirs.apply_chat_template(MESSAGES, **options)
    assert mine == (dict(reference) if hasattr(reference, "data") else reference)


def test_a_chat_can_be_continued(both: tuple[Tokenizer, Any]):
    ours, theirs = both
    options: dict[str, Any] = {"continue_final_message": True, "tokenize": False}
    assert ours.apply_chat_template(MESSAGES[:2], **options) == theirs.apply_chat_template(MESSAGES[:2], **options)
    with pytest.raises(TemplateError, match="exclude each other"):
        ours.apply_chat_template(MESSAGES[:2], continue_final_message=True, add_generation_prompt=True)


def test_several_chats_are_one_table(both: tuple[Tokenizer, Any]):
    ours, theirs = both
    options: dict[str, Any] = {"padding": True, "return_tensors": "np"}
    mine, reference = (one.apply_chat_template([MESSAGES, MESSAGES[:1]], **options) for one in (ours, theirs))
    assert mine.input_ids.tolist() == reference["input_ids"].tolist()
    assert mine.attention_mask.tolist() == reference["attention_mask"].tolist()


@pytest.mark.parametrize("chats", [MESSAGES, [MESSAGES, MESSAGES[:2]]], ids=["one", "two"])
def test_the_assistant_s_tokens_are_marked_as_in_transformers(both: tuple[Tokenizer, Any], chats: list[Any]):
    ours, theirs = both
    options: dict[str, Any] = {"chat_template": GENERATION, "return_assistant_tokens_mask": True}
    mine, reference = ours.apply_chat_template(chats, **options), theirs.apply_chat_template(chats, **options)
    assert mine["assistant_masks"] == reference["assistant_masks"]
    table = ours.apply_chat_template(chats, padding=True, return_tensors="np", **options)
    assert table.assistant_masks.shape == table.input_ids.shape


def test_the_marked_tokens_are_what_the_assistant_said(llama: Tokenizer):
    encoding = llama.apply_chat_template(MESSAGES, chat_template=GENERATION, return_assistant_tokens_mask=True)
    marked = [i for i, mark in zip(encoding.input_ids, encoding.assistant_masks, strict=True) if mark]
    assert llama.decode(marked) == "Hello!<|im_end|>"


def test_what_the_template_begins_with_is_not_added_again(llama: Tokenizer):
    template = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]"
    ids = llama.apply_chat_template(MESSAGES[:1], chat_template=template, return_dict=False)
    assert ids.count(llama.bos_token_id) == 1
    assert ids[0] == llama.bos_token_id
    without = llama.apply_chat_template(MESSAGES[:1], chat_template="{{ messages[0].content }}", return_dict=False)
    assert llama.bos_token_id not in without  # the template is trusted, not completed


def test_no_template_is_an_error_that_says_so(llama: Tokenizer):
    with pytest.raises(TemplateError, match="no chat template, and none is guessed"):
        llama.apply_chat_template(MESSAGES)


def test_one_of_several_templates_is_chosen_by_name_or_purpose(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    tokenizer.chat_template = {"default": "plain", "tool_use": "tools", "rag": "rag {{ documents | length }}"}
    render: Any = tokenizer.apply_chat_template
    assert render(MESSAGES, tokenize=False) == "plain"
    assert render(MESSAGES, tools=TOOLS, tokenize=False) == "tools"
    assert render(MESSAGES, chat_template="rag", documents=[{"title": "t", "text": "x"}], tokenize=False) == "rag 1"
    assert render(MESSAGES, chat_template="mine", tokenize=False) == "mine"
    tokenizer.chat_template = {"rag": "x", "other": "y"}
    with pytest.raises(TemplateError, match=r"none is the default.*other, rag"):
        render(MESSAGES)


def test_an_absent_content_is_no_none(shared: Path):
    tokenizer = load_tokenizer(shared / "minimind_tokenizer")
    template = "{% for m in messages %}{{ m.content if m.content is defined else '-' }}{% endfor %}"
    assert (
        tokenizer.apply_chat_template([{"role": "assistant", "content": None}], chat_template=template, tokenize=False)
        == "-"
    )


def test_the_mask_needs_ids_to_mark(llama: Tokenizer):
    with pytest.raises(TokenizerError, match="needs tokenize=True"):
        llama.apply_chat_template(MESSAGES, chat_template=GENERATION, return_assistant_tokens_mask=True, tokenize=False)


def test_an_empty_conversation_is_refused(llama: Tokenizer):
    with pytest.raises(TemplateError, match="the conversation is empty"):
        llama.apply_chat_template([], chat_template="x")
