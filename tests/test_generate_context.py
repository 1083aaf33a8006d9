"""How long a context may be: as long as the scaling of its rotary positions is for, and longer where one insists.

transformers' ``generate`` is the oracle, step by step: its logits after the length that a model was trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pellucid import AutoConfig, Engine, open_executor, open_model
from pellucid.base.errors import ContextLengthError, NotFiniteError, RequestError
from pellucid.executor import Executor, StepInput
from pellucid.generate import Request, generate
from pellucid.sampling import SamplingParams

ORIGINAL = 16  # tokens
PROMPT = [1, 40, 7, 9, 23, 5, 33, 11]


def llama(rope: dict[str, Any]) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=ORIGINAL,
        initializer_range=0.3,
        eos_token_id=None,
        rope_parameters={"rope_theta": 100.0, **rope},
    )


SCALINGS = [
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
]


@pytest.fixture(params=SCALINGS, ids=lambda rope: rope["rope_type"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(llama(request.param)).save_pretrained(tmp_path)
    return tmp_path


def steps(executor: Executor, prompt: list[int], answer: list[int]) -> np.ndarray:
    """The logits that each token of an answer is chosen by."""
    slot = executor.allocate(len(prompt) + len(answer))
    inputs = [StepInput(slot, prompt, (len(prompt) - 1,)), *(StepInput(slot, [token], (0,)) for token in answer[:-1])]
    return np.concatenate([executor.step([one]).numpy().copy() for one in inputs])


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT * 3], ids=["within the original", "beyond it"])
def test_an_answer_goes_on_beyond_the_original_context_as_transformers_does(folder: Path, prompt: list[int]) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    new = 4 * ORIGINAL - len(prompt)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    expected = np.stack([row[0].numpy() for row in out.logits])
    answer = out.sequences[0, len(prompt) :].tolist()
    for kind in ("torch", "native"):
        executor = open_executor(open_model(folder), executor=kind, dtype="float32")
        ours = steps(executor, prompt, answer)
        assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max(), kind
        (result,) = generate(executor, [prompt])
        assert list(result.token_ids) == answer, "until the stretched context is full, where nobody says how long"


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "default"}, 16),
        ({"rope_type": "linear", "factor": 4.0}, 64),
        ({"rope_type": "linear", "factor": 0.5}, 16),
        ({"rope_type": "dynamic", "factor": 2.5}, 40),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}, 16),  # as DeepSeek's files
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 8,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            16,
        ),
        (
            {
                "rope_type": "longrope",
                "original_max_position_embeddings": 4,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
            },
            16,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else str(value),
)
def test_the_context_is_what_vllm_derives(rope: dict[str, Any], expected: int) -> None:
    """vLLM's rule: factor · max_position_embeddings, or for yarn factor · the original; not for llama3 and longrope."""
    config = AutoConfig.for_model(**llama(rope).to_dict())
    assert (config.context_len, config.longest_context) == (ORIGINAL, expected)


def test_a_longer_context_can_be_asked_for_where_positions_are_rotated_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(llama({"rope_type": "default"})).save_pretrained(tmp_path)
    executor = open_executor(open_model(tmp_path), executor="torch")
    with pytest.raises(ContextLengthError, match="raise the context length"):
        generate(executor, [PROMPT * 2])
    engine = Engine(executor, context_len=40)
    assert "a context of 40 tokens is more than the 16 that this model was made for" in capfd.readouterr().err
    (result,) = engine.run([Request(prompt_ids=PROMPT)])
    reference: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = reference.generate(torch.tensor([PROMPT]), max_new_tokens=32, do_sample=False)[0, len(PROMPT) :]
    assert list(result.token_ids) == expected.tolist()


def test_a_table_of_positions_cannot_be_made_longer(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=96, n_positions=ORIGINAL, n_embd=32, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    executor = open_executor(open_model(tmp_path), executor="torch")
    with pytest.raises(RequestError, match=r"context_len is out of range .*from 1 to 16, received 17"):
        Engine(executor, context_len=17)


def test_logits_that_are_not_finite_end_the_request_with_layer_and_tensor(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model: Any = transformers.LlamaForCausalLM(llama({"rope_type": "default"}))
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = torch.nan
    model.save_pretrained(tmp_path)
    for sampling in (None, SamplingParams(seed=1)):
        engine = Engine(open_executor(open_model(tmp_path), executor="torch", dtype="float32"))
        (result,) = engine.run([Request(prompt_ids=PROMPT, max_new_tokens=4, sampling=sampling)])
        (answer,) = result.answers
        assert (answer.token_ids, answer.finish_reason) == ((), "error")
        assert isinstance(answer.error, NotFiniteError)
        assert "layers.1.mlp.up_proj.weight: nan at (3, 5)" in str(answer.error)
    with pytest.raises(NotFiniteError, match=r"layers.1.mlp.up_proj.weight: nan at \(3, 5\)"):
        open_executor(open_model(tmp_path), executor="native")
