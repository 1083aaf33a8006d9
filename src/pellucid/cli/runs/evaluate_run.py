"""What ``pellucid evaluate`` measures: texts, two models on texts, answers among choices, the harness's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import RequestError
from pellucid.cli.runs import options

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer
    from pellucid.train.measure.compare import Comparison
    from pellucid.train.measure.evaluate import Evaluation

Say = Callable[[str], None]

# What each kind of measurement has options for; given with another, they would do nothing.
_OPTIONS_OF = {
    "-d TEXT": ("against", "text_field", "separator", "max_bytes", "stride", "context_len"),
    "--choices FILE": ("limit",),
    "--tasks NAMES": (
        *("limit", "task_folder", "num_fewshot", "apply_chat_template", "fewshot_as_multiturn", "system", "batch_size"),
    ),
}
_SPELLED = {"context_len": "-c", "system": "-sys"}


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured of which model: the flags of ``pellucid evaluate``."""

    model: str
    data: Sequence[str] = ()
    against: str | None = None
    choices: str | None = None
    tasks: str | None = None
    task_folder: str | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    system: str | None = None
    batch_size: int | None = None
    text_field: Sequence[str] = ()
    separator: str | None = None
    max_bytes: int | None = None
    limit: int | None = None
    stride: int | None = None
    context_len: int | None = None
    dtype: str = "auto"
    quantize: str | None = None
    device: str = "auto"
    threads: int | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        """Raises: RequestError where not one thing is to be measured, or an option would have no effect on it."""
        kinds = {"-d TEXT": self.data, "--choices FILE": self.choices, "--tasks NAMES": self.tasks}
        asked = [kind for kind, value in kinds.items() if value]
        if len(asked) != 1:
            raise RequestError(
                "evaluate measures one thing",
                expected="-d TEXT (with or without --against), --choices FILE, or --tasks NAMES",
                received=" and ".join(asked) or None,
            )
        if self.against and not self.data:
            raise RequestError("there is no text to compare the models on", remedy="-d FILE_OR_FOLDER")
        if self.fewshot_as_multiturn is not None and not self.apply_chat_template:
            raise RequestError(
                "--fewshot-as-multiturn has no effect without turns", expected="--apply-chat-template with it"
            )
        for name in sorted({name for names in _OPTIONS_OF.values() for name in names} - {*_OPTIONS_OF[asked[0]]}):
            if getattr(self, name) not in (None, False, (), ""):
                flag = _SPELLED.get(name, "--" + name.replace("_", "-"))
                kinds_with_it = " or ".join(kind for kind, names in _OPTIONS_OF.items() if name in names)
                raise RequestError(f"{flag} has no effect on {asked[0]}", expected=kinds_with_it)


def measure(measuring: Measuring, say: Say) -> dict[str, Any]:
    """The figures, by name. Raises: PellucidError."""
    import torch

    from pellucid.auto import open_model, tokenizer_of
    from pellucid.train.data.record_files import holds_records
    from pellucid.train.data.sources import find_sources

    sources = find_sources(measuring.data)
    num_json = sum(map(holds_records, sources))
    for flag, value, works, when in (
        ("--text-field", measuring.text_field, num_json > 0, "JSON and tables"),
        ("--separator", measuring.separator, num_json < len(sources), "plain texts"),
    ):
        if value and not works:
            raise RequestError(f"{flag} has no effect here", expected=f"it goes with {when}")
    if measuring.threads:
        torch.set_num_threads(measuring.threads)
    say(f"loading {measuring.model} …")
    checkpoint = open_model(measuring.model, offline=measuring.offline)
    decoder = _load(checkpoint, measuring, dtype=measuring.dtype, quantize=measuring.quantize)
    reference = _reference(checkpoint, decoder, measuring) if measuring.against else None
    tokenizer = tokenizer_of(checkpoint)
    if measuring.choices:
        return choose(decoder, tokenizer, Path(measuring.choices), say, limit=measuring.limit)
    if measuring.tasks:
        from pellucid.harness import Asking, run_tasks

        names = ("num_fewshot", "apply_chat_template", "fewshot_as_multiturn", "system", "batch_size")
        asking = Asking(**{name: getattr(measuring, name) for name in names})
        tasks, folder = measuring.tasks.split(","), measuring.task_folder
        return run_tasks(decoder, tokenizer, tasks, folder=folder, limit=measuring.limit, asking=asking)
    longest = min(one.config.context_len for one in (decoder, reference) if one is not None)
    context_len = measuring.context_len or longest
    if context_len > longest:
        raise RequestError(
            "-c is longer than the model's context" + (", or the reference's" if reference else ""),
            expected=f"at most {longest}",
            received=context_len,
        )
    stride = measuring.stride or max(context_len // 2, 1)
    texts = Texts(sources, measuring.text_field, measuring.separator, measuring.max_bytes, context_len, stride)
    if reference is None:
        evaluation = texts.evaluate(decoder, tokenizer, say)
        figures = {"perplexity": evaluation.perplexity, "bits_per_byte": evaluation.bits_per_byte}
        return {**vars(evaluation), **figures}
    return _figures_of(texts.compare(decoder, reference, tokenizer, say))


def _figures_of(comparison: Comparison) -> dict[str, Any]:
    model, reference = comparison.model, comparison.reference
    return {
        "mean_kl": comparison.mean_kl,
        "top1_agreement": comparison.top1_agreement,
        "perplexity": model.perplexity,
        "reference_perplexity": reference.perplexity,
        "bits_per_byte": model.bits_per_byte,
        "reference_bits_per_byte": reference.bits_per_byte,
        **{name: getattr(model, name) for name in ("num_scored", "num_bytes", "context_len", "stride")},
    }


def _load(checkpoint: Checkpoint, measuring: Measuring, **settings: Any) -> Decoder:
    """The decoder in a dtype, or quantized. Raises: RequestError where quantizing would change nothing; NotFiniteError
    naming a weight.
    """
    from pellucid.model.load import load_decoder
    from pellucid.train.measure.finite import check_weights

    if settings.get("quantize"):
        refuse_blocks(checkpoint, settings["quantize"])
    decoder = load_decoder(checkpoint.config, checkpoint.weights, device=measuring.device, **settings)
    check_weights(decoder)
    return decoder


def refuse_blocks(checkpoint: Checkpoint, bits: str) -> None:
    """Raises: RequestError where the file's matrices are in blocks already: they would stay as they are, and what that
    costs would be measured as exactly nothing.
    """
    if formats := block_formats(checkpoint):
        raise RequestError(
            f"the file's matrices are in blocks already ({', '.join(formats)}), so {bits} would change nothing of them",
            where=checkpoint.path,
            remedy="what these blocks cost is measured beside the file that they were made of: leave out --quantize,"
            " and name that file with --against",
        )


def block_formats(checkpoint: Checkpoint) -> list[str]:
    """The formats of the matrices that the file has in blocks."""
    from pellucid.config import weight_shapes

    matrices = (name for name in weight_shapes(checkpoint.config) if name.endswith("_proj.weight"))
    dtypes = {array.dtype for name in matrices if (array := checkpoint.weights[name]).is_blocks}
    return sorted(dtypes)


def _reference(checkpoint: Checkpoint, decoder: Decoder, measuring: Measuring) -> Decoder:
    """Another model, or the same one in another dtype (float32, bfloat16, …) or quantized (q8, q4).

    Raises: RequestError where it would be the very same.
    """
    from pellucid.auto import open_model

    against = measuring.against
    assert against is not None
    if against in options.QUANTIZED and against != measuring.quantize:
        return _load(checkpoint, measuring, quantize=against)
    if against not in (*options.DTYPES, *options.QUANTIZED):
        return _load(open_model(against, offline=measuring.offline), measuring)
    reference = None if against in options.QUANTIZED else _load(checkpoint, measuring, dtype=against)
    if reference is None or (reference.dtype == decoder.dtype and not measuring.quantize):
        dtype = str(decoder.dtype).removeprefix("torch.")
        raise RequestError(
            f"--against {against} is the model itself ({measuring.quantize or dtype}): exactly 0 away from it",
            remedy="another --dtype or --quantize for one of the two",
        )
    return reference


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
        """Ids of each document that is long enough to be scored, and the bytes that its scored tokens stand for.

        Before a text stands what the tokenizer itself puts there. Where that is nothing, the first token has nothing to
        be predicted from: neither it nor its bytes count.
        """
        from pellucid.train.data.sources import documents
        from pellucid.train.measure.choices import prefix_ids

        left = self.max_bytes
        for source in self.sources:
            for pieces in documents(source, self.fields or ("text",), self.separator):
                text = "".join(pieces)
                if left is not None:
                    text = text.encode()[:left].decode("utf-8", "ignore")
                    left -= len(text.encode())
                prefix = prefix_ids(tokenizer, text)
                encoded = tokenizer.encode_texts([text], None, add_special_tokens=False, details=True)[0]
                unscored = text[: (encoded.offsets or [(0, 0)])[0][1]] if not prefix and encoded.ids else ""
                if len(prefix) + len(encoded.ids) > 1:
                    yield prefix + encoded.ids, len(text.encode()) - len(unscored.encode())
                if left is not None and left < 4:  # less than any character may need
                    return

    def evaluate(self, model: Decoder, tokenizer: Tokenizer, say: Say) -> Evaluation:
        """Raises: RequestError where no text is long enough; NotFiniteError."""
        from pellucid.train.measure.evaluate import evaluate

        total = None
        for ids, num_bytes in self.encoded(tokenizer):
            one = evaluate(model, ids, num_bytes, context_len=self.context_len, stride=self.stride)
            total = one if total is None else total + one
            say(f"{total.num_scored:,} tokens, {total.bits_per_byte:.4f} bits per byte")
        return _some(total)

    def compare(self, model: Decoder, reference: Decoder, tokenizer: Tokenizer, say: Say) -> Comparison:
        """Raises: RequestError where no text is long enough; ConfigError for two vocabularies; NotFiniteError."""
        from pellucid.train.measure.compare import compare

        total = None
        for ids, num_bytes in self.encoded(tokenizer):
            one = compare(model, reference, ids, num_bytes, context_len=self.context_len, stride=self.stride)
            total = one if total is None else total + one
            say(f"{total.model.num_scored:,} tokens, KL {total.mean_kl:.5f}")
        return _some(total)


def _some(total: Any) -> Any:
    if total is None:
        raise RequestError("the texts are too short to be scored", expected="at least 2 tokens")
    return total


def choose(model: Decoder, tokenizer: Tokenizer, path: Path, say: Say, *, limit: int | None = None) -> dict[str, float]:
    """Accuracy on a file of questions, or on the first ``limit`` of them. Raises: DataError."""
    from pellucid.train.measure.choices import answer, read_questions

    questions = read_questions(path)[:limit]
    right = right_by_length = 0
    for number, question in enumerate(questions, 1):
        chosen, by_length = answer(model, tokenizer, question)
        right, right_by_length = right + (chosen == question.answer), right_by_length + (by_length == question.answer)
        say(f"{number} of {len(questions)} questions, {right / number:.1%} right")
    total = len(questions)
    return {"acc": right / total, "acc_norm": right_by_length / total, "num_questions": total}
