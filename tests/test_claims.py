"""Executors claim the fields of a description that they run. Every field of every family's description is changed to
every other legal value, one at a time: an executor refuses it by name, or computes what the equations say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import pytest
from mutations import Mutation, mutations, parts_of
from reference import MODELS, TELLING, tiny_hf
from test_native_conformance import token_ids

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError
from pellucid.claims import ALIKE, ANY, Claims, _is_default, one_of
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, weight_shapes
from pellucid.executor import Executor, StepInput
from pellucid.families import FAMILIES
from pellucid.model.claims import TORCH
from pellucid.model.executor import TorchExecutor
from pellucid.model.load import load_decoder
from pellucid.native.build import compiler
from pellucid.native.claims import NATIVE
from pellucid.native.executor import NativeExecutor
from pellucid.native.kinds import MAX_KINDS
from pellucid.operations.operation import Operation
from pellucid.operations.reference import reference

PROMPT, DECODED = 21, 3
LENGTH = PROMPT + DECODED
QUICK_BUILD = ("-O0", "-DPLAIN_C")  # a compile in a third of a second; instruction sets have tests of their own
needs_compiler = pytest.mark.skipif(
    compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"
)


def config_of(model: str) -> ModelConfig:
    hf = tiny_hf(model)
    return FAMILIES[hf["model_type"]].config(hf)


def every_mutation(models: Iterable[str] = MODELS) -> Iterator[Mutation]:
    """Of all families and variants; descriptions that no executor tells apart once."""
    bases = [config_of(model) for model in models]
    parts, seen = parts_of(bases), set()
    for base in bases:
        for mutation in mutations(base, parts):
            key = (mutation.path, tuple(TORCH.read(mutation.config)))
            if key not in seen:
                seen.add(key)
                yield mutation


@cache
def all_mutations() -> list[Mutation]:
    return list(every_mutation())


@cache
def quick_mutations() -> list[Mutation]:
    """Each change of each field once, of one description: of another one for every field."""
    changes: dict[tuple[str, str], list[Mutation]] = {}
    for mutation in every_mutation(TELLING):
        changes.setdefault((mutation.path, mutation.change), []).append(mutation)
    chosen = []
    for i, choices in enumerate(changes.values()):
        live = [choice for choice in choices if NATIVE.refusal(choice.base) is None] or choices
        chosen.append(live[7 * i % len(live)])
    return chosen


def weights_for(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random ones, by name: matrices that keep the size of what they multiply, γ about 1, every bias counts."""
    weights = {}
    for i, (name, shape) in enumerate(weight_shapes(config).items()):
        generator = np.random.default_rng(i)
        size = 0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5
        around = 1.0 if name.endswith(("norm.weight", "out_scale")) else 0.0
        weights[name] = generator.normal(around, size, shape).astype(np.float32)
    return weights


def quick_to_build() -> list[Mutation]:
    """The quick ones without second values of a number, and three of a kind where a part is put in."""
    chosen, count = [], {}
    for mutation in quick_mutations():
        change, _, where = mutation.change.partition(" in the ")
        key = (mutation.path, where, "a part" if change.startswith("#") else "")
        count[key] = count.get(key, 0) + 1
        if change not in ("half", "+ 1", "0.25") and (not key[2] or count[key] <= 3):
            chosen.append(mutation)
    return chosen


def quick_to_compile() -> list[Mutation]:
    """The quick ones in one place each: the last layer alone, which makes two kinds of layers; of every third, all."""
    places: dict[tuple[str, str], dict[str, Mutation]] = {}
    for mutation in quick_to_build():
        change, _, where = mutation.change.partition(" in ")
        places.setdefault((mutation.path, change), {})[where] = mutation
    return [list(there.values())[-1 if i % 3 == 0 else 0] for i, there in enumerate(places.values())]


def one_a_field() -> list[Mutation]:
    """Of those that native runs, one change of each field; of those that it refuses, all."""
    chosen: dict[object, Mutation] = {}
    for mutation in quick_to_compile():
        runs = NATIVE.refusal(mutation.config) is None
        chosen.setdefault(mutation.path if runs else (mutation.path, mutation.change), mutation)
    return list(chosen.values())


def step_by_step(executor: Executor, ids: list[int]) -> np.ndarray:
    """The logits of every position: a prompt at once, then token by token."""
    slot = executor.allocate(len(ids))
    whole = executor.config.rotates_by_length  # its numbers are those of the text's whole length
    steps = [ids] if whole else [ids[:PROMPT], *([token] for token in ids[PROMPT:])]
    return np.concatenate([executor.step([StepInput(slot, new, range(len(new)))]).numpy() for new in steps])


def torch_executor(config: ModelConfig, weights: dict[str, Array]) -> Executor:
    return TorchExecutor(load_decoder(config, weights, "float32", "cpu"))


def native_executor(config: ModelConfig, weights: dict[str, Array]) -> Executor:
    return NativeExecutor(config, weights, threads=1, flags=QUICK_BUILD)


def value_at(config: ModelConfig, path: str) -> object:
    """The value of a field by its dotted name, numbers for places in a tuple; None where it is not there."""
    part: object = config
    for name in path.split("."):
        if isinstance(part, tuple):
            part = part[int(name)] if int(name) < len(part) else None
        else:
            part = getattr(part, name, None)
    return part


def check(mutation: Mutation, claims: Claims, make: Callable[[ModelConfig, dict[str, Array]], Executor]) -> bool:
    """Refused by name, or right; whether it ran."""
    config, what = mutation.config, f"{mutation.path}: {mutation.change}"
    if refusal := claims.refusal(config):
        path = re.sub(r"\.\d+\.", ".*.", refusal.path)
        owner = mutation.path.rpartition(".")[0]  # a field beside it may be what no longer goes with the new value
        before = claims.refusal(mutation.base)  # what was refused before may be refused first
        untouched = value_at(mutation.base, refusal.path) == refusal.value or (before and before.path == refusal.path)
        assert path.startswith(owner) or (before and untouched), (what, str(refusal))
        with pytest.raises(UnsupportedError, match=re.escape(refusal.path)):
            make(config, {})
        return False
    numbers = weights_for(config)
    ids = [token % config.vocab_size for token in token_ids(LENGTH)]
    last = f"layers.{config.num_layers - 1}.resid_post"
    values = reference(config, numbers, ids, wanted=("logits", last))
    expected = values["logits"]
    bare = any(hasattr(layer.mixer, "state_size") and not layer.mixer_norms.before for layer in config.layers)
    if bare and np.abs(values[last]).max() > 100:  # B, C, Δ and x all grow with what no norm holds: a product of four
        return True
    got = step_by_step(make(config, {name: Array.from_numpy(w) for name, w in numbers.items()}), ids)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    # A memory that goes on from token to token adds up what float32 rounds; torch is as far off.
    remembers = any(getattr(layer.mixer, "wide_state", ()) for layer in config.layers)
    if error > (1e-4 if remembers else 2e-5):
        moved = moved_by_rounding(config, numbers, ids)
        assert error <= 3 * moved, f"{what}: off by {error:.2g} of the logits' scale, {moved:.2g} is rounding's"
    return True


def moved_by_rounding(config: ModelConfig, weights: dict[str, np.ndarray], ids: list[int]) -> float:
    """How far the logits go, of their scale, when the weights change as much as float32 rounds them."""
    rng = np.random.default_rng(0)
    near = {name: w * (1 + 6e-8 * rng.standard_normal(w.shape)) for name, w in weights.items()}
    exact, other = (reference(config, numbers, ids, wanted=("logits",))["logits"] for numbers in (weights, near))
    return float(np.abs(other - exact).max() / np.abs(exact).max())


def test_torch_runs_or_refuses_every_change_of_every_field() -> None:
    ran = [check(mutation, TORCH, torch_executor) for mutation in quick_to_build()]
    assert sum(ran) > 0.9 * len(ran)


@needs_compiler
def test_native_runs_or_refuses_a_change_of_every_field(private_cache: object) -> None:
    ran = [check(mutation, NATIVE, native_executor) for mutation in one_a_field()]
    assert sum(ran) > 0.4 * len(ran)


@pytest.mark.slow
@needs_compiler
def test_native_runs_or_refuses_every_change_of_every_field(private_cache: object) -> None:
    for mutation in quick_to_compile():
        check(mutation, NATIVE, native_executor)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("share", range(20))
def test_native_and_torch_run_or_refuse_every_change_of_every_description(share: int, private_cache: object) -> None:
    for mutation in all_mutations()[share::20]:
        check(mutation, TORCH, torch_executor)
        check(mutation, NATIVE, native_executor)


@pytest.mark.parametrize("claims", [TORCH, NATIVE], ids=lambda claims: claims.executor)
def test_a_field_that_is_not_claimed_is_refused_unless_it_says_nothing(claims: Claims) -> None:
    """As a new field of config.py is, in both executors, until its stage is there."""
    configs = [mutation.config for mutation in quick_mutations()[::11] if claims.refusal(mutation.config) is None]
    for kind, claimed in claims.table.items():
        for field in fields(kind):
            less = Claims(
                "lesser", claims.table | {kind: {k: claim for k, claim in claimed.items() if k != field.name}}
            )
            for config in configs:
                says = any(
                    not _is_default(field, getattr(part, field.name)) for part in parts_of([config]).get(kind, ())
                )
                refusal = less.refusal(config)
                assert (refusal.path.rpartition(".")[2] if refusal else None) == (field.name if says else None)


def test_every_field_that_an_operation_reads_is_claimed_by_torch_as_read() -> None:
    operations, waiting = [], [Operation]
    while waiting:
        waiting += (kinds := waiting.pop().__subclasses__())
        operations += kinds
    read = {name for operation in operations for name in operation.reads}
    assert len(read) > 30
    claimed = {
        f"{kind.__name__}.{name}" for kind, table in TORCH.table.items() for name, claim in table.items() if claim.read
    }
    assert read <= claimed


def test_refusals_name_field_value_and_reason() -> None:
    config = config_of("llama")
    first, *rest = config.layers
    wide = replace(config, layers=(*rest, first, replace(first, mlp=replace(first.mlp, d_ff=128))))
    lesser = Claims(
        "lesser",
        {
            **NATIVE.table,
            MLPConfig: {**NATIVE.table[MLPConfig], "d_ff": ALIKE},
            LayerConfig: {**NATIVE.table[LayerConfig], "experts": one_of(None)},
        },
    )
    refusal = lesser.refusal(wide)
    assert re.fullmatch(r"layers\.\d\.mlp\.d_ff = 128 \(it runs layers that are alike, and .* is 48\)", str(refusal))
    assert str(lesser.refusal(config_of("mixtral"))).startswith("layers.0.experts = ExpertsConfig")
    with pytest.raises(UnsupportedError, match=r"the lesser executor does not run layers\.0\.experts"):
        lesser.require(config_of("mixtral"))


def test_a_description_of_too_many_kinds_of_layers_is_no_program() -> None:
    config = config_of("llama")
    first = config.layers[0]
    widths = [replace(first, mlp=replace(first.mlp, d_ff=16 + i)) for i in range(MAX_KINDS + 1)]
    assert NATIVE.refusal(replace(config, layers=tuple(widths[1:]))) is None
    refusal = NATIVE.refusal(replace(config, layers=tuple(widths)))
    assert refusal is not None
    assert (refusal.path, refusal.reason) == ("layers", f"it runs at most {MAX_KINDS} kinds of layers")


def test_a_part_of_a_kind_that_nobody_knows_is_refused_whole() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Recurrent(AttentionConfig):
        pass

    config = config_of("llama")
    mixer = config.layers[0].mixer
    other = Recurrent(**{field.name: getattr(mixer, field.name) for field in fields(AttentionConfig)})
    strange = replace(config, layers=(replace(config.layers[0], mixer=other), *config.layers[1:]))
    for claims in (TORCH, NATIVE):
        assert str(claims.refusal(strange)) == "layers.0.mixer = Recurrent (of a kind that is not known)"


def test_a_word_of_few_is_claimed_by_itself_so_that_a_new_one_is_refused() -> None:
    with pytest.raises(AssertionError, match="which of its words"):
        Claims("careless", {NormConfig: {"kind": ANY}})
