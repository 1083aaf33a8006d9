"""The merges shown are those that made the tokenizer's own ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.explain.tokens import chat_story, merge, token_story
from pellucid.text.load import load_tokenizer

FOLDERS = ["stories260K", "chatglm3_tokenizer", "llama2_tokenizer", "minimind_tokenizer", "qwen3_tokenizer"]
TEXTS = [
    "Using a Transformer network is simple",
    "Hello, 世界! 你好 naïve 龘 café  two  spaces\n\ttab 12345",
    "we'll 🤗",
    "<s>x</s> <|im_start|>user",
    "   ",
]


def test_a_worked_example() -> None:
    rules = {("l", "o"): 0, ("lo", "w"): 1, ("e", "r"): 2}
    tokens, steps = merge(tuple("lower"), lambda left, right: rules.get((left, right)))
    assert tokens == ("low", "er")
    assert [step.symbols for step in steps] == [("lo", "w", "e", "r"), ("low", "e", "r"), ("low", "er")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_merges_lead_to_the_tokenizers_own_ids(folder: str, shared: Path) -> None:
    tokenizer = load_tokenizer(shared / folder)
    for text in TEXTS:
        story = token_story(tokenizer, text)
        assert story.exact, text
        assert [i for word in story.words for i in word.ids] == tokenizer.encode(text, add_special_tokens=False)
        assert story.ids == tuple(tokenizer.encode(text))
        json.dumps(story.to_json())
        for word in story.words:
            assert "".join(word.symbols) == "".join(word.tokens) or any(
                token.startswith("<0x") for token in word.tokens
            )
            assert len(word.merges) <= len(word.symbols) - 1


@pytest.mark.parametrize("folder", ["llama2_tokenizer", "minimind_tokenizer"])
def test_merges_are_exact_for_any_text(folder: str, shared: Path) -> None:
    tokenizer = load_tokenizer(shared / folder)

    @settings(max_examples=60, deadline=None)
    @given(
        st.text(
            alphabet=st.one_of(st.sampled_from("the in of er 的是了在  \n"), st.characters(exclude_categories=["Cs"])),
            min_size=1,
            max_size=24,
        )
    )
    def holds(text: str) -> None:
        story = token_story(tokenizer, text)
        assert story.ids == tuple(tokenizer.encode(text))
        assert story.exact

    holds()


def test_special_tokens_around_a_text_are_named(shared: Path) -> None:
    story = token_story(load_tokenizer(shared / "chatglm3_tokenizer"), "Hello")
    assert story.added == ((64790, "[gMASK]"), (64792, "sop"))


def test_a_special_token_in_the_text_is_one_word(shared: Path) -> None:
    words = token_story(load_tokenizer(shared / "qwen3_tokenizer"), "<|im_start|>user").words
    assert words[0].special
    assert words[0].tokens == ("<|im_start|>",)


def test_a_chat_is_shown_as_its_template_renders_it(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "qwen3_tokenizer")
    story = chat_story(tokenizer, "你好", system="Be kind.")
    assert story.text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n你好<|im_end|>")
    assert tokenizer.decode(list(story.ids)) == story.text
    assert "im_start" in story.template
