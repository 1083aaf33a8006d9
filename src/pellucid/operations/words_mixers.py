"""Words for the taps of mixers that do not attend; ``mixer.attn_in`` stands for ``attn_in`` in their layers."""

from __future__ import annotations

from pellucid.operations.words import WORDS, Words
from pellucid.operations.words_ssm import SSM_WORDS

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
        "The offer times its gate. The last few of these are all that a token of this layer knows of the text before.",
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
    "decay_a": Words(
        "Fading, through a narrow map",
        "衰减，先经过窄映射",
        "A few numbers from which the fading of every channel is worked out: a wide map made of two narrow ones.",
        "先算出少数几个数，再由它们得到每个通道的衰减：用两个窄矩阵代替一个宽矩阵。",
    ),
    "decay_in": Words(
        "What fading is made of",
        "衰减的原料",
        "A map of the input that says how much of the memory this token lets fade, before it is made a rate.",
        "输入的一个映射，说明这个词元让记忆减弱多少；这里还没有变成速率。",
    ),
    "beta_in": Words(
        "What the correction's strength is made of",
        "修正强度的原料",
        "A number a head, which a sigmoid turns into the strength with which this token corrects the memory.",
        "每个头一个数，经 sigmoid 后成为这个词元修正记忆的强度。",
    ),
    "q_conv": Words(
        "Queries, mixed with the last few tokens'",
        "与最近几个词元混合后的查询",
        "Each number of a query, weighed together with the same number of the tokens just before, through SiLU.",
        "查询中的每个数，与前面几个词元的同一个数加权相加，再经过 SiLU。",
    ),
    "k_conv": Words(
        "Keys, mixed with the last few tokens'",
        "与最近几个词元混合后的键",
        "Each number of a key, weighed together with the same number of the tokens just before, through SiLU.",
        "键中的每个数，与前面几个词元的同一个数加权相加，再经过 SiLU。",
    ),
    "v_conv": Words(
        "Values, mixed with the last few tokens'",
        "与最近几个词元混合后的值",
        "Each number of a value, weighed together with the same number of the tokens just before, through SiLU.",
        "值中的每个数，与前面几个词元的同一个数加权相加，再经过 SiLU。",
    ),
    "decay": Words(
        "How fast the memory fades",
        "记忆减弱的快慢",
        "The logarithm of what is left of the memory when this token comes: 0 leaves it whole, −1 leaves 37 percent.",
        "这个词元到来时，记忆还剩多少的对数：0 表示原样保留，−1 表示只剩 37%。",
    ),
    "beta": Words(
        "How strongly the memory is corrected",
        "修正记忆的强度",
        "At 0 the token leaves the memory as it is; at 1 the memory answers this token's key with its value from now "
        "on.",
        "为 0 时，词元不改动记忆；为 1 时，今后用这个词元的键去查，记忆给出的正是它的值。",
    ),
    "write": Words(
        "What the token writes",
        "词元写入的内容",
        "The token's value less what the memory already says to its key, times the strength of the correction. "
        "So what is known already is not written twice.",
        "词元的值，减去记忆对它的键已有的回答，再乘以修正强度。已经记住的内容不会写第二遍。",
    ),
    "gate_a": Words(
        "The gate, through a narrow map",
        "门，先经过窄映射",
        "A few numbers from which the gate of every channel is worked out: a wide map made of two narrow ones.",
        "先算出少数几个数，再由它们得到每个通道的门：用两个窄矩阵代替一个宽矩阵。",
    ),
    "mixer.z": Words(
        "What the memory answers",
        "记忆的回答",
        "The query is put to the head's memory. The answer is a sum of what earlier tokens wrote there, each as far as "
        "its key matches the query and as much of it as has not faded.",
        "拿查询去问这个头的记忆。回答是前面各词元写入内容的加权和：键与查询越吻合、减弱得越少，占的份量越大。",
    ),
    "z_norm": Words(
        "The heads' results, normalized",
        "归一化后的各头结果",
        "Each head's result brought to a common scale before it is gated.",
        "每个头的结果先缩放到同一尺度，再过门。",
    ),
    "z_gate": Words(
        "The gate of the heads' results",
        "各头结果的门",
        "A map of the input with a number for each of the heads' results: how much of it this token lets through.",
        "输入的一个映射，为各头结果的每个数给出一个数：这个词元放行多少。",
    ),
    "z_gated": Words(
        "The heads' results, gated",
        "过门之后的各头结果",
        "The heads' results, each number times its gate.",
        "各头的结果，逐个数乘以它的门。",
    ),
    "mixer.q": Words(
        "Queries",
        "查询 Q",
        "What each position will ask the memory for, one short vector for each head of keys.",
        "每个位置要向记忆询问什么：每个键头一个短向量。",
    ),
    "mixer.k": Words(
        "Keys",
        "键 K",
        "Where in the memory each position writes: later queries that point the same way find it there.",
        "每个位置写到记忆的什么地方：以后方向相近的查询会在那里找到它。",
    ),
    "mixer.v": Words(
        "Values",
        "值 V",
        "What the memory should answer to this position's key.",
        "用这个位置的键去查时，记忆应当给出的内容。",
    ),
    "mixer.q_norm": Words(
        "Queries of one length",
        "长度一致的查询",
        "Each head's query brought to one length, so that an answer's size says how well it matched.",
        "每个头的查询都缩放到同一长度，回答的大小便只取决于吻合的程度。",
    ),
    "mixer.k_norm": Words(
        "Keys of length 1",
        "长度为 1 的键",
        "Each head's key brought to length 1: then a correction of strength 1 is exactly a replacement.",
        "每个头的键都缩放到长度 1：这样，强度为 1 的修正恰好就是替换。",
    ),
}


def words_of(name: str, attends: bool) -> Words:
    """The words for a tap; ``attends``: whether it stands in a layer that attends, or in none."""
    other = None if attends else MIXER_WORDS.get(f"mixer.{name}")
    return other or WORDS.get(name) or MIXER_WORDS.get(name) or SSM_WORDS[name]
