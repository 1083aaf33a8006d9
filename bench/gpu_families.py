"""One family on a GPU, for ``bench/gpu.py``: held to transformers there, and to ourselves on a CPU.

Models are the tests' own: tiny, with random weights.
"""

from __future__ import annotations

import copy
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from reference import reference_model, tiny
from test_families_half_precision import decoder_in, divergence, text
from torch import Tensor

from pellucid.causal_lm.model import CausalLM
from pellucid.config.recurrent import Recurrent
from pellucid.executor import StepInput
from pellucid.model.attend import explicit
from pellucid.model.batched.executor import BatchedExecutor
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.train.data.batch import Batch
from pellucid.train.objectives.loss import language_loss

LENGTH, PROMPT, NEW = 24, 9, 20
TEXT = 200  # tokens of the text in 16 bits


def prepare() -> None:
    """In each process, before the first model: float32 products are of float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()


def check(model: str, device: str) -> dict[str, Any]:
    """Largest errors of one of ``reference.MODELS``, shares of the logits' scale; what raised, by its words."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"model": model}
    errors: dict[str, str] = {}
    for name, part in PARTS.items():
        try:
            figures |= part(model, torch.device(device))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = "; ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-4:])
            errors[name] = f"{type(error).__name__}: {str(error)[:400]} ({where})"
    return {**figures, "errors": errors, "seconds": round(time.perf_counter() - began, 1)}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.cpu() - theirs.cpu()).abs().max() / theirs.abs().max().cpu()).item()


def moved(decoder: Decoder, device: torch.device) -> Decoder:
    return copy.deepcopy(decoder).to(device)


def tokens(decoder: Decoder, batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, decoder.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(7))


def logits(decoder: Decoder, ids: Tensor, **changed: Any) -> Tensor:
    ids = ids.to(decoder.device)
    return decoder(ids, Context(torch.arange(ids.shape[1], device=ids.device).expand_as(ids), **changed))


@torch.no_grad()
def forward(model: str, device: torch.device) -> dict[str, float]:
    decoder = tiny(model)
    ids, there = tokens(decoder), moved(decoder, device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :7] = False
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = there(ids.to(device), Context(positions.to(device), key_mask=mask.to(device)))
    alone = logits(decoder, ids[:1, 7:])
    return {
        "cpu": relative(logits(there, ids), logits(decoder, ids)),
        "cpu_explicit": relative(logits(there, ids, attend=explicit), logits(decoder, ids)),
        "cpu_padded": relative(padded[:1, 7:], alone),
    }


@torch.no_grad()
def reference(model: str, device: torch.device) -> dict[str, float]:
    decoder = tiny(model)
    if decoder.config.model_type == "vanilla":  # torch's own layers, held to on a CPU
        return {}
    ids = tokens(decoder).to(device)
    theirs = reference_model(decoder)
    here = theirs(ids.cpu()).logits  # on a CPU: whether they agree with themselves
    there = theirs.to(device)(ids).logits
    return {
        "reference": relative(logits(moved(decoder, device), ids), there),
        "reference_of_cpu": relative(logits(decoder, ids.cpu()), here),
        "reference_own": relative(there, here),
    }


def halves(dtype: torch.dtype) -> Callable[[str, torch.device], dict[str, float]]:
    """Symmetric KL in nats: ours, fused and step by step, from transformers' fused and eager; ``bound``: these two from
    each other.
    """

    @torch.no_grad()
    def compare(model: str, device: torch.device) -> dict[str, float]:
        name = str(dtype).removeprefix("torch.")
        decoder = decoder_in(model, dtype).to(device)
        ids = text(decoder)[:, :TEXT].to(device)
        fast, explained = logits(decoder, ids), logits(decoder, ids, attend=explicit)
        found = {f"{name}_own": divergence(fast, explained, decoder)}
        if decoder.config.model_type == "vanilla":
            return found
        theirs: Any = reference_model(decoder_in(model, torch.float32)).to(device)
        buffers = ((key, buffer) for key, buffer in theirs.named_buffers() if not key.endswith(".attn.bias"))
        kept = {key: buffer.clone() for key, buffer in buffers}  # frequencies stay in float32
        strict = theirs._keep_in_fp32_modules_strict or ()
        wide = {
            key: weight.data.clone() for key, weight in theirs.named_parameters() if any(part in key for part in strict)
        }
        theirs.to(dtype)
        for key, weight in wide.items():
            theirs.get_parameter(key).data = weight
        for key, buffer in kept.items():
            path, _, leaf = key.rpartition(".")
            setattr(theirs.get_submodule(path), leaf, buffer)
        theirs.config._attn_implementation = "eager"
        eager = theirs(ids).logits
        found[f"{name}_eager"] = divergence(eager, explained, decoder)
        if theirs._supports_sdpa and not any(isinstance(layer.mixer, Recurrent) for layer in decoder.config.layers):
            theirs.config._attn_implementation = "sdpa"
            fused = theirs(ids).logits
            found |= {
                f"{name}_fused": divergence(fused, fast, decoder),
                f"{name}_bound": divergence(eager, fused, decoder),
            }
        return found

    return compare


def decode(model: str, device: torch.device) -> dict[str, float]:
    """Three requests of several lengths together, token by token, beside the same on a CPU."""
    decoder = tiny(model)
    rows = [row.tolist()[: 24 - 3 * i] for i, row in enumerate(tokens(decoder, 3))]

    def run(executor: TorchExecutor) -> Tensor:
        slots = [executor.allocate(LENGTH) for _ in rows]
        steps = [[StepInput(slot, row[:PROMPT], (PROMPT - 1,)) for slot, row in zip(slots, rows, strict=True)]]
        for place in range(PROMPT, LENGTH):
            steps.append(
                [StepInput(slot, [row[place]], (0,)) for slot, row in zip(slots, rows, strict=True) if place < len(row)]
            )
        return torch.cat([torch.from_numpy(executor.step(step).numpy()) for step in steps])

    here, there = run(TorchExecutor(decoder)), run(TorchExecutor(moved(decoder, device)))
    bf16 = run(TorchExecutor(decoder_in(model, torch.bfloat16).to(device)))
    together = run(BatchedExecutor(moved(decoder, device)))  # by graphs, where a step can be recorded
    return {
        "decode": relative(there, here),
        "decode_batched": relative(together, here),
        "decode_bfloat16_finite": float(torch.isfinite(bf16).all()),
    }


def _whole(model: str) -> CausalLM:
    decoder = tiny(model)
    whole = CausalLM(decoder.config)
    whole.load_state_dict(decoder.state_dict(), strict=False)
    return whole.requires_grad_(False).eval()


def generate(model: str, device: torch.device) -> dict[str, int]:
    """How many of 20 greedy tokens are the CPU's."""
    decoder = tiny(model)
    whole = _whole(model)
    ids = tokens(decoder, 1, PROMPT)
    here = whole.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW)
    there = whole.to(device).generate(ids.to(device), max_new_tokens=NEW, min_new_tokens=NEW).cpu()
    differs = (here != there).nonzero()
    return {"generated_alike": NEW if not len(differs) else int(differs[0, 1]) - PROMPT}


def training(model: str, device: torch.device) -> dict[str, float]:
    """Loss and gradients of whole rows, and of rows that hold two texts each; errors are shares of each gradient's norm
    or of a hundredth of the largest: a key's bias has none but rounding.
    """
    decoder = copy.deepcopy(tiny(model)).requires_grad_(True).train()
    ids = tokens(decoder, 2, LENGTH + 1)
    cut = 10
    segments = (torch.arange(LENGTH) >= cut).long().expand(2, -1)
    positions = torch.cat((torch.arange(cut), torch.arange(LENGTH - cut))).expand(2, -1)
    found: dict[str, float] = {}
    for name, batch in {
        "training": Batch.of(ids[:, :-1], ids[:, 1:]),
        "training_packed": Batch(ids[:, :-1], ids[:, 1:], positions, segments),
    }.items():

        def run(decoder: Decoder, batch: Batch = batch) -> tuple[float, dict[str, Tensor]]:
            decoder.zero_grad(set_to_none=True)
            loss = language_loss(decoder, batch.to(decoder.device)).total
            loss.backward()
            return loss.item(), {k: p.grad.cpu() for k, p in decoder.named_parameters() if p.grad is not None}

        here, gradients = run(decoder)
        there, theirs = run(moved(decoder, device))
        assert theirs.keys() == gradients.keys()
        largest = max(gradient.norm().item() for gradient in gradients.values())
        worst = max(
            ((theirs[key] - gradient).norm() / gradient.norm().clamp(min=1e-2 * largest)).item()
            for key, gradient in gradients.items()
        )
        found |= {f"{name}_loss": abs(there - here) / abs(here), f"{name}_gradient": worst}
    with torch.autocast(device.type, torch.bfloat16):
        other = moved(decoder, device)
        loss = language_loss(other, Batch.of(ids[:, :-1], ids[:, 1:]).to(device)).total
    loss.backward()
    return found | {"training_autocast_finite": float(torch.isfinite(loss).item())}


PARTS: dict[str, Callable[[str, torch.device], dict[str, Any]]] = {
    "forward": forward,
    "reference": reference,
    "decode": decode,
    "generate": generate,
    "training": training,
    "bfloat16": halves(torch.bfloat16),
    "float16": halves(torch.float16),
}


# --- what users are used to -------------------------------------------------------------------------------------------


def ids_from_elsewhere(device: torch.device) -> dict[str, str]:
    """A model on the GPU that is given ids on the CPU."""
    whole, ids = _whole("llama").to(device), tokens(tiny("llama"), 1, PROMPT)
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: whole(ids).logits,
        "forward, mask": lambda: whole(ids.to(device), attention_mask=torch.ones_like(ids)).logits,
        "forward, labels": lambda: whole(ids.to(device), labels=ids).loss,
        "generate": lambda: whole.generate(ids, max_new_tokens=3),
        "generate, mask": lambda: whole.generate(ids.to(device), attention_mask=torch.ones_like(ids), max_new_tokens=3),
        "generate, sampled": lambda: whole.generate(ids.to(device), max_new_tokens=3, do_sample=True, seed=1),
        "generate, beams": lambda: whole.generate(ids.to(device), max_new_tokens=3, num_beams=2),
    }
    return {name: _outcome(call) for name, call in calls.items()}


def explained(device: torch.device) -> dict[str, str]:
    """A trace of a model on the GPU, its page, its checks, one edited run."""
    from tempfile import TemporaryDirectory

    from pellucid import trace

    found = {}
    for model in ("llama", "mixtral", "mamba", "qwen3_next", "deepseek_v3", "gemma3_text"):

        def run(model: str = model) -> str:
            whole = _whole(model).to(device)
            seen = trace(whole, None, tokens(tiny(model), 1, PROMPT)[0].tolist())
            failed = [f"{one.name}, {one.identity}: {one.error:.1e}" for one in seen.checks.failed]
            with TemporaryDirectory() as folder:
                seen.save(Path(folder) / "page.html")
            return f"do not hold: {failed[:5]}" if failed else "checks hold"

        found[model] = _outcome(run)
    return found


def _outcome(call: Callable[[], Any]) -> str:
    try:
        value = call()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = "; ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
        return f"{type(error).__name__}: {str(error)[:300]} ({where})"
    return value if isinstance(value, str) else f"works, on {value.device.type}"


HABITS: dict[str, Callable[[torch.device], dict[str, str]]] = {
    "ids from elsewhere": ids_from_elsewhere,
    "explained": explained,
}
