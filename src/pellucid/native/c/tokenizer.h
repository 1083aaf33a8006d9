// tokenizer.h: text to token ids and back. What the vocabulary is stands in the parameters file, behind the weights.
//
// SENTENCEPIECE: the whole text, spaces written ▁, begins as characters; of all neighbours that together are a piece, those with the
// highest score are joined, until none are left; what is no piece becomes its bytes. BYTE_LEVEL: the text is first cut into words by a
// pattern; each word begins as bytes, and neighbours are joined in the order of a list of merges (Sennrich et al. 2016).
enum { NO_TOKENIZER, SENTENCEPIECE, BYTE_LEVEL };
enum { GPT2_WORDS, DIGIT_THEN_GPT2_WORDS, LLAMA3_WORDS, QWEN2_WORDS }; // the patterns
enum { NORMAL_TOKEN, SPECIAL_TOKEN, BYTE_TOKEN };                       // special: recognized in a prompt as a whole, not printed

typedef struct { uint32_t left, right, rank, joined; } Merge;
typedef struct { uint32_t first, last; } Range;

typedef struct {
    const uint32_t *starts; // [VOCAB_TOKENS + 1]: where each token's bytes begin
    const uint32_t *sorted; // [VOCAB_TOKENS]: ids in the order of their bytes
    const float *scores;    // [VOCAB_TOKENS], SENTENCEPIECE
    const uint32_t *bytes;  // [256]: the token of a byte, or NONE
    const Merge *merges;    // [NUM_MERGES], ordered by left, right
    const Range *letters, *digits; // Unicode's L and N
    const Range *composing;        // what normalization to NFC may change, where the tokenizer normalizes
    const uint8_t *kinds;   // [VOCAB_TOKENS]
    const char *text;
} Vocabulary;

// The token whose bytes these are, or NONE.
static uint32_t token_of(const Vocabulary *v, const char *text, size_t length) {
    uint32_t low = 0, high = VOCAB_TOKENS;
    while (low < high) {
        const uint32_t middle = (low + high) / 2, id = v->sorted[middle], start = v->starts[id], its = v->starts[id + 1] - start;
        int order = memcmp(v->text + start, text, its < length ? its : length);
        if (!order) order = its < length ? -1 : its > length;
        if (!order) return id;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NONE;
}
static const Merge *merge_of(const Vocabulary *v, uint32_t left, uint32_t right) {
    size_t low = 0, high = NUM_MERGES;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const Merge *merge = &v->merges[middle];
        if (merge->left == left && merge->right == right) return merge;
        if (merge->left < left || (merge->left == left && merge->right < right)) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

// ---- joining -------------------------------------------------------------------------------------------------------------------------

typedef struct {
    uint32_t start, length; // bytes
    uint32_t id;
    float rank;             // of joining it with the next: the lowest is joined first
    uint32_t joined;
} Symbol;

static void rank_pair(const Vocabulary *v, const char *text, Symbol *left, const Symbol *right) {
    left->rank = INFINITY;
    if (TOKENIZER == SENTENCEPIECE) {
        left->joined = token_of(v, text + left->start, left->length + right->length);
        if (left->joined != NONE && v->kinds[left->joined] == NORMAL_TOKEN) left->rank = -v->scores[left->joined];
    } else {
        const Merge *merge = merge_of(v, left->id, right->id);
        if (merge) left->rank = (float)merge->rank, left->joined = merge->joined;
    }
}

static size_t join(const Vocabulary *v, const char *text, Symbol *symbols, size_t count) {
    for (size_t i = 0; i + 1 < count; i++) rank_pair(v, text, &symbols[i], &symbols[i + 1]);
    for (;;) {
        size_t best = count;
        for (size_t i = 0; i + 1 < count; i++)
            if (symbols[i].rank < (best < count ? symbols[best].rank : INFINITY)) best = i;
        if (best == count) return count;
        symbols[best].length += symbols[best + 1].length;
        symbols[best].id = symbols[best].joined;
        memmove(symbols + best + 1, symbols + best + 2, (count - best - 2) * sizeof *symbols);
        count--;
        symbols[best].rank = INFINITY;
        if (best + 1 < count) rank_pair(v, text, &symbols[best], &symbols[best + 1]);
        if (best > 0) rank_pair(v, text, &symbols[best - 1], &symbols[best]);
    }
}

static size_t character_length(const char *text, size_t left) { // of UTF-8; a stray byte stands alone
    const uint8_t c = (uint8_t)*text;
    const size_t length = c < 0xc2 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 1;
    if (length > left) return 1;
    for (size_t i = 1; i < length; i++)
        if (((uint8_t)text[i] & 0xc0) != 0x80) return 1;
    return length;
}

// Joins `length` bytes of text, from characters or from bytes, and adds their ids.
static void encode_piece(const Vocabulary *v, const char *text, size_t length, Ids *ids) {
    if (IGNORE_MERGES) { // a word that is a token is taken whole
        const uint32_t whole = token_of(v, text, length);
        if (whole != NONE) {
            push(ids, whole);
            return;
        }
    }
    Symbol *symbols = grown(NULL, (length + 1) * sizeof *symbols);
    size_t count = 0;
    for (size_t at = 0, step; at < length; at += step) {
        step = TOKENIZER == SENTENCEPIECE ? character_length(text + at, length - at) : 1;
        const uint32_t id = TOKENIZER == SENTENCEPIECE ? token_of(v, text + at, step) : v->bytes[(uint8_t)text[at]];
        symbols[count++] = (Symbol){(uint32_t)at, (uint32_t)step, id, INFINITY, NONE};
    }
    count = join(v, text, symbols, count);
    for (size_t i = 0; i < count; i++) {
        if (symbols[i].id != NONE && v->kinds[symbols[i].id] != SPECIAL_TOKEN) push(ids, symbols[i].id);
        else
            for (uint32_t j = 0; j < symbols[i].length; j++) {
                const uint32_t id = v->bytes[(uint8_t)text[symbols[i].start + j]];
                push(ids, id != NONE ? id : UNKNOWN_ID);
            }
    }
    free(symbols);
}

// ---- words ---------------------------------------------------------------------------------------------------------------------------

typedef struct { uint32_t code, start; } Character; // of the text, and where it begins

static bool within(const Range *ranges, int count, uint32_t code) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (code > ranges[middle].last) low = middle + 1;
        else if (code < ranges[middle].first) high = middle;
        else return true;
    }
    return false;
}
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}
static bool is_letter(const Vocabulary *v, uint32_t c) { return within(v->letters, NUM_LETTER_RANGES, c); }
static bool is_digit(const Vocabulary *v, uint32_t c) { return within(v->digits, NUM_DIGIT_RANGES, c); }
static bool is_other(const Vocabulary *v, uint32_t c) { return !is_space(c) && !is_letter(v, c) && !is_digit(v, c); }

static size_t contraction(const Character *c, size_t n, bool any_case) { // 's 't 're 've 'm 'll 'd
    if (n < 2 || c[0].code != '\'') return 0;
    const uint32_t fold = any_case ? 32 : 0, a = c[1].code | (c[1].code < 128 ? fold : 0), b = n > 2 ? c[2].code | (c[2].code < 128 ? fold : 0) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}
static size_t spaces(const Character *c, size_t n) { // \s+(?!\S)|\s+
    size_t i = 0;
    while (i < n && is_space(c[i].code)) i++;
    return i < n && i > 1 ? i - 1 : i;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static size_t gpt2_word(const Vocabulary *v, const Character *c, size_t n) {
    size_t i = contraction(c, n, false);
    if (i) return i;
    const size_t first = c[0].code == ' ' && n > 1;
    bool (*const kinds[])(const Vocabulary *, uint32_t) = {is_letter, is_digit, is_other};
    for (int kind = 0; kind < 3; kind++) {
        for (i = first; i < n && kinds[kind](v, c[i].code); i++) {}
        if (i > first) return i;
    }
    return spaces(c, n);
}

// (?i:'s|…)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   (Qwen2: \p{N})
static size_t llama3_word(const Vocabulary *v, const Character *c, size_t n, size_t most_digits) {
    size_t i = contraction(c, n, true);
    if (i) return i;
    const size_t first = !is_letter(v, c[0].code) && !is_digit(v, c[0].code) && c[0].code != '\r' && c[0].code != '\n';
    for (i = first; i < n && is_letter(v, c[i].code); i++) {}
    if (i > first) return i;
    for (i = 0; i < n && i < most_digits && is_digit(v, c[i].code); i++) {}
    if (i) return i;
    const size_t space = c[0].code == ' ';
    for (i = space; i < n && is_other(v, c[i].code); i++) {}
    if (i > space) {
        while (i < n && (c[i].code == '\r' || c[i].code == '\n')) i++;
        return i;
    }
    size_t lines = 0;
    for (i = 0; i < n && is_space(c[i].code); i++)
        if (c[i].code == '\r' || c[i].code == '\n') lines = i + 1;
    return lines ? lines : spaces(c, n);
}

static size_t word(const Vocabulary *v, const Character *c, size_t n) {
    if (WORDS == LLAMA3_WORDS || WORDS == QWEN2_WORDS) return llama3_word(v, c, n, WORDS == LLAMA3_WORDS ? 3 : 1);
    if (WORDS == DIGIT_THEN_GPT2_WORDS) { // each digit is cut out first; the pattern sees what is between
        if (is_digit(v, c[0].code)) return 1;
        size_t until = 1;
        while (until < n && !is_digit(v, c[until].code)) until++;
        n = until;
    }
    return gpt2_word(v, c, n);
}

static void encode_words(const Vocabulary *v, const char *text, size_t length, Ids *ids) {
    Character *c = grown(NULL, (length + 1) * sizeof *c);
    size_t count = 0;
    for (size_t at = 0, step; at < length; at += step) {
        step = character_length(text + at, length - at);
        uint32_t code = (uint8_t)text[at];
        if (step > 1) code &= 0xffu >> (step + 1);
        else if (code >= 128) code = 0xfffd;
        for (size_t i = 1; i < step; i++) code = code << 6 | ((uint8_t)text[at + i] & 63);
        if (within(v->composing, NUM_COMPOSING_RANGES, code))
            fprintf(stderr, "run: U+%04X may combine with its neighbours, and composing is not in here; give the prompt without it\n", code), exit(1);
        c[count++] = (Character){code, (uint32_t)at};
    }
    c[count].start = (uint32_t)length;
    for (size_t i = 0, n; i < count; i += n) {
        n = word(v, c + i, count - i);
        encode_piece(v, text + c[i].start, c[i + n].start - c[i].start, ids);
    }
    free(c);
}

// ---- the whole text ------------------------------------------------------------------------------------------------------------------

static void encode_plain(const Vocabulary *v, const char *text, size_t length, Ids *ids) {
    if (!length) return;
    if (TOKENIZER == BYTE_LEVEL) {
        encode_words(v, text, length, ids);
        return;
    }
    char *marked = grown(NULL, length * 3 + 3);
    size_t n = 0;
    if (SPACE_FIRST) n += 3, memcpy(marked, "\xe2\x96\x81", 3);
    for (size_t i = 0; i < length; i++) {
        if (text[i] == ' ') memcpy(marked + n, "\xe2\x96\x81", 3), n += 3;
        else marked[n++] = text[i];
    }
    encode_piece(v, marked, n, ids);
    free(marked);
}

// Special tokens in the text are taken whole, the longest first; the text between them is encoded.
static void encode(const Vocabulary *v, const char *text, Ids *ids) {
    const size_t length = strlen(text);
    size_t begin = 0;
    Ids special = {0};
    for (uint32_t id = 0; id < VOCAB_TOKENS; id++)
        if (v->kinds[id] == SPECIAL_TOKEN) push(&special, id);
    for (size_t at = 0; at < length;) {
        uint32_t found = NONE, longest = 0;
        for (size_t i = 0; i < special.count; i++) {
            const uint32_t id = special.ids[i], its = v->starts[id + 1] - v->starts[id];
            if (its > longest && its <= length - at && !memcmp(v->text + v->starts[id], text + at, its)) found = id, longest = its;
        }
        if (found == NONE) {
            at++;
            continue;
        }
        encode_plain(v, text + begin, at - begin, ids);
        push(ids, found);
        begin = at += longest;
    }
    encode_plain(v, text + begin, length - begin, ids);
    free(special.ids);
}

static void print_token(const Vocabulary *v, uint32_t id, bool first) {
    if (id >= VOCAB_TOKENS || v->kinds[id] == SPECIAL_TOKEN) return;
    if (v->kinds[id] == BYTE_TOKEN) {
        for (int byte = 0; byte < 256; byte++)
            if (v->bytes[byte] == id) putchar(byte);
        return;
    }
    const char *text = v->text + v->starts[id], *end = v->text + v->starts[id + 1];
    while (text < end) {
        if (TOKENIZER == SENTENCEPIECE && end - text >= 3 && !memcmp(text, "\xe2\x96\x81", 3)) {
            if (!first) putchar(' ');
            text += 3;
        } else {
            putchar(*text++);
        }
        first = false;
    }
}

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
    v->composing = (const void *)p, p += NUM_COMPOSING_RANGES * sizeof(Range);
    v->kinds = p, p += VOCAB_TOKENS;
    v->text = (const char *)p;
    if (v->starts[0] != 0 || v->starts[VOCAB_TOKENS] != TEXT_BYTES) return false;
    for (uint32_t i = 0; i < VOCAB_TOKENS; i++)
        if (v->starts[i] > v->starts[i + 1] || v->sorted[i] >= VOCAB_TOKENS) return false;
    for (int i = 0; i < 256; i++)
        if (v->bytes[i] != NONE && v->bytes[i] >= VOCAB_TOKENS) return false;
    for (int i = 0; i < NUM_MERGES; i++)
        if (v->merges[i].joined >= VOCAB_TOKENS) return false;
    return true;
}
