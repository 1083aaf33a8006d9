"""Logits of GGUF files by llama.cpp itself: ``python llamacpp_worker.py FOLDER``, in the environment that has it.

FOLDER/jobs.json: name → {"path": …, "ids": […]} (or "texts" to be tokenized). Writes FOLDER/NAME.npy, (T, V) float32,
or FOLDER/NAME.json, ids of each text.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp as cpp  # pyright: ignore[reportMissingImports]  # of another environment
import numpy as np

cpp.llama_backend_init()
said: list[str] = []


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def quiet(level, text, data):
    if level >= 4:  # errors
        said.append(text.decode(errors="replace"))


cpp.llama_log_set(quiet, ctypes.c_void_p(0))


def logits(path: str, ids: list[int]) -> np.ndarray:
    said.clear()
    loading = cpp.llama_model_default_params()
    loading.use_extra_bufts = False  # its repacked weights end in a segmentation fault on processors with AMX
    model = cpp.llama_model_load_from_file(path.encode(), loading)
    if not model:
        raise RuntimeError(f"llama.cpp does not open {path}: " + "".join(line for line in said if len(line) > 9))
    settings = cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(64, len(ids))
    settings.type_k = settings.type_v = 0  # float32
    settings.flash_attn_type = 0
    settings.n_threads = settings.n_threads_batch = 1
    context = cpp.llama_init_from_model(model, settings)
    batch = cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
        batch.seq_id[place][0], batch.logits[place] = 0, 1
    if cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp does not run {path}")
    width = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model))
    rows = [
        np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, place), (width,)).copy() for place in range(len(ids))
    ]
    cpp.llama_free(context)
    cpp.llama_model_free(model)
    return np.stack(rows)


def token_ids(path: str, texts: list[str]) -> list[list[int]]:
    settings = cpp.llama_model_default_params()
    settings.vocab_only = True
    model = cpp.llama_model_load_from_file(path.encode(), settings)
    vocab = cpp.llama_model_get_vocab(model)
    listed = []
    for text in texts:
        data = text.encode()
        room = (cpp.llama_token * (len(data) + 16))()
        count = cpp.llama_tokenize(vocab, data, len(data), room, len(room), True, True)
        listed.append(list(room[:count]))
    cpp.llama_model_free(model)
    return listed


folder = Path(sys.argv[1])
for name, job in json.loads((folder / "jobs.json").read_text()).items():
    if "ids" in job:
        try:
            np.save(folder / f"{name}.npy", logits(job["path"], job["ids"]))
        except RuntimeError as error:
            (folder / f"{name}.txt").write_text(str(error))
    else:
        (folder / f"{name}.json").write_text(json.dumps(token_ids(job["path"], job["texts"])))
