"""Models of the hub by the short names that people know, as Ollama and others have them (``llama3.2:1b``).

A literal table. A name without a size (``qwen3``) stands for the one that lists it. Sizes are of the weights, in bytes,
about. ``revision``: None is the repository's main branch; the commit that was fetched is what the hub's cache keeps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A repository of the hub, and what a person wants to know before fetching it."""

    names: tuple[str, ...]  # the first is how it is listed
    repo: str
    about: str
    licence: str
    size: int
    languages: str
    terms: str | None = None
    revision: str | None = None


def _model(
    names: str, repo: str, about: str, licence: str, size: float, languages: str, terms: str | None = None
) -> HubModel:
    return HubModel(
        names=tuple(names.split()),
        repo=repo,
        about=about,
        licence=licence,
        size=int(size),
        languages=languages,
        terms=terms,
    )


APACHE, MIT = "Apache-2.0", "MIT"
LLAMA, GEMMA = "Llama's own licence", "Gemma's own terms"
LLAMA_TERMS, GEMMA_TERMS = "https://www.llama.com/llama3_2/license", "https://ai.google.dev/gemma/terms"
GATED = "; gated: its terms must be accepted on the hub"

HUB_MODELS: tuple[HubModel, ...] = (
    _model(
        "smollm2-360m smollm2:360m smollm2-360m-instruct",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "SmolLM2-360M-Instruct, bfloat16",
        APACHE,
        7.24e8,
        "English",
    ),
    _model(
        "smollm2-1.7b smollm2:1.7b",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "SmolLM2-1.7B-Instruct, bfloat16",
        APACHE,
        3.42e9,
        "English",
    ),
    _model(
        "smollm3 smollm3:3b smollm3-3b",
        "HuggingFaceTB/SmolLM3-3B",
        "SmolLM3-3B, bfloat16: thinks if asked to",
        APACHE,
        6.15e9,
        "six European languages",
    ),
    _model(
        "qwen3-0.6b qwen3 qwen3:0.6b",
        "Qwen/Qwen3-0.6B",
        "Qwen3-0.6B, bfloat16: thinks before it answers",
        APACHE,
        1.5e9,
        "119 languages",
    ),
    _model(
        "qwen3-1.7b qwen3:1.7b",
        "Qwen/Qwen3-1.7B",
        "Qwen3-1.7B, bfloat16: thinks before it answers",
        APACHE,
        4.06e9,
        "119 languages",
    ),
    _model(
        "qwen3-4b qwen3:4b",
        "Qwen/Qwen3-4B",
        "Qwen3-4B, bfloat16: thinks before it answers",
        APACHE,
        8.05e9,
        "119 languages",
    ),
    _model(
        "qwen3-8b qwen3:8b",
        "Qwen/Qwen3-8B",
        "Qwen3-8B, bfloat16: thinks before it answers",
        APACHE,
        1.64e10,
        "119 languages",
    ),
    _model(
        "qwen3-30b-a3b qwen3:30b qwen3:30b-a3b",
        "Qwen/Qwen3-30B-A3B",
        "Qwen3-30B-A3B, bfloat16: 128 experts, 3 billion parameters a token",
        APACHE,
        6.11e10,
        "119 languages",
    ),
    _model(
        "qwen2.5-0.5b qwen2.5:0.5b qwen2.5 qwen2.5-0.5b-instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen2.5-0.5B-Instruct, bfloat16",
        APACHE,
        9.88e8,
        "29 languages",
    ),
    _model(
        "qwen2.5-1.5b qwen2.5:1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "Qwen2.5-1.5B-Instruct, bfloat16",
        APACHE,
        3.09e9,
        "29 languages",
    ),
    _model(
        "qwen2.5-7b qwen2.5:7b",
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen2.5-7B-Instruct, bfloat16",
        APACHE,
        1.52e10,
        "29 languages",
    ),
    _model(
        "qwen2.5-coder-0.5b qwen2.5-coder:0.5b",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "Qwen2.5-Coder-0.5B-Instruct, bfloat16: writes programs",
        APACHE,
        9.88e8,
        "29 languages, and code",
    ),
    _model(
        "qwen2.5-coder-1.5b qwen2.5-coder:1.5b",
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        "Qwen2.5-Coder-1.5B-Instruct, bfloat16: writes programs",
        APACHE,
        3.09e9,
        "29 languages, and code",
    ),
    _model(
        "qwen2.5-coder-7b qwen2.5-coder qwen2.5-coder:7b",
        "Qwen/Qwen2.5-Coder-7B-Instruct",
        "Qwen2.5-Coder-7B-Instruct, bfloat16: writes programs",
        APACHE,
        1.52e10,
        "29 languages, and code",
    ),
    _model(
        "deepseek-r1-1.5b deepseek-r1:1.5b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "DeepSeek-R1-Distill-Qwen-1.5B, bfloat16: thinks at length",
        MIT,
        3.55e9,
        "English, Chinese",
    ),
    _model(
        "deepseek-r1-7b deepseek-r1 deepseek-r1:7b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        "DeepSeek-R1-Distill-Qwen-7B, bfloat16: thinks at length",
        MIT,
        1.52e10,
        "English, Chinese",
    ),
    _model(
        "deepseek-r1-8b deepseek-r1:8b",
        "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
        "DeepSeek-R1-0528-Qwen3-8B, bfloat16: thinks at length",
        MIT,
        1.64e10,
        "English, Chinese",
    ),
    _model(
        "llama3.2-1b llama3.2:1b",
        "meta-llama/Llama-3.2-1B-Instruct",
        "Llama-3.2-1B-Instruct, bfloat16" + GATED,
        LLAMA,
        2.47e9,
        "eight languages",
        LLAMA_TERMS,
    ),
    _model(
        "llama3.2 llama3.2:3b llama3.2-3b",
        "meta-llama/Llama-3.2-3B-Instruct",
        "Llama-3.2-3B-Instruct, bfloat16" + GATED,
        LLAMA,
        6.43e9,
        "eight languages",
        LLAMA_TERMS,
    ),
    _model(
        "llama3.1 llama3.1:8b llama3.1-8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        "Llama-3.1-8B-Instruct, bfloat16" + GATED,
        LLAMA,
        1.61e10,
        "eight languages",
        "https://www.llama.com/llama3_1/license",
    ),
    _model(
        "tinyllama tinyllama:1.1b tinyllama-1.1b",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "TinyLlama-1.1B-Chat-v1.0, bfloat16: the Llama 2 architecture, small",
        APACHE,
        2.2e9,
        "English",
    ),
    _model(
        "gemma3-270m-it gemma3:270m-it",
        "google/gemma-3-270m-it",
        "Gemma 3 270M, instruction-tuned, bfloat16" + GATED,
        GEMMA,
        5.36e8,
        "140 languages",
        GEMMA_TERMS,
    ),
    _model(
        "gemma3-1b gemma3:1b",
        "google/gemma-3-1b-it",
        "Gemma 3 1B, instruction-tuned, bfloat16" + GATED,
        GEMMA,
        2e9,
        "English",
        GEMMA_TERMS,
    ),
    _model(
        "gemma2-2b gemma2:2b",
        "google/gemma-2-2b-it",
        "Gemma 2 2B, instruction-tuned, bfloat16" + GATED,
        GEMMA,
        5.23e9,
        "English",
        GEMMA_TERMS,
    ),
    _model(
        "phi4-mini phi4-mini:3.8b phi-4-mini",
        "microsoft/Phi-4-mini-instruct",
        "Phi-4-mini-instruct, 3.8 B parameters, bfloat16",
        MIT,
        7.67e9,
        "23 languages",
    ),
    _model("phi4 phi4:14b phi-4", "microsoft/phi-4", "Phi-4, 14 B parameters, bfloat16", MIT, 2.93e10, "English"),
    _model(
        "phi3.5 phi3.5:3.8b phi3.5-mini",
        "microsoft/Phi-3.5-mini-instruct",
        "Phi-3.5-mini-instruct, 3.8 B parameters, bfloat16",
        MIT,
        7.64e9,
        "23 languages",
    ),
    _model(
        "mistral mistral:7b mistral-7b",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Mistral-7B-Instruct-v0.3, bfloat16",
        APACHE,
        1.45e10,
        "English, French, German, Spanish and others",
    ),
    _model(
        "mistral-nemo mistral-nemo:12b",
        "mistralai/Mistral-Nemo-Instruct-2407",
        "Mistral-Nemo-Instruct-2407, 12 B parameters, bfloat16",
        APACHE,
        2.45e10,
        "eleven languages",
    ),
    _model(
        "mixtral mixtral:8x7b",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "Mixtral-8x7B-Instruct-v0.1, bfloat16: eight experts, two a token",
        APACHE,
        9.34e10,
        "five European languages",
    ),
    _model(
        "granite3.3-2b granite3.3:2b",
        "ibm-granite/granite-3.3-2b-instruct",
        "Granite-3.3-2B-Instruct, bfloat16",
        APACHE,
        5.07e9,
        "twelve languages",
    ),
    _model(
        "granite3.3 granite3.3:8b granite3.3-8b",
        "ibm-granite/granite-3.3-8b-instruct",
        "Granite-3.3-8B-Instruct, bfloat16",
        APACHE,
        1.63e10,
        "twelve languages",
    ),
    _model(
        "olmo2-1b olmo2:1b",
        "allenai/OLMo-2-0425-1B-Instruct",
        "OLMo-2-1B-Instruct, bfloat16: data and training are public",
        APACHE,
        2.97e9,
        "English",
    ),
    _model(
        "olmo2 olmo2:7b olmo2-7b",
        "allenai/OLMo-2-1124-7B-Instruct",
        "OLMo-2-7B-Instruct, bfloat16: data and training are public",
        APACHE,
        1.46e10,
        "English",
    ),
    _model(
        "olmoe olmoe-1b-7b",
        "allenai/OLMoE-1B-7B-0924-Instruct",
        "OLMoE-1B-7B-Instruct, bfloat16: 64 experts, eight a token",
        APACHE,
        1.38e10,
        "English",
    ),
    _model(
        "gpt-oss gpt-oss:20b gpt-oss-20b",
        "openai/gpt-oss-20b",
        "gpt-oss-20b, experts in MXFP4: thinks before it answers",
        APACHE,
        1.38e10,
        "English, and others",
    ),
    _model(
        "exaone4-1.2b exaone4:1.2b",
        "LGAI-EXAONE/EXAONE-4.0-1.2B",
        "EXAONE-4.0-1.2B, bfloat16",
        "EXAONE AI Model License 1.2 - NC (not commercial)",
        2.56e9,
        "Korean, English, Spanish",
    ),
    _model(
        "stablelm2 stablelm2:1.6b stablelm2-1.6b",
        "stabilityai/stablelm-2-1_6b-chat",
        "StableLM-2-1.6B-chat, float16",
        "Stability AI's own licence (not commercial)",
        3.29e9,
        "English, and six others",
    ),
    _model(
        "starcoder2-3b starcoder2 starcoder2:3b",
        "bigcode/starcoder2-3b",
        "StarCoder2-3B, float32: continues programs",
        "BigCode OpenRAIL-M",
        1.21e10,
        "17 programming languages",
        "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement",
    ),
    _model(
        "pythia-160m pythia",
        "EleutherAI/pythia-160m",
        "Pythia-160M, float16: continues text; made for research",
        APACHE,
        3.75e8,
        "English",
    ),
    _model(
        "gpt2 gpt2-124m",
        "openai-community/gpt2",
        "GPT-2, 124M parameters, float32: continues text, does not chat",
        MIT,
        5.48e8,
        "English",
    ),
    _model(
        "glm4-9b glm4 glm4:9b glm-4-9b-chat",
        "THUDM/glm-4-9b-chat",
        "GLM-4-9B-Chat, bfloat16",
        "glm-4-9b licence (research; commercial use on registration)",
        1.88e10,
        "Chinese, English, and 24 others",
    ),
    _model(
        "chatglm3-6b chatglm3",
        "THUDM/chatglm3-6b",
        "ChatGLM3-6B, float16",
        "ChatGLM3-6B licence (research; commercial use on registration)",
        1.25e10,
        "Chinese, English",
    ),
)
