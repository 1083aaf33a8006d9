"""Whether a model can read what is written to it: scripts that its vocabulary has no characters of, told once."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from pellucid.base.notice import notice

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

BEYOND_LATIN = "\u0250"
MOST = 1.5  # tokens for a letter, above which its vocabulary knows it by bytes alone: 0.5 to 1.2 where it is known
ENOUGH = 2  # letters to judge by
CHINESE = (
    "这个模型的词表里几乎没有汉字，它大概不会读写中文：pellucid chat -m qwen2.5:0.5b "
    "(the vocabulary of this model has hardly a Chinese character)"
)


def tell_of_script(text: str, tokenizer: Tokenizer) -> None:
    """One line on stderr where the letters of a text are bytes to the model, and no more: it was hardly made to read
    them.
    """
    letters = [sign for sign in text if sign >= BEYOND_LATIN and sign.isalpha()]
    if len(letters) < ENOUGH:
        return
    tokens = tokenizer.encode("".join(letters), add_special_tokens=False)
    if len(tokens) <= MOST * len(letters):
        return
    script = unicodedata.name(letters[0], "UNKNOWN").partition(" ")[0]
    if script == "CJK":
        notice(CHINESE)
        return
    notice(
        f"the vocabulary of this model has hardly a {script.capitalize()} character: it was probably not made to "
        "read or write them; `pellucid list` names languages"
    )
