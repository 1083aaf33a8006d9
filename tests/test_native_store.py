"""Packed parameters on the disk: never stale, never damaged, whoever writes beside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_native_conformance import QUICK_BUILD, decoder_of, token_ids

from pellucid.auto import open_model, state_of
from pellucid.base.array import STORAGE, Array, row_bytes
from pellucid.base.errors import NotFiniteError, RequestError
from pellucid.checkpoint.save import save_checkpoint
from pellucid.config import ModelConfig
from pellucid.executor import Executor, OneAtATime, StepInput
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder, weights_of
from pellucid.native import pack, store
from pellucid.native.build import compiler
from pellucid.native.cache import folder
from pellucid.native.executor import NativeExecutor
from pellucid.quant import LAYOUTS, dequantize, is_finite

needs_compiler = pytest.mark.skipif(
    compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"
)
LLAMA = decoder_of("llama")
WEIGHTS = dict(weights_of(LLAMA))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def packed(config: ModelConfig = LLAMA.config, weights: dict[str, Array] | None = None, source: str = "s") -> Path:
    return store.parameters(config, WEIGHTS if weights is None else weights, None, source)[1].path


def test_what_is_there_is_used_and_no_weight_is_read() -> None:
    assert packed() == packed(weights={})


@pytest.mark.parametrize(
    "change",
    [
        lambda mixer: replace(mixer, rope=replace(mixer.rope, theta=77.0)),
        lambda mixer: replace(mixer, scale=0.3),
    ],
    ids=["rope_theta", "scale"],
)
def test_a_description_that_differs_has_a_file_of_its_own(change: Callable) -> None:
    config = LLAMA.config
    other = replace(config, layers=tuple(replace(layer, mixer=change(layer.mixer)) for layer in config.layers))
    assert packed(other) != packed()
    assert packed(replace(config, eos_token_ids=(7,), model_type="other", extra={"k": 1})) == packed()


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "longer", "header", "middle", "tail", "index", "index cut", "no index"]
)
def test_what_is_damaged_is_made_anew(damage: str) -> None:
    path = packed()
    whole, index = path.read_bytes(), path.with_name(f"{path.name}.json")

    def flipped(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    if damage == "index":
        entry = json.loads(index.read_text())
        entry["formats"]["layers.0.mlp.up_proj.weight"] = ["no format"]
        index.write_text(json.dumps(entry))
    elif damage == "index cut":
        index.write_text(index.read_text()[:40])
    elif damage == "no index":
        index.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "cut": whole[:-64], "longer": whole + b"x", "header": flipped(5)}.get(damage)
            or flipped(len(whole) // 2 if damage == "middle" else len(whole) - 70)
        )
    assert packed() == path
    assert path.read_bytes() == whole
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


def test_an_edit_of_config_or_weights_is_another_source(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", LLAMA.config, WEIGHTS)
    states = [state_of(open_model(tmp_path / "model"))]
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 500.0'))
    states.append(state_of(open_model(tmp_path / "model")))
    weights = tmp_path / "model" / "model.safetensors"
    facts, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # same size, same time
    states.append(state_of(open_model(tmp_path / "model")))
    assert len(set(states)) == 3


def test_an_edit_of_an_adapters_lora_alpha_is_another_source(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", LLAMA.config, WEIGHTS)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    shape = WEIGHTS["layers.0.attention.q_proj.weight"].shape
    from safetensors.numpy import save_file

    tensors = {f"{name}.lora_A.weight": np.ones((2, shape[1]), np.float32)}
    tensors[f"{name}.lora_B.weight"] = np.ones((shape[0], 2), np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    settings["base_model_name_or_path"] = str(tmp_path / "model")
    states = []
    for alpha in (4, 8):
        (adapter / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": alpha}))
        states.append(state_of(open_model(adapter)))
    assert states[0] != states[1]


@needs_compiler
def test_a_file_that_is_swept_as_it_is_opened_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(*arguments: object) -> tuple:
        formats, file = parameters(*arguments)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(store, "parameters", parameters)
        file.path.unlink()
        return formats, file

    parameters = store.parameters
    monkeypatch.setattr(store, "parameters", vanishing)
    executor = NativeExecutor(LLAMA.config, WEIGHTS, threads=1, source_id="s", flags=QUICK_BUILD)
    assert np.isfinite(executor.step([StepInput(executor.allocate(2), [1], (0,))]).numpy()).all()
    assert [path.suffix for path in sorted(folder("parameters").iterdir())] == ["", ".json"]


def executors() -> list[Executor]:
    return [TorchExecutor(LLAMA), NativeExecutor(LLAMA.config, WEIGHTS, threads=1, flags=QUICK_BUILD)]


@needs_compiler
def test_a_step_that_names_a_slot_twice_or_places_that_it_lacks_is_refused_and_changes_nothing() -> None:
    for executor in executors():
        slot = executor.allocate(8)
        executor.step([StepInput(slot, [1, 2], ())])
        for inputs, words in (
            ([StepInput(slot, [3], ()), StepInput(slot, [4], ())], "twice"),
            ([StepInput(slot, [3, 4], (2,))], "0 to 1"),
            ([StepInput(slot, [3, 4], (-1,))], "0 to 1"),
            ([StepInput(slot, [3, 4], (1, 0))], "ascending"),
            ([StepInput(slot, [96], ())], "0 to 95"),
            ([], "at least one token"),
        ):
            with pytest.raises(RequestError, match=words):
                executor.step(inputs)
        assert executor.length(slot) == 2


@needs_compiler
def test_two_threads_in_one_executor_are_told_so() -> None:
    import threading

    for executor in executors():
        slot, errors = executor.allocate(4), []
        busy = executor._busy  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(busy, OneAtATime)

        def other(executor: Executor = executor, slot: int = slot, errors: list = errors) -> None:
            try:
                executor.step([StepInput(slot, [1], ())])
            except RequestError as error:
                errors.append(str(error))

        with busy:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert len(errors) == 1
        assert "another thread" in errors[0]
        executor.step([StepInput(slot, [1], ())])
        assert executor.length(slot) == 1


@needs_compiler
@pytest.mark.parametrize("name", ["layers.1.attention.k_proj.weight", "final_norm.weight"])
def test_a_weight_that_is_not_finite_is_named(name: str) -> None:
    weights = {key: Array.from_numpy(np.array(array.data)) for key, array in WEIGHTS.items()}
    weights[name].data.reshape(-1)[3] = np.nan
    with pytest.raises(NotFiniteError, match=rf"{name}: nan at .*1 of"):
        NativeExecutor(LLAMA.config, weights, threads=1, flags=QUICK_BUILD)


def _scales(dtype: str) -> list[str]:
    """The fields of a block that are numbers by themselves."""
    return [name for name in LAYOUTS[dtype].names or () if LAYOUTS[dtype][name] == np.float16]


@pytest.mark.parametrize("dtype", ["iq1_m", "mxfp4", "nvfp4"])
def test_whether_bits_that_are_a_scale_are_finite_is_what_their_values_say(dtype: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (64, row_bytes(dtype, 256)), dtype=np.uint8)
    for data in (stored, np.zeros_like(stored)):
        weight = Array(dtype, (64, 256), data)
        assert is_finite(weight) is bool(np.isfinite(dequantize(weight)).all())


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", *(name for name in LAYOUTS if "d" in _scales(name))]
)
def test_whether_a_weight_is_finite_is_what_its_values_say(dtype: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (64, row_bytes(dtype, 256)), dtype=np.uint8)
    for bad in (False, True):
        data = stored.copy()
        if dtype in LAYOUTS:
            for name in _scales(dtype):
                data.reshape(-1).view(LAYOUTS[dtype])[name] = 0.5
            if bad:
                data.reshape(-1).view(LAYOUTS[dtype])["d"][-1] = np.inf
        else:
            data = np.zeros((64, 256), STORAGE[dtype])
            data[-1, -1] = 0x7F80 if bad and dtype == "bfloat16" else np.nan if bad else 1
        weight = Array(dtype, (64, 256), data)
        assert is_finite(weight) is bool(np.isfinite(dequantize(weight)).all()) is not bad


@needs_compiler
@pytest.mark.parametrize("quantize", [None, "q8"])
@pytest.mark.parametrize("kv_cache", ["f32", "f16", "int8"])
def test_no_rounding_of_activations_or_keys_hides_a_number_that_is_not_finite(
    quantize: str | None, kv_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "is_finite", lambda weight: True)  # as if it came about on the way
    for name in ("layers.0.attention_norm.weight", "layers.0.mlp_norm.weight"):
        weights = {key: Array.from_numpy(np.array(array.data)) for key, array in WEIGHTS.items()}
        weights[name].data[3] = np.nan
        executor = NativeExecutor(
            LLAMA.config, weights, threads=1, quantize=quantize, kv_cache=kv_cache, flags=QUICK_BUILD
        )
        logits = executor.step([StepInput(executor.allocate(3), token_ids(3), range(3))]).numpy()
        assert not np.isfinite(logits).any(1).any()


@needs_compiler
def test_a_value_that_overflows_is_named_by_layer_and_tensor() -> None:
    weights = {key: Array.from_numpy(np.array(array.data)) for key, array in WEIGHTS.items()}
    weights["layers.1.mlp.up_proj.weight"].data[:] = 3e38
    executor = NativeExecutor(LLAMA.config, weights, threads=1, flags=QUICK_BUILD)
    ids = token_ids(3)
    assert not np.isfinite(executor.step([StepInput(executor.allocate(3), ids, (2,))]).numpy()).all()
    assert "layers.1.mlp_up" in str(executor.why_not_finite(ids))
    decoder = load_decoder(LLAMA.config, weights, "float32", "cpu")
    assert "layers.1.mlp_up" in str(TorchExecutor(decoder).why_not_finite(ids))
