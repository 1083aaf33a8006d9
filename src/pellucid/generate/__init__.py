"""Answers from an executor: requests, the engine that runs many of them together, and what comes back."""

from pellucid.generate.engine import Engine
from pellucid.generate.generate import Streamer, append_new_tokens, generate
from pellucid.generate.request import Request
from pellucid.generate.result import Answer, Event, FinishReason, Result, Timings

__all__ = ["Answer", "Engine", "Event", "FinishReason", "Request", "Result", "Streamer", "Timings", "append_new_tokens", "generate"]
