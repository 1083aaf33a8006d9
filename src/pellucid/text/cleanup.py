"""Clean-up of the spaces that word-piece vocabularies leave before punctuation, whole or as a stream.

Source: transformers, ``PreTrainedTokenizerBase.clean_up_tokenization``.
"""

from __future__ import annotations

RULES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up_tokenization(text: str) -> str:
    """``"do n't , please"`` → ``"don't, please"``: each rule over the whole text, in order."""
    for old, new in RULES:
        text = text.replace(old, new)
    return text


class StreamingReplace:
    """``str.replace`` over text that arrives in parts; holds back only what may become a match."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new, self._held = old, new, ""

    def push(self, text: str) -> str:
        *whole, rest = (self._held + text).split(self._old)
        hold = next((n for n in range(min(len(self._old) - 1, len(rest)), 0, -1) if self._old.startswith(rest[-n:])), 0)
        self._held = rest[len(rest) - hold :]
        return self._new.join([*whole, rest[: len(rest) - hold]])

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


class StreamingCleanUp:
    """``clean_up_tokenization`` over text that arrives in parts."""

    def __init__(self) -> None:
        self._rules = [StreamingReplace(old, new) for old, new in RULES]

    def push(self, text: str) -> str:
        for rule in self._rules:
            text = rule.push(text)
        return text

    def flush(self) -> str:
        text = ""
        for rule in self._rules:
            text = rule.push(text) + rule.flush()
        return text
