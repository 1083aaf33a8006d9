"""What each tap is called and what it means, in plain words: English and 中文, each written for its own reader."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """A title and two or three sentences, in two languages."""

    title: str
    title_zh: str
    meaning: str
    meaning_zh: str


WORDS: dict[str, Words] = {
    "embed": Words(
        "Word embedding",
        "词嵌入",
        "Each token id picks one row of the embedding table. That row is what the model knows about the "
        "token before it has seen any context. "
        "Where the model scales its embeddings, the factor is in the equation.",
        "每个词元的编号从词嵌入表中取出一行。这一行就是模型在看到上下文之前对这个词元的全部了解。有的模型还会乘上一个固定的倍数，公式里写明了它。",
    ),
    "pos_embed": Words(
        "Positional encoding",
        "位置编码",
        "A vector that depends on the place in the text and not on the token. It is added "
        "to the embedding, because attention by itself does not know the order of words.",
        "只与词元在文中的位置有关、与词元本身无关的向量。注意力本身分不清先后，所以把它加到词嵌入上，让模型知道次序。",
    ),
    "embed_norm": Words(
        "Embedding, normalized",
        "归一化后的词嵌入",
        "What enters the first layer, brought to a common scale: some models normalize their embeddings once before "
        "any layer reads them.",
        "进入第一层的向量，先统一了长短。有的模型在任何一层读取之前，先把词嵌入归一化一次。",
    ),
    "resid_pre": Words(
        "Residual stream, entering the layer",
        "进入本层的残差流",
        "The vector that each position carries through the model. Layers read from it and add to it; this is "
        "what it holds as this layer begins.",
        "每个位置都带着一个向量穿过整个模型，各层从中读取，再把结果加回去。这里是它进入本层时的样子。",
    ),
    "attn_in": Words(
        "Attention's input",
        "注意力的输入",
        "What attention reads. In most models it is the stream brought to a common "
        "scale by a norm, so that no position is loud only because its vector is long; "
        "in models that normalize after each sum it is the stream itself.",
        "注意力读到的内容。多数模型先对残差流做归一化，使各位置的向量长短相当，不会谁长谁就占优；而在“先相加、后归一化”的模型里，它就是残差流本身。",
    ),
    "q": Words(
        "Queries",
        "查询 Q",
        "What each position is looking for, one short vector for each head.",
        "每个位置“想找什么”：每个注意力头一个短向量。",
    ),
    "k": Words(
        "Keys",
        "键 K",
        "What each position offers to be found by. A query that points the same way as a key gives a high score.",
        "每个位置“凭什么被找到”。查询与键的方向越接近，得分越高。",
    ),
    "v": Words(
        "Values",
        "值 V",
        "What each position hands over when it is attended to.",
        "一个位置被关注时，它交出去的内容。",
    ),
    "q_norm": Words(
        "Queries, normalized",
        "归一化后的查询",
        "Each head's query brought to a common length before it is compared with keys, so that scores cannot "
        "grow without bound.",
        "在与键比较之前，把每个头的查询缩放到相当的长度，得分便不会无限增大。",
    ),
    "k_norm": Words(
        "Keys, normalized",
        "归一化后的键",
        "Each head's key brought to a common length before it is compared with queries.",
        "在与查询比较之前，把每个头的键缩放到相当的长度。",
    ),
    "q_rot": Words(
        "Queries, rotated by position",
        "按位置旋转后的查询",
        "Pairs of numbers turned by an angle that grows with the position. After queries "
        "and keys are both turned, their product depends on how far apart they stand.",
        "把数两两成对，按位置转过一个角度。查询和键都转过之后，二者的内积只取决于它们相隔多远。",
    ),
    "k_rot": Words(
        "Keys, rotated by position",
        "按位置旋转后的键",
        "Keys turned in the same way as queries. Fast pairs tell near neighbours apart, slow ones measure "
        "long distances.",
        "键以与查询相同的方式旋转。转得快的维度分辨近邻，转得慢的维度衡量远距离。",
    ),
    "q_scaled": Words(
        "Queries, scaled by position",
        "按位置放大的查询",
        "Queries times a number that grows slowly with the position: where there is more text to choose from, the "
        "choice is made sharper.",
        "查询乘以一个随位置缓慢增大的数：可选的内容越多，注意力就越要分得清楚。",
    ),
    "v_norm": Words(
        "Values, normalized",
        "归一化后的值",
        "Each head's value brought to a common length, so that no position hands over more only because its vector is "
        "long.",
        "把每个头的值缩放到相当的长度，不让某个位置只因向量长就多交出内容。",
    ),
    "side_embed": Words(
        "A second table of embeddings",
        "第二张嵌入表",
        "Each token id picks a row of another table, which holds a narrow vector for every layer, one after the other.",
        "每个词元的编号还从另一张表中取出一行，里面依次放着给每一层的一个窄向量。",
    ),
    "side_context": Words(
        "The embedding, mapped for every layer",
        "映射给各层的嵌入",
        "A map of the word embedding, as wide as the narrow vectors of all layers together.",
        "词嵌入的一个映射，宽度正好是所有层的窄向量合起来。",
    ),
    "side_row": Words(
        "This layer's part of the row",
        "行中属于本层的一段",
        "Of the token's row in the second table, the numbers that are for this layer.",
        "第二张表里这个词元的那一行中，属于本层的数。",
    ),
    "side_mapped": Words(
        "This layer's part of the map",
        "映射中属于本层的一段",
        "Of the mapped embedding, the numbers that are for this layer.",
        "映射后的嵌入中，属于本层的数，后面还要归一化。",
    ),
    "side_norm": Words(
        "The mapped part, normalized",
        "归一化后的映射",
        "The mapped part brought to the scale of the table's rows before the two are added.",
        "在与表中那一段相加之前，先缩放到同样的长度。",
    ),
    "side_sum": Words(
        "Both parts together",
        "两段之和",
        "What the table says of the token for this layer, and what the map makes of its embedding, added up.",
        "表中为本层写的内容，加上由词嵌入映射来的内容。",
    ),
    "side_in": Words(
        "The token's vector for this layer",
        "词元给本层的向量",
        "The sum divided by the square root of two, so that it is as large as either part was. It is what the gate "
        "lets through.",
        "两段之和除以根号二，大小就与单独一段相当。门控放行的就是它。",
    ),
    "side_pre": Words(
        "The gate, before the activation",
        "激活之前的门",
        "A map of the stream down to the width of the token's vector: how much of each number is wanted here.",
        "把残差流映射到那个窄向量的宽度：此处每个数要放行多少。",
    ),
    "side_act": Words(
        "What the gate lets through",
        "门放行的内容",
        "The activated gate times the token's vector for this layer, number by number.",
        "激活后的门与词元给本层的向量逐个相乘。",
    ),
    "side_proj": Words(
        "The side's result, before its norm",
        "旁路的结果，归一化之前",
        "What was let through, mapped back to the width of the stream. A norm follows before it is added.",
        "放行的内容映射回残差流的宽度，再归一化，然后才相加。",
    ),
    "side_out": Words(
        "What the token's own vector adds",
        "旁路加上的内容",
        "The normalized result, which is added to the stream: what this layer is reminded of about the token itself.",
        "归一化后的结果，加到残差流上：它提醒本层这个词元本身是什么。",
    ),
    "resid_mlp": Words(
        "Residual stream, after the MLP",
        "MLP 之后的残差流",
        "The stream with the MLP's contribution added; the token's own vector for this layer comes next.",
        "加上 MLP 输出之后的残差流，接着还要加上词元给本层的向量。",
    ),
    "resid_unscaled": Words(
        "Residual stream, before its scale",
        "缩放之前的残差流",
        "The stream with all that this layer adds. One learned number multiplies it before the next layer reads it.",
        "加上本层全部内容之后的残差流。交给下一层之前，整体乘以一个学到的数。",
    ),
    "c_q": Words(
        "Latent of the queries",
        "查询的潜向量",
        "A narrow vector made of what attention reads. The queries of all heads are made of it, which takes fewer "
        "weights than a map from the whole width.",
        "由注意力的输入压缩成的一个窄向量，所有头的查询都由它展开。这样比直接从整个宽度映射省下许多权重。",
    ),
    "c_q_norm": Words(
        "Latent of the queries, normalized",
        "归一化后的查询潜向量",
        "The narrow vector brought to a common scale before the queries are made of it.",
        "在展开成各头的查询之前，先把这个窄向量缩放到相当的长度。",
    ),
    "c_kv": Words(
        "Latent of keys and values",
        "键和值的潜向量",
        "A narrow vector made of what attention reads. The keys and values of all heads are made of it, so it alone "
        "(with the part that turns) has to be kept of each token.",
        "由注意力的输入压缩成的一个窄向量，所有头的键和值都由它展开。因此每个词元只需保存它（以及会旋转的那一小段）。",
    ),
    "c_kv_norm": Words(
        "Latent of keys and values, normalized",
        "归一化后的键值潜向量",
        "The narrow vector brought to a common scale. This is what the model remembers of a token.",
        "把窄向量缩放到相当的长度。模型对一个词元的“记忆”就是它。",
    ),
    "k_shared": Words(
        "The part of keys that all heads share",
        "各头共用的键",
        "A short vector that says where a token stands once it has been turned by its position; it is the same for "
        "every head.",
        "一个很短的向量，按位置旋转之后表明词元在哪里；所有头用的都是同一个。",
    ),
    "k_whole": Words(
        "Keys, both parts",
        "完整的键",
        "The part that all heads share, then the head's own, made of the latent: together they are compared with the "
        "query.",
        "各头共用的一段在前，由潜向量展开的一段在后，合起来再与查询比较。",
    ),
    "scores": Words(
        "Attention scores",
        "注意力得分",
        "How well each query matches each key: their dot product, scaled. Places that "
        "must not be seen (later tokens, padding, anything outside the window) get −∞.",
        "每个查询与每个键的匹配程度：二者的内积乘以缩放系数。不许看的地方（后面的词元、填充、窗口之外）记为 −∞。",
    ),
    "pattern": Words(
        "Attention pattern",
        "注意力权重",
        "The scores of a row turned into shares that sum to 1: how much of its attention this position gives "
        "to each earlier one.",
        "把一行得分变成总和为 1 的份额：这个位置把多少注意力分给前面的每个位置。",
    ),
    "z": Words(
        "Heads' results",
        "各头的结果",
        "For each head, the values of the positions attended to, mixed in the shares of the pattern.",
        "每个头按注意力权重，把被关注位置的值加权混合。",
    ),
    "attn_proj": Words(
        "Attention's result, before its norm",
        "注意力的结果，归一化之前",
        "The heads' results laid side by side and mapped back to the width of the stream. "
        "In this model a norm brings it to a common scale before it is added.",
        "把各头的结果并排拼起来，再映射回残差流的宽度。这个模型先把它归一化，再加到残差流上。",
    ),
    "attn_out": Words(
        "What attention adds",
        "注意力的输出",
        "The heads' results laid side by side and mapped back to the width of the stream. This is added to "
        "the residual stream.",
        "把各头的结果并排拼起来，再映射回残差流的宽度。它将被加到残差流上。",
    ),
    "resid_mid": Words(
        "Residual stream, after attention",
        "注意力之后的残差流",
        "The stream with attention's contribution added; in models that normalize after each sum, normalized.",
        "加上注意力输出之后的残差流；“先相加、后归一化”的模型在此再做一次归一化。",
    ),
    "mlp_in": Words(
        "The MLP's input",
        "MLP 的输入",
        "What the MLP reads: the stream after attention, normalized where the model normalizes first.",
        "MLP 读到的内容：注意力之后的残差流；先归一化的模型在此处归一化。",
    ),
    "mlp_pre": Words(
        "Neurons, before the activation",
        "激活之前的神经元",
        "Each neuron compares the input with a direction of its own. The result says how strongly that "
        "direction is present.",
        "每个神经元把输入与自己的一个方向作比较，得到这个方向在输入中有多强。",
    ),
    "mlp_up": Words(
        "The gated branch",
        "被门控的分支",
        "A second map of the same input. Each of its numbers is let through as far as the neuron's gate opens.",
        "同一输入的另一个映射。每个数能通过多少，由对应神经元的门决定。",
    ),
    "mlp_act": Words(
        "Neurons, after the activation",
        "激活之后的神经元",
        "The activation silences most negative values, which is what makes the layer "
        "more than one linear map; with a gate, the result multiplies the second branch.",
        "激活函数压低大部分负值，使这一层不只是一个线性映射；有门控时，再与另一分支逐个相乘。",
    ),
    "router_logits": Words(
        "The router's scores",
        "路由得分",
        "How well each expert suits this token. Each expert has a direction of its own, and the token's "
        "vector is compared with all of them.",
        "每个专家与这个词元有多合适：每个专家有自己的一个方向，词元的向量与它们逐一比较。",
    ),
    "experts": Words(
        "What each expert counts for",
        "各专家的权重",
        "Only the few experts with the highest scores are asked; their scores become the weights with which "
        "their answers are added up. "
        "All others count for nothing, and are not even computed.",
        "只请得分最高的几个专家；它们的得分变成权重，用来把各自的回答加起来。其余的专家不算数，连计算都省去了。",
    ),
    "mlp_proj": Words(
        "The MLP's result, before its norm",
        "MLP 的结果，归一化之前",
        "Each active neuron writes its own direction, as strongly as it is active. "
        "In this model a norm brings the sum to a common scale before it is added.",
        "每个激活的神经元按自己的强度写入它的方向。这个模型先把总和归一化，再加到残差流上。",
    ),
    "mlp_out": Words(
        "What the MLP adds",
        "MLP 的输出",
        "Each active neuron writes its own direction into the stream, as strongly as it is active. This is the sum.",
        "每个激活的神经元按自己的强度，往残差流里写入它的方向；这里是它们的总和。",
    ),
    "resid_post": Words(
        "Residual stream, leaving the layer",
        "离开本层的残差流",
        "What the next layer receives: the stream with the MLP's contribution added, normalized where the "
        "model normalizes after each sum.",
        "交给下一层的内容：残差流加上 MLP 的输出；“先相加、后归一化”的模型再做归一化。",
    ),
    "final": Words(
        "Final hidden state",
        "最终隐藏状态",
        "The stream after the last layer, normalized where the model has a final norm. From this vector "
        "alone the next token is predicted.",
        "最后一层之后的残差流；有末端归一化的模型在此归一化。预测下一个词元，靠的就是这个向量。",
    ),
    "logits": Words(
        "Logits",
        "未归一化得分 logits",
        "A score for every token of the vocabulary: how well the final vector matches "
        "that token's row. Softmax turns scores into probabilities of the next token.",
        "词表中每个词元的得分：最终向量与该词元那一行的匹配程度。经过 softmax，得分就变成下一个词元的概率。",
    ),
}
