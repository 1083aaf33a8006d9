"""See through a model: every number of every step of a real run, with its equation, its operands, and what would happen
without it.
"""

from pellucid.explain.checks import Check, Checks
from pellucid.explain.edits import Ablate, Edit, Patch, SwapToken
from pellucid.explain.questions.attribution import Attribution, attribution
from pellucid.explain.questions.cards import HeadCard, habits_of, head_card
from pellucid.explain.questions.causal import CausalMap, causal_map
from pellucid.explain.questions.compare import Comparison, compare
from pellucid.explain.questions.lens import Lens, lens
from pellucid.explain.questions.operands import Cell, Operands, Term, operands
from pellucid.explain.questions.patching import PatchMap, movers, patch_map
from pellucid.explain.questions.surprise import Surprise, surprise
from pellucid.explain.questions.walk import Walk, walk
from pellucid.explain.show.plot import plot_embedding, plot_positions
from pellucid.explain.show.plot_causes import plot_causal_map, plot_patch_map
from pellucid.explain.step import Step
from pellucid.explain.tokens import ChatStory, TokenStory, chat_story, token_story
from pellucid.explain.trace import Trace, trace

__all__ = [
    "Ablate",
    "Attribution",
    "CausalMap",
    "Cell",
    "ChatStory",
    "Check",
    "Checks",
    "Comparison",
    "Edit",
    "HeadCard",
    "Lens",
    "Operands",
    "Patch",
    "PatchMap",
    "Step",
    "Surprise",
    "SwapToken",
    "Term",
    "TokenStory",
    "Trace",
    "Walk",
    "attribution",
    "causal_map",
    "chat_story",
    "compare",
    "habits_of",
    "head_card",
    "lens",
    "movers",
    "operands",
    "patch_map",
    "plot_causal_map",
    "plot_embedding",
    "plot_patch_map",
    "plot_positions",
    "surprise",
    "token_story",
    "trace",
    "walk",
]
