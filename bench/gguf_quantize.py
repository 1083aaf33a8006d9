"""What quantizing costs: KL(float32 ‖ quantized) by text, of our files, llama.cpp's own, and ours by importance.

    python bench/gguf_quantize.py MODEL TEXT [--calibrate TEXT] [--mixtures q4_k_m …] [--tokens N] [--record]

MODEL is converted to float32 first (of a quantized file that is what its blocks hold), and everything is quantized from
there; llama.cpp quantizes with llama_model_quantize (``make bench-peers`` builds it). KL is the mean over tokens in
nats, of logits computed by our torch decoder from the dequantized files, in float32: sizes and KL do not depend on the
machine. Where no tensor differs from llama.cpp's, its KL is ours, and is not computed twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pellucid.auto import open_model, tokenizer_of
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.gguf_out import MIXTURES, plan_of, save_gguf
from pellucid.checkpoint.imatrix import by_their_names
from pellucid.checkpoint.open import open_checkpoint
from pellucid.model.context import Context
from pellucid.model.importance import input_squares
from pellucid.model.load import load_decoder
from pellucid.text.gguf_out import copied, tokenizer_to_gguf

ROOT = Path(__file__).parents[1]
CHUNK = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--calibrate", type=Path, help="a text for the importance matrix")
    parser.add_argument("--mixtures", nargs="+", default=["q4_k_m"], choices=list(MIXTURES))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--calibration-tokens", type=int, default=4096)
    parser.add_argument("--llamacpp-python", default=str(ROOT / ".venv-llamacpp" / "bin" / "python"))
    parser.add_argument("--record", action="store_true", help="write bench/records/gguf_quantize-DATE.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given, Path(folder))
    for row in rows:
        print(f"{row['mixture']:8} {row['by']:22} {row['bytes'] / 1e6:8.1f} MB  KL {row['kl']:.6f}", end="")
        print("" if row["same_bytes"] is None else f"  tensors that differ from llama.cpp's: {row['differ']}")
    if given.record:
        path = ROOT / "bench" / "records" / f"gguf_quantize-{date.today()}-{Path(given.model).stem}.json"
        facts = {"command": " ".join(sys.argv), "tokens": rows[0]["tokens"]}
        path.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


def chunks_of(ids: list[int], before: list[int], total: int) -> list[list[int]]:
    step = CHUNK - len(before)
    return [[*before, *ids[start : start + step]] for start in range(0, min(len(ids) - step, total), step)]


def measure(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    source = open_model(given.model)
    tokenizer = tokenizer_of(source)
    metadata = (
        copied(source.metadata)
        if "tokenizer.ggml.tokens" in source.metadata
        else tokenizer_to_gguf(tokenizer, source.config.vocab_size, source.config.eos_token_ids)
    )
    whole = open_checkpoint(save_gguf(folder / "f32.gguf", source, "f32", tokenizer=metadata).path)
    before = tokenizer.around()[0]
    chunks = chunks_of(tokenizer.encode(given.text.read_text(), add_special_tokens=False), before, given.tokens)
    decoder = load_decoder(whole.config, whole.weights, "float32", "cpu")
    expected = [log_softmax(decoder, chunk) for chunk in chunks]
    imatrix = None
    if given.calibrate:
        ids = tokenizer.encode(given.calibrate.read_text(), add_special_tokens=False)
        sums = input_squares(decoder, chunks_of(ids, before, given.calibration_tokens))
        matches = [entry.match for entry in plan_of(whole.config, "f32").entries if entry.match]
        imatrix = by_their_names(sums, matches).importance()
    del decoder
    rows: list[dict[str, Any]] = []
    for mixture in given.mixtures:
        ours = save_gguf(folder / "ours.gguf", whole, mixture, tokenizer=metadata, threads=2).path
        theirs = quantized_by_llama_cpp(given.llamacpp_python, folder, MIXTURES[mixture][1])
        differ = differing(ours, theirs)
        files = {"pellucid": ours, "llama.cpp": theirs}
        if imatrix is not None:
            files["pellucid, importance"] = save_gguf(
                folder / "weighed.gguf", whole, mixture, tokenizer=metadata, importance=imatrix, threads=2
            ).path
        for by, path in files.items():
            same = None if by != "pellucid" else not differ
            found = kl(path, chunks, expected) if not (by == "llama.cpp" and not differ) else rows[-1]["kl"]
            facts = {"mixture": mixture, "by": by, "bytes": path.stat().st_size, "kl": found}
            facts |= {"tokens": sum(map(len, chunks))}
            rows.append(facts | {"same_bytes": same, "differ": len(differ)})
    return rows


def log_softmax(decoder: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = decoder(torch.tensor([ids]), Context(positions=torch.arange(len(ids))[None]))[0]
    return logits.log_softmax(-1).half().numpy()


def kl(path: Path, chunks: list[list[int]], expected: list[np.ndarray]) -> float:
    checkpoint = open_checkpoint(path)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    total = count = 0.0
    for ids, wanted in zip(chunks, expected, strict=True):
        theirs = torch.from_numpy(wanted).double().log_softmax(-1)
        ours = torch.from_numpy(log_softmax(decoder, ids)).double().log_softmax(-1)
        total += float((theirs.exp() * (theirs - ours)).sum())
        count += len(ids)
    return total / count


def quantized_by_llama_cpp(python: str, folder: Path, number: int) -> Path:
    script = ROOT / "tests" / "llamacpp_quantize.py"
    subprocess.run([python, script, folder / "f32.gguf", folder, str(number)], check=True)
    return folder / f"{number}.gguf"


def differing(ours: Path, theirs: Path) -> list[str]:
    a, b = GGUFFile(ours).tensors, GGUFFile(theirs).tensors
    return [name for name in b if a[name].dtype != b[name].dtype or not np.array_equal(a[name].data, b[name].data)]


if __name__ == "__main__":
    main()
