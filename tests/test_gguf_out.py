"""GGUF written: every architecture, opened again by us, by the gguf package and by llama.cpp, with the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ggml
import gguf
import numpy as np
import pytest
import torch

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, PellucidError, UnsupportedError, WeightsError
from pellucid.checkpoint import gguf_out
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.gguf_out import plan_of, save_gguf
from pellucid.checkpoint.open import Checkpoint, open_checkpoint
from pellucid.checkpoint.save import save_checkpoint
from pellucid.config import DeltaNetConfig, ModelConfig, weight_shapes
from pellucid.families import FAMILIES
from pellucid.families.translation.gguf_out import difference, outline
from pellucid.model.context import Context
from pellucid.model.load import load_decoder
from pellucid.quant import dequantize

IDS = [1, 5, 9, 2, 7, 30, 4, 61, 13, 8, 90, 3, 22, 47, 5, 19, 33, 71, 80, 6, 2]
# What llama.cpp derives from the size of a model, or has one value for: TINY's is another.
AS_LLAMA_CPP: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "num_hidden_layers": 6, "layer_types": None},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "exaone4": {"num_hidden_layers": 64, "layer_types": None},
    "cohere2": {"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    "qwen3_moe": {"mlp_only_layers": []},
    "qwen2": {"use_sliding_window": False},
    "starcoder2": {"sliding_window": None},
    "minicpm3": {"dim_model_base": 256},
    "qwen3_next": {"linear_value_head_dim": 8},
    "qwen3_5_text": {"linear_value_head_dim": 8},
    "qwen3_5_moe_text": {"linear_value_head_dim": 8},
    "deepseek_v2": {"q_lora_rank": 24},
    "gpt_oss": {"swiglu_limit": 7.0},
    "phimoe": {"router_jitter_noise": 0.01},
    "llama4_text": {"attention_chunk_size": 8192, "attn_scale": 0.1, "floor_scale": 8192},
    "dots1": {"num_key_value_heads": 4},
    "olmoe": {"num_key_value_heads": 4},
    "afmoe": {"num_hidden_layers": 4, "layer_types": None, "mup_enabled": True},
    "falcon_h1": FAMILIES["falcon_h1"].VARIANTS["unscaled"],
}
# Opened by llama.cpp, and computed as something else there.
NOT_FOLLOWED = {
    "phi3": "llama.cpp has switched this family's windows off",
    "phimoe": "llama.cpp weighs the chosen experts by a softmax of theirs",
    "gpt_oss": "llama.cpp rounds the ends of yarn's ramp to whole dimensions",
}

NOT_YET: set[str] = set()  # families that are read, and not written


def config_of(name: str, variant: str = "") -> ModelConfig:
    family = FAMILIES[name]
    return family.config(family.TINY | AS_LLAMA_CPP.get(name, {}) | (family.VARIANTS[variant] if variant else {}))


def can_be_written(name: str, variant: str) -> bool:
    try:
        plan_of(config_of(name, variant), "f32")
    except PellucidError:
        return False
    return True


MODELS = [
    (name, variant)
    for name, family in FAMILIES.items()
    for variant in ("", *family.VARIANTS)
    if can_be_written(name, variant)
]


@cache
def model(name: str, variant: str = "", seed: int = 0) -> Checkpoint:
    """Random weights, of a size at which every term counts."""
    config, rng = config_of(name, variant), np.random.default_rng(seed)
    weights = {}
    for weight, shape in weight_shapes(config).items():
        values = rng.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.2)
        weights[weight] = Array.from_numpy((values + weight.endswith(("norm.weight", "out_scale"))).astype(np.float32))
    return as_checkpoint(name, config, weights)


def as_checkpoint(name: str, config: ModelConfig, weights: dict[str, Array]) -> Checkpoint:
    opened: Any = weights  # a plain mapping does
    return Checkpoint(path=Path(name), kind="safetensors", config=config, weights=opened, stored=weights, files={})


def logits(config: ModelConfig, weights: Mapping[str, Array], ids: list[int] = IDS) -> np.ndarray:
    decoder = load_decoder(config, weights, "float32", "cpu")
    with torch.no_grad():
        return decoder(torch.tensor([ids]), Context(positions=torch.arange(len(ids))[None]))[0].numpy()


def test_every_family_that_is_read_from_gguf_is_written():
    written = {name for name, _ in MODELS}
    assert {name for name, family in FAMILIES.items() if family.GGUF and name not in written} == NOT_YET


@pytest.mark.parametrize(("name", "variant"), MODELS)
def test_a_file_holds_the_model_to_the_bit(name: str, variant: str, tmp_path: Path):
    checkpoint = model(name, variant)
    written = save_gguf(tmp_path / "x.gguf", checkpoint, "f32")
    again = open_checkpoint(written.path)
    assert difference(checkpoint.config, again.config) is None
    entries = plan_of(checkpoint.config, "f32").entries
    computed = {weight for one in entries if one.match and gguf_out.computes(one.match) for weight in one.match.ours}
    for weight, ours in checkpoint.weights.items():
        theirs = dequantize(again.weights[weight])
        offset = gguf_out._offset(checkpoint.config, weight) - gguf_out._offset(again.config, weight)
        if weight in computed:  # γ is written where the weight was γ − 1, A where it was log A
            np.testing.assert_allclose(theirs, ours.data + np.float32(offset), rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(theirs, ours.data)


@pytest.mark.parametrize(("name", "variant"), {name: (name, variant) for name, variant in reversed(MODELS)}.values())
def test_the_gguf_package_reads_the_same_tensors_and_metadata(name: str, variant: str, tmp_path: Path):
    written = save_gguf(tmp_path / "x.gguf", model(name, variant), "q8_0")
    ours, theirs = GGUFFile(written.path), gguf.GGUFReader(written.path)
    assert {tensor.name for tensor in theirs.tensors} == set(ours.tensors)
    for tensor in theirs.tensors:
        array = ours.tensors[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == array.shape
        assert tensor.data.tobytes() == np.ascontiguousarray(array.data).tobytes()
    for key, value in ours.metadata.items():
        assert str(theirs.fields[key].contents()) == str(value.tolist() if isinstance(value, np.ndarray) else value)


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's logits of all models, from one process, or why it has none."""
    folder, jobs = tmp_path_factory.mktemp("llama.cpp"), {}
    for name, variant in MODELS:
        path = save_gguf(folder / f"{name}-{variant}.gguf", model(name, variant), "f32").path
        jobs[f"{name}-{variant}"] = {"path": str(path), "ids": IDS}
    run_llama_cpp(folder, jobs)
    return folder


def run_llama_cpp(folder: Path, jobs: dict[str, Any]) -> None:
    (folder / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("llamacpp_worker.py")
    run = subprocess.run([ggml.PYTHON, worker, folder], capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:] + run.stdout[-2000:]


@ggml.NEEDS
@pytest.mark.parametrize(("name", "variant"), MODELS)
def test_llama_cpp_opens_the_file_and_gives_the_same_logits(name: str, variant: str, llama_cpp: Path):
    checkpoint, refused = model(name, variant), llama_cpp / f"{name}-{variant}.txt"
    assert not refused.exists(), refused.read_text()
    if name in NOT_FOLLOWED and (name, variant) != ("phi3", "no_window"):
        pytest.skip(NOT_FOLLOWED[name])
    ours, theirs = logits(checkpoint.config, checkpoint.weights), np.load(llama_cpp / f"{name}-{variant}.npy")
    # ggml looks GELU up in a table of float16
    mlp = checkpoint.config.layers[0].mlp
    tolerance = 5e-3 if mlp and "gelu" in mlp.activation else 2e-5
    if any(isinstance(layer.mixer, DeltaNetConfig) for layer in checkpoint.config.layers):
        tolerance = 1e-3  # it divides keys by their length where transformers adds 1e-6 to its square: short ones tell
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(ours).max()


WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 8}


def wide(name: str = "llama", **changed: Any) -> Checkpoint:
    config, rng = FAMILIES[name].config(FAMILIES[name].TINY | WIDE | changed), np.random.default_rng(0)
    weights = {
        weight: Array.from_numpy(
            (rng.standard_normal(shape) * 0.06 + weight.endswith(("norm.weight", "out_scale"))).astype(np.float32)
        )
        for weight, shape in weight_shapes(config).items()
    }
    return as_checkpoint(name, config, weights)


KINDS: dict[str, Checkpoint] = {}


def kind(name: str) -> Checkpoint:
    """Shapes for which mixtures differ: grouped heads, tied or not, rows that are not whole blocks, experts."""
    made = {
        "grouped": lambda: wide(num_key_value_heads=1),
        "untied": lambda: wide(num_key_value_heads=4, tie_word_embeddings=False),
        "narrow": lambda: wide(hidden_size=160, intermediate_size=288, num_attention_heads=5, num_key_value_heads=5),
        "odd": lambda: wide(hidden_size=80, intermediate_size=256, num_attention_heads=5, num_key_value_heads=5),
        "experts": lambda: wide("mixtral", intermediate_size=256),
        "fused": lambda: wide("phi3", sliding_window=None, num_key_value_heads=4),
        "one": lambda: wide(num_hidden_layers=1),
    }
    if name not in KINDS:
        KINDS[name] = made[name]()
    return KINDS[name]


@ggml.NEEDS
@pytest.mark.parametrize("name", ["grouped", "untied", "narrow", "odd", "experts", "fused", "one"])
def test_every_mixture_is_llama_cpps_own_to_the_byte(name: str, tmp_path: Path):
    """Types by layer and rounding: what llama.cpp's quantizer makes of the float32 file, tensor by tensor."""
    checkpoint = kind(name)
    whole = save_gguf(tmp_path / "f32.gguf", checkpoint, "f32").path
    mixtures = [mixture for mixture in gguf_out.MIXTURES if mixture not in ("f32", "q2_k_s")]
    numbers = [str(gguf_out.MIXTURES[mixture][1]) for mixture in mixtures]
    script = Path(__file__).with_name("llamacpp_quantize.py")
    run = subprocess.run(
        [ggml.PYTHON, script, whole, tmp_path, *numbers], capture_output=True, text=True, check=False, timeout=280
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for mixture, number in zip(mixtures, numbers, strict=True):
        theirs = GGUFFile(tmp_path / f"{number}.gguf")
        planned = {entry.name: entry.dtype for entry in plan_of(checkpoint.config, mixture).entries}
        types = {tensor: (planned[tensor], theirs.tensors[tensor].dtype) for tensor in theirs.tensors}
        assert not {tensor: both for tensor, both in types.items() if both[0] != both[1]}, mixture
        if mixture not in ("q4_k_m", "bf16", *(("q3_k_m", "q8_0") if name != "experts" else ())):
            continue
        ours = GGUFFile(save_gguf(tmp_path / "ours.gguf", checkpoint, mixture).path)
        assert ours.metadata["general.file_type"] == theirs.metadata["general.file_type"]
        for tensor in theirs.tensors:
            np.testing.assert_array_equal(ours.tensors[tensor].data, theirs.tensors[tensor].data, err_msg=tensor)


@pytest.mark.parametrize("mixture", gguf_out.MIXTURES)
def test_errors_are_within_the_formats(mixture: str, tmp_path: Path):
    if mixture == "q2_k_s":
        with pytest.raises(CheckpointError, match="importance matrix"):
            save_gguf(tmp_path / "x.gguf", kind("grouped"), mixture)
        return
    heard: list[tuple[str, int, int]] = []
    written = save_gguf(
        tmp_path / "x.gguf",
        kind("grouped"),
        mixture,
        wrote=lambda stage, _, done, total: heard.append((stage, done, total)),
    )
    assert written.nbytes == (tmp_path / "x.gguf").stat().st_size
    for dtype, (error, _) in written.errors.items():
        assert error <= gguf_out.ERROR[dtype]
        assert (error > 0) == (dtype != "float32")
    for stage in ("writing", "comparing"):
        amounts = [(done, total) for named, done, total in heard if named == stage]
        assert amounts == sorted(amounts)
        assert amounts[-1][0] == amounts[-1][1]


def test_what_llama_cpp_cannot_say_is_refused_by_name(tmp_path: Path):
    for name, changed, said in (
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("llama", {"hidden_act": "gelu"}, "mlp.activation = 'gelu'"),
        ("mistral", {}, "window"),
        ("qwen3", {"attention_bias": True}, "attn_q.bias"),
        ("olmo2", {"tie_word_embeddings": True}, "output.weight"),
    ):
        config = FAMILIES[name].config(FAMILIES[name].TINY | changed)
        with pytest.raises(UnsupportedError) as refused:
            outline(config, FAMILIES)
        assert said in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_family_without_an_architecture_is_written_as_one_that_computes_the_same():
    config = FAMILIES["mistral"].config(FAMILIES["mistral"].TINY | {"sliding_window": None})
    assert outline(config, FAMILIES).architecture == "llama"


def test_what_is_read_back_otherwise_is_never_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file that was there before stays, and no other is left."""
    path = tmp_path / "x.gguf"
    path.write_bytes(b"before")
    checkpoint = model("llama")
    convert = gguf_out._converted

    def damaged(part: Array, entry: Any, *more: Any) -> Array:
        made = convert(part, entry, *more)
        return made.with_data(made.data[::-1].copy()) if entry.name == "blk.1.ffn_up.weight" else made

    monkeypatch.setattr(gguf_out, "_converted", damaged)
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight read back"):
        save_gguf(path, checkpoint, "f32")
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]


def test_values_beyond_float16_are_refused(tmp_path: Path):
    checkpoint = model("llama", seed=1)
    big = checkpoint.weights["layers.0.mlp.up_proj.weight"].data.copy()
    big[3, 4] = 1e6
    weights = {**checkpoint.weights, "layers.0.mlp.up_proj.weight": Array.from_numpy(big)}
    other = as_checkpoint("big", checkpoint.config, weights)
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_up\.weight exceeds float16"):
        save_gguf(tmp_path / "x.gguf", other, "f16")
    save_gguf(tmp_path / "x.gguf", other, "bf16")


MEASURE = """
import resource, sys
from pellucid.checkpoint.gguf_out import save_gguf
from pellucid.checkpoint.open import open_checkpoint
from pellucid.families import FAMILIES
checkpoint = open_checkpoint(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_gguf(sys.argv[2], checkpoint, sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "torch" in sys.modules)
"""


@pytest.mark.parametrize("mixture", ["q8_0", "f16"])
def test_a_model_is_converted_one_tensor_at_a_time(mixture: str, tmp_path: Path):
    """Of 184 MB of weights the largest tensor has 24; memory grows by that of the two files that are compared, and some
    megabytes of rows. And torch is not needed for it.
    """
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_key_value_heads": 12}
    hf = FAMILIES["llama"].TINY | sizes | {"vocab_size": 16000, "num_hidden_layers": 8, "tie_word_embeddings": False}
    config = FAMILIES["llama"].config(hf)
    weights = {
        name: Array("bfloat16", shape, np.full(shape, 0x3C00, np.uint16))
        for name, shape in weight_shapes(config).items()
    }
    save_checkpoint(tmp_path / "model", config, weights)
    whole = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert whole > 180e6
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "model", tmp_path / "x.gguf", mixture],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, torch_is_there = run.stdout.split()
    assert int(grown) * 1024 < 90e6, f"{int(grown) / 1024:.0f} MiB beside {whole / 2**20:.0f} MiB of weights"
    assert torch_is_there == "False"
