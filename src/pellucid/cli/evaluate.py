"""``pellucid evaluate``: how well a model predicts a text."""

from __future__ import annotations

from typing import Any

import click

from pellucid.base.errors import RequestError
from pellucid.cli import options
from pellucid.cli.run_config import config


@options.command("evaluate")
@options.model
@options.option("-d", "--data", multiple=True, metavar="TEXT", help="A file, folder or glob; can be given again.", heading="Data")
@options.option("--text-field", multiple=True, metavar="NAME", help="Field of a JSON object.  [default: text]", heading="Data")
@options.option("--separator", metavar="LINE", help="A line between the documents of a plain text.", heading="Data")
@options.option("--max-bytes", type=click.IntRange(min=1), metavar="N", help="Stop after so much text.", heading="Data")
@options.option("--stride", type=click.IntRange(min=1), metavar="N", help="Tokens scored in a window.  [default: half the context]", heading="Data")
@options.context_size
@options.option("--dtype", type=click.Choice(options.DTYPES), metavar="NAME", default="auto", help="auto, float32 or bfloat16.", heading="Model")
@options.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps.", heading="Model")
@options.option("-t", "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.", heading="Model")
@options.offline
@config
@options.as_json
@options.quiet
def command(
    model: str,
    data: tuple[str, ...],
    text_field: tuple[str, ...],
    separator: str | None,
    max_bytes: int | None,
    stride: int | None,
    context_len: int | None,
    threads: int | None,
    offline: bool,
    config: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Measure perplexity and bits per byte of texts.

    pellucid evaluate -m smollm2 -d book.txt --stride 512

    Each document is scored alone, in windows of the context that advance by the stride. Bits per byte compare between
    tokenizers; perplexities do not.
    """
    import json

    import torch

    from pellucid.auto import open_model, tokenizer_of
    from pellucid.cli.console import notice, status
    from pellucid.model.load import load_decoder
    from pellucid.train.evaluate import Evaluation, evaluate
    from pellucid.train.sources import documents, find_sources

    if not data:
        raise RequestError("there is no text", remedy="-d FILE_OR_FOLDER")
    if threads:
        torch.set_num_threads(threads)
    sources = find_sources(data)
    with status("" if quiet else f"loading {model} …") as say:
        checkpoint = open_model(model, offline=offline)
        tokenizer = tokenizer_of(checkpoint)
        decoder = load_decoder(checkpoint.config, checkpoint.weights, flags["dtype"], flags["device"])
        context_len = min(context_len or checkpoint.config.context_len, checkpoint.config.context_len)
        total = Evaluation(0.0, 0, 0, context_len, stride or max(context_len // 2, 1))
        prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        for pieces in (pieces for source in sources for pieces in documents(source, text_field or ("text",), separator)):
            text = "".join(pieces)
            if max_bytes is not None:
                text = text.encode()[: max_bytes - total.num_bytes].decode("utf-8", "ignore")
            ids = prefix + tokenizer.encode(text, add_special_tokens=False)
            if len(ids) > 1:
                its = evaluate(decoder, ids, len(text.encode()), context_len=context_len, stride=total.stride)
                total = Evaluation(total.nll + its.nll, total.num_scored + its.num_scored, total.num_bytes + its.num_bytes, context_len, total.stride)
                say("" if quiet else f"{total.num_scored:,} tokens, {total.bits_per_byte:.4f} bits per byte")
            if max_bytes is not None and total.num_bytes >= max_bytes:
                break
    if not total.num_scored:
        raise RequestError("the texts are too short to be scored", expected="at least 2 tokens")
    if as_json:
        print(json.dumps({**vars(total), "perplexity": total.perplexity, "bits_per_byte": total.bits_per_byte}))
        return
    print(f"perplexity     {total.perplexity:.4f} a token")
    print(f"bits per byte  {total.bits_per_byte:.4f}")
    if not quiet:
        notice(f"{total.num_scored:,} tokens, {total.num_bytes:,} bytes; context {context_len}, stride {total.stride}")
