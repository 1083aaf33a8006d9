"""A tokenizer of one's own: characters, or byte-level BPE learned from texts; saved as a folder that any loader of
tokenizer.json reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.base.errors import ConfigError
from pellucid.base.files import atomic_write, write_json
from pellucid.train.data.sources import DataError, documents

if TYPE_CHECKING:
    import tokenizers

END = "<|endoftext|>"  # between documents, as GPT-2 has it: both their end and their beginning
UNKNOWN = "<|unknown|>"  # a character that the texts did not have


def train_characters(
    sources: Sequence[Path], fields: Sequence[str] = ("text",), separator: str | None = None
) -> tokenizers.Tokenizer:
    """One token for each character that occurs, by code point; two for what is outside and between texts."""
    from tokenizers import Tokenizer, decoders, models

    characters: set[str] = set()
    for text in _texts(sources, fields, separator):
        characters.update(text)
    if not characters:
        raise DataError("the texts are empty", where=", ".join(map(str, sources))[:200])
    vocabulary = {character: number for number, character in enumerate([*sorted(characters), UNKNOWN])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    made.decoder = decoders.Fuse()  # type: ignore[assignment]
    made.add_special_tokens([UNKNOWN, END])
    return made


def train_bpe(
    sources: Sequence[Path],
    vocab_size: int,
    fields: Sequence[str] = ("text",),
    separator: str | None = None,
    *,
    progress: bool = False,
) -> tokenizers.Tokenizer:
    """Byte-level BPE: 256 bytes, then the most frequent pair merged, again and again. Words are cut as GPT-2 cuts them.

    Source: Sennrich et al. 2016; Radford et al. 2019 §2.2. Raises: ConfigError for a vocabulary too small to hold every
    byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ConfigError(
            "the vocabulary must hold every byte and the end of text", expected="at least 257", received=vocab_size
        )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    made.train_from_iterator(_texts(sources, fields, separator), trainer)
    return made


def save_tokenizer(made: tokenizers.Tokenizer, folder: Path, *, context_len: int | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    ends = {"bos_token": END, "eos_token": END, "pad_token": END}
    unknown = {"unk_token": UNKNOWN} if made.token_to_id(UNKNOWN) is not None else {}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **ends, **unknown, "clean_up_tokenization_spaces": False}
    if context_len:
        config["model_max_length"] = context_len
    with atomic_write(folder / "tokenizer.json", "w") as file:
        file.write(made.to_str(pretty=False))
    write_json(folder / "tokenizer_config.json", config)


def _texts(sources: Sequence[Path], fields: Sequence[str], separator: str | None) -> Iterator[str]:
    for source in sources:
        for pieces in documents(source, fields, separator):
            yield from pieces
