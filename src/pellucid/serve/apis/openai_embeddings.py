"""``/v1/embeddings``: a causal model's hidden states, pooled and normalized.

They were trained to tell the next token, not how near two texts are: good enough to sort what differs plainly, and
well below a model made for it. Source: OpenAI's API reference.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pellucid.serve.apis.fields import HARMLESS, described
from pellucid.serve.apis.openai_text import IDS, MOST_PROMPTS
from pellucid.serve.http.body import read_json, unless_gone
from pellucid.serve.http.errors import invalid
from pellucid.serve.http.operation import Operation
from pellucid.serve.http.schema import any_of, flag, list_of, nullable, number, one_of, record, text, whole
from pellucid.serve.work.answer import begin
from pellucid.serve.work.ask import Ask

BODY = described(
    {
        "model": nullable(text()),
        "input": any_of(
            text(minLength=1),
            list_of(text(minLength=1), minItems=1, maxItems=MOST_PROMPTS),
            IDS,
            list_of(IDS, minItems=1, maxItems=MOST_PROMPTS),
        ),
        "encoding_format": nullable(one_of("float", "base64")),
        "dimensions": nullable(whole(1)),
        "pooling": nullable(one_of("last", "mean")),
        "normalize": nullable(flag()),
        "keep_alive": nullable(number()),
        **HARMLESS,
    },
    ["input"],
)


async def embed(request: Request) -> Response:
    body = await read_json(request, BODY)
    texts = body["input"]
    inputs = [texts] if isinstance(texts, str) or isinstance(texts[0], int) else texts
    ask = Ask(
        model=body.get("model"),
        prompts=inputs,
        pooling=body.get("pooling") or "mean",
        keep_alive=body.get("keep_alive"),
    )
    state = request.app.state
    answering = await unless_gone(request, begin(state.models, state.settings, ask))
    async with answering:
        size = answering.loaded.checkpoint.config.d_model
        if body.get("dimensions") not in (None, size):
            raise invalid(f"dimensions: this model's have {size}, and cutting them would cut their sense", "dimensions")
        await unless_gone(request, answering.whole())
    vectors = [answering.answers[place].embedding for place in sorted(answering.answers)]
    data = [_vector(place, vector, body) for place, vector in enumerate(vectors) if vector is not None]
    tokens = answering.usage.prompt
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": answering.model.name, "usage": usage})


def _vector(place: int, vector: np.ndarray, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("normalize") is not False:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    numbers: Any = vector.astype("<f4")
    if body.get("encoding_format") == "base64":
        numbers = base64.b64encode(numbers.tobytes()).decode()
    else:
        numbers = numbers.tolist()
    return {"object": "embedding", "index": place, "embedding": numbers}


VECTOR = record({"embedding": any_of(list_of(number()), text()), "index": whole(0)}, "embedding", "index")
ANSWER = record({"data": list_of(VECTOR), "model": text()}, "data", "model")
OPERATIONS = (Operation("POST", "/v1/embeddings", embed, "OpenAI: texts as vectors.", ANSWER, BODY),)
