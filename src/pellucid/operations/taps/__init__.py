"""Every tap of a model (``taps_of``), the operations there are, and which fields say how they are put together."""

from pellucid.operations.activation import Activation
from pellucid.operations.convolve import Convolve
from pellucid.operations.copy import Copy
from pellucid.operations.cut import Cut
from pellucid.operations.delta import Read, Write
from pellucid.operations.experts import Experts
from pellucid.operations.grow import Grow
from pellucid.operations.join import Join
from pellucid.operations.linear import Linear
from pellucid.operations.lookup import Lookup
from pellucid.operations.mix import Mix
from pellucid.operations.norm import Norm
from pellucid.operations.operation import Operation
from pellucid.operations.position import Position
from pellucid.operations.product import Product
from pellucid.operations.rates import Decay, Share
from pellucid.operations.rotate import Rotate
from pellucid.operations.route import Route
from pellucid.operations.scan import Scan
from pellucid.operations.scores import Scores
from pellucid.operations.softmax import Softmax
from pellucid.operations.step_size import StepSize
from pellucid.operations.sum import Sum
from pellucid.operations.taps.model import taps_of
from pellucid.operations.taps.tap import Tap
from pellucid.operations.unit import Unit

__all__ = ["OPERATIONS", "READS", "Tap", "taps_of"]

OPERATIONS: tuple[type[Operation], ...] = (
    Lookup, Position, Copy, Cut, Sum, Norm, Linear, Rotate, Grow, Join, Scores, Softmax, Mix, Convolve, Unit, Decay,
    Share, Write, Read, StepSize, Scan, Product, Activation, Route, Experts
)  # fmt: skip

# Fields of the description that say which operations there are and in what order; the rest are the operations' own.
READS = (
    *(f"ModelConfig.{name}" for name in ("layers", "position", "embedding_norm", "final_norm")),
    *(
        f"LayerConfig.{name}"
        for name in ("mixer", "mlp", "experts", "mixer_norms", "mlp_norms", "parallel", "residual_scale", "beside")
    ),
    *(f"AttentionConfig.{name}" for name in ("kv_from", "keys_are_values")),
    *(f"PartNorms.{name}" for name in ("before", "after", "sum")),
)
