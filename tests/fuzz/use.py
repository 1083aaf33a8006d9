"""What a user does with what was read: weights are dequantized, tokens computed, texts encoded, all of it saved."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from pellucid.config import ModelConfig


def use_weights(checkpoint: Any) -> None:
    from pellucid.quant import dequantize

    for name in checkpoint.weights:
        if checkpoint.weights[name].nbytes < 2**20:
            dequantize(checkpoint.weights[name])


def use_model(checkpoint: Any) -> None:
    """Two tokens after three, by the torch executor; the native one's program and parameters; the description again."""
    from pellucid.families import family_of
    from pellucid.generate.generate import generate
    from pellucid.model.executor import TorchExecutor
    from pellucid.model.load import load_decoder
    from pellucid.native import pack
    from pellucid.native.claims import supports
    from pellucid.native.layout import plan as plan_layout
    from pellucid.native.program import source

    config: ModelConfig = checkpoint.config
    use_weights(checkpoint)
    family_of(config.model_type, "fuzz").to_hf(config)
    if not supports(config):
        layout = plan_layout(config, pack.formats_of(config, checkpoint.weights, None))
        pack.write_parameters(io.BytesIO(), config, layout, checkpoint.weights)
        source(config, layout, kv_cache="f16")
    executor = TorchExecutor(load_decoder(config, checkpoint.weights, "float32", "cpu"))
    generate(executor, [[1, 2, 3]], max_new_tokens=2)


def use_tokenizer(tokenizer: Any, folder: Path, saved: bool = True) -> None:
    text = "Hello <s> wörld\n 12"
    ids = tokenizer.encode(text)
    tokenizer.encode(text, add_special_tokens=False)
    tokenizer.decode(ids)
    tokenizer.decode(ids, skip_special_tokens=True)
    tokenizer.pieces("a é")
    tokenizer.convert_ids_to_tokens(ids)
    stream = tokenizer.text_stream(True)
    _ = "".join([stream.push(i) for i in ids]) + stream.flush()
    _ = (len(tokenizer), tokenizer.get_vocab(), tokenizer.all_special_ids, tokenizer.stop_token_ids, repr(tokenizer))
    _ = tokenizer.pad_token_id
    if not saved:
        return
    out = folder / "saved"
    try:
        tokenizer.save_pretrained(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read_model(folder: Path) -> None:
    from pellucid.auto import open_model

    use_model(open_model(folder))


def read_tokenizer(folder: Path) -> None:
    from pellucid.text.load import load_tokenizer

    use_tokenizer(load_tokenizer(folder), folder)
