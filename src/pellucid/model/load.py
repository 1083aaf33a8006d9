"""From named arrays to a torch decoder and back: nothing copied that need not be, one weight in memory at a time beside
the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import ConfigError
from pellucid.checkpoint.files.release import release
from pellucid.config import ModelConfig, weight_shapes, wide_weights
from pellucid.model.decoder import Decoder
from pellucid.model.quantized import QuantizedLinear, in_blocks
from pellucid.quant import dequantize_into
from pellucid.quant.float8 import TABLES

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def choose_device(device: str | torch.device) -> torch.device:
    """``auto``: CUDA, else MPS, else CPU. Raises: ConfigError for a device that torch does not know or have here."""
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch's words for it
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the device {str(device)!r} cannot be used: {reason}", remedy="--device auto takes the best there is"
            ) from None
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(dtype: str | torch.dtype, stored: str, device: torch.device) -> torch.dtype:
    """``auto``: the checkpoint's own dtype where the device computes in it at speed.

    A CPU without bfloat16 instructions, and weights that are dequantized on a CPU, get float32; on a GPU block formats
    become bfloat16. Raises: ConfigError for a dtype that models do not run in.
    """
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype)
    if dtype != "auto":
        if dtype.removeprefix("torch.") not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not one that models run in", expected="auto, " + ", ".join(DTYPES))
        return DTYPES[dtype.removeprefix("torch.")]
    if device.type == "cpu":
        fast = (
            stored == "bfloat16"
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    return DTYPES.get(stored, torch.bfloat16)


def to_tensor(array: Array, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The array as a CPU tensor; a view of its bits where ``dtype`` is its own (or None, for a plain array), else one
    copy.
    """
    name = next((name for name, known in DTYPES.items() if known is dtype), None)
    if array.dtype in STORAGE and (dtype is None or name == array.dtype):
        data = array.data if array.data.flags.writeable else array.data.copy()
        tensor = torch.from_numpy(np.ascontiguousarray(data).reshape(data.shape))  # numpy makes a scalar (1,) there
        return tensor.view(getattr(torch, array.dtype)) if array.dtype in ("bfloat16", *TABLES) else tensor
    if array.dtype in STORAGE and array.dtype in DTYPES:
        return to_tensor(array).to(dtype)
    out = np.empty(array.shape, np.float32)
    dequantize_into(array, out)
    return torch.from_numpy(out).to(dtype or torch.float32)


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor's values as an array (a view where it is on the CPU and contiguous)."""
    tensor = tensor.detach().cpu().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    data = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return Array(name, tuple(tensor.shape), data)


def stored_dtype(weights: Mapping[str, Array]) -> str:
    """The dtype of most of the weights' bytes; asks for one matrix of the first layer, an MLP's, an expert's or the
    mixer's, which stands for all.
    """
    dense, sparse = "layers.0.mlp.up_proj.weight", "layers.0.mlp.experts.0.up_proj.weight"
    mixing = next((name for name in weights if name.startswith("layers.0.") and name.endswith("_proj.weight")), sparse)
    return weights[dense if dense in weights else sparse if sparse in weights else mixing].dtype


def load_decoder(
    config: ModelConfig,
    weights: Mapping[str, Array],
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    quantize: str | None = None,
) -> Decoder:
    """A decoder with these weights; see ``load_weights``."""
    with torch.device("meta"):
        decoder = Decoder(config)
    load_weights(decoder, weights, dtype, device, quantize)
    return decoder


def load_weights(
    decoder: Decoder,
    weights: Mapping[str, Array],
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    quantize: str | None = None,
) -> None:
    """Give a decoder on the meta device its weights. ``weights`` is asked for each name once, in order, and may make
    them on the way.

    ``quantize`` ("q8", "q4"): the layers' matrices stay in blocks (``model.quantized``), the file's own where it has
    such; those whose rows are no whole blocks stay as they are. Shapes are the mapping's to check
    (``families.rules.to_ours`` does). The decoder is then in eval mode and needs no gradients.
    """
    target = choose_device(device)
    precision = choose_dtype(dtype, stored_dtype(weights), target)
    modules: dict[str, nn.Module] = dict(decoder.named_modules())
    wide = wide_weights(decoder.config)
    for name in weight_shapes(decoder.config):
        array = weights[name]
        path, _, leaf = name.rpartition(".")
        is_matrix = path.endswith("_proj") and leaf == "weight"
        if quantize is not None and is_matrix and (blocks := in_blocks(array, quantize)) is not None:
            modules[path] = QuantizedLinear(blocks, precision, target)
            decoder.set_submodule(path, modules[path])
            continue
        kept = torch.promote_types(precision, torch.float32) if name in wide else precision
        tensor = to_tensor(array, kept).to(target)
        if array.dtype != str(kept).removeprefix("torch.") or target.type != "cpu":
            release(array)  # converted: the file's pages need not stay in memory beside the copy
        setattr(modules[path], leaf, nn.Parameter(tensor, requires_grad=False))
    for name, buffer in list(decoder.named_buffers(recurse=False)):
        decoder.register_buffer(name, buffer.to(target, precision), persistent=False)
    decoder.eval()


def weights_of(decoder: Decoder) -> Iterator[tuple[str, Array]]:
    """The decoder's weights by our names, in the order of computation."""
    for name in weight_shapes(decoder.config):
        yield name, to_array(decoder.get_parameter(name))
