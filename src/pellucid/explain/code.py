"""Which line of code computes a step: found in the running source, so that it is right by construction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pellucid.model import attend, position
from pellucid.model.attention import Attention
from pellucid.model.decoder import Decoder, Layer
from pellucid.model.mlp import MLP
from pellucid.model.moe import MoE
from pellucid.model.norm import LayerNorm, RMSNorm
from pellucid.operations import Tap

# Tap name -> (function, a part of the line that occurs in it once). Norms and rotations are their own functions.
LINES: dict[str, tuple[Callable[..., Any], str]] = {
    "embed": (Decoder.hidden, "self.embed(token_ids)"),
    "pos_embed": (Decoder.hidden, '"pos_embed"'),
    "resid_pre": (Layer.forward, '"resid_pre"'),
    "attn_in": (Attention.forward, '"attn_in"'),
    "q": (Attention.forward, "self.q_proj("),
    "k": (Attention.forward, "self.k_proj("),
    "v": (Attention.forward, "self.v_proj("),
    "scores": (attend.explicit, "config.softmax_scale"),
    "pattern": (attend.explicit, ".softmax(-1)"),
    "z": (attend.explicit, "pattern @ v"),
    "attn_proj": (Attention.forward, "self.o_proj(z"),
    "attn_out": (Attention.forward, "self.o_proj(z"),
    "resid_mid": (Layer.forward, "x + self.attend(read, ctx)))"),
    "mlp_in": (MLP.forward, '"mlp_in"'),
    "mlp_pre": (MLP.forward, "self.gate_proj("),
    "mlp_up": (MLP.forward, '"mlp_up"'),
    "mlp_act": (MLP.forward, "self.gate_proj("),
    "mlp_proj": (MLP.forward, "self.down_proj("),
    "mlp_out": (MLP.forward, "self.down_proj("),
    "router_logits": (MoE.forward, "self.router("),
    "experts": (MoE.route, "chosen ="),
    "resid_post": (Layer.forward, "x + self.think(normed("),
    "final": (Decoder.hidden, '"final"'),
    "logits": (Decoder.logits, "self.embed.weight"),
}
UNGATED = dict.fromkeys(("mlp_pre", "mlp_act"), (MLP.forward, '"mlp_pre", self.up_proj('))
NORMS = {"layer": (LayerNorm.forward, "return"), "rms": (RMSNorm.forward, "return")}
MIX = (MoE.mix, "weighted =")
ROTATE = (position.rotate, "a * cos - b * sin")
# Taps that no line of the native program's forward names -> the file and a part of the line that computes them.
IN_C = {
    "embed": ("forward.c.in", "read_row("),
    "pos_embed": ("forward.c.in", "numbers(m, POS_EMBED)"),
    "scores": ("stages.h", "gather_chunk("),
    "pattern": ("stages.h", "gather_chunk("),
}
SINUSOIDAL = (position.sinusoidal_table, "angle =")


def line_of(tap: Tap, norm: str, gated: bool) -> str:
    """``pellucid/model/attend.py:58``."""
    if tap.kind == "norm":
        return locate(*NORMS[norm])
    if tap.kind == "rotate":
        return locate(*ROTATE)
    if tap.kind == "experts":
        return locate(*MIX)
    if tap.kind == "position":
        return locate(*SINUSOIDAL)
    return locate(*(LINES | ({} if gated else UNGATED))[tap.name])


@cache
def line_in_c(name: str) -> str:
    """Where the native program has a tap's value: ``native/c/forward.c.in:59``; for what it never holds as a whole,
    where it is used.
    """
    file, part = IN_C.get(name, ("forward.c.in", f'"{name}"'))
    lines = (files("pellucid.native") / "c" / file).read_text(encoding="utf-8").splitlines()
    return f"native/c/{file}:{next(number for number, line in enumerate(lines, 1) if part in line)}"


@cache
def locate(function: Callable[..., Any], part: str) -> str:
    """File and line of the first line below ``function``'s signature that contains ``part``."""
    lines, first = inspect.getsourcelines(function)
    number = next(first + i for i, line in enumerate(lines) if i > 0 and part in line and '"""' not in line)
    file = Path(inspect.getsourcefile(function) or "")
    return f"{'/'.join(file.parts[-3:])}:{number}"
