"""What llama-cpp-python's calls are asked for, and what is written instead here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pellucid.base.arguments import refuse_unknown
from pellucid.base.errors import RequestError
from pellucid.base.notice import notice
from pellucid.sampling import SamplingParams

# Of the constructor: what is so in any case here, or changes how fast it is and not what it answers.
OPENING_WITHOUT_EFFECT = (
    *("n_batch", "n_ubatch", "n_threads_batch", "use_mmap", "use_mlock", "logits_all", "embedding", "offload_kqv"),
    *("flash_attn", "flash_attn_type", "op_offload", "swa_full", "no_perf", "last_n_tokens_size", "numa", "main_gpu"),
)
OPENING_ELSEWHERE = {
    "vocab_only": "AutoTokenizer.from_pretrained(file)",
    "tensor_split": "a model is on one device, whole: n_gpu_layers=-1",
    "split_mode": "a model is on one device, whole: n_gpu_layers=-1",
    "kv_overrides": "what a file says of its model is not overruled; `pellucid convert` writes another",
    "rope_scaling_type": "what a file says of its model is not overruled",
    "rope_freq_base": "what a file says of its model is not overruled",
    "rope_freq_scale": "what a file says of its model is not overruled",
    "yarn_ext_factor": "what a file says of its model is not overruled",
    "yarn_attn_factor": "what a file says of its model is not overruled",
    "yarn_beta_fast": "what a file says of its model is not overruled",
    "yarn_beta_slow": "what a file says of its model is not overruled",
    "yarn_orig_ctx": "what a file says of its model is not overruled",
    "pooling_type": "llama.engine.embed([ids], pooling='mean')",
    "attention_type": "the model's own",
    "lora_path": "Llama(adapter's folder): it names its base",
    "lora_base": "Llama(adapter's folder): it names its base",
    "lora_scale": "the adapter's own lora_alpha",
    "chat_handler": "images are not read here",
    "draft_model": "in Python, Engine(…, speculate=PromptLookup(10)); in the shell, --prompt-lookup 10",
    "tokenizer": "the file's own, or a folder with another tokenizer beside the weights",
    "spm_infill": "the text between is asked for by the model's own tokens, in the prompt",
}
# Of a call.
ELSEWHERE = {
    "suffix": "the text between is asked for by the model's own tokens, in the prompt",
    "typical_p": "top_p or min_p",
    "tfs_z": "top_p or min_p",
    "mirostat_mode": "temperature and min_p",
    "mirostat_tau": "temperature and min_p",
    "mirostat_eta": "temperature and min_p",
    "stopping_criteria": "stop=[…], or AutoModelForCausalLM's generate(stopping_criteria=…)",
    "logits_processor": "logit_bias or grammar, or AutoModelForCausalLM's generate(logits_processor=…)",
    "functions": "`pellucid serve` takes tools, as OpenAI's API does",
    "function_call": "`pellucid serve` takes tools, as OpenAI's API does",
    "tools": "`pellucid serve` takes tools, as OpenAI's API does",
    "tool_choice": "`pellucid serve` takes tools, as OpenAI's API does",
}
NEUTRAL: Mapping[str, Any] = {
    "typical_p": 1.0,
    "tfs_z": 1.0,
    "mirostat_mode": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
}
KNOWN = (
    *("prompt", "messages", "max_tokens", "temperature", "top_p", "min_p", "top_k", "logprobs", "top_logprobs", "echo"),
    *("stop", "frequency_penalty", "presence_penalty", "repeat_penalty", "stream", "seed", "model", "grammar"),
    *("logit_bias", "response_format"),
)
# Methods that are not here.
METHODS = {
    "eval": "AutoModelForCausalLM.from_pretrained(file)(ids).logits",
    "eval_logits": "AutoModelForCausalLM.from_pretrained(file)(ids).logits",
    "eval_tokens": "the ids that you gave",
    "scores": "AutoModelForCausalLM.from_pretrained(file)(ids).logits",
    "sample": "llama.generate(ids, temperature=…)",
    "embed": "llama.engine.embed([llama.tokenize(text)], pooling='mean')",
    "create_embedding": "llama.engine.embed([llama.tokenize(text)], pooling='mean')",
    "save_state": "prompts that begin alike are computed once, without being asked",
    "load_state": "prompts that begin alike are computed once, without being asked",
    "set_cache": "prompts that begin alike are computed once, without being asked",
    "create_chat_completion_openai_v1": "create_chat_completion, or openai's client and `pellucid serve`",
    "ctx": "llama.engine",
    "logits_to_logprobs": "scipy.special.log_softmax",
}


def refuse_settings(call: str, unknown: Mapping[str, Any]) -> None:
    """Raises: TypeError for what is not here, but for values at which it would do nothing."""
    asked = {name: value for name, value in unknown.items() if not (name in NEUTRAL and value == NEUTRAL[name])}
    refuse_unknown(call, asked, KNOWN, ELSEWHERE)


def sampling_of(
    *,
    temperature: float,
    top_p: float,
    min_p: float,
    top_k: int,
    frequency_penalty: float,
    presence_penalty: float,
    repeat_penalty: float,
    seed: int | None,
    logit_bias: Mapping[Any, float] | None,
    drawn: Callable[[], int],
) -> SamplingParams:
    """How tokens are chosen. ``drawn`` gives a seed where the call names none."""
    if repeat_penalty != 1.0 or frequency_penalty or presence_penalty:
        notice("Llama: penalties count the whole text, not the last 64 tokens, as llama.cpp's do")
    return SamplingParams(
        do_sample=temperature > 0,
        temperature=max(temperature, 0.0),
        top_p=top_p,
        min_p=min_p,
        top_k=max(top_k, 0),
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        repetition_penalty=repeat_penalty,
        seed=drawn() if seed is None or seed < 0 else seed,
        logit_bias={int(token): float(bias) for token, bias in (logit_bias or {}).items()},
    )


def strings(stop: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The stop strings of a call; None: those of the model."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ()) or None


def seeds(seed: int) -> Callable[[], int]:
    """A seed for each call that names none, from the one of the model; llama.cpp's own default is a fresh one."""
    source = random.Random(None if seed in (-1, 2**32 - 1) else seed)
    return lambda: source.getrandbits(31)


def method(name: str) -> NoReturn:
    """Raises: AttributeError."""
    if name in METHODS:
        raise AttributeError(f"a Llama has no {name!r} here → {METHODS[name]}")
    raise AttributeError(f"'Llama' object has no attribute {name!r}")


def text_of(prompt: Any) -> str:
    """Raises: RequestError for bytes that are no text."""
    if isinstance(prompt, bytes):
        try:
            return prompt.decode()
        except UnicodeDecodeError as error:
            raise RequestError(f"the prompt is no UTF-8: {error.reason}", where=f"byte {error.start}") from None
    return str(prompt)
