"""Every family in bfloat16 and float16, held to the reference in the same dtype: as near to it as it is to itself.

transformers has two ways to attend, step by step and fused, that round at other places. What they differ by is what
rounding may do; ours, step by step and fused, may differ from each of them by no more. A rounding that is left out or
done twice (an embedding's scale, γ multiplied before or after the cast, angles in 16 bits) is many times worse.
A model of which transformers has one way to attend alone is held to it, and to the same in float32. A recurrence is
rounded otherwise in one go and token by token: there the second way is that.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from reference import reference_model, telling, tiny, torch_transformer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pellucid.config import wide_weights
from pellucid.config.recurrent import Recurrent
from pellucid.executor import StepInput
from pellucid.families import FAMILIES
from pellucid.model.attend import explicit
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor

LENGTH, PROMPT = 400, 300
MARGIN = 1.5  # a third way to round differs from each of two about as much as these from each other
SHARPER = 3.0  # what the final norm is multiplied by: a distribution near uniform would hide differences
EVERY = pytest.mark.parametrize("model", telling(also=FAMILIES))
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def divergences(p: Tensor, q: Tensor) -> Tensor:
    """½ KL(p ‖ q) + ½ KL(q ‖ p) at each position, nats, of (…, V) logits; in float64."""
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1) / 2


def divergence(p: Tensor, q: Tensor, decoder: Decoder) -> float:
    """Of a typical position, where there are experts: a router's near tie falls either way, all or nothing."""
    each = divergences(p, q)
    return (each.median() if any(layer.experts for layer in decoder.config.layers) else each.mean()).item()


def text(decoder: Decoder) -> Tensor:
    """Ids in no order: a text that repeats itself is easy to predict, and little of it is rounded."""
    return torch.randint(0, decoder.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(7))


def decoder_in(model: str, dtype: torch.dtype) -> Decoder:
    """The tiny model with sharper logits, and room for the text where positions have a table."""
    small = tiny(model)
    by_table = small.config.position != "none" or any(
        getattr(layer.mixer, "alibi", None) for layer in small.config.layers
    )
    room = LENGTH if by_table else small.config.context_len
    decoder = Decoder(replace(small.config, context_len=room)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in decoder.named_parameters():
        if name == "pos_embed.weight":
            weight.normal_(0.0, 0.2, generator=generator)
        else:
            weight.copy_(small.get_parameter(name) * (SHARPER if name.startswith("final_norm.") else 1.0))
    kept = wide_weights(decoder.config)
    wide = {name: weight.clone() for name, weight in decoder.named_parameters() if name in kept}
    decoder.to(dtype)
    for name, weight in wide.items():  # as they are loaded
        decoder.get_parameter(name).data = weight
    return decoder.eval()


@cache
def reference(model: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The reference's logits in this dtype: step by step, and fused; in float32 where it cannot be fused."""
    decoder = decoder_in(model, dtype)
    token_ids = text(decoder)
    with torch.no_grad():
        if decoder.config.model_type == "vanilla":
            ways = []
            for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
                with sdpa_kernel(kernel):
                    ways.append(torch_transformer(decoder, token_ids))
            return ways[0], ways[1]
        theirs: Any = reference_model(decoder_in(model, torch.float32))
        exact = None if theirs._supports_sdpa else theirs(token_ids).logits
        buffers = ((name, buffer) for name, buffer in theirs.named_buffers() if not name.endswith(".attn.bias"))
        kept = {name: buffer.clone() for name, buffer in buffers}  # (all but GPT's mask of 0 and 1)
        strict = theirs._keep_in_fp32_modules_strict or ()
        wide = {
            name: weight.data.clone()
            for name, weight in theirs.named_parameters()
            if any(part in name for part in strict)
        }
        theirs.to(dtype)
        for name, weight in wide.items():
            theirs.get_parameter(name).data = weight
        for name, buffer in kept.items():  # as from_pretrained(dtype=…): frequencies stay in float32
            path, _, leaf = name.rpartition(".")
            setattr(theirs.get_submodule(path), leaf, buffer)
        logits = []
        for attention in ("eager", "sdpa") if exact is None else ("eager",):
            theirs.config._attn_implementation = attention  # its setter refuses the older classes, which read it, too
            one_by_one = attention == "sdpa" and _recurrent(decoder)
            logits.append(_one_by_one(theirs, token_ids) if one_by_one else theirs(token_ids).logits)
        return logits[0], logits[1] if exact is None else exact


def _recurrent(decoder: Decoder) -> bool:
    return any(isinstance(layer.mixer, Recurrent) for layer in decoder.config.layers)


def _one_by_one(theirs: Any, token_ids: Tensor) -> Tensor:
    cache, rows = None, []
    for place, token in enumerate(token_ids.split(1, 1)):
        positions = torch.tensor([[place]])  # Bamba does not count those in the cache
        out = theirs(token, past_key_values=cache, use_cache=True, position_ids=positions)
        cache = out.past_key_values
        rows.append(out.logits)
    return torch.cat(rows, 1)


@EVERY
@HALVES
@torch.no_grad()
def test_each_way_to_attend_is_as_near_the_references_as_these_are_to_each_other(
    model: str, dtype: torch.dtype
) -> None:
    decoder = decoder_in(model, dtype)
    eager, fused = reference(model, dtype)
    bound = divergence(eager, fused, decoder)
    assert 0 < bound < 0.1, "in 16 bits they differ, and by rounding alone"
    token_ids = text(decoder)
    positions = torch.arange(LENGTH)[None]
    explained, fast = decoder(token_ids, Context(positions, attend=explicit)), decoder(token_ids, Context(positions))
    if _recurrent(decoder) and any(layer.experts for layer in decoder.config.layers):
        bound *= 2  # both of theirs add experts up in one order
    assert divergence(eager, explained, decoder) <= MARGIN * bound
    assert divergence(fused, fast, decoder) <= MARGIN * bound


@pytest.mark.parametrize("model", telling(list(FAMILIES)))
@HALVES
def test_decoding_one_by_one_is_as_near_as_the_references_two_ways_twice(model: str, dtype: torch.dtype) -> None:
    """One query a call has a kernel of its own, as each row count of a matrix product has: a third way to round."""
    executor = TorchExecutor(decoder_in(model, dtype))
    if executor.config.rotates_by_length:
        pytest.skip("frequencies follow the request's length: a step by itself is no part of one pass")
    ids = text(executor.decoder)[0].tolist()
    slot = executor.allocate(LENGTH)
    steps = [StepInput(slot, ids[:PROMPT], (PROMPT - 1,)), *(StepInput(slot, [i], (0,)) for i in ids[PROMPT:])]
    rows = torch.cat([torch.from_numpy(executor.step([step]).numpy()) for step in steps])
    eager, fused = reference(model, dtype)
    after = slice(PROMPT - 1, LENGTH)
    ours, theirs = divergences(fused[0, after], rows), divergences(eager[0, after], fused[0, after])
    if any(layer.experts for layer in executor.config.layers):  # a router's near tie falls either way: all or nothing
        margin = 2 * MARGIN if _recurrent(executor.decoder) else MARGIN  # as above
        assert ours.median() <= margin * theirs.median()
    else:
        assert ours.mean() <= MARGIN * theirs.mean()
