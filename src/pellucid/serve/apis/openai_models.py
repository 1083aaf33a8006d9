"""``/v1/models``: what may be asked for."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import list_of, record, text, whole
from pellucid.serve.work.models import Model


def model_json(model: Model, template: str | None) -> dict[str, Any]:
    """OpenAI's object; ``meta`` holds what is known of a model that is loaded."""
    described: dict[str, Any] = {"id": model.name, "object": "model", "created": model.created, "owned_by": "pellucid"}
    if (loaded := model.loaded) is not None:
        described["max_model_len"] = loaded.engine.context_len  # vLLM's word
        described["meta"] = {
            "n_ctx": loaded.engine.context_len,
            "n_ctx_train": loaded.checkpoint.config.longest_context,
            "n_vocab": loaded.checkpoint.config.vocab_size,
            "n_embd": loaded.checkpoint.config.d_model,
            "has_chat_template": template is not None or bool(loaded.tokenizer.chat_template),
            "stop_token_ids": sorted(loaded.engine.defaults.stop_token_ids or ()),
        }
    return described


async def all_models(request: Request) -> JSONResponse:
    state = request.app.state
    all_of_them = [model_json(one, state.settings.template) for one in state.models.models]
    return JSONResponse({"object": "list", "data": all_of_them})


async def one_model(request: Request) -> JSONResponse:
    state = request.app.state
    return JSONResponse(model_json(state.models.find(request.path_params["model"]), state.settings.template))


MODEL = record({"id": text(), "object": {"const": "model"}, "created": whole(0), "owned_by": text()}, "id", "object")
OPERATIONS = (
    Operation(
        "GET", "/v1/models", all_models, "OpenAI: the models there are.", record({"data": list_of(MODEL)}, "data")
    ),
    Operation(
        "GET", "/v1/models/{model:path}", one_model, "OpenAI: one of them.", MODEL, parameters=("model",), errors=(404,)
    ),
)
