"""Under templates that leave thinking out (DeepSeek-R1's distills) the loss is on what the model will have to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pellucid import AutoTokenizer
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.examples import Conversation
from pellucid.train.data.masks import Masked, Masking

# As DeepSeek-R1-Distill-Qwen's does: an answer is written without its thinking; where it asks, it opens <think>.
DISTILL = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>assistant\n' + content + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
EARLIER = DISTILL.replace("<think>\n", "")  # of its first weeks: the model opens <think> itself
USER = {"role": "user", "content": "法国的首都？"}
THOUGHTS = ["<think>\n简单。\n</think>\n\n巴黎。", "简单。\n</think>\n\n巴黎。"]


@pytest.fixture(scope="module")
def mini(shared: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def parts(tokenizer: Tokenizer, one: Masked) -> tuple[str, str]:
    """What comes before the first learned token, and what is learned from there on."""
    first, end = one.learned.index(True), len(one.ids) - one.learned[::-1].index(True)
    assert all(one.learned[first:end]), "one answer, and nothing between"
    return tokenizer.decode(one.ids[:first]), tokenizer.decode(one.ids[first:end])


def asked(shared: Path, template: str, messages: list[dict[str, Any]]) -> str:
    """How transformers asks the model."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")
    return theirs.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("content", THOUGHTS, ids=["whole", "as generated"])
@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.habit("training", "DeepSeek-R1 distills: a template that strips thinking", "works")
def test_thinking_is_learned_after_what_asks_for_it(content: str, turns: int, mini: Tokenizer, shared: Path) -> None:
    messages = [USER, answer(content)] * turns
    masked = Masking(mini, chat_template=DISTILL).tokens(Conversation(messages), "here")
    assert len(masked) == turns, "each answer is asked for with the thinking before it left out"
    for number, one in enumerate(masked):
        before, learned = parts(mini, one)
        assert before == asked(shared, DISTILL, messages[: 2 * number + 1])
        assert learned == "简单。\n</think>\n\n巴黎。<|im_end|>"


@pytest.mark.habit(
    "training",
    "answers without thinking under a template that opens `<think>`",
    "differs",
    "learned with an empty one, and said",
)
def test_an_answer_without_thinking_closes_what_the_template_opened(
    mini: Tokenizer, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pellucid.base import notice

    notice._told.clear()
    (one,) = Masking(mini, chat_template=DISTILL).tokens(Conversation([USER, answer("巴黎。")]), "here")
    assert parts(mini, one) == (asked(shared, DISTILL, [USER]), "\n</think>\n\n巴黎。<|im_end|>")
    assert "opens <think> where it asks" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.habit("data", "thinking in `reasoning_content`", "works")
def test_thinking_in_a_key_of_its_own_is_learned_too(key: str, mini: Tokenizer, shared: Path) -> None:
    (one,) = Masking(mini, chat_template=DISTILL).tokens(
        Conversation([USER, answer("巴黎。", **{key: "简单。"})]), "here"
    )
    assert parts(mini, one) == (asked(shared, DISTILL, [USER]), "简单。\n</think>\n\n巴黎。<|im_end|>")


def test_where_the_template_opens_nothing_the_model_opens_it(mini: Tokenizer, shared: Path) -> None:
    masking = Masking(mini, chat_template=EARLIER)
    for content in THOUGHTS:
        (one,) = masking.tokens(Conversation([USER, answer(content)]), "here")
        before, learned = parts(mini, one)
        assert before == asked(shared, EARLIER, [USER])
        assert learned == "<think>\n简单。\n</think>\n\n巴黎。<|im_end|>"
    (one,) = masking.tokens(Conversation([USER, answer("巴黎。"), USER, answer("还是巴黎。")]), "here")
    assert sum(one.learned) > 4, "without thinking nothing stands apart"


def test_qwen3_and_deepseek_write_thinking_themselves(mini: Tokenizer, shared: Path) -> None:
    for name in ("Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-V3.1"):
        template = (shared / f"chat_templates/{name}.jinja").read_text()
        (one,) = Masking(mini, chat_template=template).tokens(Conversation([USER, answer(THOUGHTS[0])]), "here")
        before, learned = parts(mini, one)
        assert before == asked(shared, template, [USER])
        assert learned.count("</think>") <= 1, name
        assert "巴黎。" in learned


@pytest.mark.habit("data", "`reasoning_content` under a format without thinking", "differs", "not learned, and said")
def test_a_format_that_knows_of_no_thinking_says_that_it_is_not_learned(
    mini: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    from pellucid.base import notice

    notice._told.clear()
    plain = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    masking = Masking(mini, chat_template=plain)
    (one,) = masking.tokens(Conversation([USER, answer("巴黎。", reasoning_content="简单。")]), "here")
    assert parts(mini, one)[1] == "巴黎。<|im_end|>"
    assert "no place for thinking that stands in a key of its own" in capfd.readouterr().err
    (one,) = masking.tokens(Conversation([USER, answer(THOUGHTS[0])]), "here")
    assert parts(mini, one)[1] == THOUGHTS[0] + "<|im_end|>", "what it writes is learned as it stands"
