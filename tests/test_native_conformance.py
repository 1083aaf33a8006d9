"""The native executor beside torch: every family's tiny model, step by step, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from reference import MODELS, telling, tiny

from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.config import ModelConfig, NormConfig, PartNorms, RopeScaling
from pellucid.executor import Executor, StepInput
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder, weights_of
from pellucid.native import pack
from pellucid.native.build import compiler
from pellucid.native.claims import supports
from pellucid.native.executor import NativeExecutor
from pellucid.native.formats import FORMATS, VECTOR
from pellucid.native.layout import plan, shapes_of
from pellucid.operations.reference import reference
from pellucid.quant import convert, dequantize

QUICK_BUILD = ("-O0", "-DPLAIN_C")  # what differs between most models is not in the kernels
OPTIMISED = ("llama", "gpt2", "qwen2", "chatglm", "gemma3_text")  # with the processor's own instructions


def made() -> dict[str, ModelConfig]:
    """Descriptions of what no family here has: norms in every place, several rotary bases, layers that differ."""
    config = FAMILIES["llama"].config(FAMILIES["llama"].TINY | {"num_hidden_layers": 3})
    rms, ln = NormConfig(offset=1.0), NormConfig(kind="layer", bias=True, offset=0.5)
    both, after = PartNorms(before=rms, after=rms), PartNorms(after=ln)
    rope = config.layers[0].mixer.rope
    assert rope is not None
    slow = replace(rope, theta=100.0, scaling=RopeScaling(kind="linear", factor=4.0))
    far = replace(rope, theta=50.0, scaling=RopeScaling(kind="yarn", factor=4.0, original_context_len=16))

    def each(**changes: Any) -> ModelConfig:
        return replace(config, layers=tuple(replace(layer, **changes) for layer in config.layers))

    def mixers(*changes: dict[str, Any]) -> ModelConfig:
        layers = zip(config.layers, changes, strict=True)
        return replace(config, layers=tuple(replace(one, mixer=replace(one.mixer, **new)) for one, new in layers))

    return {
        "sandwich": each(mixer_norms=both, mlp_norms=both),
        "after": each(mixer_norms=after, mlp_norms=after),
        "everywhere": each(
            mixer_norms=PartNorms(before=rms, after=ln, sum=rms), mlp_norms=PartNorms(before=ln, after=rms, sum=ln)
        ),
        "no norms": each(mixer_norms=PartNorms(), mlp_norms=PartNorms()),
        "parallel": each(parallel=True, mlp_norms=PartNorms()),
        "parallel sandwich": each(parallel=True, mixer_norms=both, mlp_norms=both),
        "q and k as a whole": mixers(*[{"qk_norm": ln, "qk_norm_over": "all"}] * 3),
        "q and k with an offset": mixers(*[{"qk_norm": rms}] * 3),
        "q and k normed after their rotation": mixers(
            *[{"qk_norm": ln, "qk_norm_over": "all", "qk_norm_at": "after"}] * 2,
            {"qk_norm": ln, "qk_norm_over": "all", "qk_norm_at": "after", "rope": None},
        ),
        "scaled": replace(each(residual_scale=0.3), logit_scale=2.5, tie_embeddings=False, head_bias=True),
        "parallel scaled": each(residual_scale=0.3, parallel=True, mlp_norms=PartNorms()),
        "several rotary bases": mixers({"rope": slow}, {"rope": far, "window": 9}, {"rope": None, "window": 5}),
        "windows and scales": mixers({"window": 3}, {"scale": 0.9}, {"window": 12, "scale": 0.1}),
        "biases in one layer": mixers({"qkv_bias": True}, {}, {"o_bias": True}),
        "layers that differ in their heads": mixers(
            {"num_heads": 2, "num_kv_heads": 1, "head_dim": 24},
            {"qk_norm": rms, "softcap": 2.0, "window": 5},
            {"num_heads": 6, "num_kv_heads": 3, "head_dim": 10, "rope": replace(rope, dim=6, layout="interleaved")},
        ),
        "layers that differ in everything": replace(
            mixers(
                {"rope": slow}, {"num_heads": 2, "num_kv_heads": 2, "head_dim": 20}, {"qk_norm": ln, "o_bias": True}
            ),
            layers=tuple(
                replace(each, mlp=replace(each.mlp, **mlp), **new)
                for each, mlp, new in zip(
                    mixers({"rope": slow}, {"num_kv_heads": 4}, {"qk_norm": ln, "o_bias": True}).layers,
                    [{}, {"d_ff": 100, "activation": "relu2", "gated": False}, {"d_ff": 20, "bias": True}],
                    [{"parallel": True}, {"mixer_norms": both, "mlp_norms": after}, {"residual_scale": 0.5}],
                    strict=True,
                )
            ),
        ),
        "softcaps": replace(mixers(*[{"softcap": 2.0}] * 3), logit_softcap=3.0),
    }


@cache
def decoder_of(model: str) -> Decoder:
    """One of ``MODELS``, or one that is made here."""
    if model not in made():
        return tiny(model)
    decoder, generator = Decoder(made()[model]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.2, generator=generator)
    return decoder.requires_grad_(False).eval()


RUN = [model for model in MODELS if supports(tiny(model).config) is None]  # every family, and its optional parts
EVERY = pytest.mark.parametrize("model", telling([*RUN, *made()]))
HOWEVER_SPLIT = pytest.mark.parametrize(  # a scaling by length goes by how long the request is after each step
    "model", telling([model for model in (*RUN, *made()) if not decoder_of(model).config.rotates_by_length])
)
LENGTH = 40
pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"),
    pytest.mark.usefixtures("private_cache"),
]


def flags_of(model: str) -> tuple[str, ...]:
    return ("-O1",) if model in OPTIMISED else QUICK_BUILD  # -O1: compiles in a third of the time


@cache
def native(model: str, threads: int = 2, **settings: Any) -> NativeExecutor:
    decoder = decoder_of(model)
    return NativeExecutor(decoder.config, dict(weights_of(decoder)), threads=threads, flags=flags_of(model), **settings)


def token_ids(count: int = LENGTH, seed: int = 7) -> list[int]:
    return torch.randint(0, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(executor: Executor, ids: list[int], cuts: list[int]) -> np.ndarray:
    """The logits of every position, computed in pieces that end at ``cuts``."""
    slot, rows = executor.allocate(len(ids)), []
    for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        rows.append(executor.step([StepInput(slot, ids[start:stop], range(stop - start))]).numpy())
    executor.free(slot)
    return np.concatenate(rows)


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max())


@cache
def exactly(model: str, ids: tuple[int, ...]) -> Mapping[str, np.ndarray]:
    """Every tap by the float64 reference."""
    decoder = decoder_of(model)
    return reference(decoder.config, {name: dequantize(array) for name, array in weights_of(decoder)}, ids)


@EVERY
def test_logits_equal_torch(model: str) -> None:
    """Within 1e-5 of the logit scale: float32 sums in another order. The prefill, small steps, then token by token.
    Where torch is further off itself, as some memories make it, within as much of the float64 reference.
    """
    ids, cuts = token_ids(), [20, 23, *range(24, LENGTH)]
    expected, got = run(TorchExecutor(decoder_of(model)), ids, cuts), run(native(model), ids, cuts)
    assert close(got, expected) or close(got, exactly(model, tuple(ids))["logits"])


@pytest.mark.parametrize("quantize", [None, "q8", "q4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", ["llama/biases", "chatglm/biases", "gpt2", "sandwich", "qwen2_moe", "deepseek_v2"])
def test_every_weight_dtype_equals_torch_with_the_same_weights(model: str, dtype: str, quantize: str | None) -> None:
    """Keys and values as floats. Blocks of few bits are multiplied with activations of 8 bits, which costs more."""
    decoder = decoder_of(model)
    weights = {name: convert(array, dtype) for name, array in weights_of(decoder)}
    executor = NativeExecutor(decoder.config, weights, threads=2, quantize=quantize, kv_cache="f32", flags=QUICK_BUILD)
    same = load_decoder(decoder.config, pack.packed(decoder.config, weights, quantize), "float32", "cpu")
    expected = run(TorchExecutor(same), token_ids(), [])
    error = np.linalg.norm(run(executor, token_ids(), []) - expected) / np.linalg.norm(expected)
    assert error <= (0.1 if quantize else 1e-5)


@EVERY
def test_no_two_weights_lie_in_the_same_place(model: str) -> None:
    """But for gate and up, whose tiles lie in turn."""
    config = decoder_of(model).config
    for form in ("float32", "bfloat16", "q8_0", "q4_0"):
        layout = plan(config, dict.fromkeys(shapes_of(config), form))
        tiles = {}
        for entry in layout.entries.values():
            step = entry.stride or entry.size
            size = step if entry.format == VECTOR else FORMATS[form].tile_bytes(entry.columns)
            count = 1 if entry.format == VECTOR else entry.rows // 16
            tiles |= {entry.offset + t * step: entry.offset + t * step + size for t in range(count)}
        ends = sorted(tiles.items())
        assert sum(
            max(entry.rows // 16, 1) if entry.format != VECTOR else 1 for entry in layout.entries.values()
        ) == len(ends)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
        assert ends[-1][1] <= layout.size


@HOWEVER_SPLIT
def test_numbers_do_not_depend_on_how_tokens_are_split_into_steps_bit_for_bit(model: str) -> None:
    ids = token_ids()
    whole = run(native(model), ids, [])
    for cuts in ([1], [20, 23], list(range(1, LENGTH)), [7, 8, 17]):
        np.testing.assert_array_equal(run(native(model), ids, cuts), whole)


@HOWEVER_SPLIT
def test_a_request_in_a_ragged_batch_equals_the_request_alone_bit_for_bit(model: str) -> None:
    executor = native(model)
    requests = [token_ids(8 + 5 * i, seed=i) for i in range(5)]
    alone = [run(executor, ids, [4]) for ids in requests]
    slots = [executor.allocate(LENGTH) for _ in requests]
    got: list[list[np.ndarray]] = [[] for _ in requests]
    for step in range(LENGTH):  # request r joins at step r with four tokens, while the others are decoding
        inputs = []
        for r, ids in enumerate(requests):
            done = executor.length(slots[r])
            if step >= r and done < len(ids):
                new = ids[done : done + (1 if done else 4)]
                inputs.append((r, StepInput(slots[r], new, range(len(new)))))
        if inputs:
            rows = iter(executor.step([given for _, given in inputs]).numpy())
            for r, given in inputs:
                got[r] += [next(rows) for _ in given.wanted]
    for mine, expected in zip(got, alone, strict=True):
        np.testing.assert_array_equal(np.array(mine), expected)


@EVERY
def test_step_by_step_the_fast_path_has_torchs_numbers(model: str) -> None:
    """Every tap of the compiled program, within 1e-5 of that tap's own scale; of the reference's as above."""
    from pellucid.explain.trace import trace as explained
    from pellucid.native.trace import NOT_HELD, trace

    decoder, ids = decoder_of(model), token_ids(11)
    expected, got = (
        explained(decoder, None, ids),
        trace(decoder.config, dict(weights_of(decoder)), ids, threads=2, flags=flags_of(model)),
    )
    assert {path for path in expected if expected.tap(path).name not in NOT_HELD} == set(got)
    for path, values in got.items():
        assert close(values, expected[path].numpy()[0]) or close(values, exactly(model, tuple(ids))[path]), path


def test_numbers_do_not_depend_on_the_number_of_threads_bit_for_bit() -> None:
    ids = token_ids()
    np.testing.assert_array_equal(run(native("llama", 1), ids, [9, 10]), run(native("llama", 3), ids, [9, 10]))


def test_a_thread_that_comes_back_late_finds_no_work_in_a_step_that_is_over() -> None:
    """Steps of different shapes in turn, with more threads than cores: a short one that wants nothing has fewer stages
    than the long one after it.
    """
    executor, ids = native("llama", 8), token_ids(64)
    slot = executor.allocate(64)
    whole = executor.step([StepInput(slot, ids, range(64))]).numpy()
    for _ in range(1500):
        executor.truncate(slot, 0)
        executor.step([StepInput(slot, ids[:2], ())])
        executor.truncate(slot, 0)
        np.testing.assert_array_equal(executor.step([StepInput(slot, ids, range(64))]).numpy(), whole)


def test_a_fork_continues_like_its_origin_and_leaves_it_alone() -> None:
    executor, ids = native("qwen3"), token_ids()
    whole = run(executor, ids, [])
    slot = executor.allocate(LENGTH)
    executor.step([StepInput(slot, ids[:21], ())])
    fork = executor.fork(slot, LENGTH)
    executor.step([StepInput(fork, [5, 6, 7], ())])
    executor.truncate(fork, 21)
    for its in (fork, slot):
        np.testing.assert_array_equal(executor.step([StepInput(its, ids[21:], (18,))]).numpy()[0], whole[-1])
        assert executor.length(its) == LENGTH


def test_argmax_is_the_lowest_index_on_a_tie() -> None:
    executor = native("llama")
    logits = executor.step([StepInput(executor.allocate(4), [1, 2], (1,))])
    assert logits.argmax()[0] == int(np.argmax(logits.numpy()[0]))


def test_a_step_that_is_refused_changes_nothing() -> None:
    executor = native("gpt2")
    slot = executor.allocate(8)
    executor.step([StepInput(slot, [1, 2, 3], ())])
    for ids, error in (
        ([4, 96], RequestError),
        ([-1], RequestError),
        ([], RequestError),
        ([1] * 6, ContextLengthError),
    ):
        with pytest.raises(error):
            executor.step([StepInput(slot, ids, ())])
    long = executor.allocate(200)
    with pytest.raises(ContextLengthError):  # 64 learned positions
        executor.step([StepInput(long, [1] * 65, ())])
    with pytest.raises(ContextLengthError):
        executor.truncate(slot, 4)
    assert executor.length(slot) == 3
    assert executor.length(long) == 0


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # the second with a sliding window
def test_a_long_context_equals_torch_and_itself_however_it_is_split_and_shared(family: str) -> None:
    """1,100 tokens: more than one step, more than two of attention's chunks, and multiples of nothing."""
    ids = token_ids(1100)
    expected, whole = run(TorchExecutor(tiny(family)), ids, [1000]), run(native(family), ids, [])
    assert np.abs(whole - expected).max() <= 1e-5 * np.abs(expected).max()
    for threads in (1, 2, 3):  # with several threads, the chunks of a row are shared among them
        np.testing.assert_array_equal(run(native(family, threads), ids, [300, 511, 512, *range(1090, 1100)]), whole)


FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 24, **FACTORS},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_scalings_by_length_equal_torch_in_every_split(scaling: dict) -> None:
    """Before the original length, across it and beyond; by a prefill, by steps, and by guesses that are checked."""
    family = FAMILIES["llama"]
    config = family.config(family.TINY | {"rope_scaling": scaling, "max_position_embeddings": 24})
    config = replace(config, context_len=LENGTH)
    decoder = Decoder(config)
    decoder.load_state_dict(tiny("llama").state_dict())
    decoder.requires_grad_(False).eval()
    torch_executor, executor = (
        TorchExecutor(decoder),
        NativeExecutor(config, dict(weights_of(decoder)), threads=2, flags=("-O1",)),
    )
    assert executor.splits_matter
    ids = token_ids()
    for cuts in ([], [20, 23], list(range(18, LENGTH))):
        expected = run(torch_executor, ids, cuts)
        assert np.abs(run(executor, ids, cuts) - expected).max() <= 1e-5 * np.abs(expected).max()
    checked = executor.step([StepInput(executor.allocate(LENGTH), ids, range(LENGTH), one_by_one=True)]).numpy()
    np.testing.assert_array_equal(checked, run(executor, ids, list(range(1, LENGTH))))


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_rope_scalings_equal_torch(scaling: dict) -> None:
    from pellucid.model.position import inverse_frequencies
    from pellucid.native.rotary import frequencies

    rope = (
        FAMILIES["llama"]
        .config(FAMILIES["llama"].TINY | {"rope_scaling": scaling, "head_dim": 64})
        .layers[0]
        .mixer.rope
    )
    assert rope is not None
    np.testing.assert_allclose(frequencies(rope), inverse_frequencies(rope).numpy(), rtol=2e-6)
