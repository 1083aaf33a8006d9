"""How fast quantized weights become numbers: Pellucid beside the libraries that the formats come from, in turns.

    python bench/quantized_load.py [--mb 64] [--rounds 5] [--only gguf folders] [--record]

gguf: blocks of each GGML type to float32, beside the ``gguf`` package. folders: matrices of a model of one layer, from
a safetensors file to what an executor takes (blocks where some hold the same numbers, else bfloat16), beside
transformers' dequantization (FP8, MXFP4, MLX) or the library's own (compressed-tensors, bitsandbytes, HQQ) where it is
installed. Figures are GB of float32 numbers a second, one thread, medians of rounds; both sides make the same numbers,
which is checked before the clock runs (float32 of the GGML types bit for bit).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
SIZE = 2048  # rows and columns of a folder's matrices

Pair = tuple[str, int, Callable[[], Any], Callable[[], Any] | None]  # name, numbers, ours, theirs


def gguf_pairs(num_bytes: int) -> Iterator[Pair]:
    import gguf.quants
    import numpy as np
    from gguf import GGMLQuantizationType as Type

    from pellucid.base.array import BLOCKS, Array
    from pellucid.quant import LAYOUTS, dequantize

    for dtype, (elements, size) in BLOCKS.items():
        rows = max(num_bytes // 4 // 4096, 16)
        stored = np.random.default_rng(0).integers(0, 256, (rows, 4096 // elements * size), np.uint8)
        for name in {"d", "m", "dmin"} & set(LAYOUTS[dtype].names or ()):
            stored.view(LAYOUTS[dtype])[name] = 0.01
        array = Array(dtype, (rows, 4096), stored)
        kind = Type.__members__.get(dtype.upper())
        reads = kind in gguf.quants._type_traits
        if kind is not None and reads:
            assert np.array_equal(dequantize(array), gguf.quants.dequantize(stored, kind), equal_nan=True), dtype

        def theirs(stored: Any = stored, kind: Any = kind) -> Any:
            return gguf.quants.dequantize(stored, kind)

        yield dtype, rows * 4096, lambda array=array: dequantize(array), theirs if reads else None


def folder_pairs(folder: Path) -> Iterator[Pair]:
    import quantized_folders as folders  # pyright: ignore[reportMissingImports]

    from pellucid.checkpoint import open_checkpoint

    folders.HF.update(hidden_size=SIZE, intermediate_size=SIZE, num_hidden_layers=1, torch_dtype="bfloat16")
    for name in ("gptq 4", "gptq 4, ordered", "awq", "ct 4", "fp8, one", "fbgemm", "ct mxfp4", "bnb nf4", "mlx 4"):
        written = folders.WRITTEN[name]
        parts = tensors_of(folders, written)
        checkpoint = open_checkpoint(folders.write_folder(folder / name.replace(" ", "-"), written, parts))
        names = [one for one in checkpoint.weights if one.startswith("layers.") and "_proj" in one]
        module = {key.rpartition("up_proj.")[2]: value for key, value in parts.items() if "up_proj." in key}
        theirs = THEIRS.get(name, lambda module: None)(module)

        def ours(weights: Any = checkpoint.weights, names: list[str] = names) -> None:
            for one in names:
                _ = weights[one].data

        times = (lambda theirs=theirs: [theirs() for _ in range(7)]) if theirs else None
        yield name, sum(int(checkpoint.weights[one].shape[0]) * SIZE for one in names), ours, times


def tensors_of(folders: Any, written: Any) -> dict[str, Any]:
    """One matrix's tensors, for each of a layer's: written by hand, a second one would take a minute."""
    import numpy as np
    import torch

    shapes = folders.shapes(folders.HF)
    small, _ = written.write(np.random.default_rng(0), 64, SIZE)

    def grown(leaf: str, tensor: Any, rows: int) -> Any:
        if leaf == "weight_shape":
            return torch.tensor([rows, SIZE])
        if leaf in ("g_idx", "weight.quant_map") or "quant_state" in leaf or tensor.numel() == 1:
            return tensor.clone() if "quant_state" not in leaf else state(rows)
        axis = 1 if (leaf in ("qweight", "qzeros", "scales") and "g_idx" in small) or "AWQ" in str(written) else 0
        if leaf in ("qweight", "qzeros", "scales") and written.key == "quantization_config":
            axis = 1
        whole = tensor.view(torch.int8) if tensor.dtype.itemsize == 1 else tensor
        return torch.cat([whole] * (rows // 64), axis).view(tensor.dtype)

    def state(rows: int) -> Any:
        facts = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [rows, SIZE]}
        return torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)

    parts: dict[str, Any] = {}
    for name, shape in shapes.items():
        if "_proj." not in name:
            parts[name] = torch.zeros(shape, dtype=torch.bfloat16)
            continue
        for leaf, tensor in small.items():
            parts[f"{name.removesuffix('weight')}{leaf}"] = grown(leaf, tensor, shape[0])
    return parts


def _fp8(module: dict[str, Any]) -> Callable[[], Any]:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    scale = module["weight_scale"]
    scale = scale if scale.ndim == 2 else scale[None]
    return lambda: Fp8Dequantize(None)._dequantize_one(module["weight"], scale.bfloat16())


def _mxfp4(module: dict[str, Any]) -> Callable[[], Any]:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = module["weight_packed"].reshape(1, SIZE, -1, 16)
    return lambda: convert_moe_packed_tensors(blocks, module["weight_scale"][None])


def _mlx(module: dict[str, Any]) -> Callable[[], Any]:
    from transformers.integrations.metal_quantization import _affine_dequantize_tensor

    return lambda: _affine_dequantize_tensor(module["weight"], module["scales"], module["biases"], 32, 4)


def _compressed(module: dict[str, Any]) -> Callable[[], Any] | None:
    if not importlib.util.find_spec("compressed_tensors"):
        return None
    from compressed_tensors.compressors import BaseCompressor  # pyright: ignore[reportMissingImports]
    from compressed_tensors.quantization import (  # pyright: ignore[reportMissingImports]
        QuantizationArgs,
        QuantizationScheme,
    )

    args = QuantizationArgs(num_bits=4, strategy="group", group_size=32)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    return lambda: compressor.decompress(dict(module), QuantizationScheme(targets=["Linear"], weights=args))


def _bitsandbytes(module: dict[str, Any]) -> Callable[[], Any] | None:
    if not importlib.util.find_spec("bitsandbytes"):
        return None
    from bitsandbytes import functional  # pyright: ignore[reportMissingImports]

    named = {name.removeprefix("weight."): value for name, value in module.items() if name != "weight"}
    state = functional.QuantState.from_dict(named, device="cpu")
    return lambda: functional.dequantize_4bit(module["weight"], state)


THEIRS: dict[str, Callable[[dict[str, Any]], Callable[[], Any] | None]] = {
    "fp8, one": _fp8,
    "fbgemm": _fp8,
    "ct mxfp4": _mxfp4,
    "mlx 4": _mlx,
    "ct 4": _compressed,
    "bnb nf4": _bitsandbytes,
}


def measure(pair: Pair, rounds: int) -> dict[str, Any]:
    """Both sides in turns; the first of each is not counted."""
    name, numbers, ours, theirs = pair
    sides = {"ours": ours, **({"theirs": theirs} if theirs else {})}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, call in sides.items():
            began = time.perf_counter()
            call()
            if turn:
                seconds[side].append(time.perf_counter() - began)
    speeds = {f"{side} GB/s": [4 * numbers / one / 1e9 for one in made] for side, made in seconds.items()}
    return {"name": name, "numbers": numbers, **speeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=64, help="of float32 that each GGML type makes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=("gguf", "folders"), default=["gguf", "folders"])
    parser.add_argument("--record", action="store_true", help="write records/quantized_load-DATE.json")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = {"gguf": gguf_pairs(options.mb * 10**6), "folders": folder_pairs(Path(folder))}
        for kind in options.only:
            for pair in pairs[kind]:
                row = measure(pair, options.rounds)
                rows.append(row)
                ours = statistics.median(row["ours GB/s"])
                line = f"{row['name']:16} {ours:6.2f} GB/s"
                if "theirs GB/s" in row:
                    theirs = statistics.median(row["theirs GB/s"])
                    line += f"  beside {theirs:6.2f}: {ours / theirs:.1f} ×"
                print(line, flush=True)
    if options.record:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
        path = ROOT / "bench" / "records" / f"quantized_load-{date.today()}.json"
        path.write_text(json.dumps({"commit": head, **machine, "rows": rows}, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
