// vocabulary.h: the tokens. They stand in the parameters file, behind the weights.
enum { NO_TOKENIZER, SENTENCEPIECE, BYTE_LEVEL, UNIGRAM };
enum {
    NORMAL_TOKEN,
    SPECIAL_TOKEN, // recognized in a prompt as a whole, not printed
    BYTE_TOKEN,    // stands for a byte of what is no token
    SYMBOL_TOKEN,  // SentencePiece's user-defined symbols: never cut, never joined
    ADDED_TOKEN,   // recognized in a prompt as a whole, and printed
    HIDDEN_TOKEN,  // neither: no text can write it
};

typedef struct { uint32_t left, right, rank, joined; } Merge;
typedef struct { uint32_t first, last; } Range;

typedef struct {
    const uint32_t *starts; // [VOCAB_TOKENS + 1]: where each token's bytes begin
    const uint32_t *sorted; // [VOCAB_TOKENS]: ids in the order of their bytes
    const float *scores;    // [VOCAB_TOKENS], of SentencePiece
    const uint32_t *bytes;  // [256]: the token of a byte, or NONE
    const Merge *merges;    // [NUM_MERGES], ordered by left, right
    const Range *letters, *digits; // Unicode's L and N
    const Range *upper, *lower;    // what may begin a word of its own, and what goes on with one: patterns that tell Aa from aA
    const Range *composing;        // what normalization to NFC may change, where the tokenizer normalizes
    const uint32_t *trie;          // [TRIE_UNITS]: what SentencePiece's normalization replaces, a double array (Aoe 1989, Darts)
    const char *replacements;      // [REPLACEMENT_BYTES]: by what, each ended by a zero
    const uint8_t *kinds;   // [VOCAB_TOKENS]
    const char *text;
} Vocabulary;

// The vocabulary in the parameters file; false where what it says cannot be.
static bool read_vocabulary(const Model *m, Vocabulary *v) {
    const uint8_t *p = m->parameters.bytes + TOKENIZER_OFFSET;
    v->starts = (const void *)p, p += (VOCAB_TOKENS + 1) * sizeof(uint32_t);
    v->sorted = (const void *)p, p += VOCAB_TOKENS * sizeof(uint32_t);
    v->scores = (const void *)p, p += VOCAB_TOKENS * sizeof(float);
    v->bytes = (const void *)p, p += 256 * sizeof(uint32_t);
    v->merges = (const void *)p, p += (size_t)NUM_MERGES * sizeof(Merge);
    v->letters = (const void *)p, p += NUM_LETTER_RANGES * sizeof(Range);
    v->digits = (const void *)p, p += NUM_DIGIT_RANGES * sizeof(Range);
    v->upper = (const void *)p, p += NUM_UPPER_RANGES * sizeof(Range);
    v->lower = (const void *)p, p += NUM_LOWER_RANGES * sizeof(Range);
    v->composing = (const void *)p, p += NUM_COMPOSING_RANGES * sizeof(Range);
    v->trie = (const void *)p, p += TRIE_UNITS * sizeof(uint32_t);
    v->replacements = (const char *)p, p += REPLACEMENT_BYTES;
    v->kinds = p, p += VOCAB_TOKENS;
    v->text = (const char *)p;
    if (v->starts[0] != 0 || v->starts[VOCAB_TOKENS] != TEXT_BYTES) return false;
    for (uint32_t i = 0; i < VOCAB_TOKENS; i++)
        if (v->starts[i] > v->starts[i + 1] || v->sorted[i] >= VOCAB_TOKENS) return false;
    for (int i = 0; i < 256; i++)
        if (v->bytes[i] != NONE && v->bytes[i] >= VOCAB_TOKENS) return false;
    for (int i = 0; i < NUM_MERGES; i++)
        if (v->merges[i].joined >= VOCAB_TOKENS) return false;
    return REPLACEMENT_BYTES == 0 || v->replacements[REPLACEMENT_BYTES - 1] == 0;
}

static uint32_t length_of(const Vocabulary *v, uint32_t id) { return v->starts[id + 1] - v->starts[id]; }

// The token whose bytes these are, or NONE.
SOME uint32_t token_of(const Vocabulary *v, const char *text, size_t length) {
    uint32_t low = 0, high = VOCAB_TOKENS;
    while (low < high) {
        const uint32_t middle = (low + high) / 2, id = v->sorted[middle], its = length_of(v, id);
        int order = memcmp(v->text + v->starts[id], text, its < length ? its : length);
        if (!order) order = its < length ? -1 : its > length;
        if (!order) return id;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NONE;
}

// The character that a text begins with, and its bytes in UTF-8; a stray byte stands alone, as U+FFFD.
static uint32_t character(const char *text, size_t left, size_t *length) {
    const uint8_t c = (uint8_t)*text;
    const size_t size = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    uint32_t code = size > 1 ? c & (0xffu >> (size + 1)) : c;
    *length = 1;
    if (!size || size > left) return 0xfffd;
    for (size_t i = 1; i < size; i++) {
        if (((uint8_t)text[i] & 0xc0) != 0x80) return 0xfffd;
        code = code << 6 | ((uint8_t)text[i] & 63);
    }
    if ((size == 3 && code < 0x800) || (size == 4 && (code < 0x10000 || code > 0x10ffff)) || (code >= 0xd800 && code < 0xe000)) return 0xfffd;
    *length = size;
    return code;
}

// What is no token becomes its bytes, where the vocabulary has tokens for them; else it is unknown.
static void push_bytes(const Vocabulary *v, const char *text, size_t length, Ids *ids) {
    for (size_t i = 0; i < length; i++) {
        const uint32_t id = v->bytes[(uint8_t)text[i]];
        push(ids, id != NONE ? id : UNKNOWN_ID);
    }
}
