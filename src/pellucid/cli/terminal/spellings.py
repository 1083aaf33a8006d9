"""Options as Ollama, llama.cpp, mlx-lm, transformers and vLLM spell them: the same here, or what is written instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

# Spelled otherwise there → here; taken wherever ours is.
SAME = {
    "--n-predict": "--max-tokens",
    "--predict": "--max-tokens",
    "--num-predict": "--max-tokens",
    "-s": "--seed",
    "-hf": "--model",
    "--hf-repo": "--model",
    "--model-path": "--model",
    "--repetition-penalty": "--repeat-penalty",
    "--system-prompt": "--system",
    "-r": "--stop",
    "--reverse-prompt": "--stop",
    "-cnv": "--chat",
    "--conversation": "--chat",
    "-no-cnv": "--raw",
    "--no-conversation": "--raw",
    "--ignore-chat-template": "--raw",
    "--draft-model": "--draft",
    "--model-draft": "--draft",
    "-md": "--draft",
    "--num-ctx": "--ctx-size",
    "--n-ctx": "--ctx-size",
    "--max-kv-size": "--ctx-size",
    "--max-model-len": "--ctx-size",
    "--num-threads": "--threads",
    "--num-thread": "--threads",
    "--n-probs": "--logprobs",
    "--num-return-sequences": "--answers",
    "--grammar-file": "--grammar",
    "-j": "--json-schema",
    "--prompt-file": "--file",
    "--chat-template-file": "--chat-template",
    "--local-files-only": "--offline",
    "--torch-dtype": "--dtype",
    "--log-disable": "--quiet",
}
# Known of other programs, and where the idea lives here.
ELSEWHERE = {
    "-ngl": "--device cuda; or nothing: a GPU is taken where there is one",
    "--n-gpu-layers": "--device cuda; or nothing: a GPU is taken where there is one",
    "--gpu-layers": "--device cuda; or nothing: a GPU is taken where there is one",
    "-fa": "nothing: attention is fused in any case",
    "--flash-attn": "nothing: attention is fused in any case",
    "--mlock": "nothing: parameters are mapped from their file",
    "--no-mmap": "nothing: parameters are mapped from their file",
    "-b": "nothing: prompts are read in parts of a size that suits the machine",
    "--batch-size": "nothing: prompts are read in parts of a size that suits the machine",
    "-ub": "nothing: prompts are read in parts of a size that suits the machine",
    "--ubatch-size": "nothing: prompts are read in parts of a size that suits the machine",
    "-tb": "--threads",
    "--threads-batch": "--threads",
    "-ctk": "--kv-cache int8",
    "-ctv": "--kv-cache int8",
    "--cache-type-k": "--kv-cache int8",
    "--cache-type-v": "--kv-cache int8",
    "--kv-bits": "--kv-cache int8",
    "-mu": "--model with the link: hf.co/org/name",
    "--model-url": "--model with the link: hf.co/org/name",
    "-hff": "--model org/name:FILE.gguf",
    "--hf-file": "--model org/name:FILE.gguf",
    "-hft": "HF_TOKEN in the environment",
    "--hf-token": "HF_TOKEN in the environment",
    "-i": "`pellucid chat`",
    "--interactive": "`pellucid chat`",
    "-st": "`pellucid generate --chat`",
    "--single-turn": "`pellucid generate --chat`",
    "-e": "nothing in a shell: $'one\\ntwo'; --stop understands \\n",
    "--escape": "nothing in a shell: $'one\\ntwo'; --stop understands \\n",
    "--color": "nothing: a terminal has colours, a pipe has none",
    "--no-display-prompt": "nothing: the answer alone is written",
    "--display-prompt": "nothing: the answer alone is written; --json has the prompt, too",
    "--verbose-prompt": "`pellucid tokenize`",
    "--ignore-eos": "in Python, generate(…, stop_token_ids=())",
    "--samplers": "temperature, then top-k, top-p and min-p, in this order",
    "--mirostat": "--temp and --min-p",
    "--typical": "--top-p or --min-p",
    "--xtc-probability": "--temp and --min-p",
    "--dry-multiplier": "--repeat-penalty, or --frequency-penalty",
    "--repeat-last-n": "--repeat-penalty counts the whole text",
    "--logit-bias": "in Python, SamplingParams(logit_bias={…})",
    "--lora": "--model ADAPTER: an adapter's folder names its base",
    "--adapter-path": "--model ADAPTER: an adapter's folder names its base",
    "--in-prefix": "the chat template, or --chat-template FILE",
    "--in-suffix": "the chat template, or --chat-template FILE",
    "--jinja": "nothing: chat templates are Jinja",
    "--use-default-chat-template": "--chat",
    "--image": "images are not read here: the text part of the model answers",
    "--rope-scaling": "what a file says of its model is not overruled",
    "--rope-freq-base": "what a file says of its model is not overruled",
    "--rope-freq-scale": "what a file says of its model is not overruled",
    "--keepalive": "nothing: the model is there as long as the program",
    "--nowordwrap": "nothing: a pipe is not wrapped",
    "--verbose": "nothing: figures are written after an answer, but with --quiet",
    "-v": "nothing: figures are written after an answer, but with --quiet",
    "--format": '--json-schema \'{"type": "object"}\'',
    "--think": "the chat template decides; in Python, apply_chat_template(…, enable_thinking=True)",
    "--hidethinking": "the chat template decides; in Python, apply_chat_template(…, enable_thinking=False)",
    "--insecure": "fetching is by https, or from HF_ENDPOINT",
    "--modelfile": "-m NAME of `pellucid inspect`",
    "--stream": "nothing: answers come as they are made",
    "--load-in-4bit": "`pellucid convert MODEL OUT.gguf --quantize q4_k_m`, and that file",
    "--load-in-8bit": "`pellucid convert MODEL OUT.gguf --quantize q8_0`, and that file",
    "--quantization": "a folder that is quantized opens as it is; `pellucid convert MODEL OUT.gguf --quantize q4_k_m`",
    "--trust-remote-code": "nothing: no code from a model folder is executed, or needed",
    "--tensor-parallel-size": "a model is on one device, whole: --device cuda:0",
    "--gpu-memory-utilization": "--ctx-size bounds what keys and values take",
    "--num-beams": "in Python, model.generate(ids, num_beams=4)",
    "--do-sample": "--temp 0.7, or any other flag about drawing",
    "--greedy": "--temp 0",
    "--hf-path": "`pellucid convert MODEL OUT`",
    "--mlx-path": "`pellucid convert MODEL OUT`",
    "--max-seq-length": "--max-len, or --ctx-size",
    "--iters": "--steps, or --epochs",
    "--num-layers": "--depth, where a model is begun; an adapter is on every layer",
}


def respelled(words: Sequence[str], takes_value: Mapping[str, bool], refuse: Callable[[str, str], None]) -> list[str]:
    """The words of a command line with other programs' options as ours. ``takes_value``: this command's own options,
    and whether the next word is their value. ``refuse(option, where)`` is called for one that is not here.
    """
    made: list[str] = []
    left = iter(range(len(words)))
    for place in left:
        word = words[place]
        if word == "--":
            return [*made, *words[place:]]
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        ours = _ours(name, takes_value)
        if ours is None and name.startswith("-") and name in ELSEWHERE:
            refuse(name, ELSEWHERE[name])
        made.append((ours or name) + equals + value)
        if takes_value.get(ours or name) and not equals and place + 1 < len(words):
            made.append(words[next(left)])
    return made


def _ours(name: str, known: Mapping[str, bool]) -> str | None:
    """The option of this command that a word is, by its own name, by another's, or with _ for -."""
    if name in known:
        return name
    plain = name.replace("_", "-") if name.startswith("--") else name
    return next((one for one in (plain, SAME.get(plain), SAME.get(name)) if one in known), None)
