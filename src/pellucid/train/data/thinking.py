"""Answers that think first, under templates that leave the thinking out of what they write.

    asked      …<｜Assistant｜><think>\\n               the template opens it
    answered   …<｜Assistant｜>Paris.<｜end｜>          and leaves it out of a message that has it
    said       Easy.\\n</think>\\n\\nParis.<｜end｜>      what the model will have to say after the first

A record may hold thinking in ``content``, between ``<think>`` and ``</think>`` (or up to the latter alone, as it comes
from such a model), or in a key of its own. One without any is learned with an empty one where the template opens it:
the model is asked with ``<think>`` open, and has to close it.
"""

from __future__ import annotations

import re

from pellucid.base.notice import notice
from pellucid.train.data.examples import Message

KEYS = ("reasoning_content", "reasoning", "thinking")  # DeepSeek's API, OpenRouter's and gpt-oss's
_OPENED = re.compile(r"\s*<(\w+)>\s*\Z")
USUAL = "think"


def thought(message: Message, tag: str = USUAL) -> str | None:
    """What is thought before an answer; None for one that has no thinking."""
    apart = next((message[key] for key in KEYS if isinstance(message.get(key), str) and message[key]), None)
    if apart is not None:
        return apart
    before, closes, _ = message["content"].rpartition(f"</{tag}>")
    return before.strip().removeprefix(f"<{tag}>") if closes else None


def is_left_out(message: Message, asked: str, answered: str) -> bool:
    """Whether a message thinks, and the text that holds it does not say so after the place where it was asked for."""
    opened = _opened(asked, answered)
    tag = opened or USUAL
    if thought(message, tag) is None or f"</{tag}>" in answered[_alike(asked, answered) :]:
        return False
    if opened is None and f"</{tag}>" not in message["content"]:  # a format that knows of no thinking
        notice("the chat format has no place for thinking that stands in a key of its own, and it is not learned")
        return False
    return True


def said(message: Message, asked: str, answered: str) -> str | None:
    """What the model has to say after ``asked``: its thinking, the answer, and what the template writes behind it. None
    where that cannot be told.
    """
    opened = _opened(asked, answered)
    tag = opened or USUAL
    thinking = thought(message, tag)
    if thinking is None and opened is None:
        return None
    answer = message["content"].rpartition(f"</{tag}>")[2].strip()
    at = answered.rfind(answer)
    if not answer or at < _alike(asked, answered):
        return None
    if thinking is None:
        notice(f"the chat template opens <{tag}> where it asks: answers without thinking are learned with an empty one")
    before = "" if opened else f"<{tag}>\n"
    return f"{before}{(thinking or '').strip()}\n</{tag}>\n\n{answer}{answered[at + len(answer) :]}"


def _alike(one: str, other: str) -> int:
    """How long two texts begin alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def _opened(asked: str, answered: str) -> str | None:
    """The tag that the text which asks ends with, where the text that answers does not have it there."""
    opened = _OPENED.match(asked[_alike(asked, answered) :])
    if opened is None and (last := re.search(r"<(\w+)>\s*\Z", asked)) and not answered.startswith(asked):
        opened = last
    return opened[1] if opened else None
