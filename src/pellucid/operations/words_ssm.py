"""Words for the taps of state-space mixers: English and 中文, each written for its own reader."""

from __future__ import annotations

from pellucid.operations.words import Words

SSM_WORDS: dict[str, Words] = {
    "ssm_in": Words(
        "The input, scaled",
        "缩放后的输入",
        "What the mixer reads, times a fixed number of this model.",
        "混合器读到的内容，乘以这个模型的一个固定倍数。",
    ),
    "attn_scaled": Words(
        "Attention's input, scaled",
        "缩放后的注意力输入",
        "What attention reads, times a fixed number of this model.",
        "注意力读到的内容，乘以这个模型的一个固定倍数。",
    ),
    "beside_out": Words(
        "What the second mixer adds",
        "第二个混合器的输出",
        "Beside attention a second mixer has read the same; what it makes of it is added, too.",
        "与注意力并列的第二个混合器读到的是同样的内容；它的结果也加到残差流上。",
    ),
    "ssm_z": Words(
        "The gate",
        "门",
        "A map of the input that says, number by number, how much of what is read off the state may pass.",
        "输入的一个映射，逐个数地决定从状态中读出的内容能通过多少。",
    ),
    "ssm_u": Words(
        "What each token brings",
        "每个词元带来的内容",
        "A map of the input: what the token has to offer to the state, before its neighbours are mixed in.",
        "输入的一个映射：词元要交给状态的内容，此时还没有混入相邻的词元。",
    ),
    "ssm_u_conv": Words(
        "… with its neighbours",
        "……与相邻词元混合之后",
        "Each channel by itself: its numbers at the last few tokens, each times a fixed weight, added up.",
        "每个通道单独计算：把它在最近几个词元处的数各乘一个固定的权重，再相加。",
    ),
    "ssm_x": Words(
        "What enters the state",
        "进入状态的内容",
        "The convolution's result after its activation. This is what the token writes into the state.",
        "卷积的结果经过激活函数。词元写入状态的，就是这些数。",
    ),
    "ssm_b": Words(
        "Where it is written",
        "写到哪里",
        "A direction in the state, of the token's own: what the token brings is written along it. "
        "It is to the state what a key is to attention.",
        "状态里的一个方向，由词元自己决定：它带来的内容沿这个方向写入。它之于状态，好比键之于注意力。",
    ),
    "ssm_b_conv": Words(
        "Where it is written, with its neighbours",
        "写到哪里，与相邻词元混合之后",
        "The direction's numbers at the last few tokens, each times a fixed weight, added up.",
        "这个方向在最近几个词元处的数，各乘一个固定的权重，再相加。",
    ),
    "ssm_b_act": Words(
        "Where it is written, B",
        "写入的方向 B",
        "The direction along which the token writes into the state, after its activation.",
        "词元写入状态所沿的方向，已经过激活函数。",
    ),
    "ssm_b_norm": Words(
        "Where it is written, normalized",
        "写入的方向，归一化之后",
        "The direction brought to a common scale, whatever its length was.",
        "把这个方向缩放到相当的长度。",
    ),
    "ssm_c": Words(
        "Where it is read",
        "从哪里读",
        "A direction in the state along which this token reads. It is to the state what a query is to attention.",
        "状态里的一个方向，词元沿着它读取。它之于状态，好比查询之于注意力。",
    ),
    "ssm_c_conv": Words(
        "Where it is read, with its neighbours",
        "从哪里读，与相邻词元混合之后",
        "The direction's numbers at the last few tokens, each times a fixed weight, added up.",
        "这个方向在最近几个词元处的数，各乘一个固定的权重，再相加。",
    ),
    "ssm_c_act": Words(
        "Where it is read, C",
        "读取的方向 C",
        "The direction along which the token reads off the state, after its activation.",
        "词元从状态中读取所沿的方向，已经过激活函数。",
    ),
    "ssm_c_norm": Words(
        "Where it is read, normalized",
        "读取的方向，归一化之后",
        "The direction brought to a common scale, whatever its length was.",
        "把这个方向缩放到相当的长度。",
    ),
    "ssm_dt_low": Words(
        "Step sizes, in few numbers",
        "步长的少数几个数",
        "A narrow map of what enters the state, from which every channel's step size is made.",
        "由进入状态的内容映射成的少数几个数，各通道的步长都由它们得出。",
    ),
    "ssm_dt_low_norm": Words(
        "Step sizes, in few numbers, normalized",
        "步长的少数几个数，归一化之后",
        "The same numbers brought to a common scale.",
        "把这几个数缩放到相当的大小。",
    ),
    "ssm_dt_in": Words(
        "Step sizes, before softplus",
        "softplus 之前的步长",
        "How far this token would move the state; still of either sign, and without the fixed bias.",
        "这个词元要让状态走多远；此时可正可负，也还没加上固定的偏置。",
    ),
    "ssm_dt": Words(
        "Step sizes, Δ",
        "步长 Δ",
        "How far this token moves the state. At a large step the state forgets what it held and takes the token in; "
        "at one near 0 it passes the token by.",
        "这个词元让状态走多远。步长大，状态就忘掉旧的、记住这个词元；步长近于 0，状态就略过它。",
    ),
    "ssm_y": Words(
        "What is read off the state",
        "从状态中读出的内容",
        "The state is a sum over all tokens so far, each faded by the steps since. C reads it, and a share of what "
        "the token itself brings is added (D). Behind a cell is a term for each earlier token.",
        "状态是此前所有词元之和，每个词元都按其后的步长逐渐淡去。C 从中读取，再加上词元自身内容的一部分（D）。"
        "每个格子背后，此前的每个词元各占一项。",
    ),
    "ssm_gated": Words(
        "What passes the gate",
        "通过门的内容",
        "What was read off the state, number by number times silu of the gate.",
        "从状态中读出的内容，逐个数地乘以门的 silu。",
    ),
    "ssm_norm": Words(
        "… normalized",
        "……归一化之后",
        "The heads' numbers brought to a common scale, group by group.",
        "把各头的数按组缩放到相当的大小。",
    ),
}
