"""Mistral's ``tekken.json``: ranks of bytes, the pattern that cuts words, and special tokens, which come first.

Source: mistralai/mistral-common, ``tokens/tokenizers/tekken.py``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.base.typed import is_whole, scalar, shown
from pellucid.text.readers.pre_tokenizers import PreTokenizer
from pellucid.text.readers.ranks import MAX_TOKEN_BYTES, RankFile, from_ranks
from pellucid.text.readers.tokenizer_json import JsonTokenizer
from pellucid.text.tokenizer_files import read_json

MAX_SPECIAL = 2**16
# What files of the first versions, which list none, mean.
_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
_KNOWN = RankFile(
    words="tekken",
    special=lambda ranks: [],
    names={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    ends=("</s>",),
    add_bos=True,
)


def load_tekken(path: Path, config: Mapping[str, Any]) -> JsonTokenizer:
    """Raises: TokenizerError where the file contradicts its format."""
    file = read_json(path)
    settings = file.get("config")
    if not isinstance(settings, Mapping):
        raise TokenizerError("the config is missing", where=path, expected="config, vocab, special_tokens")
    pattern = scalar(settings, "pattern", str, where=path, error=TokenizerError)
    numbers = [settings.get(name) for name in ("default_vocab_size", "default_num_special_tokens")]
    if not pattern or not all(is_whole(number) for number in numbers):
        raise TokenizerError("the config is no tekken's", where=path, received=shown(dict(settings)))
    size, num_special = (int(number) for number in numbers if number is not None)
    special = _special(file.get("special_tokens"), num_special, path)
    ranks = _ranks(file.get("vocab"), size - num_special, num_special, path)
    pre = PreTokenizer(patterns=(pattern,), ignore_merges=True)
    return from_ranks(ranks, special, pre, path, _KNOWN, config)


def _special(listed: Any, count: int, path: Path) -> dict[int, str]:
    listed = [{"rank": place, "token_str": token} for place, token in enumerate(_SPECIAL)] if listed is None else listed
    if not isinstance(listed, list) or not 0 <= count <= MAX_SPECIAL:
        raise TokenizerError("no list of special tokens", where=path, received=shown(listed))
    special = {place: f"<SPECIAL_{place}>" for place in range(count)}
    for token in listed:
        place, text = (token.get(key) for key in ("rank", "token_str")) if isinstance(token, Mapping) else (None, None)
        if not is_whole(place) or place not in special or not isinstance(text, str) or not text:
            raise TokenizerError("a special token must have a rank and a text", where=path, received=shown(token))
        special[place] = text
    return special


def _ranks(listed: Any, count: int, first: int, path: Path) -> dict[bytes, int]:
    if not isinstance(listed, list) or not 0 < count <= len(listed):
        received = len(listed) if isinstance(listed, list) else shown(listed)
        raise TokenizerError("the vocabulary is too short", where=path, expected=count, received=received)
    ranks: dict[bytes, int] = {}
    for place, token in enumerate(listed[:count]):
        try:
            data = base64.b64decode(token["token_bytes"], validate=True)
            if token["rank"] != place or data in ranks or not 0 < len(data) <= MAX_TOKEN_BYTES:
                raise ValueError
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise TokenizerError(
                "a token must have its bytes in base64 and its place for a rank",
                where=f"{path}, vocab[{place}]",
                received=shown(token),
            ) from None
        ranks[data] = first + place
    return ranks
