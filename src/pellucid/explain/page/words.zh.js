// 页面的中文。标记：*术语*在解释它的地方，[文字](#章节)，{q} 带颜色的符号，`代码`。

import { visible } from "./dom.js";

const n = (value) => value.toLocaleString("en");

export const zh = {
  // 框架
  story: "讲解",
  numbers: "数字",
  help: "按键与帮助",
  theme: "浅色或深色",
  language: "English",
  why_title: "这个数怎么来的？",
  pin: "把这一格留在眼前",
  pin_short: "留住",
  unpin: "放开",
  close: "关闭",
  pinned: "留下的格子",
  run: "运行",
  running: "正在运行……",
  go_to: "跳到：layers.3.pattern[0, 2, 5, 3]",
  prompt_label: "你的句子",
  skip: "跳到正文",
  layer: "层",
  head: "头",
  position: "位置",
  dimension: "维度",
  step: "步骤",
  of: (what, i, all) => `${what} ${i}（0–${all - 1}）`,
  layer_short: "ℓ",
  heads: "个头",
  neuron: "神经元",
  key: "键",
  shape: "形状",
  from: "来自",
  dtype: "类型",
  range: "范围",
  norm: "模长",
  weights: "权重",
  code: "代码",
  check: "核对",
  bytes: "字节",
  parameters: "参数",
  weight: "权重",
  min: "最小",
  max: "最大",
  mean: "均值",
  std: "标准差",
  greedy: "贪心",
  off: "不用",
  numbers_only: "数字",
  nav: {
    fact: "事实的路",
    causes: "谁定的答案",
    precision: "精度",
    files: "文件",
    text: "文本 → 编号",
    embed: "词嵌入与位置",
    model: "模型全图",
    cell: "任意一格",
    attention: "注意力",
    mlp: "层归一化与 MLP",
    residual: "残差流",
    output: "输出",
    decode: "逐词生成",
    whatif: "假如……",
    training: "训练",
  },
  left_out_here: "这份离线文件里没有这些数。用运行中的模型打开页面就能看到。",
  left_out_cell: "这份文件里没有这一格的算式，只有钉住的那些。用运行中的模型打开页面，每一格都能看。",
  server_gone: "送来这个页面的程序不再回答：它已经结束，或者这台机器睡着了。请重新启动它，再打开它给出的新地址。",
  no_attention: "这一层不做注意力：它的混合器没有查询、键和权重。",
  no_rotation: "这一层不旋转：它没有旋转位置编码。",
  no_mlp: "这一层没有 MLP。",
  needs_live: "这里需要运行中的模型：pellucid explain --open。",
  eight_bits: "这份文件里这些份额只存了 8 位，准到 0.2 %。",
  thumbnail: (tile) =>
    `这是缩略图：一个像素代表 ${tile.rowStep} × ${tile.colStep} 格，取其中绝对值最大的；放大镜里是准确的值。`,
  thread_some: (first, last, all) => `（共 ${all} 个词元，这里是 ${first}–${last}）`,
  offline_says: (text) => `这是一份离线文件。${text}`,
  checks_table: "核对了什么",
  identity: "恒等式",
  largest_error: "最大误差",
  allowed: "允许",
  where: "位置",
  checks_ok: (count, error) => `这次运行的 ${count} 条恒等式都已重新算过，全部成立；最大误差 ${error}。`,
  checks_bad: (names) => `有一项核对没有通过：${names}。在弄清原因之前，下面的图不可信。`,
  speed: (fast, traced) =>
    `普通运行 ${fast} 毫秒${traced === null ? "" : `，记下每个数的这次运行 ${traced} 毫秒`}`,
  edited_run: (label) => `眼前是一次改动过的运行：${label}。`,
  back_to_plain: "回到没有改动的运行",
  help_rows: [
    ["Tab", "到下一张图或下一个控件"],
    ["← ↑ ↓ →", "在图的格子之间移动（加 Shift 一次十格）"],
    ["Enter", "问这一格的数怎么来的"],
    ["Esc", "关闭面板"],
    ["[ ]", "前一个、后一个词元"],
    ["j k", "下一节、上一节"],
    ["n", "讲解或数字"],
    ["?", "这张表"],
  ],
  help_colours:
    "有正负的数：蓝色小于零，橙色大于零，白色是零。概率从白到紫。灰色是被遮住的。地址栏里永远是眼前这一幕的链接。",
  hero_title: (name) => `${name} 怎样读你的句子`,
  hero: (m, run) => [
    `下面每一张图，都来自这个模型读这句话的一次真实运行；每一个数，都是模型自己算出来的。碰一碰任何一个数，它会告诉你自己从哪里来；顺着它的各项往回走，就能从预测的词一直走回你打下的字。`,
    `这句话成了 ${run.tokens.length} 个词元。模型认为最可能的下一个是“${visible(run.next[0].text)}”。它怎么得出这个结果，就是这一页要讲的事。`,
  ],

  // 0
  native_hero: (told) =>
    `这里的数来自*原生执行器*，也就是平时求快时用的那个编译好的程序（${told}）。先看[它们离 torch 的 float32 有多远](#precision)。第 8 节的 logit 透镜和归因是 torch ` +
    `在这些数上另算的，不出自这个程序。`,
  native_no_edits:
    "编译好的程序里没有可以改动的地方。想让某个头沉默，请用 torch 打开本页：pellucid explain --executor torch。",
  precision_title: "快的代价",
  precision_story: (told) => [
    `位数少的数，乘起来快，却会差一点。原生执行器按文件原样保存矩阵，往往每个数只有 4 位或 8 位；与它们相乘的数也舍入到差不多的位数，这里是：${told}。torch 读的是同样的矩阵，但自始至终用 32 位计算。` +
    `所以下面的差别不在权重，而在怎么乘。`,
    `每一步都与精确值相比：差的长度占精确值长度的几分之几，再对各词元取平均。一步*自身*的误差，从它实际拿到的输入算起：乘法带来误差，加法和归一化几乎没有。*累计*的误差则与 torch 的整次运行相比：前面传下来的也算在内，` +
    `许多数加在一起时又会互相抵消。`,
  ],
  precision_said: (p) =>
    `${p.of} 个位置中有 ${p.same} 个，两者认为最可能的词元相同。logits 相差 ${p.off}；作为下一个词元的分布，两者相距 ${p.kl} 纳特（KL，对词元取平均）。`,
  precision_own: "自身",
  precision_own_says:
    "只由这一步带来的误差：同样的输入，原生结果与 64 位结果之差。行是一层中的各步，依计算次序排列，列是各层；点一格就到那一步。",
  precision_so_far: "累计",
  precision_so_far_says: "连同之前所有步骤：原生运行与 torch 的 float32 运行之差。",
  precision_table: "三层的数值",
  precision_shown: (names, n) =>
    `共 ${n} 步。程序从不完整地持有这些：${names}。它们是查表得来的，或者在这里由程序自己的查询和键算出。`,

  // 开头
  fact_title: "一个事实怎样走到答案",
  fact_story: () => [
    `把句子换掉一个词，模型的答案就变了。可见那个词里有东西决定了答案；它得从那个词的位置，走到句子末尾作答的地方。这里看得见它怎么走。`,
    `对每一层、每一个词元，都让模型读第二句，只在那一处换上第一句在那里的数。橙色就是只靠这一处便能把第一个答案找回来的地方：在那个深度，事实就在那里。从下往上看。`,
  ],
  fact_other: "另一句",
  fact_placeholder: "词元数要与你的句子一样；留空则替你找一句",
  fact_short: "事实要有路可走：请打一句至少两个词元的话。",
  fact_none: "这里想不出合适的第二句。请自己打一句，词元数与你的句子一样。",
  compare: "比较",
  contrast_why: "为什么是",
  contrast_not: "而不是",
  ask: "问",
  answer_a: "要问的答案",
  answer_b: "另一个答案",
  answer_likeliest: "最可能的",
  answer_said: (text, p, rank) => `“${text}”（${p}，第 ${rank} 位）`,
  fact_gaps: (f) =>
    `logit(“${f.a}”) − logit(“${f.b}”) 在第一句是 ${f.ours}，在第二句是 ${f.theirs}。` +
    `${f.proposed ? "第二句是替你找的：试跑了几十句，取答案变得最分明的一句。" : ""}`,
  fact_map: "它在哪里，一层一层看",
  fact_map_says: (a, before) =>
    `只换一处的数，能把多少“${a}”找回来：100% 是全部，0% 是没有。` +
    (before ? `到“${before}”为止两句相同，略去不画。` : ""),
  fact_cell: (layer, token) => (layer === null ? `最后一层之后，“${token}”` : `第 ${layer} 层之前，“${token}”`),
  at_the_end: "末",
  fact_running: (layer) => `正在运行模型……第 ${layer} 层`,
  fact_done: (count) => `模型跑了 ${count} 次，每次换一处。点一格，看是什么把它搬到那里。`,
  journey: (stops, layers) =>
    stops
      .map(({ token, from, to, share }, i) =>
        i === 0
          ? `起初全在“${token}”上${to < layers ? `，到第 ${to} 层大半还在那里` : "，一直没有离开"}。`
          : from === to
            ? `第 ${from} 层之前，大半在“${token}”上（${share}）。`
            : `从第 ${from} 层起，大半在“${token}”上（${share}）。`,
      )
      .join(""),
  mover_title: (layer, token) => `第 ${layer} 层给“${token}”带来了什么`,
  mover_brought: (p) => `单凭它就找回 ${p}`,
  mover_looks: (m) => `第 ${m.head} 个头从“${m.from}”看向 ${m.at}。`,
  run_for: (s) => `运行：在这台机器上大约 ${s < 90 ? `${s} 秒` : `${Math.round(s / 60)} 分钟`}`,

  // 原因
  causes_title: "谁定的答案",
  causes_story: () => [
    `要知道一个部件做了什么，就拿掉它，再跑一遍模型。这里对每个头、每个 MLP 都这样做了，一次拿掉一个。说出两个答案：任何词都行，不必是可能的词。蓝色的部件替第一个答案说话（没有它，第一个就吃亏），橙色的替第二个说话。`,
    `这里没有估算：每一格都是一次真实的运行，其余部件都对缺掉的东西作出了反应。所以这些数加起来也不等于总数：部件之间可以互相顶替，也可以互相抵消。`,
  ],
  causes_native: "编译好的程序里没有改动的地方：这些运行是 torch 用 float32 在同样的权重上做的。",
  contrast_said: (c) => `在“${c.token}”之后：${c.a} 对 ${c.b}。第一个的 logit 比第二个多 ${c.gap}。`,
  effect_title: "没有它会怎样",
  effect_says: (a, b) => `静音这个部件后，logit(“${a}”) − logit(“${b}”) 变了多少。`,
  looks_title: "它看哪里",
  looks_says: (from) => `每个头从“${from}”有多少看向`,
  column_mixer: "混合器",
  column_mlp: "MLP",
  column_side: "旁路",
  no_such_part: "这一层没有这个部件，或者还在运行",
  causes_running: (layer, count) => `正在逐个拿掉部件运行模型……共 ${count} 层，从上往下，到第 ${layer} 层`,
  causes_done: (count) => `${count} 个部件，跑了 ${count} 次。点一格，或点下面的名字。`,
  causes_list: "最要紧的部件",
  effect_then: (change, then) => `${change} → “${then}”`,
  head_looks: (from, at) => `它从“${from}”看向 ${at}。`,
  without_it: (w) =>
    `没有${w.part}，差从 ${w.before} 变成 ${w.after}，最可能的词元成了“${w.then}”（整个分布移动了 ${w.kl} 奈特）。`,
  dose: "还剩多少",
  dose_curve: "两个 logit 之差，随部件剩下多少而变",
  dose_said: (d) => `${d.part}剩 ${d.factor} 时：${d.gap}，“${d.winner}”领先。`,

  card_promotes: (up, down) => `它写下的东西让 ${up} 更可能，让 ${down} 更不可能。`,
  card_source: (token, share, up) => `最大的一份来自“${token}”（占它注意力的 ${share}）：它替 ${up} 说话。`,
  card_habit: (habit, p) =>
    `在一段我们自备、连读两遍的文字上，` +
    ({
      previous: `它多半看前一个词元（${p}）。`,
      self: `它多半看词元自己（${p}）。`,
      first: `它多半看第一个词元（${p}）：这是注意力的汇，它在等。`,
      induction: `它多半看同一个词元上次出现之后的那个（${p}）：这是归纳头。`,
      same: `它多半看前面同样的词元（${p}）。`,
    }[habit] ?? `它没有单一的习惯。`),
  card_brief: (at, up) => `看“${at}”，推 ${up}`,

  // 1
  files_title: "一份说明，一堆数",
  files_story: (m, at) => [
    `存在磁盘上的语言模型只有两样东西：一份简短的说明，写着它的形状；一长串数，就是它的*参数*（也叫权重）。` +
    {
      two: "这里两样各是一个文件。",
      many: `这里说明是一个文件，数分在 ${at.parts} 个文件里。`,
      one: "这里两样在同一个文件里，词表也在其中。",
      memory: "这个模型来自正在运行的程序的内存，它的文件是什么样，这里不知道。",
    }[at.how] +
    `这个模型有 ${n(m.total_parameters)} 个参数，占 ` +
    `${Math.round(m.total_bytes / 1e4) / 100} MB。每个数都是训练定下来的，运行时一个也不会变。`,
  ],
  to_scale: "说明与数，面积按比例",
  to_scale_one: "文件里有什么，面积按比例",
  the_description: "说明",
  the_weights: "权重",
  sizes_caption: "说明里最要紧的几个数，后面所有的形状都由它们决定。",
  size_vocab_size: "认得多少个词元，编号从 0 起",
  size_d_model: "在模型里面，一个词元用多少个数表示",
  size_num_layers: "同样的两步做多少遍，每遍有自己的权重",
  size_num_heads: "一层有多少个注意力头，各找各的",
  size_num_kv_heads: "有多少组键和值，几个头可以合用一组",
  size_head_dim: "一个头的查询、键、值各有多少个数",
  size_d_ff: "每层 MLP 有多少个神经元",
  size_context_len: "设计上一次最多读多少个词元",
  files_map_story: () => [
    `这些数是一块一块存的。有形状的一块数叫*张量*：一列数有一根轴，一张表有两根，一叠表有三根。下图用面积表示每一部分有多大。点一下就走进去，一直可以走到单独一个张量和它的每个数。`,
  ],
  treemap_caption: "数都放在哪里",
  all_weights: "全部",
  part_embed: "词嵌入",
  part_attention: "注意力",
  part_mlp: "MLP",
  part_norm: "归一化",
  part_output: "输出层",
  part_embed_is: "每个词元一行",
  part_attention_is: "哪个词看哪个词",
  part_mlp_is: "对每个词元单独加工",
  part_norm_is: "让数的大小不失控",
  part_output_is: "给每个词元打分",
  weight_title: "一个权重里的数",
  histogram: "权重的直方图",
  histogram_is: (count) => `${count} 个数，分 64 格`,

  // 2
  text_title: "从文本到编号",
  text_story: (m) => [
    `模型不认字。*分词*器把文本切成一个个*词元*，每个词元都在一张 ${n(m.config.vocab_size)} 个词元的固定名单上，它在名单上的序号就是它的*编号*（id）。常见的词自成一个词元，少见的要拆成几个。` +
    `空格算在它后面的词元里（写作 ␣）。`,
  ],
  letters_caption: (letters, tokens) => `${letters} 个字符，切成 ${tokens} 个词元`,
  thread_ids: "词元与编号",
  bytes_story: () => [
    `这里有几个字由好几个词元合起来。文本是按*字节*存的，一个字节是 0 到 255 的一个数；一个汉字占三四个字节，词表里没有这个字时，就存它的字节。这样的词元写成那个字，后面跟着它自己的十六进制字节：你‹E4 BD› 与 你‹A0› 合起来就是“你”。`,
  ],
  merges_title: "一个词是怎样拼起来的",
  merges_story: () => [
    `名单本身也是从文本里学来的，方法叫*字节对编码*（BPE）：从单个字符开始，把最常相邻的一对合成一个，再重复。读文本时，就按学到的先后把这些合并再做一遍。拖动滑块看看。`,
  ],
  merge: "合并",
  merge_start: "还没有合并：都是单个字符。",
  merge_rule: (i, all, rule) => `第 ${i} 次合并，共 ${all} 次${rule ? `：${rule}` : ""}`,
  special_title: "文本里不会出现的词元",
  special_story: () => [
    `*特殊词元*不拼写任何文字，只做记号：文本从哪里开始、到哪里结束、对话轮到谁说。谁也不会无意中打出它们。`,
  ],
  special_more: (count) => `另外 ${count} 个`,
  template_title: "把对话写成一段文本",
  template_story: () => [
    `在对话模型眼里，一场对话就是一段文本。*对话模板*把每一轮依次写下来，用特殊词元隔开，并停在该模型接着说的地方。`,
  ],
  no_template: "这个模型没有对话模板，它只会接着写。",
  batch_title: "把几段文本排成一张表",
  batch_story: (rows, cols) => [
    `几段文本可以一起算，叫一个*批*（batch）：这里是 ${rows} 段，最长 ${cols} 个词元。表的每行要一样长，短的用*填充*（灰色）补齐，再用*掩码*告诉注意力不要看它们。`,
  ],

  // 3
  embed_title: "每个词元查一行",
  embed_story: (m) => [
    `编号只是名单上的序号。模型做的第一件事是查表：一张 ${n(m.config.vocab_size)} 行、${m.config.d_model} 列的表，取出第“编号”行。这一行就是词元的*词嵌入*：` +
    `${m.config.d_model} 个学来的数，用法相近的词元，行也相近。`,
    ...(m.config.embedding_scale !== 1
      ? [`在这个模型里，每一行还要乘以 √D = ${m.config.embedding_scale.toPrecision(4)}。`]
      : []),
  ],
  lookup_caption: (id, text, rows) => `词元“${text}”的编号是 ${id}：从 ${n(rows)} 行里取出这一行`,
  a_row_of: (count, shown) => `${count} 个数（画出 ${shown} 个）`,
  thread_rows: "现在，句子成了一行行的数",
  block_story: (shape) => [
    `[那一批文本](#text)也查同一张表：${shape[0]} 段文本、每段 ${shape[1]} 个编号，变成 ${shape[0]} × ${shape[1]} × ${shape[2]} 的一块数（文本、位置、` +
    `维度）。后面的张量都有这几根轴，你只给一段文本时，第一根轴长 1。`,
  ],
  position_title: "站在哪个位置",
  sinusoidal_story: () => [
    `一行数只说明是哪个词元，没说它站在哪里。这个模型再加上一张表，叫*位置编码*，由正弦和余弦组成：前面的列变化快，后面的列变化慢，于是每个位置都有自己的花样，相邻的位置又彼此相似。表里没有一个数是学来的。把指针移上去，` +
    `看一格自己的算式。`,
  ],
  sinusoidal_title: "正弦位置表",
  sinusoidal_caption: (rows, d) =>
    `前 ${rows} 个位置（竖）与全部 ${d} 个维度（横）。这张图是页面按公式重新算的；下面是这次运行真正用到的几行。`,
  wave: (j) => `维度 ${j} 随位置的变化`,
  learned_story: (m) => [
    `一行数只说明是哪个词元，没说它站在哪里。这个模型再加上另一张学来的表，${m.config.context_len} 个位置每个一行。`,
  ],
  position_sum_story: () => [`词元的行加上位置的行，就是第一层读到的东西。`],
  rotary_title: "旋转位置",
  rotary_story: () => [
    `一行数只说明是哪个词元，没说它站在哪里。这个模型不往行里加东西，而是在注意力里把[查询和键](#attention)转一个角度，位置越靠后转得越多，这叫*旋转位置编码*（RoPE）。把数两两配成对，` +
    `每一对就是平面上的一支箭头；第 j 对每个位置转 ω，前面的对转得快，后面的转得慢。两支箭头转过同样的角度，夹角不变，所以 {q} 与 {k} 的乘积只取决于两个词元隔多远。`,
  ],
  rotary_caption: (half) =>
    `一个查询和一个键的同一对维度，转之前与转之后（配对方式：${half ? "j 与 j + 一半" : "2j 与 2j + 1"}）`,
  pair: "第几对",
  key_position: "键在",
  dashed_before: "虚线：刚投影出来",
  own_scale: "各按自己的长度画",
  solid_after: "实线：按位置转过",
  rotary_said: (r) =>
    `第 ${r.pair} 对是维度 ${r.a} 和 ${r.b}。位置 ${r.pos} 的查询转了 ${r.degrees}°，从 (${r.x}, ${r.y}) 到 (${r.rx}, ${r.ry})；位置 ` +
    `${r.key} 的键转了 ${r.turn}°。`,
  alibi_story: (slopes) => [
    `这个模型没有表示位置的向量。每个注意力头的得分直接随距离下降（*ALiBi*）：第一个头每远一个词元降 ` +
      `${slopes[0].toPrecision(3)}，最后一个头降 ${slopes.at(-1).toPrecision(3)}。降得快的头看近处，降得慢的头看远处。`,
  ],
  embed_norm_story: () => [`进入第一层之前，每一行先做一次归一化，统一长短。`],
  no_position_story: () => [`这个模型不加位置：先后次序只由掩码带进来，它只让词元看自己前面的词元。`],

  // 4
  model_title: "模型全图",
  model_story: (m) => [
    `这是整台机器，按它的说明画成，从下往上读。一条竖线贯穿始终，叫*残差流*：每个词元一行，${m.config.d_model} 个数。${m.layers.length} 层依次从它那里读，再把结果加回去。每层里，` +
    `[注意力](#attention)带来别的词元知道的事，[MLP](#mlp) 则对每个词元单独加工。到了顶上，攒下的这一行与词表里的每个词元比一比。`,
  ],
  map_caption: "点任何一部分，去看它的数。",
  map_output: "logits",
  map_output_is: (v, tied) => `${v} 个分数${tied ? "，用的就是词嵌入表" : ""}`,
  map_norm: "末端归一化",
  map_more: (count, from, to) => `${count} 层（${from === to ? from : `${from}–${to}`}）`,
  map_mlp: "MLP",
  gated: "门",
  map_attention: "注意力",
  map_rotary: "旋转位置",
  map_window: (count) => `窗口 ${count}`,
  map_router: (count) => `路由，${count} 个专家`,
  map_position_sinusoidal: "加正弦余弦",
  map_position_learned: "加学来的位置",
  map_embed: "词嵌入",
  map_text: "文本 → 编号",
  head_of_group: (h, g) => `头 ${h}，用第 ${g} 组键和值`,
  layers_table: "说明里的每一层",

  // 5
  cell_title: "这个数怎么来的？",
  cell_story: () => [
    `这里面没有别的，只有加、乘和几个函数，而且样样都能打开看。选一个步骤，指着一格，按下去。面板里是这一格自己的算式：各项由大到小，每项从哪里来；再按一项，就走到那一格。一直走下去，每条路的尽头不是一个权重，就是你打的一个词。`,
  ],
  cell_hint: "用键盘：Tab 到图上，方向键移动，回车提问。",
  smaller_terms: (count) => `更小的 ${count} 项`,
  and_smaller: (count) => `……还有更小的 ${count} 项`,
  terms_by_size: (count) => `共 ${count} 项，由大到小`,
  recomputed: (value, error) => `用这些数以双精度重算：${value}（相差 ${error}）。`,
  part_of: {
    mu: "均值 μ",
    sigma: "标准差 σ",
    eps: "ε",
    max: "行最大值",
    sum: "总和",
    numerator: "分子",
    logsumexp: "logsumexp",
    scale: "缩放",
    angle: "角度",
    dot: "q·k",
    unmasked: "掩码之前",
    activation: "激活值",
    gamma: "γ",
    beta: "β",
    position: "位置",
  },
  token_ids: "词元编号",
  position_ids: "位置",
  weight_cell: "这是一个权重：训练把它定成这个数，这次运行没有算过它。",
  token_cell: "这是句子里的一个词元：路走到头了。",
  masked_later: "被遮住：这个键在查询之后。",
  masked_window: "被遮住：这个键在窗口之外。",
  masked_chunk: "被遮住：这个键在文本的另一段里。",
  masked_padding: "被遮住：这个键是填充。",

  // 6
  attention_title: "注意力：谁在看谁",
  attention_story: (l) => [
    `到现在为止，每个词元只知道自己。在*注意力*里，每个词元回头看前面的词元，把找到的东西取过来。这样的事同时做 ${l.num_heads} 份，由 ${l.num_heads} 个*头*来做，各有各的权重。`,
  ],
  thread_stream: "这一层读到的残差流",
  heads_title: "这一层所有的头",
  heads_story: () => [
    `每张小图是一个头：行在看，列被看，颜色越深看得越多。右上角是空的，因为谁也看不到自己后面的词。许多头找不到要找的东西时，就把注意力停在第一个词元上，这叫*注意力汇*。`,
  ],
  sink: (sink, before) => `首个 ${sink}，前一个 ${before}`,
  arcs_title: "一个头，一个查询",
  arcs_story: () => [`选一个词元。弧线指向它看的地方，权重越大弧越粗，不到 2 % 的就淡下去。所有权重加起来是 100 %。`],
  arcs_caption: (token, best) => `“${token}”看向：${best}`,
  arcs_hidden: (count, p) => `（最前面的 ${count} 个词元没有画，共占 ${p}）`,
  not_yet: "还看不到",
  lookers_title: "是哪些头连起了这两个词？",
  lookers_to: "看向",
  lookers_of: (count) => `全模型 ${count} 个头里看得最多的几个。点一个就走到那里；没有它会怎样，到“假如……”一节去试。`,
  qkv_title: "查询、键、值",
  qkv_story: (l) => [
    `谁看谁，是怎么定的？每个词元的行要乘三张表。第一张得出*查询* {q}：它在找什么；第二张得出*键* {k}：凭什么找到它；第三张得出*值* {v}：被找到时交出什么。` +
    (l.num_kv_heads < l.num_heads ? `这里 ${l.num_heads} 个头合用 ${l.num_kv_heads} 组键和值。` : "") +
      (l.rope ? "查询和键随后按[位置](#position)转过角度。" : ""),
  ],
  stages_title: "从乘积到权重",
  stages_story: (l) => [
    `查询和键方向一致，乘积就大。先乘以 ${l.scale.toPrecision(3)}，免得 ${l.head_dim} 个数相加越加越大；*掩码*再用 −∞ 把后面的词排除；最后 *softmax* 把分数变成份额：各取 ` +
    `e 的幂，再除以总和。`,
  ],
  stage_raw: "q·k",
  stage_scaled: (scale) => `× ${scale}`,
  stage_masked: "掩码后",
  stage_softmax: "softmax",
  stages_some: (count, all) => `从 ${all} 个键里取最要紧的 ${count} 个，按位置排列。`,
  stages_recomputed: (cap) =>
    `前两列是页面用 q 和 k 重算的，后两列是运行时的数。${cap ? `这个模型还把分数限制在 ±${cap} 以内。` : ""}`,
  mix_title: "带回来什么",
  mix_story: () => [
    `有了份额，就按份额把值混在一起：{z} 是每个被看到的 {v} 乘以它的份额，再相加。各个头的结果并排放好，乘最后一张表，加回残差流。`,
  ],

  // 7
  mlp_title: "层归一化与 MLP",
  norm_story: (l) => {
    const at = (place) => l.norms.some((norm) => norm.place === place);
    return [
      l.norms.some((norm) => norm.kind === "layer")
        ? `重活的前后，要先把数的大小收拢。*层归一化*取一个词元的行，减去均值 μ，除以标准差 σ，再用两个学来的数 γ 和 β 对每一维伸缩、平移。`
        : `重活的前后，要先把数的大小收拢。*RMSNorm* 是*层归一化*的简化：把一行除以它的均方根，再用学来的 γ 对每一维伸缩；不减均值，也没有 β。`,
      at("sum")
        ? "在这个模型里，归一化放在每次相加之后，和 2017 年的论文一样。"
        : at("before") && at("after")
          ? "在这个模型里，每一部分之前有一次归一化，算完之后、相加之前还有一次；残差流本身不动。"
          : at("after")
            ? "在这个模型里，归一化放在每一部分之后、相加之前；残差流本身不动。"
            : at("before")
              ? "在这个模型里，归一化放在每一部分之前，残差流本身不动。"
              : "这一层没有归一化。",
      l.norms.some((norm) => norm.offset) ? "文件里存的是 γ 超出 1 的部分。" : "",
      l.parallel ? "注意力与 MLP 并排：二者读的都是进入本层的残差流。" : "",
    ].filter(Boolean);
  },
  norm_caption: "同一行，之前与之后",
  norm_at: {
    attention: { before: "注意力之前", after: "注意力之后", sum: "注意力相加之后" },
    mlp: { before: "MLP 之前", after: "MLP 之后", sum: "MLP 相加之后" },
  },
  no_norms: "这一层没有归一化。",
  norm_before: "x，进来的一行",
  norm_between: "(x − μ) / σ",
  norm_between_rms: "x / 均方根",
  norm_gain: "γ，学来的",
  norm_shift: "β，学来的",
  norm_after: "结果",
  norm_hover: "把指针移到色带上，跟着一个维度走一遍。",
  mlp_h3: "MLP：对每个词元单独加工",
  mlp_story: (c, l) => [
    `*MLP* 只看一个词元自己。它把这一行与 ${n(l.mlp.d_ff)} 个学来的花样相比，每个花样是一个*神经元*；` +
    `${l.mlp.activation.replace("_tanh", "").toUpperCase()} 让对得上的通过，` +
    `把其余的压到零附近${l.mlp.gated ? "，另有一次比较作为*门*，给每个神经元定大小" : ""}。每个有反应的神经元，都把自己学来的一行加回残差流。` +
    (l.experts
      ? `这里有 ${l.experts.num_experts} 个这样的 MLP，叫*专家*。*路由*把词元与每个专家的方向相比，` +
        `只请最合适的 ${l.experts.experts_per_token} 个；它们的回答按权重相加。`
      : ""),
  ],
  expert: "专家",
  experts_caption: (token, count, all) => `“${token}”被送到 ${all} 个专家中的这 ${count} 个，以及各自的权重`,
  neurons_caption: (token, count, active) =>
    `对“${token}”反应最强的神经元：${n(count)} 个里，有 ${active} 个达到最强者的十分之一`,

  // 8
  residual_title: "残差流",
  residual_story: (m) => [
    `每一层都只是加，从不覆盖。一行数从词嵌入开始，一路上被加了 ${2 * m.layers.length} 次，这就是*残差*流。下图是这一行变得多长（模长，对数坐标）。`,
  ],
  thread_end: "最后一层之后的残差流",
  norms_caption: (token, from, to) => `“${token}”那一行的模长：起初 ${from}，最后 ${to}；灰线是其他位置`,
  lens_title: "如果现在就开口",
  lens_story: () => [
    `取某一层之后的行，当它就是最后一层：做末端归一化，再与每个词元相比。这种*logit 透镜*能看到猜测从下往上渐渐成形。`,
  ],
  lens_caption: "每一层之后最可能的词元，颜色越深越肯定。点一格，就去那一层、那个位置。",
  lens_rank: (token) => `“${token}”的名次`,
  lens_entropy: "熵（比特）",
  lens_kl: "KL（奈特）",
  lens_beside: (token) =>
    `右边是所选位置的：最终答案“${token}”排第几，这个猜测有多拿不定（熵），离最终的分布有多远（KL）。熵低而 KL 高的地方，那猜测算不上意见：最后的输出表在读一行还没有为它写好的数。`,
  attribution_title: "答案是谁写的",
  attribution_story: () => [
    `残差流是一个和，所以一个词元的分数也是一个和：词嵌入占多少，每层的注意力和 MLP 各占多少。正的替它说话，负的反对它。末端归一化的缩放取这次运行里的值。`,
  ],
  by_part: "按部分",
  by_head: "按头",
  by_neuron: "按神经元",
  against: "而不是",
  attribution_said: (token, logit, at, rival) =>
    rival === null
      ? `在“${at}”之后，“${token}”的 logit 是 ${logit}`
      : `在“${at}”之后，“${token}”的 logit 比“${rival}”高 ${logit}。向右的部分支持“${token}”，向左的支持“${rival}”。`,
  attribution_note: (total, logit, error) => `各部分相加是 ${total}，运行时的 logit 是 ${logit}（相差 ${error}）。`,
  attribution_heads_note: "每个头在本层注意力写入中的份额。",
  attribution_neurons_note: "各层里最强的神经元，每个都是本层 MLP 写入的一部分。",
  part_name: (p) =>
    p.what === "embed"
      ? "词嵌入"
      : p.what === "position"
        ? "位置"
        : p.what === "bias"
          ? "偏置"
          : p.neuron !== undefined
            ? `${p.layer} 层，神经元 ${p.neuron}`
            : p.head !== undefined
              ? `${p.layer} 层，头 ${p.head}`
              : `${p.layer} 层，${{ mlp: "MLP", mixer: "混合器", side: "旁路" }[p.what] ?? "注意力"}`,

  // 9
  output_title: "从分数到词元",
  output_story: (m) => [
    `最后一行要和词表里的每个词元比：每个做一次点积，得到 ${n(m.config.vocab_size)} 个分数，叫 *logits*。softmax 把它们变成概率，再从中抽一个。怎么抽由你定：*温度*小于 1 更集中，` +
    `大于 1 更平坦；*top-k* 只留最可能的 k 个；*top-p* 留加起来达到 p 的最少几个；*min-p* 留概率达到最大者一定比例的那些。`,
  ],
  thread_final: "末端归一化之后的各行",
  temperature: "温度",
  top_k: "top-k",
  top_p: "top-p",
  min_p: "min-p",
  draw: "抽一个词元",
  drawn: "抽到：",
  sampler_said: (r) =>
    `${n(r.of)} 个词元里留下 ${n(r.kept)} 个参加抽取，裁剪之前它们共占 ${r.left}。熵 ${r.entropy} 比特。`,
  rest_cut: (count) => `这份文件只有分数最高的一些，另外 ${n(count)} 个没有放进来，所以份额略微偏大。`,
  entropy_title: "它有多意外",
  entropy_story: () => [
    `在每个位置上，模型有它的猜测，文本有它的答案。*交叉熵*就是模型给答案的概率取对数再加负号：猜得又准又肯定就是 0，措手不及就很大。训练要做的，只是让这个数在大量文本上平均起来越来越小。`,
  ],
  surprise_caption: (mean, ppl) => `每个词元的 −log p（奈特）：平均 ${mean}，困惑度 ${ppl}`,
  one_token: "这段文本只有一个词元，后面没有可以让它意外的下一个。",
  target_label: "你自己写的下文",
  target_placeholder: "打一段下文，看看模型觉得有多可能",
  score: "有多可能？",
  target_caption: (mean, p) => `你的下文：每个词元 ${mean} 奈特，整段的概率 ${p}`,

  // 10
  decode_title: "多一个词元",
  decode_story: () => [
    `把抽到的词元接在句子后面，一切从头再来：所谓写作，不过如此。不过前面那些词元的行算出来还是一样，所以把它们的键和值留着，叫 *KV 缓存*。读提示时所有词元一起算（*预填充*），之后每个新词元只算一行（*解码*）。`,
  ],
  one_more: "再来一个",
  eight_more: "再来八个",
  start_again: "重新开始",
  look_inside: "看看变长之后的里面",
  sampled_08: "抽样，T = 0.8",
  next_caption: "接下来可能是什么（点一个就选它）",
  cache_caption: (c) => `KV 缓存：${c.length} 个词元，共 ${c.bytes}，每个 ${c.each}`,
  cache_axes: (count, step) =>
    `横向是位置，纵向是 ${count} 层${step > 1 ? `（每 ${step} 层画一层）` : ""}：上面是键，下面是值。`,
  cache_some: (count) => `只画最后 ${count} 个位置。`,
  times_caption: "每一步用了多少时间（在这台机器上）",
  prefill: (count) => `预填充 ${count}`,
  times_said: (a, b) => `预填充每秒 ${a} 个词元，解码每秒 ${b} 个。`,

  // 11
  whatif_title: "假如……",
  whatif_story: () => [
    `想知道一个部件有什么用，就把它拿掉。让一个头沉默，或者换上另一句话在同一处的数，或者让模型读另一个词元；其余照旧，走的是同一份代码。`,
  ],
  ablate_head: "让一个头沉默",
  ablate_part: "让一部分沉默",
  patch: "从另一句话移植",
  swap: "换一个词元",
  everywhere: "所有位置",
  at_position: (i) => `只在位置 ${i}`,
  try_it: "试一试",
  patch_placeholder: "另一句话；到被移植的位置为止，词元数要一样",
  swap_placeholder: "恰好是一个词元的文字，或一个编号",
  before: "原来",
  after: "改动之后",
  open_edited: "看看改动后的里面",
  silenced_head: (layer, head) => `让 ${layer} 层的头 ${head} 沉默`,
  silenced_part: (where) => `让 ${where} 沉默`,
  patched: (where, pos) => `位置 ${pos} 的 ${where} 取自另一句话`,
  swapped: (pos, token) => `位置 ${pos} 读作“${token}”`,
  only_at: (pos) => `（只在位置 ${pos}）`,
  whatif_said: (w) =>
    `${w.label}。原来：“${w.before}”（${w.p}）；改动之后：“${w.after}”（${w.q}）。两个分布相差 ${w.kl} 奈特（KL 散度）。`,
  change: "变化",
  change_caption: "残差流在哪里变了：差的模长与这一行模长之比。改动之前的层和左边的位置都和原来一样。",
  compare_title: "两个模型并排看",
  compare_story: () => [`同一段文本，给两个模型，或者同一个模型的两个检查点。`],
  compare_absent: "要对比，请带上第二个模型打开页面：pellucid explain -m MODEL --beside OTHER --open。",
  compare_said: (a, x, b, y) => `这段文本每个词元的平均意外程度：${a} ${x} 奈特，${b} ${y} 奈特。`,
  compare_said_bits: (a, x, b, y) =>
    `两个模型把文本切成了不同的词元，所以每词元的奈特不能直接比。按文本每个字节的代价来算：${a} ${x} 比特，${b} ${y} 比特。`,
  compare_positions: "每个词元的意外程度之差（向右：第二个模型更意外）",

  // 12
  training_title: "训练：这些数从哪里来",
  training_story: () => [
    `训练之前，每个权重都是随机数，每个猜测也是。然后模型读一些文本，在每个词元处量出它有多意外：这就是[交叉熵](#output)，也叫*损失*。对每个权重都可以算出，往哪边挪能让损失变小，这个方向叫*梯度*。` +
    `所有权重一起挪一小步，再读下一段。就这么一件事，反复做很多遍。`,
  ],
  training_absent:
    "这个模型的训练没有在这里留下记录。你自己训练就会有：`pellucid pretrain -d book.txt -o runs/book --watch` 实时看，`pellucid explain runs/book` " +
    "事后看。",
  watch_title: (name) => `${name}：看它学习`,
  watch_hero: () => [
    "下面每张图，都取自这次训练到现在为止写进文件夹里的数；训练继续，图就继续长。等有了检查点或训练好的模型，对同一个文件夹运行 `pellucid explain`，还能打开模型本身，看到每一个数。",
  ],
  run_running: "正在学",
  run_finished: "已学完",
  run_stopped: "停下了",
  run_lost: "训练已结束，或这个页面的来源已关闭；对它的文件夹运行 pellucid explain 可以再打开。",
  run_step: "步",
  run_loss: "损失（平滑）",
  run_val: "验证",
  run_speed: "词元每秒",
  run_tokens: "读过的词元",
  run_time: "用时",
  run_left: "还需",
  run_recording: "记录所占时间",
  setting: {
    method: "方法",
    optimizer: "优化器",
    lr: "最高学习率",
    schedule: "日程",
    warmup_steps: "预热步数",
    batch_size: "每步行数",
    context_len: "上下文",
    weight_decay: "权重衰减",
    dropout: "dropout",
    max_grad_norm: "裁剪上限",
    seed: "种子",
  },
  curves_title: "错得有多厉害",
  steps_even: "步数",
  steps_log: "对数步数",
  curve_raw: "每一步",
  curve_smooth: "平滑",
  curve_val: "验证（它从不拿来学的文本）",
  uniform: (nats) => `瞎猜：${nats}`,
  loss_name: "损失",
  loss_says: "对下一个词元的平均意外程度，单位奈特：学得越好越低。如果训练损失还在降而验证不再降，就是在死记硬背。",
  loss_said: (p) =>
    `第 ${p.step} 步：损失 ${p.loss}，平滑 ${p.smooth}${p.val ? `；验证 ${p.val}（第 ${p.at} 步）` : ""}`,
  lr_name: "学习率",
  lr_says: "每次更新迈多大的步子：开头方向还乱，迈得小；然后放大，再一路缩小。",
  lr_said: (step, value) => `第 ${step} 步：${value}`,
  grad_norm_name: "梯度的模长",
  grad_norm_says: "所有梯度合在一起有多长，也就是模型所站之处损失有多陡。尖峰在更新之前会被削平。",
  grad_norm_said: (step, value) => `第 ${step} 步：${value}`,
  tokens_per_second_name: "速度",
  tokens_per_second_says: "每秒学过多少词元，即行数 × 长度除以时间；低谷是机器正忙别的事的那几步。",
  tokens_per_second_said: (step, value) => `第 ${step} 步：每秒 ${value} 个词元`,
  skipped_step: (step, why) => `第 ${step} 步被略过：${why}。`,
  weights_title: "哪些权重在动",
  ratio_short: "更新 / 权重",
  grad_short: "梯度",
  weight_short: "大小",
  by_layer: "按层",
  by_weight: "逐个权重",
  as_at_first: "与最初相同",
  weights_said: (p) => `${p.row}，第 ${p.step} 步`,
  short_part: { attention: "注意力", mlp: "MLP", attention_norm: "归一化 1", mlp_norm: "归一化 2" },
  ratio_name: "更新比权重",
  ratio_says:
    "这一步把权重挪动了多少，以权重自身的长度计。矩阵以千分之一左右（白色）为好；橙色太快，可能发抖；蓝色太慢，或者睡着了。",
  grad_name: "逐层的梯度",
  grad_says:
    "损失对每一部分拉得有多用力（裁剪之前），白色是全体的中位。一直偏蓝的行学得少；忽然变橙的行，麻烦就从那里开始。",
  weight_name: "权重的大小",
  weight_says: "每一部分权重的长度，与第一次记录时（白色）相比：训练让其中大多数变大。",
  margin_name: "留出的对子上的差距",
  margin_says:
    "相对于参照模型，被选中的回答比被拒绝的多涨了多少，再乘以 β：开始时是 0；在模型没学过的对子上，它应当上升。",
  margin_said: (step, value) => `第 ${step} 步：${value}`,
  as_the_reference: "与参照相同",
  accuracy_name: "判断正确的对子",
  accuracy_says: "留出的对子中，有多少是被选中的回答涨得更多。一半等于抛硬币。",
  accuracy_said: (step, value) => `第 ${step} 步：${value}`,
  as_a_coin: "抛硬币",
  stream_name: "逐层的激活值",
  stream_says:
    "残差流里的数在下面那段文本上有多大：第一层之前，和每一层之后；白色是 1。每一层都往里加，所以越深越大；哪一行涨个不停，训练就会在那里崩掉。",
  stream_said: (p) => `${p.layer === null ? "第 0 层之前" : `第 ${p.layer} 层之后`}，第 ${p.step} 步`,
  stream_first: "嵌入",
  reading_title: "它在读什么",
  batch_name: "当前的批次",
  batch_says: "这一批的头几行，取自模型学它之前。词元的颜色是模型对它的意外程度；划掉的是掩码不计入损失的。",
  batch_said: (p) => `“${p.before}”之后来的是“${p.text}”：−log p = ${p.nats} 奈特，p = ${p.p}`,
  batch_masked: (p) => `“${p.text}”不计：被掩码排除`,
  masked_key: "被掩码排除",
  nats: (n) => `${n} 奈特`,
  batch_foot: (p) =>
    `第 ${p.step} 步：共 ${p.of} 行、每行 ${p.length} 个词元，这里是 ${p.rows} 行；它们的平均损失 ${p.mean}`,
  not_yet_recorded: "还没有记录；最初几步之后就会有。",
  snapshots_title: "它怎样变化",
  snapshots_story:
    "同一小段文本，交给不同时刻的模型：从随机的起点开始，在对数刻度上等距取样，因为大部分变化发生在早期。拖动滑块，或让它自己播放。",
  scrubber: "快照所在的步",
  play: "播放或暂停",
  at_step: (n) => `第 ${n} 步`,
  snapshot_loss: (nats) => `在这段文本上 ${nats} 奈特`,
  guesses_name: "它期待什么",
  guesses_says: "文本里的每个词元：颜色越深，模型事先对它越有把握；下面小字是模型认为最可能的那个。",
  guess_said: (p) => `“${p.text}”得到 ${p.p}；最可能的是：${p.top}`,
  heads_then_name: "注意力",
  heads_then_says: "行在看，列被看。起初每个头都平均地看之前的一切；渐渐地，各自找到自己要看的东西。点一个头可以放大。",
  distance_name: "每个头看多远",
  distance_says:
    "每个头（层·头）给往前 *d* 个词元处的平均权重，d = 0 是词元自己。若第 1 列很深，这个头看的就是前一个词元。",
  distance_said: (p) => `${p.layer} 层，头 ${p.head}，往前 ${p.back}`,
  embedding_name: "词嵌入",
  embedding_says:
    "最常见的词元在词嵌入表中的位置，画在最后一张快照铺得最开的那个平面里。平面始终不变，所以动的是词元：用法相近的会慢慢聚到一起。",
  embedding_said: (p) => `“${p.text}”，在所有维度上最近的：${p.near}`,
  embedding_share: (p) => `这个平面包含最后一张快照 ${p} 的散布。`,
  token_kind: { vowel: "元音", lower: "小写", upper: "大写", digit: "数字", han: "汉字", mark: "标点与空格" },
  positions_name: "位置",
  positions_says: "学来的位置表中任意两行的余弦：起初互不相干，后来相邻的越来越像。",
  positions_said: (i, j) => `位置 ${i} 与 ${j}`,
  positions_rotary: "位置：这个模型按固定的角度旋转查询和键，位置本身没有要学的东西；它怎样利用位置，见上一张图。",
  positions_sinusoidal: "位置：这个模型加上固定的正弦与余弦，训练不会改变它们；它怎样利用位置，见上一张图。",
  positions_none: "位置：这个模型没有位置编码，顺序只通过掩码进来。",
  samples_title: "它写出什么",
  samples_name: "各个时刻的文字",
  samples_says: "训练中不时让模型写一段，每个词元都按它自己的概率抽取：先是字母，再是词，再是句子。",
  no_samples: "还没有写过。",
};
