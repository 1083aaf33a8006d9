// words.h: byte-level byte-pair encoding (Radford et al. 2019). A pattern cuts the text into words; each begins as bytes, and is joined by itself.
enum { GPT2_WORDS, DIGIT_THEN_GPT2_WORDS, LLAMA3_WORDS, QWEN2_WORDS, TEKKEN_WORDS, GPT4O_WORDS }; // the patterns

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
SOME bool is_letter(const Vocabulary *v, uint32_t c) { return within(v->letters, NUM_LETTER_RANGES, c); }
SOME bool is_digit(const Vocabulary *v, uint32_t c) { return within(v->digits, NUM_DIGIT_RANGES, c); }
SOME bool is_other(const Vocabulary *v, uint32_t c) { return !is_space(c) && !is_letter(v, c) && !is_digit(v, c); }

SOME size_t contraction(const Character *c, size_t n, bool any_case) { // 's 't 're 've 'm 'll 'd
    if (n < 2 || c[0].code != '\'') return 0;
    const uint32_t fold = any_case ? 32 : 0, a = c[1].code | (c[1].code < 128 ? fold : 0), b = n > 2 ? c[2].code | (c[2].code < 128 ? fold : 0) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}
SOME size_t spaces(const Character *c, size_t n) { // \s+(?!\S)|\s+
    size_t i = 0;
    while (i < n && is_space(c[i].code)) i++;
    return i < n && i > 1 ? i - 1 : i;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
SOME size_t gpt2_word(const Vocabulary *v, const Character *c, size_t n) {
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

// \p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+: what the newer patterns end with; lines may also end with `other`.
SOME size_t rest_word(const Vocabulary *v, const Character *c, size_t n, size_t most_digits, uint32_t other) {
    size_t i;
    for (i = 0; i < n && i < most_digits && is_digit(v, c[i].code); i++) {}
    if (i) return i;
    const size_t space = c[0].code == ' ';
    for (i = space; i < n && is_other(v, c[i].code); i++) {}
    if (i > space) {
        while (i < n && (c[i].code == '\r' || c[i].code == '\n' || c[i].code == other)) i++;
        return i;
    }
    size_t lines = 0;
    for (i = 0; i < n && is_space(c[i].code); i++)
        if (c[i].code == '\r' || c[i].code == '\n') lines = i + 1;
    return lines ? lines : spaces(c, n);
}

// (?i:'s|…)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   (Qwen2: \p{N})
SOME size_t llama3_word(const Vocabulary *v, const Character *c, size_t n, size_t most_digits) {
    size_t i = contraction(c, n, true);
    if (i) return i;
    const size_t first = !is_letter(v, c[0].code) && !is_digit(v, c[0].code) && c[0].code != '\r' && c[0].code != '\n';
    for (i = first; i < n && is_letter(v, c[i].code); i++) {}
    if (i > first) return i;
    return rest_word(v, c, n, most_digits, '\n');
}

// Words that tell Aa from aA: U*L+, or U+L*, where U are capitals, L small letters, and letters without case and marks are both.
SOME size_t cased_word(const Vocabulary *v, const Character *c, size_t n, bool small) {
    size_t capitals = 0, last = SIZE_MAX; // the last of the U that is L, too: from there on L+ may be, if nothing comes after U*
    for (; capitals < n && within(v->upper, NUM_UPPER_RANGES, c[capitals].code); capitals++)
        if (within(v->lower, NUM_LOWER_RANGES, c[capitals].code)) last = capitals;
    size_t i = capitals;
    while (i < n && within(v->lower, NUM_LOWER_RANGES, c[i].code)) i++;
    if (!small) return capitals ? i : 0;
    return i > capitals ? i : last != SIZE_MAX ? last + 1 : 0;
}

// [^\r\n\p{L}\p{N}]?(U*L+|U+L*)(?i:'s|…)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+   (Tekken: no 's, \p{N})
SOME size_t gpt4o_word(const Vocabulary *v, const Character *c, size_t n, bool contractions, size_t most_digits) {
    const bool first = n > 1 && !is_letter(v, c[0].code) && !is_digit(v, c[0].code) && c[0].code != '\r' && c[0].code != '\n';
    for (int small = 1; small >= 0; small--)
        for (size_t skipped = first; skipped <= 1; skipped--) { // with a first character of another kind, then without
            size_t i = cased_word(v, c + skipped, n - skipped, small);
            if (i) return i += skipped, i + (contractions ? contraction(c + i, n - i, true) : 0);
        }
    return rest_word(v, c, n, most_digits, '/');
}

static size_t word(const Vocabulary *v, const Character *c, size_t n) {
    switch (WORDS) {
    case LLAMA3_WORDS: return llama3_word(v, c, n, 3);
    case QWEN2_WORDS: return llama3_word(v, c, n, 1);
    case TEKKEN_WORDS: return gpt4o_word(v, c, n, false, 1);
    case GPT4O_WORDS: return gpt4o_word(v, c, n, true, 3);
    case DIGIT_THEN_GPT2_WORDS: // each digit is cut out first; the pattern sees what is between
        if (is_digit(v, c[0].code)) return 1;
        for (size_t until = 1; until < n; until++)
            if (is_digit(v, c[until].code)) n = until;
        return gpt2_word(v, c, n);
    default: return gpt2_word(v, c, n);
    }
}

// Adds the ids of one word.
static void encode_word(const Vocabulary *v, const char *text, size_t length, Ids *ids) {
    const uint32_t taken_whole = IGNORE_MERGES ? token_of(v, text, length) : NONE; // a word that is a token
    if (taken_whole != NONE) {
        push(ids, taken_whole);
        return;
    }
    Symbol *symbols = grown(NULL, (length + 1) * sizeof *symbols);
    for (size_t at = 0; at < length; at++) symbols[at] = (Symbol){.start = (uint32_t)at, .length = 1, .id = v->bytes[(uint8_t)text[at]]};
    join(v, text, symbols, length);
    for (size_t i = 0; i < length; i++) {
        if (!symbols[i].length) continue;
        if (symbols[i].id != NONE && v->kinds[symbols[i].id] != SPECIAL_TOKEN) push(ids, symbols[i].id);
        else push_bytes(v, text + symbols[i].start, symbols[i].length, ids);
    }
    free(symbols);
}

static void encode_plain(const Vocabulary *v, const char *text, size_t length, bool first, Ids *ids) {
    (void)first;
    Character *c = grown(NULL, (length + 1) * sizeof *c);
    size_t count = 0;
    for (size_t at = 0, step; at < length; at += step) {
        const uint32_t code = character(text + at, length - at, &step);
        if (within(v->composing, NUM_COMPOSING_RANGES, code))
            fprintf(stderr, "run: U+%04X may combine with its neighbours, and composing is not in here; give the prompt without it\n", code), exit(1);
        c[count++] = (Character){code, (uint32_t)at};
    }
    c[count].start = (uint32_t)length;
    for (size_t i = 0, n; i < count; i += n) {
        n = word(v, c + i, count - i);
        encode_word(v, text + c[i].start, c[i + n].start - c[i].start, ids);
    }
    free(c);
}
