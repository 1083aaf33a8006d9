"""``--compile``: the forward pass of training, and its backward pass, as programs that torch writes and a compiler
builds.
"""

from __future__ import annotations

import torch

from pellucid.base.errors import ConfigError
from pellucid.model.decoder import Decoder
from pellucid.model.moe import MoE
from pellucid.train.objectives.loss import Forward


def compiled_forward(model: Decoder) -> Forward:
    """``model.hidden``, compiled as one graph for each shape of batch; compilation waits for the first call and is
    cached on the disk.

    The model itself stays as it was: validation and samples, whose shapes vary, run without it. On several processes
    the graph is cut at each layer, where parameters are gathered. So it is of a mixture of experts, where each expert
    is given its rows, and of a mixer that keeps packed texts apart: how many there are is known in the run alone.

    Raises: ConfigError where there is no compiler for the model's device.
    """
    _check_compiler(model.device)
    sparse = [layer.mlp for layer in model.layers if isinstance(layer.mlp, MoE)]
    recurrent = [getattr(layer, layer.kind) for layer in model.layers if layer.recurrent]  # type: ignore[union-attr]
    for module in (*sparse, *recurrent):
        module.mix = torch.compiler.disable(module.mix)  # type: ignore[method-assign]
    return torch.compile(model.hidden, dynamic=False, fullgraph=not (sparse or recurrent or _spread(model)))


def _spread(model: Decoder) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def _check_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(
            "there is no C++ compiler for --compile",
            remedy="install g++ (Debian: apt install g++), set CXX, or leave out --compile",
        ) from None
