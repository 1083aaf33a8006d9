"""What a prediction hung on, against transformers with the same token masked."""

from __future__ import annotations

import pytest
import torch
from reference import reference_model, tiny

from pellucid.base.errors import RequestError
from pellucid.explain.questions.hiding import hiding

IDS = [1, 5, 9, 2, 7, 7, 3, 11, 4]


@pytest.mark.parametrize(
    "model", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3_text", "gpt2", "deepseek_v3"))]
)
def test_hiding_a_token_is_masking_it(model: str) -> None:
    decoder = tiny(model)
    theirs = reference_model(decoder)
    told = hiding(decoder, IDS, 6, positions=range(len(IDS) - 1), tokens=3 * len(IDS))
    for position, value in zip((None, *told.positions), (told.plain, *told.without), strict=True):
        mask = torch.ones(1, len(IDS), dtype=torch.long)
        if position is not None:
            mask[0, position] = 0
        places = torch.arange(len(IDS))[None]
        with torch.no_grad():
            logits = theirs(torch.tensor([IDS]), attention_mask=mask, position_ids=places).logits[0, -1]
        assert value == pytest.approx(float(logits.float().log_softmax(-1)[6]), abs=2e-4)


def test_what_nobody_looks_at_can_be_hidden_without_a_trace() -> None:
    """The last token alone looks at itself, and a hidden one still sees itself."""
    told = hiding(tiny("llama"), IDS, 6, positions=[len(IDS) - 1])
    assert told.without == pytest.approx([told.plain], abs=1e-5)


def test_a_model_that_carries_a_state_is_refused() -> None:
    for model in ("mamba", "falcon_h1"):
        with pytest.raises(RequestError, match="cannot be hidden"):
            hiding(tiny(model), IDS, 6, positions=[1])
    with pytest.raises(RequestError, match="no such position"):
        hiding(tiny("llama"), IDS, 6, positions=[9])
