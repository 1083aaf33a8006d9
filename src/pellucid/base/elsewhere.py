"""Names that people import from transformers and llama_cpp, and that are not here: what is."""

from __future__ import annotations

_MODEL = "AutoModelForCausalLM: it opens every family that is here"
_TOKENIZER = "AutoTokenizer: it opens every tokenizer that is here"
_CONFIG = 'AutoConfig.for_model("…", hidden_size=…), or AutoConfig.from_pretrained'
_NEXT = "models here predict the next token: AutoModelForCausalLM"
_THEIRS = "transformers' own, which takes models and tokenizers of this library"
ELSEWHERE = {
    "AutoModel": "AutoModelForCausalLM.from_pretrained(name).model: the model without its head",
    "AutoModelForSequenceClassification": _NEXT,
    "AutoModelForTokenClassification": _NEXT,
    "AutoModelForQuestionAnswering": _NEXT,
    "AutoModelForMaskedLM": _NEXT,
    "AutoModelForSeq2SeqLM": _NEXT,
    "AutoModelForImageTextToText": "AutoModelForCausalLM: the text part of the model answers",
    "AutoProcessor": "AutoTokenizer: the text part of the model answers",
    "AutoImageProcessor": "AutoTokenizer: the text part of the model answers",
    "AutoFeatureExtractor": "AutoTokenizer: the text part of the model answers",
    "LlamaForCausalLM": _MODEL,
    "GPT2LMHeadModel": _MODEL,
    "Qwen2ForCausalLM": _MODEL,
    "MistralForCausalLM": _MODEL,
    "LlamaTokenizer": _TOKENIZER,
    "GPT2Tokenizer": _TOKENIZER,
    "LlamaConfig": _CONFIG,
    "GPT2Config": _CONFIG,
    "PreTrainedModel": _MODEL,
    "PreTrainedTokenizer": _TOKENIZER,
    "PreTrainedTokenizerFast": _TOKENIZER,
    "PretrainedConfig": _CONFIG,
    "Trainer": f"{_THEIRS}; or `pellucid finetune`",
    "TrainingArguments": f"{_THEIRS}; or `pellucid finetune`",
    "DataCollatorForLanguageModeling": f"{_THEIRS}; or `pellucid finetune`",
    "BitsAndBytesConfig": "from_pretrained(name, quantize='q4'); transformers' own is understood, too",
    "StoppingCriteria": _THEIRS,
    "StoppingCriteriaList": "a list: generate(stopping_criteria=[…])",
    "LogitsProcessor": _THEIRS,
    "LogitsProcessorList": "a list: generate(logits_processor=[…])",
    "DynamicCache": "model(ids, use_cache=True).past_key_values",
    "AsyncTextIteratorStreamer": "TextIteratorStreamer, or transformers' own",
    "infer_device": "device_map='auto'",
    "logging": "what is said goes to stderr; PELLUCID_DEBUG=1 says more",
    "LoraConfig": "peft's own, which takes models of this library; or `pellucid finetune --method lora`",
    "get_peft_model": "peft's own, which takes models of this library; or `pellucid finetune --method lora`",
    "LlamaCache": "prompts that begin alike are computed once, without being asked",
    "LlamaRAMCache": "prompts that begin alike are computed once, without being asked",
}


def pointer(name: str) -> str:
    """`` → what is here``, or nothing. A class of one family's model is the auto class's to open."""
    known = ELSEWHERE.get(name)
    if known is None:
        endings = {"ForCausalLM": _MODEL, "LMHeadModel": _MODEL, "TokenizerFast": _TOKENIZER, "Tokenizer": _TOKENIZER}
        known = next((where for ending, where in endings.items() if name.endswith(ending)), None)
    return f" → {known}" if known else ""
