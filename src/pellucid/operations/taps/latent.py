"""The taps of latent attention: narrow vectors, the keys and values that are made of them, scores, pattern, results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pellucid.config import LatentAttentionConfig, ModelConfig
from pellucid.operations.grow import Grow
from pellucid.operations.join import Join
from pellucid.operations.linear import Linear
from pellucid.operations.mix import Mix
from pellucid.operations.norm import Norm
from pellucid.operations.rotate import Rotate
from pellucid.operations.scores import Scores
from pellucid.operations.softmax import Softmax
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import BY_HEAD, BY_KV_HEAD, BY_PAIR, Tap

QUERIES_LATENT = ("batch", "position", "latent")
LATENT = ("batch", "key", "latent")
SHARED = ("batch", "kv_head", "key", "head_dim")


class LatentTaps(Part):
    """Latent attention's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, attention: LatentAttentionConfig) -> None:
        super().__init__(config, i, {"head": attention.num_heads, "kv_head": attention.num_heads})
        self.attention = attention

    def taps(self) -> Iterator[Tap]:
        attention = self.attention
        rank, turned, own = attention.kv_lora_rank, attention.qk_rope_head_dim, attention.qk_nope_head_dim
        yield from self._queries()
        yield from self._latent("kv", rank, LATENT)
        shared = self._map("k_rope_proj", "KR", (turned, self.d_model), attention.latent_bias, head_dim=turned)
        of_all = {"kv_head": 1, "head_dim": turned}
        yield self.tap("k_shared", shared, "k^R", ("n",), "attn_in", axes=SHARED, **of_all)
        queries, keys = ("q", "q"), ("k_shared", "k^R")
        if attention.rope is not None:
            turn = Rotate(rope=attention.rope)
            yield self.tap("q_rot", turn, "", ("q",), "q", axes=BY_HEAD, head_dim=attention.head_dim)
            yield self.tap("k_rot", turn, "", ("k^R",), "k_shared", axes=SHARED, **of_all)
            queries, keys = ("q_rot", "q"), ("k_rot", "k^R")
        if attention.query_scale is not None:
            grow = Grow(attention.query_scale)
            yield self.tap("q_scaled", grow, "q", ("q",), queries[0], axes=BY_HEAD, head_dim=attention.head_dim)
            queries = ("q_scaled", "q")
        for name, label, width in (("k", "UK", own), ("v", "UV", attention.v_head_dim)):
            up = self._map(f"{name}_b_proj", label, (attention.num_heads * width, rank), head_dim=width)
            symbol = "k^C" if name == "k" else "v"
            yield self.tap(name, up, symbol, (r"\hat c",), "c_kv_norm", axes=BY_KV_HEAD, head_dim=width)
        yield self.tap(
            "k_whole", Join(shared=turned), "k", (keys[1], "k^C"), keys[0], "k", axes=BY_KV_HEAD,
            head_dim=attention.head_dim,
        )  # fmt: skip
        scores = Scores(scale=attention.softmax_scale, window=attention.window)
        yield self.tap("scores", scores, "s", ("q", "k"), queries[0], "k_whole", axes=BY_PAIR)
        yield self.tap("pattern", Softmax(), "a", ("s",), "scores", axes=BY_PAIR)
        yield self.tap("z", Mix(), "z", ("a", "v"), "pattern", "v", axes=BY_HEAD, head_dim=attention.v_head_dim)
        out = self.linear("attention.o_proj", "O", (self.d_model, attention.z_dim), attention.o_bias)
        name, symbol = self.made("attn", "o")
        yield self.tap(name, replace(out, joins=True, owner="latent"), symbol, (r"[z_1; \dots; z_H]",), "z")
        yield from self.normed("attn", "o", "attention_post_norm")

    def _queries(self) -> Iterator[Tap]:
        attention, width, axes = self.attention, self.attention.head_dim, BY_HEAD
        if attention.q_lora_rank is None:
            whole = self._map("q_proj", "Q", (attention.q_dim, self.d_model), head_dim=width)
            yield self.tap("q", whole, "q", ("n",), "attn_in", axes=axes, head_dim=width)
            return
        yield from self._latent("q", attention.q_lora_rank, QUERIES_LATENT)
        up = self._map("q_b_proj", "UQ", (attention.q_dim, attention.q_lora_rank), head_dim=width)
        yield self.tap("q", up, "q", (r"\hat c^Q",), "c_q_norm", axes=axes, head_dim=width)

    def _latent(self, part: str, rank: int, axes: tuple[str, ...]) -> Iterator[Tap]:
        """A narrow vector of what attention reads, and its norm."""
        symbol, label = ("c^Q", "DQ") if part == "q" else ("c", "DKV")
        down = self._map(f"{part}_a_proj", label, (rank, self.d_model), self.attention.latent_bias)
        yield self.tap(f"c_{part}", down, symbol, ("n",), "attn_in", axes=axes, latent=rank)
        norm = Norm(name=f"{self.at}.attention.{part}_a_norm", width=rank, config=self.attention.latent_norm)
        yield self.tap(f"c_{part}_norm", norm, rf"\hat {symbol}", (symbol,), f"c_{part}", axes=axes, latent=rank)

    def _map(
        self, name: str, label: str, shape: tuple[int, int], bias: bool = False, head_dim: int | None = None
    ) -> Linear:
        return replace(self.linear(f"attention.{name}", label, shape, bias), head_dim=head_dim, owner="latent")
