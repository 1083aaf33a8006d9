// pieces.h: SentencePiece (Kudo & Richardson 2018) before it looks for pieces: the text is normalized, and spaces are written ▁.
#define SPACE "\xe2\x96\x81"

typedef struct { char *bytes; size_t length, room; } Text;

static void add_text(Text *text, const char *bytes, size_t length) {
    if (text->length + length > text->room) text->bytes = grown(text->bytes, text->room = (text->room + length) * 2 + 64);
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
}

// Of the tokens sorted[low … high − 1], which agree in their first `depth` bytes, those that go on with `byte`.
SOME void narrow(const Vocabulary *v, uint32_t *low, uint32_t *high, uint32_t depth, uint8_t byte) {
    uint32_t ends[2];
    for (int side = 0; side < 2; side++) { // the first that goes on with no less than byte, and than byte + 1
        uint32_t from = *low, to = *high;
        while (from < to) {
            const uint32_t middle = (from + to) / 2, id = v->sorted[middle];
            const int its = depth < length_of(v, id) ? (uint8_t)v->text[v->starts[id] + depth] : -1;
            if (its < byte + side) from = middle + 1;
            else to = middle;
        }
        ends[side] = from;
    }
    *low = ends[0], *high = ends[1];
}

// The longest user-defined symbol that a text begins with: its length, or 0.
static size_t symbol_at(const Vocabulary *v, const char *text, size_t left, uint32_t *id) {
    size_t longest = 0;
    uint32_t low = 0, high = VOCAB_TOKENS;
    for (uint32_t depth = 0; NUM_SYMBOLS && depth < left && low < high; depth++) {
        narrow(v, &low, &high, depth, (uint8_t)text[depth]);
        for (uint32_t i = low; i < high && length_of(v, v->sorted[i]) == depth + 1; i++)
            if (v->kinds[v->sorted[i]] == SYMBOL_TOKEN) longest = depth + 1, *id = v->sorted[i];
    }
    return longest;
}

// What a text begins with, normalized: the longest key of the trie by its replacement, else a character as it is. Returns the bytes read.
static size_t normalize_prefix(const Vocabulary *v, const char *text, size_t left, const char **out, size_t *length) {
    uint32_t id;
    size_t read = symbol_at(v, text, left, &id), found = 0;
    *out = text;
    if (read) return *length = read;
#if TRIE_UNITS > 0
    uint32_t at = 0;
    for (size_t i = 0; i <= left; i++) { // a unit: where its children are, its label, whether one of them is an end, which holds a value
        const uint32_t unit = v->trie[at], child = at ^ (unit >> 10 << ((unit & 512) >> 6));
        if (i && (unit >> 8 & 1) && child < TRIE_UNITS && (v->trie[child] & 0x7fffffff) < REPLACEMENT_BYTES)
            found = i, *out = v->replacements + (v->trie[child] & 0x7fffffff);
        if (i == left) break;
        at = child ^ (uint8_t)text[i];
        if (at >= TRIE_UNITS || (v->trie[at] & 0x800000ff) != (uint8_t)text[i]) break;
    }
#endif
    if (found) {
        *length = strlen(*out);
        return found;
    }
    if (character(text, left, &read) == 0xfffd && read == 1) *out = "\xef\xbf\xbd", *length = 3;
    else *length = read;
    return read;
}

static Text normalized(const Vocabulary *v, const char *text, size_t length, bool space_first) {
    Text made = {0};
    bool after_space = TRIM_SPACES;
    if (space_first && !TRIM_SPACES) add_text(&made, SPACE, 3);
    for (size_t at = 0, size; at < length;) {
        const char *part;
        at += normalize_prefix(v, text + at, length - at, &part, &size);
        while (after_space && size && *part == ' ') part++, size--;
        if (size && space_first && TRIM_SPACES && !made.length) add_text(&made, SPACE, 3);
        for (size_t i = 0; i < size; i++) add_text(&made, part[i] == ' ' ? SPACE : part + i, part[i] == ' ' ? 3 : 1);
        if (size) after_space = TRIM_SPACES && part[size - 1] == ' ';
    }
    while (TRIM_SPACES && made.length >= 3 && !memcmp(made.bytes + made.length - 3, SPACE, 3)) made.length -= 3;
    return made;
}

// What is no piece: its bytes; without tokens for bytes, one unknown for all that stands together.
static void push_unknown(const Vocabulary *v, const char *text, size_t length, bool again, Ids *ids) {
    if (BYTE_FALLBACK) push_bytes(v, text, length, ids);
    else if (!again) push(ids, UNKNOWN_ID);
}
