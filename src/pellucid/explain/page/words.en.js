// The page's words in English. Marks: *a term where it is explained*, [text](#section), {q} a symbol in its colour,
// `code`.

import { visible } from "./dom.js";

const s = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

export const en = {
  // the frame
  story: "Story",
  numbers: "Numbers",
  help: "Keys and help",
  theme: "Light or dark",
  language: "中文",
  why_title: "Why this value?",
  pin: "Keep this cell in view",
  pin_short: "Keep",
  unpin: "Let go",
  close: "Close",
  pinned: "Kept cells",
  run: "Run it",
  running: "Running …",
  go_to: "Go to: layers.3.pattern[0, 2, 5, 3]",
  prompt_label: "Your sentence",
  skip: "To the text",
  layer: "Layer",
  head: "Head",
  position: "Position",
  dimension: "dimension",
  step: "Step",
  of: (what, i, n) => `${what} ${i} of 0–${n - 1}`,
  layer_short: "ℓ",
  heads: "heads",
  neuron: "neuron",
  key: "Key",
  shape: "shape",
  from: "from",
  dtype: "dtype",
  range: "range",
  norm: "norm",
  weights: "weights",
  code: "code",
  check: "checked",
  bytes: "Bytes",
  parameters: "Parameters",
  weight: "Weight",
  min: "min",
  max: "max",
  mean: "mean",
  std: "std",
  greedy: "greedy",
  off: "off",
  numbers_only: "numbers",
  nav: {
    fact: "A fact travels",
    causes: "Who decided it",
    precision: "Precision",
    files: "Files",
    text: "Text → ids",
    embed: "Embedding, position",
    model: "Map of the model",
    cell: "Any cell",
    attention: "Attention",
    mlp: "Norm, MLP",
    residual: "Residual stream",
    output: "Output",
    decode: "Decoding",
    whatif: "What if",
    training: "Training",
  },
  left_out_here: "This file does not hold these numbers. Open the page from a live model to see them.",
  left_out_cell:
    "The operands of this cell are not in this file; pinned cells are. Open the page from a live model to see them " +
    "all.",
  server_gone:
    "The program that served this page answers no more: it has ended, or this machine sleeps. Start it again, and " +
    "open its new address.",
  no_attention: "This layer does not attend: its mixer has no queries, keys and patterns.",
  no_rotation: "This layer turns nothing: it has no rotary positions.",
  no_mlp: "This layer has no MLP.",
  needs_live: "This needs the live model: pellucid explain --open.",
  eight_bits: "This file has these shares in 8 bits, exact to 0.2 %.",
  thumbnail: (tile) =>
    `A thumbnail: each pixel stands for ${tile.rowStep} × ${tile.colStep} cells and shows the largest of them; the ` +
    `lens shows exact values.`,
  thread_some: (first, last, n) => `(tokens ${first}–${last} of ${n})`,
  offline_says: (text) => `This is an offline file. ${text}`,
  checks_table: "What was checked",
  identity: "Identity",
  largest_error: "largest error",
  allowed: "allowed",
  where: "where",
  checks_ok: (n, error) => `${n} identities of this run were recomputed and hold; the largest error is ${error}.`,
  checks_bad: (names) => `A check failed: ${names}. Do not trust what is drawn below until it is explained.`,
  speed: (fast, traced) =>
    `plain run ${fast} ms${traced === null ? "" : `, this run with every number kept ${traced} ms`}`,
  edited_run: (label) => `You are looking at an edited run: ${label}.`,
  back_to_plain: "Back to the unedited run",
  help_rows: [
    ["Tab", "to the next picture or control"],
    ["← ↑ ↓ →", "move between the cells of a picture (Shift: ten at a time)"],
    ["Enter", "ask why the cell has its value"],
    ["Esc", "close the panel"],
    ["[ ]", "previous, next token"],
    ["j k", "next, previous section"],
    ["n", "story or numbers"],
    ["?", "this list"],
  ],
  help_colours:
    "Signed numbers are blue below zero, orange above, white at zero. Probabilities go from white to purple. Grey is " +
    "masked. The address bar always holds a link to exactly what you see.",
  hero_title: (name) => `What ${name} does with your sentence`,
  hero: (m, run) => [
    `Every picture below was drawn from one run of this model on the sentence here. Every number is one that the ` +
    `model computed. Touch any of them and it shows where it came from; follow its terms and you walk from the ` +
    `predicted word back to the letters you typed.`,
    `The sentence became ${s(run.tokens.length, "token")}. After them, the model thinks the likeliest continuation ` +
    `is “${visible(run.next[0].text)}”. How it came to that is the story of this page.`,
  ],

  // 0
  native_hero: (told) =>
    `These are the numbers of the *native executor*, the compiled program that answers when speed is wanted ` +
    `(${told}). [How far they are from torch’s float32](#precision) is said first. What they are not: the logit lens ` +
    `and the attribution in section 8 are torch’s arithmetic on these numbers.`,
  native_no_edits:
    "The compiled program has no place for an edit. To silence a head, open the page with torch: pellucid explain " +
    "--executor torch.",
  precision_title: "What speed costs",
  precision_story: (told) => [
    `A product of numbers in few bits is quicker, and a little wrong. The native executor keeps matrices as the file ` +
    `has them, often in 4 or 8 bits, and rounds what it multiplies them with to as few: here ${told}. Torch reads ` +
    `the same matrices and computes in 32 bits throughout. So what differs below is not the weights, but how they ` +
    `were multiplied.`,
    `For each step, the distance is taken from the exact numbers, as a share of their length, the mean over the ` +
    `tokens. A step’s *own* error is measured from what it was given: products bring errors, sums and norms hardly ` +
    `any. The error *so far* is measured from torch’s own run: what was inherited counts too, and averages out where ` +
    `many numbers meet.`,
  ],
  precision_said: (p) =>
    `At ${p.same} of ${p.of} positions both find the same token the likeliest. The logits are ${p.off} off; as ` +
    `distributions over the next token they are ${p.kl} nats apart (KL, the mean over tokens).`,
  precision_own: "own",
  precision_own_says:
    "What this step alone brings: native against 64 bits, from the same inputs. Rows are the steps of a layer in " +
    "order, columns are layers; press one to go there.",
  precision_so_far: "so far",
  precision_so_far_says: "With all that came before it: native against torch’s float32 run.",
  precision_table: "Three layers in numbers",
  precision_shown: (names, n) =>
    `${n} steps. The program never has these as a whole: ${names}. They were looked up, or computed here from its ` +
    `own queries and keys.`,

  // the opening
  fact_title: "A fact on its way to the answer",
  fact_story: () => [
    `Change one word of your sentence and the model answers otherwise. So something in that word decides the answer, ` +
    `and it has to come from where the word stands to the end of the sentence, where the answer is made. Here you ` +
    `see it travel.`,
    `For every layer and every token, the model read the second sentence, but in that one place it was given the ` +
    `numbers that the first sentence had there. Orange is where that alone brings the first answer back: there the ` +
    `fact is, at that depth. Read from the bottom up.`,
  ],
  fact_other: "The other sentence",
  fact_placeholder: "as long in tokens as yours; left empty, one is proposed",
  fact_short: "A fact needs somewhere to travel: type a sentence of at least two tokens.",
  fact_none: "No second sentence suggests itself here. Type one that has as many tokens as yours.",
  compare: "Compare",
  contrast_why: "Why",
  contrast_not: "and not",
  ask: "Ask",
  answer_a: "The answer that is asked about",
  answer_b: "The other answer",
  answer_likeliest: "the likeliest",
  answer_said: (text, p, rank) => `“${text}” (${p}, place ${rank})`,
  fact_gaps: (f) =>
    `logit(“${f.a}”) − logit(“${f.b}”) is ${f.ours} for the first sentence and ${f.theirs} for the second.` +
    `${f.proposed ? " The second was proposed: of some dozens that were run, the one whose answer differs most clearly." : ""}`,
  fact_map: "Where it is, layer by layer",
  fact_map_says: (a, before) =>
    `The share of the way back to “${a}” that one place's numbers bring: 100 % is all of it, 0 % nothing.` +
    (before ? ` Tokens up to “${before}” are the same in both sentences and left out.` : ""),
  fact_cell: (layer, token) => (layer === null ? `after the last layer, “${token}”` : `before layer ${layer}, “${token}”`),
  at_the_end: "end",
  fact_running: (layer) => `Running the model … at layer ${layer}`,
  fact_done: (n) => `${n} runs of the model, each with one place exchanged. Press a cell to see what moved it there.`,
  journey: (stops, layers) =>
    stops
      .map(({ token, from, to, share }, i) =>
        i === 0
          ? `At first it all sits on “${token}”${to < layers ? `, and mostly stays there up to layer ${to}` : " and stays there"}.`
          : from === to
            ? ` Before layer ${from} most of it is on “${token}” (${share}).`
            : ` From layer ${from} on most of it is on “${token}” (${share}).`,
      )
      .join(""),
  mover_title: (layer, token) => `What layer ${layer} brought to “${token}”`,
  mover_brought: (p) => `by itself brings ${p} back`,
  mover_looks: (m) => `Head ${m.head} looks from “${m.from}” at ${m.at}.`,
  run_for: (s) => `Run it: about ${s < 90 ? `${s} seconds` : `${Math.round(s / 60)} minutes`} on this machine`,

  // causes
  causes_title: "Who decided it",
  causes_story: () => [
    `To know what a part did, take it away and run the model again. Here that was done with every head and every ` +
    `MLP, one at a time. Name two answers: any word, not only likely ones. Blue parts spoke for the first (without ` +
    `them it loses), orange ones for the second.`,
    `Nothing is estimated: each cell is a run, in which all other parts answered to what was missing. That is also ` +
    `why the numbers do not add up: parts can stand in for each other, or undo each other.`,
  ],
  causes_native:
    "The compiled program has no place for an edit: these runs are torch's, in float32, on the same weights.",
  contrast_said: (c) =>
    `After “${c.token}”: ${c.a} against ${c.b}. The logit of the first is ${c.gap} beyond that of the second.`,
  effect_title: "Without it",
  effect_says: (a, b) => `The change of logit(“${a}”) − logit(“${b}”) when the part is silenced.`,
  looks_title: "Where it looks",
  looks_says: (from) => `How much each head looks from “${from}” at`,
  column_mixer: "mixer",
  column_mlp: "MLP",
  column_side: "side",
  no_such_part: "this layer has no such part, or it is still running",
  causes_running: (layer, n) => `Running the model without each part … layer ${layer} of ${n}, from the top down`,
  causes_done: (n) => `${n} parts, ${n} runs. Press a cell, or a name below.`,
  causes_list: "The parts that mattered most",
  effect_then: (change, then) => `${change} → “${then}”`,
  head_looks: (from, at) => `From “${from}” it looks at ${at}.`,
  without_it: (w) =>
    `Without ${w.part} the difference goes from ${w.before} to ${w.after}, and the likeliest token is “${w.then}” ` +
    `(the whole distribution moves by ${w.kl} nats).`,
  dose: "How much of it is left",
  dose_curve: "The difference of the two logits, over how much of the part is left",
  dose_said: (d) => `With ${d.factor} of ${d.part}: ${d.gap}, “${d.winner}” is ahead.`,

  card_promotes: (up, down) => `What it writes makes ${up} likelier, and ${down} less likely.`,
  card_source: (token, share, up) => `The largest part comes from “${token}” (${share} of its attention): it speaks for ${up}.`,
  card_habit: (habit, p) =>
    `On a text of our own that is read twice, ` +
    ({
      previous: `it looks mostly at the previous token (${p}).`,
      self: `it looks mostly at the token itself (${p}).`,
      first: `it looks mostly at the first token (${p}): an attention sink, it waits.`,
      induction: `it looks mostly at what came after the same token before (${p}): an induction head.`,
      same: `it looks mostly at the same token earlier on (${p}).`,
    }[habit] ?? `it has no single habit.`),
  card_brief: (at, up) => `looks at “${at}”, promotes ${up}`,

  // 1
  files_title: "A description and a heap of numbers",
  files_story: (m, at) => [
    `A language model on disk is two things: a short description of its shape, and a long list of numbers. ` +
    {
      two: "Here each is a file. ",
      many: `Here the description is a file, and the numbers lie in ${at.parts}. `,
      one: "Here one file holds both, and the vocabulary with them. ",
      memory: "This one came from the memory of a running program; what its files look like is not known here. ",
    }[at.how] +
    `The numbers are its *parameters* (or weights): here ${m.total_parameters.toLocaleString("en")} of them, in ` +
    `${Math.round(m.total_bytes / 1e4) / 100} MB. Training set each of them; running the model never changes one.`,
  ],
  to_scale: "Description and numbers, areas to scale",
  to_scale_one: "What the file holds, areas to scale",
  the_description: "the description",
  the_weights: "the weights",
  sizes_caption: "The description, in short: the sizes that every shape below follows from.",
  size_vocab_size: "tokens it knows; each has an id from 0 up",
  size_d_model: "numbers that stand for one token inside the model",
  size_num_layers: "times the same two-part treatment is repeated, each with weights of its own",
  size_num_heads: "attention heads in a layer, each looking for something else",
  size_num_kv_heads: "sets of keys and values; heads may share one",
  size_head_dim: "numbers in one head's query, key and value",
  size_d_ff: "neurons in each layer's MLP",
  size_context_len: "tokens it was made to read at once",
  files_map_story: () => [
    `The numbers come in blocks. A block with a shape is a *tensor*: a list has one axis, a table two, a stack of ` +
    `tables three. Below, area shows how much each part takes. Touch a part to go inside it, down to a single tensor ` +
    `and its numbers.`,
  ],
  treemap_caption: "Where the numbers are",
  all_weights: "all",
  part_embed: "embedding",
  part_attention: "attention",
  part_mlp: "MLP",
  part_norm: "norms",
  part_output: "output",
  part_embed_is: "a row for each token",
  part_attention_is: "which tokens look at which",
  part_mlp_is: "what is made of each token",
  part_norm_is: "keeping sizes in bounds",
  part_output_is: "a score for each token",
  weight_title: "The values of a weight",
  histogram: "Histogram of the weight's values",
  histogram_is: (n) => `${n} values in 64 bins`,

  // 2
  text_title: "From text to ids",
  text_story: (m) => [
    `The model cannot read letters. A *tokenizer* cuts the text into *tokens*, pieces from a fixed list of ` +
    `${m.config.vocab_size.toLocaleString("en")}, and gives each its place in that list, its *id*. Common words are ` +
    `one token, rare ones several. A space is part of the token that follows it (␣).`,
  ],
  letters_caption: (letters, tokens) => `${letters} characters, cut into ${tokens} tokens`,
  thread_ids: "Tokens and their ids",
  bytes_story: () => [
    `Some characters here are shared by several tokens. Text is stored in *bytes*, numbers from 0 to 255; a Chinese ` +
    `character takes three or four of them, and a vocabulary that lacks the character holds its bytes. Such a token ` +
    `is shown as the character with its own bytes in hexadecimal: 你‹E4 BD› and 你‹A0› together are 你.`,
  ],
  merges_title: "How a word is put together",
  merges_story: () => [
    `The list of tokens was itself learned, from text, by *byte-pair encoding*: start with single characters, join ` +
    `the pair that occurs most often, and repeat. Reading plays those merges again in the order in which they were ` +
    `learned. Move the slider.`,
  ],
  merge: "Merge",
  merge_start: "Before any merge: single characters.",
  merge_rule: (i, n, rule) => `Merge ${i} of ${n}${rule ? `: ${rule}` : ""}`,
  special_title: "Tokens that no text contains",
  special_story: () => [
    `*Special tokens* mark things rather than spell them: where a text begins or ends, whose turn it is in a ` +
    `conversation. Nobody can type them by accident.`,
  ],
  special_more: (n) => `${n} more`,
  template_title: "A conversation as one text",
  template_story: () => [
    `A chat model sees a conversation as a single text. Its *chat template* writes the turns one after another ` +
    `between special tokens, and ends where the model should go on.`,
  ],
  no_template: "This model has no chat template: it continues text.",
  batch_title: "Several texts as one table",
  batch_story: (rows, cols) => [
    `Many texts can be run at once, as a *batch*: here ${rows} texts of up to ${cols} tokens. A table needs rows of ` +
    `equal length, so short ones are filled with *padding* (grey), and a *mask* keeps attention from looking at it.`,
  ],

  // 3
  embed_title: "A row for each token",
  embed_story: (m) => [
    `The id is only a place in a list. The first thing the model does is look it up: row number *id* of a table with ` +
    `${m.config.vocab_size.toLocaleString("en")} rows and ${m.config.d_model} columns. The row is the token's ` +
    `*embedding*: ${m.config.d_model} numbers, learned, in which tokens used alike have come to lie close together.`,
    ...(m.config.embedding_scale !== 1
      ? [`In this model each row is then multiplied by √D = ${m.config.embedding_scale.toPrecision(4)}.`]
      : []),
  ],
  lookup_caption: (id, text, rows) =>
    `Token “${text}” has id ${id}: that row of ${rows.toLocaleString("en")} is copied out`,
  a_row_of: (n, shown) => `${n} numbers (${shown} drawn)`,
  thread_rows: "The sentence is now rows of numbers",
  block_story: (shape) => [
    `The [batch](#text) goes through the same table: ${shape[0]} texts of ${shape[1]} ids become a block of ` +
    `${shape[0]} × ${shape[1]} × ${shape[2]} numbers (texts, positions, dimensions). Every tensor below has these ` +
    `axes, with one text where you gave one.`,
  ],
  position_title: "Where each token stands",
  sinusoidal_story: () => [
    `A row says which token it is, not where it stands. This model adds a second table, the *position encoding*, ` +
    `made of sines and cosines: fast waves in the first columns, slow ones in the last, so that each position has a ` +
    `pattern of its own and neighbours are alike. Nothing in it is learned. Move over it to see a cell's own term.`,
  ],
  sinusoidal_title: "Sinusoidal position table",
  sinusoidal_caption: (n, d) =>
    `The first ${n} positions (down) and all ${d} dimensions (across). The picture is recomputed here from the ` +
    `formula; the rows used in this run are below it.`,
  wave: (j) => `Dimension ${j} over the positions`,
  learned_story: (m) => [
    `A row says which token it is, not where it stands. This model adds a second learned table, with one row for ` +
    `each of ${m.config.context_len} positions.`,
  ],
  position_sum_story: () => [`Token row plus position row: this sum is what the first layer reads.`],
  rotary_title: "Rotary positions",
  rotary_story: (rope) => [
    `A row says which token it is, not where it stands. This model adds nothing to the rows. Instead, inside ` +
    `attention, it turns each [query and key](#attention) by an angle that grows with the position: *rotary position ` +
    `embedding*. Numbers are taken in pairs, each pair is an arrow in a plane, and pair *j* turns by ω per position, ` +
    `fast for the first pairs, slow for the last. Two arrows turned alike keep their angle, so a product of {q} and ` +
    `{k} depends only on how far apart the tokens are.`,
  ],
  rotary_caption: (half) =>
    `One pair of dimensions of a query and of a key, before and after turning (pairs are ` +
    `${half ? "j and j + half" : "2j and 2j + 1"})`,
  pair: "Pair",
  key_position: "Key at",
  dashed_before: "dashed: as projected",
  own_scale: "each drawn to its own length",
  solid_after: "solid: turned by its position",
  rotary_said: (r) =>
    `Pair ${r.pair} is dimensions ${r.a} and ${r.b}. The query at position ${r.pos} turns by ${r.degrees}°, from ` +
    `(${r.x}, ${r.y}) to (${r.rx}, ${r.ry}); the key at ${r.key} by ${r.turn}°.`,
  alibi_story: (slopes) => [
    `This model has no vector for a position. Each head lets its scores fall with the distance of the other token ` +
      `instead (*ALiBi*): by ${slopes[0].toPrecision(3)} a token in the first head, by ` +
      `${slopes.at(-1).toPrecision(3)} in the last. A steep head looks near, a flat one far.`,
  ],
  embed_norm_story: () => [`Before the first layer, each row is brought to a common scale by a norm.`],
  no_position_story: () => [
    `This model adds no position: order enters only through the mask, which lets a token see those before it.`,
  ],

  // 4
  model_title: "The model from above",
  model_story: (m) => [
    `Here is the whole machine, drawn from its description; read it from the bottom up. A vertical line runs ` +
    `through: the *residual stream*, one row of ${m.config.d_model} numbers for each token. ` +
    `${s(m.layers.length, "layer")} in turn read from it and add to it. In each, [attention](#attention) brings in ` +
    `what other tokens know, and the [MLP](#mlp) works on each token by itself. What has gathered at the top is ` +
    `compared with every token of the vocabulary.`,
  ],
  map_caption: "Touch a part to go to its numbers.",
  map_output: "logits",
  map_output_is: (v, tied) => `${v} scores${tied ? ", with the embedding table" : ""}`,
  map_norm: "final norm",
  map_more: (n, from, to) => `${s(n, "layer")} (${from === to ? from : `${from}–${to}`})`,
  map_mlp: "MLP",
  gated: "gate",
  map_attention: "attention",
  map_rotary: "rotary",
  map_window: (n) => `window ${n}`,
  map_router: (n) => `router, ${n} experts`,
  map_position_sinusoidal: "+ sines and cosines",
  map_position_learned: "+ learned positions",
  map_embed: "embedding",
  map_text: "text → ids",
  head_of_group: (h, g) => `head ${h}, keys and values ${g}`,
  layers_table: "Every layer as the config has it",

  // 5
  cell_title: "Why this value?",
  cell_story: () => [
    `Nothing here is more than sums, products and a few functions, and each can be opened. Choose a step, point at a ` +
    `cell, press it. The panel shows the equation with that cell's own numbers, its terms from the largest down, and ` +
    `where each came from; press one to go on to it. Walked far enough, every path ends at a weight or at a token ` +
    `you typed.`,
  ],
  cell_hint: "With the keyboard: Tab to the picture, arrows to move, Enter to ask.",
  smaller_terms: (n) => `${n} smaller`,
  and_smaller: (n) => `… and ${s(n, "smaller term")}`,
  terms_by_size: (n) => (n === 1 ? "One term" : `${n} terms, the largest first`),
  recomputed: (value, error) => `Recomputed in double precision from these operands: ${value} (differs by ${error}).`,
  part_of: {
    mu: "mean μ",
    sigma: "spread σ",
    eps: "ε",
    max: "row's maximum",
    sum: "sum",
    numerator: "numerator",
    logsumexp: "logsumexp",
    scale: "scale",
    angle: "angle",
    dot: "q·k",
    unmasked: "before the mask",
    activation: "activation",
    gamma: "γ",
    beta: "β",
    position: "position",
  },
  token_ids: "Token id",
  position_ids: "Position",
  weight_cell: "A weight. Training put this number here; nothing in this run computed it.",
  token_cell: "A token of the sentence: here the walk ends.",
  masked_later: "Masked: this key comes after the query.",
  masked_window: "Masked: this key is further back than the window.",
  masked_chunk: "Masked: this key is in another chunk of the text.",
  masked_padding: "Masked: this key is padding.",

  // 6
  attention_title: "Attention: who looks at whom",
  attention_story: (l) => [
    `So far each token knows only itself. In *attention*, each looks back at those before it and takes in what it ` +
    `finds. It does so ${l.num_heads} times in parallel, in ${s(l.num_heads, "*head*")} with weights of their own.`,
  ],
  thread_stream: "The stream as this layer finds it",
  heads_title: "All heads of the layer",
  heads_story: () => [
    `Each small map is one head: rows look, columns are looked at, darker is more. The upper right is empty, since ` +
    `no token sees what comes after it. Many heads park their attention on the first token when they have nothing to ` +
    `find: an *attention sink*.`,
  ],
  sink: (sink, before) => `first ${sink}, previous ${before}`,
  arcs_title: "One head, one query",
  arcs_story: () => [
    `Choose a token. The arcs show where it looks, as thick as the weight; weights under 2 % fade. All weights ` +
    `together make 100 %.`,
  ],
  arcs_caption: (token, best) => `“${token}” looks at: ${best}`,
  arcs_hidden: (n, p) => `(the first ${n} tokens, not drawn, get ${p})`,
  not_yet: "not yet",
  lookers_title: "Which heads make this connection?",
  lookers_to: "looks at",
  lookers_of: (n) =>
    `The strongest of all ${n} heads of the model. Press one to go to it; “What if?” shows what happens without it.`,
  qkv_title: "Query, key, value",
  qkv_story: (l) => [
    `How is it decided who looks where? Each token's row is multiplied by three tables. The first gives its *query* ` +
    `{q}, what it looks for; the second its *key* {k}, what it can be found by; the third its *value* {v}, what it ` +
    `hands over when ` +
    "found." +
      (l.num_kv_heads < l.num_heads
        ? ` Here ${l.num_heads} heads share ${l.num_kv_heads} sets of keys and values.`
        : "") +
      (l.rope ? " Queries and keys are then turned by their [position](#position)." : ""),
  ],
  stages_title: "From products to weights",
  stages_story: (l) => [
    `A query and a key that point the same way have a large product. It is scaled by ${l.scale.toPrecision(3)}, so ` +
    `that sums over ${l.head_dim} numbers do not grow with their count. The *mask* then rules out later tokens with ` +
    `−∞, and *softmax* turns scores into shares: e to the power of each, divided by their sum.`,
  ],
  stage_raw: "q·k",
  stage_scaled: (scale) => `× ${scale}`,
  stage_masked: "masked",
  stage_softmax: "softmax",
  stages_some: (n, all) => `The ${n} of ${all} keys that matter most, in order.`,
  stages_recomputed: (cap) =>
    `The first two columns are recomputed here from q and k; the others are the run's ` +
    `own.${cap ? ` This model also caps scores at ±${cap}.` : ""}`,
  mix_title: "What is brought back",
  mix_story: () => [
    `With the shares, the values are mixed: {z} is the sum of each looked-at {v} times its share. The heads' results ` +
    `are laid side by side, multiplied by one more table, and added to the stream.`,
  ],

  // 7
  mlp_title: "Layer norm and MLP",
  norm_story: (l) => {
    const at = (place) => l.norms.some((norm) => norm.place === place);
    return [
      l.norms.some((norm) => norm.kind === "layer")
        ? `Before and after the heavy work, sizes are brought into bounds. *Layer norm* takes a token's row, ` +
          `subtracts its mean μ, divides by its spread σ, then stretches and shifts each dimension by two learned ` +
          `numbers, γ and β.`
        : `Around the heavy work, sizes are brought into bounds. *RMSNorm*, the plain kind of *layer norm*, divides ` +
          `a token's row by its root mean square, then stretches each dimension by a learned number γ. There is no ` +
          `mean to subtract and no β.`,
      at("sum")
        ? "In this model the norm comes after each sum, as in the paper of 2017."
        : at("before") && at("after")
          ? "In this model one norm comes before a part, and one after it, before its result is added; the stream " +
            "itself is left as it is."
          : at("after")
            ? "In this model the norm comes after each part, before its result is added; the stream itself is left " +
              "as it is."
            : at("before")
              ? "In this model the norm comes before each part; the stream itself is left as it is."
              : "In this layer nothing is normalized.",
      l.norms.some((norm) => norm.offset) ? "The file holds what γ has beyond 1." : "",
      l.parallel ? "Attention and the MLP stand side by side: both read the stream as it came in." : "",
    ].filter(Boolean);
  },
  norm_caption: "One row, before and after",
  norm_at: {
    attention: { before: "before attention", after: "after attention", sum: "over attention's sum" },
    mlp: { before: "before the MLP", after: "after the MLP", sum: "over the MLP's sum" },
  },
  no_norms: "This layer has no norms.",
  norm_before: "x, the row as it comes",
  norm_between: "(x − μ) / σ",
  norm_between_rms: "x / rms",
  norm_gain: "γ, learned",
  norm_shift: "β, learned",
  norm_after: "the result",
  norm_hover: "Move over a band to follow one dimension through.",
  mlp_h3: "The MLP: each token by itself",
  mlp_story: (c, l) => [
    `The *MLP* works on each token alone. It compares the row with ${l.mlp.d_ff.toLocaleString("en")} learned ` +
    `patterns, its *neurons*; ${l.mlp.activation.replace("_tanh", "").toUpperCase()} lets strong matches through and ` +
    `holds the others near zero${l.mlp.gated ? ", and a second match, the *gate*, scales each" : ""}. Every neuron ` +
    `that answers adds its own learned row back to the stream.` +
      (l.experts
        ? ` Here there are ${l.experts.num_experts} such MLPs, the *experts*. A *router* compares the token with one ` +
          `direction for each and asks only the ${l.experts.experts_per_token} that suit it best; their answers are ` +
          `added up by weight.`
        : ""),
  ],
  expert: "expert",
  experts_caption: (token, n, all) => `The ${n} of ${all} experts that “${token}” is sent to, and what each counts for`,
  neurons_caption: (token, n, active) =>
    `The neurons that answer most to “${token}”: of ${n.toLocaleString("en")}, ${active} reach a tenth of the ` +
    `strongest`,

  // 8
  residual_title: "The residual stream",
  residual_story: (m) => [
    `Each layer adds; none overwrites. The row that started as a token's embedding gathers ${2 * m.layers.length} ` +
    `additions on its way up: a *residual* stream. Below is how long the row becomes (its norm, on a logarithmic ` +
    `scale).`,
  ],
  thread_end: "The stream after the last layer",
  norms_caption: (token, from, to) =>
    `Length of the row at “${token}”: ${from} at first, ${to} at the end; other positions in grey`,
  lens_title: "What it would say now",
  lens_story: () => [
    `Take the row as it is after some layer and treat it as if it were the last: apply the final norm, compare with ` +
    `every token. This *logit lens* shows a guess forming, from the bottom up.`,
  ],
  lens_caption: "The likeliest token after each layer; darker is surer. Press a cell to go to its layer and position.",
  lens_rank: (token) => `place of “${token}”`,
  lens_entropy: "entropy, bits",
  lens_kl: "KL, nats",
  lens_beside: (token) =>
    `Beside it, for the chosen position: at which place the final answer “${token}” stands, how undecided the guess is ` +
    `(entropy), and how far it is from the final distribution (KL). Where the entropy is low and KL high, the guess is ` +
    `no opinion: the last layers' output table reads a row that is not yet written for it.`,
  attribution_title: "Who wrote the answer",
  attribution_story: () => [
    `Since the stream is a sum, the score of a token is a sum too: so much from the embedding, so much from each ` +
    `layer's attention and MLP. Positive parts speak for the token, negative ones against it. The final norm's scale ` +
    `is kept as it was in the run.`,
  ],
  by_part: "by part",
  by_head: "by head",
  by_neuron: "by neuron",
  against: "instead of",
  attribution_said: (token, logit, at, rival) =>
    rival === null
      ? `Logit of “${token}” after “${at}”: ${logit}`
      : `After “${at}”, the logit of “${token}” is ${logit} above that of “${rival}”. Parts to the right spoke for ` +
        `“${token}”, to the left for “${rival}”.`,
  attribution_note: (total, logit, error) =>
    `The parts add up to ${total}; the run's logit is ${logit} (differs by ${error}).`,
  attribution_heads_note: "Each head's share of what its layer's attention wrote.",
  attribution_neurons_note: "The strongest neurons of all layers; each is a part of what its layer's MLP wrote.",
  part_name: (p) =>
    p.what === "embed"
      ? "embedding"
      : p.what === "position"
        ? "position"
        : p.what === "bias"
          ? "biases"
          : p.neuron !== undefined
            ? `layer ${p.layer}, neuron ${p.neuron}`
            : p.head !== undefined
              ? `layer ${p.layer}, head ${p.head}${p.path?.endsWith("ssm_y") ? " (state space)" : ""}`
              : `layer ${p.layer}, ${{ mlp: "MLP", mixer: "mixer", side: "side input" }[p.what] ?? "attention"}`,

  // 9
  output_title: "From scores to a token",
  output_story: (m) => [
    `The last row is compared with every token of the vocabulary: one dot product each, ` +
    `${m.config.vocab_size.toLocaleString("en")} scores, the *logits*. Softmax makes them probabilities. Then one is ` +
    `drawn, and the rules of the draw are yours: *temperature* sharpens (below 1) or flattens (above) the whole; ` +
    `*top-k* keeps the k likeliest; *top-p* the fewest that together reach p; *min-p* those that reach a fraction of ` +
    `the best.`,
  ],
  thread_final: "The rows after the final norm",
  temperature: "Temperature",
  top_k: "top-k",
  top_p: "top-p",
  min_p: "min-p",
  draw: "Draw a token",
  drawn: "Drawn:",
  sampler_said: (r) =>
    `${r.kept.toLocaleString("en")} of ${r.of.toLocaleString("en")} tokens are left in the draw; before the cut they ` +
    `held ${r.left}. Entropy ${r.entropy} bits.`,
  rest_cut: (n) =>
    `This file holds the top logits only; ${n.toLocaleString("en")} others are left out, so shares are slightly too ` +
    `large.`,
  entropy_title: "How surprised it was",
  entropy_story: () => [
    `At every position the model had a guess, and the text had an answer. The *cross-entropy* is −log of the ` +
    `probability that it gave to the answer: 0 if it was certain and right, large if it was caught out. Training is ` +
    `nothing but making this number smaller, on average, over much text.`,
  ],
  surprise_caption: (mean, ppl) => `−log p of each token, in nats: mean ${mean}, perplexity ${ppl}`,
  one_token: "This text is a single token: there is no next one that could surprise.",
  target_label: "A continuation of your own",
  target_placeholder: "Type a continuation, e.g. how you would go on",
  score: "How likely?",
  target_caption: (mean, p) => `Your continuation: ${mean} nats a token, probability of the whole ${p}`,

  // 10
  decode_title: "One token longer",
  decode_story: () => [
    `The drawn token is put at the end of the sentence, and everything starts again: that is all that writing is. ` +
    `But the rows of the earlier tokens would come out the same, so their keys and values are kept, in the *KV ` +
    `cache*. Reading the prompt (*prefill*) handles all its tokens at once; each new one (*decode*) is a single row.`,
  ],
  one_more: "One more token",
  eight_more: "Eight more",
  start_again: "Start again",
  look_inside: "Look inside the longer sentence",
  sampled_08: "sampled, T = 0.8",
  next_caption: "What may come next (press one to choose it)",
  cache_caption: (c) => `KV cache: ${c.length} tokens in ${c.bytes}, ${c.each} for each`,
  cache_axes: (n, step) =>
    `Columns are positions, rows are ${n} layers${step > 1 ? ` (every ${step}th)` : ""}: keys above, values below.`,
  cache_some: (n) => `The last ${n} positions are drawn.`,
  times_caption: "What each step took, on this machine",
  prefill: (n) => `prefill ${n}`,
  times_said: (a, b) => `Prefill ${a} tokens a second; decode ${b}.`,

  // 11
  whatif_title: "What if?",
  whatif_story: () => [
    `To know what a part does, take it away. Silence a head, or put in what the same place held for another ` +
    `sentence, or let the model read another token; the rest runs as before, through the same code.`,
  ],
  ablate_head: "Silence a head",
  ablate_part: "Silence a part",
  patch: "Patch from another sentence",
  swap: "Swap a token",
  everywhere: "everywhere",
  at_position: (i) => `only at position ${i}`,
  try_it: "Try it",
  patch_placeholder: "Another sentence, with as many tokens up to the patched one",
  swap_placeholder: "A text that is one token, or an id",
  before: "As it was",
  after: "With the change",
  open_edited: "Look inside the changed run",
  silenced_head: (layer, head) => `Head ${head} of layer ${layer} silenced`,
  silenced_part: (where) => `${where} silenced`,
  patched: (where, pos) => `${where} at position ${pos} taken from the other sentence`,
  swapped: (pos, token) => `Token ${pos} read as “${token}”`,
  only_at: (pos) => ` at position ${pos}`,
  whatif_said: (w) =>
    `${w.label}. Before: “${w.before}” (${w.p}); after: “${w.after}” (${w.q}). The distributions differ by ${w.kl} ` +
    `nats (Kullback–Leibler).`,
  change: "change",
  change_caption:
    "Where the stream changed: the length of the difference, as a share of the row's own length. Earlier layers " +
    "(above the change) and earlier positions (left of it) are as they were.",
  compare_title: "Two models side by side",
  compare_story: () => [`The same text through two models, or two checkpoints of one.`],
  compare_absent: "Open the page with a second model to compare: pellucid explain -m MODEL --beside OTHER --open.",
  compare_said: (a, x, b, y) => `Mean surprise on this text: ${a} ${x} nats a token, ${b} ${y} nats a token.`,
  compare_said_bits: (a, x, b, y) =>
    `The two cut the text into different tokens, so nats a token cannot be compared. By what each byte of the text ` +
    `cost: ${a} ${x} bits a byte, ${b} ${y} bits a byte.`,
  compare_positions: "Surprise at each token, the difference (right: the second model was more surprised)",

  // 12
  training_title: "Training: where the numbers come from",
  training_story: () => [
    `Before training, every weight is a random number, and so is every guess. Then the model reads some text, and at ` +
    `each token its surprise is measured: the [cross-entropy](#output), called *loss*. For each weight one can ` +
    `compute which way to move it so that the loss shrinks; that direction is the *gradient*. All weights take one ` +
    `small step, and the next text is read. Nothing else happens, many times over.`,
  ],
  training_absent:
    "This model's training left no record here. A run of your own has one: `pellucid pretrain -d book.txt -o " +
    "runs/book --watch` shows it live, `pellucid explain runs/book` afterwards.",
  watch_title: (name) => `${name}: watch it learn`,
  watch_hero: () => [
    "Every picture below is drawn from what the run has written into its folder so far. While it goes on, they grow. " +
    "When there is a finished model, or a checkpoint, `pellucid explain` with the same folder also opens the model " +
    "itself, number by number.",
  ],
  run_running: "learning",
  run_finished: "finished",
  run_stopped: "stopped",
  run_lost: "The run has ended or the page was closed at its source; pellucid explain with its folder opens it again.",
  run_step: "step",
  run_loss: "loss, smoothed",
  run_val: "validation",
  run_speed: "tokens a second",
  run_tokens: "tokens read",
  run_time: "time taken",
  run_left: "time left",
  run_recording: "time for this record",
  setting: {
    method: "method",
    optimizer: "optimizer",
    lr: "peak rate",
    schedule: "schedule",
    warmup_steps: "warm-up steps",
    batch_size: "rows a step",
    context_len: "context",
    weight_decay: "weight decay",
    dropout: "dropout",
    max_grad_norm: "clipped beyond",
    seed: "seed",
  },
  curves_title: "How wrong it is",
  steps_even: "steps",
  steps_log: "log steps",
  curve_raw: "each step",
  curve_smooth: "smoothed",
  curve_val: "validation, on text it never learns from",
  uniform: (nats) => `guessing blindly: ${nats}`,
  loss_name: "Loss",
  loss_says:
    "The mean surprise at the next token, in nats: it falls as the model learns. Where validation stops falling " +
    "while training goes on, it learns by heart.",
  loss_said: (p) =>
    `step ${p.step}: loss ${p.loss}, smoothed ${p.smooth}${p.val ? `; validation ${p.val} (step ${p.at})` : ""}`,
  lr_name: "Learning rate",
  lr_says:
    "How long a step each update takes: short at first, while directions are wild, then long, then ever shorter.",
  lr_said: (step, value) => `step ${step}: ${value}`,
  grad_norm_name: "Gradient norm",
  grad_norm_says:
    "The length of all gradients together: how steep the loss is where the model stands. Peaks are cut before the " +
    "update.",
  grad_norm_said: (step, value) => `step ${step}: ${value}`,
  tokens_per_second_name: "Speed",
  tokens_per_second_says:
    "Tokens learned from in a second, rows × length by time; dips are steps in which the machine had other work.",
  tokens_per_second_said: (step, value) => `step ${step}: ${value} tokens a second`,
  skipped_step: (step, why) => `Step ${step} was left out: ${why}.`,
  weights_title: "Which weights move",
  ratio_short: "update / weight",
  grad_short: "gradient",
  weight_short: "size",
  by_layer: "by layer",
  by_weight: "each weight",
  as_at_first: "as at first",
  weights_said: (p) => `${p.row}, step ${p.step}`,
  short_part: { attention: "attention", mlp: "MLP", attention_norm: "norm 1", mlp_norm: "norm 2" },
  ratio_name: "Update over weight",
  ratio_says:
    "How far one step moved the weights, as a share of their length. About a thousandth (white) is a good pace for " +
    "matrices; orange is fast and may shake, blue is slow or asleep.",
  grad_name: "Gradient, layer by layer",
  grad_says:
    "How strongly the loss pulls at each part, before clipping; white is the middle of all. A row that stays blue " +
    "learns little, one that turns orange is where trouble begins.",
  weight_name: "Size of the weights",
  weight_says:
    "The length of each part's weights against what it was at the first record (white): training makes most of them " +
    "grow.",
  margin_name: "Margin on held-back pairs",
  margin_says:
    "How much more the chosen answers have gained on the reference than the rejected ones, times β: 0 at the start, " +
    "and it should rise on pairs the model never learned from.",
  margin_said: (step, value) => `step ${step}: ${value}`,
  as_the_reference: "as the reference",
  accuracy_name: "Pairs judged right",
  accuracy_says: "In how many of the held-back pairs the chosen answer gained more. One half is a coin's toss.",
  accuracy_said: (step, value) => `step ${step}: ${value}`,
  as_a_coin: "a coin",
  stream_name: "Activations, layer by layer",
  stream_says:
    "How large the numbers of the residual stream are on the text below, before the first layer and after each; " +
    "white is 1. Each layer adds to the stream, so it grows with depth; a row that grows without end is where a run " +
    "breaks.",
  stream_said: (p) => `${p.layer === null ? "before layer 0" : `after layer ${p.layer}`}, step ${p.step}`,
  stream_first: "embed",
  reading_title: "What it is reading",
  batch_name: "The current batch",
  batch_says:
    "The first rows of the batch, before the model learned from them. The colour of a token is the model's surprise " +
    "at it; crossed out are those that the mask leaves out of the loss.",
  batch_said: (p) => `after “${p.before}” came “${p.text}”: −log p = ${p.nats} nats, p = ${p.p}`,
  batch_masked: (p) => `“${p.text}” does not count: the mask leaves it out`,
  masked_key: "left out by the mask",
  nats: (n) => `${n} nats`,
  batch_foot: (p) => `step ${p.step}: ${p.rows} of ${p.of} rows of ${p.length} tokens; their mean loss ${p.mean}`,
  not_yet_recorded: "Nothing is recorded yet; it comes with the first steps.",
  snapshots_title: "How it changes",
  snapshots_story:
    "The same short text, through the model as it was at some steps: from the random start, at even distances on a " +
    "logarithmic scale, since most happens early. Move the slider, or let it play.",
  scrubber: "Step of the snapshot",
  play: "Play, or pause",
  at_step: (n) => `step ${n}`,
  snapshot_loss: (nats) => `${nats} nats on this text`,
  guesses_name: "What it expects",
  guesses_says:
    "Each token of the text, darker the surer the model was of it, and below it what the model thought likeliest.",
  guess_said: (p) => `“${p.text}” had ${p.p}; likeliest: ${p.top}`,
  heads_then_name: "Attention",
  heads_then_says:
    "Rows look, columns are looked at. At first every head looks evenly at all that came before; with time each " +
    "finds something of its own to look for. Press a head to enlarge it.",
  distance_name: "How far back heads look",
  distance_says:
    "For each head (layer·head), the mean weight of the token *d* before, d = 0 being the token itself. A dark " +
    "column at 1 is a head that looks at the token before.",
  distance_said: (p) => `layer ${p.layer}, head ${p.head}, ${p.back} back`,
  embedding_name: "Embeddings",
  embedding_says:
    "The commonest tokens where their rows of the table lie, in the plane in which the last snapshot is spread " +
    "widest. The plane stays the same, so what moves is the tokens: those used alike drift together.",
  embedding_said: (p) => `“${p.text}”, nearest in all dimensions: ${p.near}`,
  embedding_share: (p) => `This plane holds ${p} of the last snapshot's spread.`,
  token_kind: {
    vowel: "vowels",
    lower: "lower case",
    upper: "upper case",
    digit: "digits",
    han: "Chinese",
    mark: "marks and spaces",
  },
  positions_name: "Positions",
  positions_says:
    "The cosine between any two rows of the learned position table: at first unrelated, then neighbours grow alike.",
  positions_said: (i, j) => `positions ${i} and ${j}`,
  positions_rotary:
    "Positions: this model turns queries and keys by fixed angles, so nothing of its positions is learned; what it " +
    "makes of them is in the picture above.",
  positions_sinusoidal:
    "Positions: this model adds fixed sines and cosines, which training does not change; what it makes of them is in " +
    "the picture above.",
  positions_none: "Positions: this model has none; order enters only through the mask.",
  samples_title: "What it writes",
  samples_name: "Texts over time",
  samples_says:
    "Now and then the run lets the model write, each token drawn from its own probabilities: first letters, then " +
    "words, then lines.",
  no_samples: "No text yet.",
};
