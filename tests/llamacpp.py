"""llama.cpp itself, in a process of its own (``make bench-peers`` builds it): the ids that a GGUF vocabulary gives, and
the logits of a model.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

PYTHON = Path(os.environ.get("PELLUCID_TEST_LLAMACPP", ROOT / ".venv-llamacpp" / "bin" / "python"))
_ENCODE = """
import json, sys, llama_cpp
asked = json.load(sys.stdin)
log = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(log, None)
answers = []
for path in asked["paths"]:
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    answers.append([model.tokenize(text.encode(), add_bos=asked["ends"], special=asked["special"])
                    for text in asked["texts"]])
json.dump(answers, sys.stdout)
"""
_LOGITS = """
import json, sys, numpy, llama_cpp as llama
asked = json.load(sys.stdin)
def say(level, text, data):
    if level > 3:
        sys.stderr.write(text.decode(errors="replace"))
log = llama.llama_log_callback(say)
llama.llama_log_set(log, None)
llama.llama_backend_init()
ids, answers = asked["ids"], {}
for path in asked["paths"]:
    loading = llama.llama_model_default_params()
    loading.use_extra_bufts = False  # its repacked weights end in a segmentation fault on processors with AMX
    model = llama.llama_model_load_from_file(path.encode(), loading)
    assert model, path
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = 0  # float32
    settings.flash_attn_type = 0
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert llama.llama_decode(context, batch) == 0, path
    rows = [llama.llama_get_logits_ith(context, i) for i in range(len(ids))]
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    answers[path] = [numpy.ctypeslib.as_array(row, shape=(size,)).tolist() for row in rows]
json.dump(answers, sys.stdout)
"""


def logits_of(paths: Sequence[Path], ids: Sequence[int]) -> list[list[list[float]]]:
    """What llama.cpp makes of a text's token ids, for each file, with keys and values in float32; skips where it is not
    built.
    """
    if not PYTHON.is_file():
        pytest.skip(f"no llama.cpp at {PYTHON}; `make bench-peers` builds it")
    asked = {"paths": [str(path) for path in paths], "ids": list(ids)}
    done = subprocess.run([PYTHON, "-c", _LOGITS], input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"llama.cpp ended with {done.returncode}: {done.stderr[-2000:]}"
    answers = json.loads(done.stdout)
    return [answers[str(path)] for path in paths]


def ids_of(
    paths: Sequence[Path], texts: Sequence[str], *, ends: bool = False, special: bool = False
) -> list[list[list[int]]]:
    """The ids of each text in each file's vocabulary; skips where llama.cpp is not built."""
    if not PYTHON.is_file():
        pytest.skip(f"no llama.cpp at {PYTHON}; `make bench-peers` builds it")
    asked = {"paths": [str(path) for path in paths], "texts": list(texts), "ends": ends, "special": special}
    done = subprocess.run([PYTHON, "-c", _ENCODE], input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"llama.cpp ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def write_vocabulary(path: Path, metadata: Mapping[str, Any]) -> Path:
    """A GGUF file without tensors whose tokenizer is what ``metadata`` says."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if not key.startswith("tokenizer."):
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, (int,)) or (hasattr(value, "__index__") and not hasattr(value, "__len__")):
            writer.add_uint32(key, int(value))
        else:
            values = value.tolist() if hasattr(value, "tolist") else list(value)
            writer.add_array(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
