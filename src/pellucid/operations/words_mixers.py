"""Words for the taps of mixers that do not attend; ``mixer.attn_in`` stands for ``attn_in`` in their layers."""

from __future__ import annotations

from pellucid.operations.words import WORDS, Words

MIXER_WORDS: dict[str, Words] = {
    "mixer.attn_in": Words(
        "The mixer's input",
        "混合器的输入",
        "What the part of the layer reads that carries information from token to token. Here that is not attention. "
        "In most models it is the stream brought to a common scale by a norm.",
        "这一层里负责在词元之间传递信息的部分所读到的内容；在这里它不是注意力。多数模型先把残差流归一化，再交给它。",
    ),
    "mixer.attn_proj": Words(
        "The mixer's result, before its norm",
        "混合器的结果，归一化之前",
        "The result mapped back to the width of the stream. In this model a norm brings it to a common scale before "
        "it is added.",
        "把结果映射回残差流的宽度。这个模型先把它归一化，再加到残差流上。",
    ),
    "mixer.attn_out": Words(
        "What the mixer adds",
        "混合器的输出",
        "The result mapped back to the width of the stream. This is added to the residual stream.",
        "把结果映射回残差流的宽度。它将被加到残差流上。",
    ),
    "mixer.resid_mid": Words(
        "Residual stream, after the mixer",
        "混合器之后的残差流",
        "The stream with the mixer's contribution added; in models that normalize after each sum, normalized.",
        "加上混合器输出之后的残差流；“先相加、后归一化”的模型在此再做一次归一化。",
    ),
    "conv_b": Words(
        "The gate into the convolution",
        "卷积的入口门",
        "A map of the input that says, number by number, how much of each token may enter the convolution.",
        "输入的一个映射，逐个数地决定每个词元有多少能进入卷积。",
    ),
    "conv_u": Words(
        "What each token offers",
        "每个词元提供的内容",
        "A second map of the input: what the convolution will carry on to later tokens, once its gate has let it in.",
        "输入的第二个映射：经过入口门之后，卷积把它带给后面的词元。",
    ),
    "conv_in": Words(
        "What enters the convolution",
        "进入卷积的内容",
        "The offer times its gate. The last few of these are all that a token of this layer knows of the text before it.",
        "内容与入口门逐个相乘。这一层里，词元对前文的了解，只有最近几个位置的这些数。",
    ),
    "conv": Words(
        "The convolution's result",
        "卷积的结果",
        "Each channel by itself: its numbers at the last few tokens, each times a fixed weight, added up. Nothing "
        "further back is seen.",
        "每个通道单独计算：把它在最近几个词元处的数各乘一个固定的权重，再相加。更早的内容看不到。",
    ),
    "conv_c": Words(
        "The gate out of the convolution",
        "卷积的出口门",
        "A third map of the input: how much of the convolution's result this token takes.",
        "输入的第三个映射：这个词元取用多少卷积的结果。",
    ),
    "conv_out": Words(
        "What the token takes",
        "词元取用的内容",
        "The convolution's result times the gate out of it.",
        "卷积的结果与出口门逐个相乘。",
    ),
}


def words_of(name: str, attends: bool) -> Words:
    """The words for a tap; ``attends``: whether it stands in a layer that attends, or in none."""
    other = None if attends else MIXER_WORDS.get(f"mixer.{name}")
    return other or WORDS.get(name) or MIXER_WORDS[name]
