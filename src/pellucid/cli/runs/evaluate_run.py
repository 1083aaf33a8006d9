"""What ``pellucid evaluate`` measures: texts, two models on texts, and answers among choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import RequestError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.measure.compare import Comparison
    from pellucid.train.measure.evaluate import Evaluation

Say = Callable[[str], None]


def load_reference(against: str, model: str, **settings: Any) -> Decoder:
    """Another model, or the same one in another dtype (float32, bfloat16, …) or quantized (q8, q4)."""
    from pellucid.auto import load_model

    if against in options.QUANTIZED:
        return load_model(model, **settings, quantize=against)[0]
    return (
        load_model(model, **settings, dtype=against)[0]
        if against in options.DTYPES
        else load_model(against, **settings)[0]
    )


@dataclass(frozen=True)
class Texts:
    """Documents of the sources, up to ``max_bytes``, and the windows in which they are scored."""

    sources: Sequence[Path]
    fields: Sequence[str]
    separator: str | None
    max_bytes: int | None
    context_len: int
    stride: int

    def encoded(self, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
        """Ids, after BOS where the model has it, and bytes of each document that is long enough to be scored."""
        from pellucid.train.data.sources import documents

        prefix, left = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], self.max_bytes
        for source in self.sources:
            for pieces in documents(source, self.fields or ("text",), self.separator):
                text = "".join(pieces)
                if left is not None:
                    text = text.encode()[:left].decode("utf-8", "ignore")
                    left -= len(text.encode())
                ids = prefix + tokenizer.encode(text, add_special_tokens=False)
                if len(ids) > 1:
                    yield ids, len(text.encode())
                if left is not None and left < 4:  # less than any character may need
                    return

    def evaluate(self, model: Decoder, tokenizer: Tokenizer, say: Say) -> Evaluation:
        """Raises: RequestError where no text is long enough."""
        from pellucid.train.measure.evaluate import evaluate

        total = None
        for ids, num_bytes in self.encoded(tokenizer):
            its = evaluate(model, ids, num_bytes, context_len=self.context_len, stride=self.stride)
            total = its if total is None else total + its
            say(f"{total.num_scored:,} tokens, {total.bits_per_byte:.4f} bits per byte")
        return _some(total)

    def compare(self, model: Decoder, reference: Decoder, tokenizer: Tokenizer, say: Say) -> Comparison:
        """Raises: RequestError where no text is long enough; ConfigError for two vocabularies."""
        from pellucid.train.measure.compare import compare

        total = None
        for ids, num_bytes in self.encoded(tokenizer):
            its = compare(model, reference, ids, num_bytes, context_len=self.context_len, stride=self.stride)
            total = its if total is None else total + its
            say(f"{total.model.num_scored:,} tokens, KL {total.mean_kl:.5f}")
        return _some(total)


def _some(total: Any) -> Any:
    if total is None:
        raise RequestError("the texts are too short to be scored", expected="at least 2 tokens")
    return total


def choose(model: Decoder, tokenizer: Tokenizer, path: Path, say: Say) -> dict[str, float]:
    """Accuracy on a file of questions. Raises: DataError."""
    from pellucid.train.measure.choices import answer, read_questions

    questions = read_questions(path)
    right = right_by_length = 0
    for number, question in enumerate(questions, 1):
        chosen, by_length = answer(model, tokenizer, question)
        right, right_by_length = right + (chosen == question.answer), right_by_length + (by_length == question.answer)
        say(f"{number} of {len(questions)} questions, {right / number:.1%} right")
    total = len(questions)
    return {"acc": right / total, "acc_norm": right_by_length / total, "num_questions": total}
