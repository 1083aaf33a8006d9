"""llama.cpp's own quantizer: ``python llamacpp_quantize.py IN.gguf FOLDER TYPE …`` writes FOLDER/TYPE.gguf of each."""

import ctypes
import sys

import llama_cpp as cpp  # pyright: ignore[reportMissingImports]  # of another environment


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def quiet(level, text, data):
    if level >= 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


cpp.llama_log_set(quiet, ctypes.c_void_p(0))
for number in sys.argv[3:]:
    settings = cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = int(number), 1
    if cpp.llama_model_quantize(sys.argv[1].encode(), f"{sys.argv[2]}/{number}.gguf".encode(), ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp did not quantize to {number}")
