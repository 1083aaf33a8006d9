"""Looking at a model in mid-training, without touching it: the losses of a batch token by token, and a snapshot on a
fixed text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.base.array import Array
from pellucid.model.attend import explicit
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.load import to_array
from pellucid.train.data.batch import Batch
from pellucid.train.objectives.loss import token_nll
from pellucid.train.runs.parallel import reshard, whole

LIKELIEST = 5  # next tokens kept at each position
POSITIONS = 64  # rows of a learned position table that are compared


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards training mode and the random numbers of training as they were."""
    random = torch.get_rng_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        reshard(model)
        model.train()
        torch.set_rng_state(random)


def token_losses(model: Decoder, batch: Batch, autocast: torch.dtype | None = None) -> Float[Tensor, "B T"]:
    """−log p of each target, in nats; 0 where it does not count."""
    batch = batch.to(model.device)
    ctx = batch.context()
    with undisturbed(model), _eager(), torch.autocast(model.device.type, autocast) if autocast else nullcontext():
        hidden = model.hidden(batch.token_ids, ctx)
        nll, _ = token_nll(model, hidden.flatten(0, 1), batch.targets.flatten(), ctx)
    return nll.view(batch.targets.shape).float().cpu()


def take_snapshot(model: Decoder, text: Sequence[int], tokens: Sequence[int]) -> Mapping[str, Array]:
    """What a model makes of a text of T tokens, and where it keeps some tokens' embeddings. By name:

    - ``attention.3`` (H, T, T) float16: the weights of layer 3, for every layer that has such; - ``nll`` (T − 1,): −log
    p of each next token, in nats; ``next_ids``, ``next_p`` (T, 5): what it thinks likeliest to come next; - ``stream``
    (L + 1,): root mean square of the residual stream, before the first layer and after each; - ``embedding`` (N, D)
    float16: the rows of ``tokens``; ``positions`` (P, P) float16: cosines between the rows of a learned position table.
    """
    ids = torch.tensor([list(text)], device=model.device)
    looker = _Looker(model)
    ctx = Context(torch.arange(len(text), device=model.device)[None], attend=explicit, recorder=looker)
    with undisturbed(model), _eager():
        logits = model.logits(model.hidden(ids, ctx)[0], ctx).float()  # (T, V)
        p, likeliest = logits.softmax(-1).topk(min(LIKELIEST, logits.shape[-1]))
        nll = -logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        table = whole(model.embed.weight)[torch.tensor(list(tokens), device=model.device)]
        places = None if model.pos_embed is None else whole(model.pos_embed.weight)[:POSITIONS].float()
    found: dict[str, Tensor] = {
        **{f"attention.{layer}": pattern.half() for layer, pattern in looker.patterns.items()},
        "nll": nll,
        "next_ids": likeliest.int(),
        "next_p": p,
        "stream": torch.stack(looker.stream),
        "embedding": table.half(),
    }
    if places is not None:
        found["positions"] = cosines(places).half()
    return {name: to_array(value) for name, value in found.items()}


def cosines(rows: Float[Tensor, "N D"]) -> Float[Tensor, "N N"]:
    """The cosine of the angle between any two rows."""
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return rows @ rows.mT


def _eager() -> Any:
    """Layers that were compiled run as written: a rare look is not worth compiling for."""
    return torch.compiler.set_stance("force_eager")


class _Looker:
    """A recorder that keeps every layer's attention weights, and how large the stream is."""

    def __init__(self, model: Decoder) -> None:
        self._layers = {module: number for number, layer in enumerate(model.layers) for module in layer.modules()}
        self.patterns: dict[int, Tensor] = {}
        self.stream: list[Tensor] = []

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        if name == "pattern":
            self.patterns[self._layers[module]] = value[0]
        elif name == "resid_post" or (name == "resid_pre" and not self.stream):
            self.stream.append(value.float().square().mean().sqrt())
        return value
