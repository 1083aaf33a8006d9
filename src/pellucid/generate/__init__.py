"""Answers from an executor: requests, the engine that runs many of them together, and what comes back."""

from pellucid.generate.constraint import Constraint, Matcher
from pellucid.generate.draft import DraftModel
from pellucid.generate.engine import Engine
from pellucid.generate.generate import Streamer, append_new_tokens, generate
from pellucid.generate.request import Request
from pellucid.generate.result import Answer, Event, FinishReason, Result, Timings
from pellucid.generate.speculate import PromptLookup, Speculator
from pellucid.generate.stream import Stream

__all__ = [
    "Answer",
    "Constraint",
    "DraftModel",
    "Engine",
    "Event",
    "FinishReason",
    "Matcher",
    "PromptLookup",
    "Request",
    "Result",
    "Speculator",
    "Stream",
    "Streamer",
    "Timings",
    "append_new_tokens",
    "generate",
]
