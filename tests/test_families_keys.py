"""Each key of config.json is interpreted, known to be harmless, reported, or, where it changes the numbers, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.checkpoint import open_config
from pellucid.config import RopeScaling
from pellucid.families import FAMILIES, chatglm, family_of, llama, unheard_of, unread_keys
from pellucid.families.translation.harmless import changes_numbers, is_neutral
from pellucid.model.position import inverse_frequencies

# config.json of released models, as their makers (and old versions of transformers) wrote them.
_OLD = {
    "_num_labels": 1,
    "architectures": ["GPT2LMHeadModel"],
    "finetuning_task": None,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "num_labels": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_past": True,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
    "xla_device": None,
    "is_decoder": False,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "bad_words_ids": None,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "sep_token_id": None,
    "tokenizer_class": None,
    "prefix": None,
}
_GPT2 = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
_LLAMA = {
    "model_type": "llama",
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
_QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
_CHATGLM = {
    "model_type": "chatglm",
    "_name_or_path": "THUDM/chatglm3-6b",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "quantization_bit": 0,
    "rmsnorm": True,
    "seq_length": 8192,
    "use_cache": True,
    "torch_dtype": "float16",
    "transformers_version": "4.30.2",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
RELEASED: dict[str, dict[str, Any]] = {
    "GPT-2": _GPT2,
    "DistilGPT-2, transformers 2": _GPT2 | _OLD,
    "Chinese GPT-2": _GPT2 | {"tokenizer_class": "BertTokenizer", "gradient_checkpointing": False},
    "Llama 2": _LLAMA,
    "Llama 1": {k: v for k, v in _LLAMA.items() if k not in ("rope_scaling", "num_key_value_heads")}
    | {"max_sequence_length": 2048, "pad_token_id": 0},
    "CodeLlama": _LLAMA | {"rope_theta": 1000000},
    "Vicuna 16k": _LLAMA | {"rope_scaling": {"factor": 4.0, "type": "linear"}},
    "Yarn-Llama-2": _LLAMA
    | {
        "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn", "finetuned": True},
        "auto_map": {"AutoConfig": "configuration_llama.LlamaConfig"},
    },
    "Llama 3.2": _LLAMA
    | {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 64,
        "mlp_bias": False,
        "eos_token_id": [128001, 128008, 128009],
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "SmolLM2": _LLAMA
    | {
        "is_llama_config": True,
        "rope_interleaved": False,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    },
    "TinyLlama, by unsloth": _LLAMA | {"unsloth_fixed": True, "unsloth_version": "2024.9"},
    "Qwen2.5": _QWEN2,
    "Qwen2.5, 128k": _QWEN2
    | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
    "Qwen3": _QWEN2
    | {"model_type": "qwen3", "attention_bias": False, "head_dim": 128, "sliding_window": None, "rope_scaling": None},
    "Qwen1.5-MoE": _QWEN2
    | {
        "model_type": "qwen2_moe",
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": False,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": 5632,
    },
    "Qwen3-MoE": _QWEN2
    | {
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "head_dim": 128,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "rope_scaling": None,
    },
    "Mixtral": _LLAMA
    | {
        "model_type": "mixtral",
        "num_key_value_heads": 8,
        "attention_dropout": 0.0,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
    },
    "ChatGLM3": _CHATGLM,
    "ChatGLM2": _CHATGLM | {"_name_or_path": "THUDM/chatglm2-6b", "transformers_version": "4.27.1"},
    "GLM-4": _CHATGLM | {"classifier_dropout": None, "rope_ratio": 500, "num_layers": 40, "num_hidden_layers": 40},
}
RELEASED |= {
    "Mistral 7B": {
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0.dev0",
        "use_cache": True,
        "vocab_size": 32000,
    },
    "Phi-4-mini": {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "bos_token_id": 199999,
        "embd_pdrop": 0.0,
        "eos_token_id": 199999,
        "full_attn_mod": 1,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "phi3",
        "num_attention_heads": 24,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [1.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 200064,
    },
    "StarCoder2 3B": {
        "activation_function": "gelu",
        "attention_dropout": 0.1,
        "attention_softmax_in_fp32": True,
        "bos_token_id": 0,
        "embedding_dropout": 0.1,
        "eos_token_id": 0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072,
        "initializer_range": 0.018042,
        "intermediate_size": 12288,
        "max_position_embeddings": 16384,
        "mlp_type": "default",
        "model_type": "starcoder2",
        "norm_epsilon": 1e-05,
        "norm_type": "layer_norm",
        "num_attention_heads": 24,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "residual_dropout": 0.1,
        "rope_theta": 999999.4420358813,
        "sliding_window": 4096,
        "use_bias": True,
        "vocab_size": 49152,
    },
    "Pythia": {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 512,
        "initializer_range": 0.02,
        "intermediate_size": 2048,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "Command R7B": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 5,
        "cache_implementation": "hybrid",
        "eos_token_id": 255001,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "layer_norm_eps": 1e-05,
        "layer_switch": 4,
        "logit_scale": 0.25,
        "max_position_embeddings": 8192,
        "model_type": "cohere2",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "order_of_interleaved_layers": "local_attn_first",
        "pad_token_id": 0,
        "position_embedding_type": "rope_gptj",
        "rope_scaling": None,
        "rope_theta": 50000,
        "rotary_pct": 1.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "use_cache": True,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": False,
        "vocab_size": 256000,
    },
    "Gemma": {
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "head_dim": 256,
        "hidden_act": "gelu",
        "hidden_activation": None,
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 16384,
        "max_position_embeddings": 8192,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 256000,
    },
}
_LATENT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "kv_lora_rank": 512,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "seq_aux": True,
    "moe_layer_freq": 1,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
}
_STRETCHED = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
RELEASED |= {
    "DeepSeek-V2-Lite": _LATENT
    | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"},
        "model_type": "deepseek_v2",
        "bos_token_id": 100000,
        "eos_token_id": 100001,
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "rope_scaling": _STRETCHED | {"mscale": 0.707, "mscale_all_dim": 0.707},
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_group": 1,
        "topk_method": "greedy",
        "vocab_size": 102400,
    },
    "DeepSeek-V3": _LATENT
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "rope_scaling": _STRETCHED | {"mscale": 1.0, "mscale_all_dim": 1.0},
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "vocab_size": 129280,
    },
    "MiniCPM3-4B": {
        "_name_or_path": "openbmb/CPM-2B",
        "architectures": ["MiniCPM3ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPM3Config"},
        "bos_token_id": 1,
        "eos_token_id": [2, 73440],
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.1,
        "intermediate_size": 6400,
        "max_position_embeddings": 32768,
        "model_type": "minicpm3",
        "num_attention_heads": 40,
        "num_hidden_layers": 62,
        "num_key_value_heads": 40,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0591234137867171] * 16,
            "short_factor": [1.0591234137867171] * 16,
            "original_max_position_embeddings": 32768,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.0",
        "use_cache": True,
        "vocab_size": 73448,
        "scale_emb": 12,
        "dim_model_base": 256,
        "scale_depth": 1.4,
    },
}
RELEASED["Mixtral"].pop("pretraining_tp")
RELEASED["Mixtral"].pop("rope_scaling")


# Of mixtures: every key of the released file that is not the same in all.
RELEASED |= {
    "gpt-oss-20b": {
        "attention_bias": True,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": 201088,
    },
    "GLM-4.5-Air": {
        "attention_bias": True,
        "pad_token_id": 151329,
        "eos_token_id": [151329, 151336, 151338],
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "partial_rotary_factor": 0.5,
        "intermediate_size": 10944,
        "max_position_embeddings": 131072,
        "model_type": "glm4_moe",
        "moe_intermediate_size": 1408,
        "norm_topk_prob": True,
        "num_attention_heads": 96,
        "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "routed_scaling_factor": 1.0,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 1,
        "num_hidden_layers": 46,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "use_qk_norm": False,
        "vocab_size": 151552,
    },
    "OLMoE-1B-7B": {
        "attention_bias": False,
        "clip_qkv": None,
        "eos_token_id": 50279,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "max_position_embeddings": 4096,
        "model_type": "olmoe",
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "output_router_logits": False,
        "pad_token_id": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
    },
    "MiniMax-M2": {
        "attn_type_list": [1] * 62,
        "bos_token_id": None,
        "eos_token_id": None,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "layernorm_full_attention_beta": 1.0,
        "layernorm_linear_attention_beta": 1.0,
        "layernorm_mlp_beta": 1.0,
        "max_position_embeddings": 196608,
        "mlp_intermediate_size": 8192,
        "model_type": "minimax_m2",
        "mtp_transformer_layers": 1,
        "num_attention_heads": 48,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 62,
        "num_key_value_heads": 8,
        "num_local_experts": 256,
        "num_mtp_modules": 3,
        "output_router_logits": False,
        "qk_norm_type": "per_layer",
        "rms_norm_eps": 1e-06,
        "rope_theta": 5000000,
        "rotary_dim": 64,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "shared_moe_mode": "sigmoid",
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_grouped_topk": True,
        "use_mtp": True,
        "use_qk_norm": True,
        "use_routing_bias": True,
        "vocab_size": 200064,
    },
    "Phi-3.5-MoE": {
        "attention_bias": True,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "hidden_size": 4096,
        "input_jitter_noise": 0.01,
        "intermediate_size": 6400,
        "lm_head_bias": True,
        "max_position_embeddings": 131072,
        "model_type": "phimoe",
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "original_max_position_embeddings": 4096,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [1.0] * 64,
            "long_mscale": 1.243163121016122,
            "original_max_position_embeddings": 4096,
            "short_factor": [1.5] * 64,
            "short_mscale": 1.243163121016122,
            "type": "longrope",
        },
        "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.0,
        "router_jitter_noise": 0.01,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "ERNIE-4.5-21B-A3B": {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "max_position_embeddings": 131072,
        "model_type": "ernie4_5_moe",
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "vocab_size": 103424,
        "rope_theta": 500000,
        "use_bias": False,
        "moe_num_experts": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_intermediate_size": 1536,
        "moe_capacity": [64, 64, 64],
        "moe_gate": "topk",
        "moe_k": 6,
        "moe_layer_interval": 1,
        "moe_use_aux_free": True,
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": True,
    },
    "Hunyuan-A13B": {
        "add_classification_head": False,
        "attention_bias": False,
        "attention_head_dim": 128,
        "bos_token_id": 1,
        "cla_share_factor": 2,
        "class_num": 0,
        "dense_list": [4096, 0],
        "eod_token_id": 127967,
        "eos_token_id": 127960,
        "group_limited_greedy": False,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "im_end_id": 6,
        "im_newline_id": 12,
        "im_start_id": 5,
        "intermediate_size": 3072,
        "mask_init_id": 13,
        "max_position_embeddings": 32768,
        "mlp_bias": False,
        "model_type": "hunyuan_v1_moe",
        "moe_drop_tokens": False,
        "moe_intermediate_size": [3072] * 32,
        "moe_layer_num_skipped": 0,
        "moe_random_routing_dropped_token": False,
        "moe_topk": [8] * 32,
        "n_group": None,
        "norm_topk_prob": True,
        "norm_type": "rms",
        "num_attention_heads": 32,
        "num_experts": 64,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_shared_expert": [1] * 32,
        "org_vocab_size": 128167,
        "pad_id": 127961,
        "pad_token_id": 127961,
        "pool_type": "last",
        "position_embedding_xdrope": False,
        "pretraining_tp": 1,
        "q_lora_rank": None,
        "qk_nope_head_dim": None,
        "qk_rope_head_dim": None,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "alpha": 1000.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
        "rope_theta": 10000.0,
        "routed_scaling_factor": 1.0,
        "sep_token_id": 127962,
        "text_end_id": 8,
        "text_start_id": 7,
        "tie_word_embeddings": True,
        "topk_group": None,
        "use_cla": False,
        "use_mixed_mlp_moe": True,
        "use_mla": False,
        "use_qk_norm": True,
        "use_rotary_pos_emb": True,
        "v_head_dim": None,
        "vocab_size": 128167,
    },
    "dots.llm1": {
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": 151645,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "max_position_embeddings": 32768,
        "model_type": "dots1",
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_routed_experts": 128,
        "n_shared_experts": 2,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 62,
        "num_key_value_heads": 32,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000000,
        "routed_scaling_factor": 2.5,
        "sliding_window": None,
        "scoring_func": "noaux_tc",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
        "n_group": 1,
        "topk_group": 1,
    },
    "Granite 3.1 1B-A400M": {
        "attention_bias": False,
        "attention_multiplier": 0.015625,
        "bos_token_id": 0,
        "embedding_multiplier": 12.0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 512,
        "logits_scaling": 6.0,
        "max_position_embeddings": 131072,
        "model_type": "granitemoe",
        "num_attention_heads": 16,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "output_router_logits": False,
        "pad_token_id": 0,
        "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1500000,
        "router_aux_loss_coef": 0.0,
        "tie_word_embeddings": True,
        "vocab_size": 49155,
    },
    "Llama 4 Scout": {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": 8192,
        "bos_token_id": 200000,
        "eos_token_id": [200001, 200007, 200008],
        "for_llm_compressor": False,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "interleave_moe_layer_step": 1,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "max_position_embeddings": 10485760,
        "no_rope_layers": [],
        "num_attention_heads": 40,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "output_router_logits": False,
        "pad_token_id": 200018,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 16.0,
            "high_freq_factor": 1.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "use_qk_norm": True,
        "vocab_size": 202048,
        "attn_scale": 0.1,
        "floor_scale": 8192,
        "attn_temperature_tuning": 4,
    },
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_models_config_is_understood_to_the_last_key(name: str) -> None:
    hf = RELEASED[name]
    assert unread_keys(FAMILIES[hf["model_type"]].config(hf)) == []


def test_an_alpha_makes_theta_larger() -> None:
    hf = FAMILIES["hunyuan_v1_dense"].TINY | FAMILIES["hunyuan_v1_dense"].VARIANTS["alpha"]
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**hf))
    (rope,) = FAMILIES["hunyuan_v1_dense"].config(hf).ropes
    torch.testing.assert_close(inverse_frequencies(rope), theirs.model.rotary_emb.inv_freq, rtol=1e-6, atol=0)


# What the defaults of transformers' own class lack to be a model.
LACKING: dict[str, dict[str, Any]] = {
    "glm4_moe": {"head_dim": 128},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "deepseek_v2": {"num_experts_per_tok": 6},
}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("chatglm", "vanilla")])
def test_whatever_transformers_writes_of_a_family_is_understood(family: str) -> None:
    assert (
        unread_keys(
            FAMILIES[family].config(transformers.AutoConfig.for_model(family, **LACKING.get(family, {})).to_dict())
        )
        == []
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logit_scale", 0.0625),
        ("embedding_multiplier", 12.0),
        ("residual_multiplier", 0.22),
        ("attention_multiplier", 0.0078),
        ("logits_scaling", 8.0),
        ("final_logit_softcapping", 30.0),
        ("attn_logit_softcapping", 50.0),
        ("query_pre_attn_scalar", 256),
        ("rope_interleaved", True),
        ("partial_rotary_factor", 0.5),
        ("rotary_pct", 0.25),
        ("no_rope_layers", [1, 1, 1, 0]),
        ("use_qk_norm", True),
        ("lm_head_bias", True),
        ("clip_qkv", 8.0),
        ("num_local_experts", 16),
        ("n_shared_experts", 1),
        ("sliding_window", 4096),
        ("layer_types", ["sliding_attention", "full_attention"]),
        ("attention_sink", True),
        ("pruned_heads", {"1": [0]}),
        ("cross_attention_hidden_size", 32),
        ("parallel_residual", True),
        ("mup_scale_factor", 2.0),
        ("quantization_bit", 4),
    ],
)
def test_a_key_that_changes_the_numbers_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"{key} = "):
        llama.config(llama.TINY | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logit_scale", 1.0),
        ("final_logit_softcapping", None),
        ("use_qk_norm", False),
        ("sliding_window", 0),
        ("clip_qkv", None),
        ("layer_types", ["full_attention"] * 2),
        ("partial_rotary_factor", 1.0),
        ("num_experts", 0),
    ],
)
def test_a_mechanism_that_is_switched_off_is_neither_refused_nor_reported(key: str, value: Any) -> None:
    assert unread_keys(llama.config(llama.TINY | {key: value})) == []


def test_true_is_not_a_factor_of_one() -> None:
    assert not is_neutral("scale_embeddings", True)
    assert is_neutral("logit_scale", 1)
    assert not is_neutral("logit_scale", 0)


def test_a_key_from_a_stranger_writes_nothing_to_the_terminal_but_a_short_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = llama.TINY | {"\x1b]0;title\x07": 7, "k" * 10_000: 1} | {f"key_{i}": i for i in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    open_config(tmp_path)
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert len(said) < 2000
    with pytest.raises(UnsupportedError, match=r"rope\\x1b"):
        llama.config(llama.TINY | {"rope\x1b[2J": [1] * 10_000})


def test_a_key_that_nobody_knows_is_reported_once_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = llama.TINY | {"a_key_of_tomorrow": 7, "temperature": 0.6, "use_cache": False}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    assert unread_keys(open_config(tmp_path)) == ["a_key_of_tomorrow", "temperature"]
    said = capsys.readouterr().err
    assert f"{tmp_path / 'config.json'}: nothing here reads a_key_of_tomorrow, temperature" in said
    open_config(tmp_path)
    assert not capsys.readouterr().err


# ---- rotary settings


def transformers_frequencies(**changed: Any) -> tuple[torch.Tensor, float]:
    config = transformers.LlamaConfig(**{k: v for k, v in (llama.TINY | changed).items() if k != "model_type"})
    rotary = transformers.LlamaForCausalLM(config).model.rotary_emb
    return rotary.inv_freq, rotary.attention_scaling


SETTINGS: dict[str, dict[str, Any]] = {
    "yarn, lengths as floats": {
        "max_position_embeddings": 64.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16.0},
    },
    "yarn without an original length": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn, truncated or not": {
        "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8, "truncate": False}
    },
    "the original length beside it": {
        "original_max_position_embeddings": 32,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    },
    "llama3 without an original length": {
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    },
    "transformers 5": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0}},
    "a factor without a type": {"rope_scaling": {"factor": 4.0}},
    "linear with what it does not read": {"rope_scaling": {"type": "linear", "factor": 4.0, "attention_factor": 3.0}},
    "longrope, one list for every length": {
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 2.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": 32.0,
            "short_factor": [1.0, 1.5, 2.0, 3.0],
            "long_factor": [1.0, 1.5, 2.0, 3.0],
        }
    },
}


@pytest.mark.parametrize("case", SETTINGS)
def test_rotary_settings_are_read_as_transformers_reads_them(case: str) -> None:
    from pellucid.rotary import magnitude

    rope = llama.config(llama.TINY | SETTINGS[case]).layers[0].mixer.rope
    whole = {k: int(v) if isinstance(v, float) and k.startswith("max") else v for k, v in SETTINGS[case].items()}
    assert rope is not None
    frequencies, scale = transformers_frequencies(**json.loads(json.dumps(whole)))
    torch.testing.assert_close(inverse_frequencies(rope), frequencies, rtol=1e-6, atol=0)
    assert magnitude(rope) == pytest.approx(scale)


@pytest.mark.parametrize("case", ["a factor without a type", "linear with what it does not read"])
def test_what_a_kind_of_scaling_does_not_read_is_reported(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pellucid.base import notice

    notice._told.clear()
    llama.config(llama.TINY | SETTINGS[case])
    assert "they have no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scaling", "error", "says"),
    [
        ({"rope_type": "linear"}, ConfigError, "needs factor"),
        ({"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}, ConfigError, "needs low_freq_factor"),
        ({"rope_type": "dynamic", "factor": 2.0, "alpha": 1000.0}, UnsupportedError, "alpha"),
        ({"type": "mrope", "mrope_section": [16, 24, 24]}, UnsupportedError, "mrope"),
        ({"rope_type": "default", "mrope_section": [16, 24, 24]}, UnsupportedError, "mrope_section"),
        ({"full_attention": {"rope_type": "default", "rope_theta": 1e6}}, UnsupportedError, "full_attention"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor"),
        ([1], ConfigError, "must be an object"),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16.5}, ConfigError, "whole number"),
    ],
)
def test_rotary_settings_that_cannot_be_followed_are_refused(scaling: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        llama.config(llama.TINY | {"rope_scaling": scaling})


# ---- ChatGLM's rope_ratio


@pytest.mark.parametrize(
    ("changed", "divides"),
    [
        ({"_name_or_path": "THUDM/chatglm2-6b-32k", "transformers_version": "4.27.1"}, True),
        ({"_name_or_path": "/models/ChatGLM2-6B-32K"}, True),
        ({"_name_or_path": "", "transformers_version": "4.27.1"}, True),
        ({"_name_or_path": "THUDM/chatglm3-6b-32k", "transformers_version": "4.30.2"}, False),
        ({"_name_or_path": "THUDM/chatglm3-6b-32k", "transformers_version": "4.27.1"}, False),
        ({"_name_or_path": "THUDM/glm-4-9b-chat", "transformers_version": "4.40.2"}, False),
        ({}, False),
    ],
)
def test_rope_ratio_divides_positions_in_chatglm2_and_multiplies_theta_since(
    changed: dict[str, Any], divides: bool
) -> None:
    rope = chatglm.config(chatglm.TINY | {"rope_ratio": 16} | changed).layers[0].mixer.rope
    assert rope is not None
    if divides:
        assert (rope.theta, rope.scaling) == (1e4, RopeScaling(kind="linear", factor=16, original_context_len=64))
    else:
        assert (rope.theta, rope.scaling) == (16e4, None)


def test_an_unknown_model_type_names_the_guide_and_the_keys_that_no_family_reads(tmp_path: Path) -> None:
    """Zamba2's keys: attention's and the MLP's are known, the recurrent layers' are not, dropout changes nothing."""
    hf = {"model_type": "zamba2", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    hf |= {"rope_theta": 1e4, "hidden_act": "gelu", "attention_dropout": 0.0, "rms_norm_eps": 1e-5}
    hf |= {"mamba_d_conv": 4, "n_mamba_heads": 8, "use_shared_attention_adapter": False, "adapter_rank": 128}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    with pytest.raises(UnsupportedError, match="model_type 'zamba2' is not implemented") as refusal:
        open_config(tmp_path)
    guide = Path(__file__).resolve().parent.parent / "docs" / "add-a-family.md"
    assert guide.is_file()
    assert refusal.value.remedy == (
        "docs/add-a-family.md says how a family is added; of its keys no family here reads n_mamba_heads, adapter_rank"
    )


def test_no_key_that_a_family_reads_is_called_unheard_of() -> None:
    configs = [family.TINY | changed for family in FAMILIES.values() for changed in ({}, *family.VARIANTS.values())]
    mechanisms = {name for config in configs for name in config if changes_numbers(name)}
    assert len(mechanisms) > 30
    assert unheard_of(dict.fromkeys(mechanisms, 0.3)) == []


def test_unheard_of_keys_are_few_printable_and_also_those_of_a_text_part() -> None:
    with pytest.raises(UnsupportedError, match=r"reads ssm_0, .*, ssm_11(?!\d).{,20}$"):
        family_of("of_tomorrow", "config.json", {f"ssm_{i}": 2 for i in range(100)})
    assert unheard_of({"ssm_\x1b[2J": 2}) == [repr("ssm_\x1b[2J")]
    assert unheard_of({"x" * 10_000 + "norm": 2}) == []
    assert unheard_of({"text_config": {"ssm_size": 2, "head_dim": 8}}) == ["ssm_size"]


def _as_transformers_writes(keys: dict[str, Any]) -> dict[str, Any]:
    """The same config with every key that transformers' class has, as ``save_pretrained`` leaves it on disk."""
    return json.loads(transformers.AutoConfig.for_model(**keys).to_json_string(use_diff=False))


# chatglm, vanilla: no class of transformers' own.
TRANSFORMERS_OWN = [family for family in FAMILIES if family not in ("chatglm", "vanilla")]


@pytest.mark.parametrize("family", TRANSFORMERS_OWN)
def test_a_config_that_transformers_writes_in_full_opens(family: str) -> None:
    FAMILIES[family].config(_as_transformers_writes(FAMILIES[family].TINY))


@pytest.mark.parametrize("family", TRANSFORMERS_OWN)
def test_an_epsilon_that_a_config_does_not_say_is_transformers_default(family: str) -> None:
    names = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
    keys = {name: value for name, value in FAMILIES[family].TINY.items() if name not in names}
    config = FAMILIES[family].config
    assert config(keys).final_norm == config(_as_transformers_writes(keys)).final_norm


def test_deepseek_v2_scales_its_experts_by_one_where_nothing_is_said() -> None:
    module = FAMILIES["deepseek_v2"]
    keys = {name: value for name, value in module.TINY.items() if name != "routed_scaling_factor"}
    experts = module.config(keys).layers[-1].experts
    assert experts
    assert experts.scale == 1.0


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("falcon", "multi_query"), ("falcon", "parallel_attn"), ("deepseek_v3", "norm_topk_prob"),
        ("deepseek_v3", "rope_interleave"), ("granitemoehybrid", "mamba_conv_bias"), ("bamba", "mamba_conv_bias"),
    ],
)  # fmt: skip
def test_a_switch_that_is_null_is_off_as_transformers_code_takes_it(family: str, key: str) -> None:
    """Though the switch is on where the file is silent."""
    module = FAMILIES[family]
    hf = {name: value for name, value in module.TINY.items() if name != key}
    theirs = transformers.AutoConfig.for_model(**{**hf, key: None})
    assert not getattr(theirs, key)
    assert module.config({**hf, key: None}).layers == module.config({**hf, key: False}).layers
    assert module.config({**hf, key: None}).layers != module.config({**hf, key: True}).layers


def test_apertus_theta_without_its_scaling_means_nothing_as_in_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    hf = FAMILIES["apertus"].TINY | {"rope_theta": 500.0, "rope_scaling": None}
    theirs = transformers.AutoConfig.for_model(**hf).rope_parameters
    ours = FAMILIES["apertus"].config(hf).ropes[0]
    assert ours.scaling is not None
    assert (ours.theta, ours.scaling.kind) == (theirs["rope_theta"], theirs["rope_type"])
    assert "rope_theta has no effect" in capsys.readouterr().err
