"""A trace is the model's own run: its numbers are the reference's, its identities hold, and its memory is bounded
before it starts.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from reference import reference_model, telling, tiny

from pellucid.auto import tokenizer_of
from pellucid.base.errors import NotFiniteError, RequestError
from pellucid.checkpoint import open_checkpoint
from pellucid.explain import Trace, trace
from pellucid.explain.checks import IDENTITIES, difference
from pellucid.explain.recompute import wide
from pellucid.explain.subject import Subject
from pellucid.families import FAMILIES
from pellucid.model.attend import explicit
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.load import load_decoder
from pellucid.operations import taps_of

EVERY = pytest.mark.parametrize("family", telling(list(FAMILIES)))
IDS = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
BATCH = [IDS, [3, 4, 5, 6, 7]]


@EVERY
def test_every_step_is_recorded_in_the_order_of_computation_and_in_its_described_shape(family: str) -> None:
    decoder = tiny(family)
    t = trace(decoder, None, BATCH)
    assert list(t) == list(taps_of(decoder.config))
    for path, value in t.items():
        assert tuple(value.shape) == t.tap(path).shape(2, 12, 12), path


@EVERY
def test_every_identity_holds(family: str) -> None:
    checks = trace(tiny(family), None, BATCH).checks
    assert checks.ok, checks.failed
    config = tiny(family).config
    sparse = {layer.experts is not None for layer in config.layers if layer.mlp}
    wanted = {"linear", "norm", "fast"} | ({"activation"} if False in sparse else set())
    wanted |= {"rows_sum", "mix"} if any(layer.attends for layer in config.layers) else set()
    assert (
        wanted | ({"route", "chosen", "experts"} if True in sparse else set())
        <= set(checks.by_identity())
        <= set(IDENTITIES)
    )


@EVERY
def test_identities_are_checked_in_half_precision_too(family: str) -> None:
    import copy

    decoder = copy.deepcopy(tiny(family)).bfloat16()
    checks = trace(decoder, None, BATCH).checks
    assert checks.ok, checks.failed


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "vanilla"])
def test_streams_and_patterns_equal_the_reference_implementations(family: str) -> None:
    decoder = tiny(family)
    with torch.no_grad():
        theirs = reference_model(decoder)(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)
    t, attentions = trace(decoder, None, IDS), getattr(theirs, "attentions", ())
    patterns = [pattern for pattern in attentions if pattern is not None]
    streams = theirs.hidden_states if hasattr(theirs, "attentions") else (t["embed"], *theirs.hidden_states)
    for i in range(decoder.config.num_layers):  # (Mamba's begin after the first layer)
        assert difference(wide(t[f"layers.{i}.resid_pre"]), wide(streams[i])) < 1e-5
    mine = [value for path, value in t.items() if path.endswith(".pattern")]
    for ours, pattern in zip(mine, patterns, strict=True):
        if family in ("granite_swa", "granitemoe_swa"):  # its pattern is what it is before the sink takes its part
            ours = ours / ours.sum(-1, keepdim=True)
        assert difference(wide(ours), wide(pattern)) < 1e-5
    assert difference(wide(t["final"]), wide(theirs.hidden_states[-1])) < 1e-5


@EVERY
def test_recording_changes_no_bit(family: str) -> None:
    decoder = tiny(family)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        unwatched = decoder(ids, Context(torch.arange(len(IDS))[None], attend=explicit))
    assert torch.equal(trace(decoder, None, IDS)["logits"], unwatched)


def test_a_wrong_number_fails_its_check_by_name() -> None:
    t = trace(tiny("llama"), None, IDS)
    t["layers.1.z"][0, 2, 3, 0] += 0.01
    failed = {(check.name, check.identity) for check in t.checks.failed}
    assert ("layers.1.z", "mix") in failed
    assert ("layers.1.attn_out", "linear") in failed
    assert not any(name.startswith("layers.0.") for name, _ in failed)
    assert "FAILS" in str(t.checks)


def test_softmax_rows_that_do_not_sum_to_one_are_seen() -> None:
    t = trace(tiny("llama"), None, IDS)
    t["layers.0.pattern"][0, 1, 4] *= 1.01
    assert ("layers.0.pattern", "rows_sum") in {(check.name, check.identity) for check in t.checks.failed}


def test_experts_that_count_for_what_the_router_did_not_say_are_seen() -> None:
    t = trace(tiny("mixtral"), None, IDS)
    t["layers.0.experts"][0, 3] *= 1.01
    t["layers.1.experts"][0, 2] = 0.125
    failed = {(check.name, check.identity) for check in t.checks.failed}
    assert {
        ("layers.0.experts", "route"),
        ("layers.0.experts", "experts_sum"),
        ("layers.0.mlp_out", "experts"),
    } <= failed
    assert ("layers.1.experts", "chosen") in failed
    assert ("layers.1.experts", "experts_sum") not in failed


@EVERY
def test_chosen_positions_are_the_same_rows(family: str) -> None:
    decoder = tiny(family)
    whole, part = trace(decoder, None, BATCH), trace(decoder, None, BATCH, positions=[2, -1])
    assert part.positions == [2, 11]
    assert part.checks.ok, part.checks.failed
    for path, value in part.items():
        axes = part.tap(path).axes
        expected = (
            whole[path].index_select(axes.index("position"), torch.tensor([2, 11]))
            if "position" in axes
            else whole[path]
        )
        assert difference(wide(value), wide(expected)) < 1e-6, path
        assert value.shape == part.tap(path).shape(2, 2, 12)


def test_steps_and_layers_are_chosen_by_name_wildcard_and_number() -> None:
    decoder = tiny("llama")
    assert list(trace(decoder, None, IDS, steps=["pattern", "layers.1.q*"])) == [
        "layers.0.pattern",
        "layers.1.q",
        "layers.1.q_rot",
        "layers.1.pattern",
    ]
    assert {t.layer for t in map(taps_of(decoder.config).get, trace(decoder, None, IDS, layers=[-1])) if t} == {None, 1}


def test_a_step_that_is_not_there_is_named_with_those_that_are() -> None:
    decoder = tiny("gpt2")
    with pytest.raises(RequestError, match=r"no step 'layers.0.q_rot'"):
        trace(decoder, None, IDS, steps=["layers.0.q_rot"])
    t = trace(decoder, None, IDS, layers=[0])
    with pytest.raises(RequestError, match="not recorded"):
        t["layers.1.z"]
    with pytest.raises(RequestError, match="layers are 0 to 1"):
        t["layers.7.z"]
    assert "layers.1.z" not in t


def test_too_large_a_record_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "hidden", lambda *args: pytest.fail("it ran"))
    with pytest.raises(RequestError, match=r"would take .* MiB.*expected at most 0.0 MiB.*\n.*steps=\["):
        trace(tiny("llama"), None, IDS, max_bytes=1000)


def test_the_estimate_is_what_the_record_takes() -> None:
    decoder = tiny("qwen3")
    t = trace(decoder, None, BATCH)
    assert len(trace(decoder, None, BATCH, max_bytes=t.nbytes)) == len(t)
    with pytest.raises(RequestError):
        trace(decoder, None, BATCH, max_bytes=t.nbytes - 1)


def test_the_trace_runs_without_dropout_and_leaves_the_model_as_it_was() -> None:
    decoder = tiny("llama")
    decoder.train()
    try:
        trace(decoder, None, IDS)
        assert decoder.training
    finally:
        decoder.eval()


def test_nothing_to_trace_is_refused() -> None:
    for nothing in ([], "", [[]]):
        with pytest.raises(RequestError):
            trace(tiny("llama"), None, nothing)


@pytest.fixture(scope="module")
def stories_trace(stories: Path) -> Trace:
    checkpoint = open_checkpoint(stories / "stories260K.bin")
    model = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    return trace(model, tokenizer_of(checkpoint), "Once upon a time, there was a little girl named")


def test_stories260k_holds_every_identity(stories_trace: Trace) -> None:
    assert stories_trace.checks.ok, stories_trace.checks.failed
    assert len(stories_trace.checks) > 100


def test_pieces_join_to_the_text(stories_trace: Trace) -> None:
    assert "".join(stories_trace.pieces[0][1:]).strip() == "Once upon a time, there was a little girl named"


def test_smollm2_holds_every_identity(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    model = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    t = trace(model, tokenizer_of(checkpoint), ["The capital of France is", "巴黎是"])
    assert t.checks.ok, t.checks.failed
    assert t.piece(int(t["logits"][0, 4].argmax())) == " Paris"


def test_a_token_that_is_part_of_a_character_reads_as_its_bytes(shared: Path) -> None:
    from pellucid.explain.prompt import _bytes_of, piece_of
    from pellucid.text.load import load_tokenizer
    from pellucid.text.readers.byte_level import to_chars

    tokenizer = load_tokenizer(shared / "qwen3_tokenizer")
    pieces = [piece_of(tokenizer, i) for i in tokenizer.encode("the 龘")]
    assert pieces == ["the", " <0xE9>", "<0xBE>", "<0x98>"]
    assert _bytes_of(to_chars(b" \xe5\xba")) == " <0xE5BA>"
    assert piece_of(tokenizer, len(tokenizer) + 3) == f"[{len(tokenizer) + 3}]"


def test_special_tokens_read_as_they_are_named(shared: Path) -> None:
    from pellucid.explain.prompt import piece_of
    from pellucid.text.load import load_tokenizer

    tokenizer = load_tokenizer(shared / "chatglm3_tokenizer")
    assert [piece_of(tokenizer, i) for i in tokenizer.encode("Using a")] == ["[gMASK]", "sop", " Using", " a"]


def test_a_number_that_is_not_finite_is_named_before_anything_is_shown() -> None:
    decoder = copy.deepcopy(tiny("llama"))
    subject = Subject(decoder=decoder, tokenizer=None, name="tiny")
    subject.record([3, 4, 5])  # masked scores are −∞, and well so
    with torch.no_grad():
        decoder.layers[1].get_submodule("mlp").get_parameter("up_proj.weight")[3, 2] = torch.nan
    with pytest.raises(NotFiniteError, match=r"layers.1.mlp.up_proj.weight: nan at \(3, 2\)"):
        subject.record([3, 4, 5])


def test_logits_that_run_to_minus_infinity_are_named_as_those_that_run_to_plus() -> None:
    for sign in (1, -1):
        decoder = copy.deepcopy(tiny("qwen2"))
        with torch.no_grad():
            decoder.get_parameter("final_norm.weight").fill_(1e3)
            decoder.get_parameter("lm_head.weight")[:, 0] = sign * 3e38
        with pytest.raises(NotFiniteError, match=r"logits: -?inf at"):
            Subject(decoder=decoder, tokenizer=None, name="tiny").record([3])
