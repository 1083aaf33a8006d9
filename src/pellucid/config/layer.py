"""One layer: a mixer and an MLP, and where norms stand about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields, shown
from pellucid.config.attention import AttentionConfig
from pellucid.config.checks import check_number
from pellucid.config.delta_net import DeltaNetConfig
from pellucid.config.experts import ExpertsConfig
from pellucid.config.latent import LatentAttentionConfig
from pellucid.config.mamba import Mamba2Config, MambaConfig
from pellucid.config.mlp import MLPConfig
from pellucid.config.norm import NormConfig
from pellucid.config.short_conv import ShortConvConfig
from pellucid.config.side import SideConfig


@dataclass(frozen=True, kw_only=True)
class PartNorms:
    """Where norms stand about a part f of a layer: x' = sum(x + after(f(before(x)))); one that is None is the identity.

    ``before`` alone is GPT-2's and Llama's order (pre-norm); ``sum`` alone that of *Attention Is All You Need*
    (post-norm); ``before`` and ``after`` are Gemma's (a sandwich); ``after`` alone is OLMo 2's.
    """

    before: NormConfig | None = None
    after: NormConfig | None = None
    sum: NormConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self, "norms")


# What moves information between positions; other kinds join here. Each has a ``name``, its ``weight_shapes`` and
# ``state_bytes``, and ``rope`` where it rotates.
# A checker of types takes it for any: who reads a field of one kind (a family, a rule) knows that its layers have it.
if TYPE_CHECKING:
    Mixer = MixerOrNone = MLPOrNone = BesideOrNone = Any
else:
    Mixer = AttentionConfig | LatentAttentionConfig | ShortConvConfig | DeltaNetConfig | MambaConfig | Mamba2Config
    MixerOrNone, MLPOrNone, BesideOrNone = Mixer | None, MLPConfig | None, MambaConfig | Mamba2Config | None


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer: a mixer, which moves information between positions, then an MLP, each added to the residual stream.

    One of the two may be absent, with its norms: state-space models have layers of a mixer alone, hybrids of an MLP.
    A sparse layer has ``experts``: ``mlp`` is then the shape of each of them. ``parallel``: both parts read the stream
    as it came in, x + attention(…) + mlp(…); an MLP without a norm of its own then reads what attention reads.
    ``residual_scale`` multiplies what each part adds.
    """

    mixer: MixerOrNone
    mlp: MLPOrNone
    mixer_norms: PartNorms
    mlp_norms: PartNorms
    experts: ExpertsConfig | None = None
    parallel: bool = False
    residual_scale: float = 1.0
    beside: BesideOrNone = None  # a second mixer that reads what the first does; both are added
    side: SideConfig | None = None  # a narrow vector of its own, added after the MLP
    out_scale: bool = False  # a learned number multiplies the stream as it leaves

    def __post_init__(self) -> None:
        check_fields(self, "layer")
        check_number("layer", residual_scale=self.residual_scale)
        if self.mixer is None and self.mlp is None:
            raise ConfigError("a layer needs a mixer or an MLP", where="layer")
        if self.mlp is None and self.experts is not None:
            raise ConfigError("experts need the shape of an MLP", where="layer")
        for part, norms in ((self.mixer, self.mixer_norms), (self.mlp, self.mlp_norms)):
            if part is None and norms != PartNorms():
                raise ConfigError("a part that is absent has no norms", where="layer", received=shown(norms))
        if self.beside is not None and (
            self.mixer is None
            or isinstance(self.mixer, MambaConfig | Mamba2Config)
            or self.parallel
            or self.residual_scale != 1
            or self.mixer_norms.after
        ):
            raise ConfigError(
                "a mixer stands beside one of another kind, and both are added as they are", where="layer"
            )
        if self.parallel and (self.mixer is None or self.mlp is None):
            raise ConfigError("parts run beside each other where there are two", where="layer")
        if self.residual_scale != 1 and (self.mixer_norms.after or self.mlp_norms.after):
            raise ConfigError("a part has a norm after it, or what it adds is scaled; not both", where="layer")
        if self.out_scale and (self.parallel or self.mlp is None):
            raise ConfigError("a number multiplies what an MLP was added to, not beside attention", where="layer")
        if self.side and not self.out_scale:
            raise ConfigError("a side vector comes with out_scale: no model has one without the other", where="layer")
        shared = self.experts.shared if self.experts else None
        if self.experts and self.mlp and "xielu" in (self.mlp.activation, shared.activation if shared else None):
            raise ConfigError("experts have no activation with weights of its own", where="layer", received="xielu")
        if self.parallel and (self.mixer_norms.sum or self.mlp_norms.sum):
            raise ConfigError("parts that are added together have no sums of their own to norm", where="layer")

    @property
    def attention(self) -> AttentionConfig | None:
        """The mixer, where it attends; None where it is of another kind."""
        return self.mixer if isinstance(self.mixer, AttentionConfig) else None

    @property
    def attends(self) -> Any:
        """The mixer, where it has heads that look about, plain or latent; None where it has not."""
        return self.mixer if isinstance(self.mixer, AttentionConfig | LatentAttentionConfig) else None

    @property
    def norms(self) -> dict[str, NormConfig]:
        """The layer's norms over the stream's width, by their weights' names, in the order of computation."""
        named = {
            "attention_norm": self.mixer_norms.before,
            "attention_post_norm": self.mixer_norms.after,
            "attention_sum_norm": self.mixer_norms.sum,
            "mlp_norm": self.mlp_norms.before,
            "mlp_post_norm": self.mlp_norms.after,
            "mlp_sum_norm": self.mlp_norms.sum,
        }
        return {name: norm for name, norm in named.items() if norm is not None}
