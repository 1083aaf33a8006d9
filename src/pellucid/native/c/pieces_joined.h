// pieces_joined.h: SentencePiece's byte-pair encoding: the whole text begins as characters, and pieces with the highest score are joined first.
static void encode_plain(const Vocabulary *v, const char *text, size_t length, bool space_first, Ids *ids) {
    if (!length) return;
    const Text made = normalized(v, text, length, space_first);
    Symbol *symbols = grown(NULL, (made.length + 1) * sizeof *symbols);
    size_t count = 0;
    for (size_t at = 0, step; at < made.length; at += step) {
        uint32_t id = NONE;
        const size_t symbol = symbol_at(v, made.bytes + at, made.length - at, &id);
        if (symbol) step = symbol;
        else character(made.bytes + at, made.length - at, &step), id = token_of(v, made.bytes + at, step);
        symbols[count++] = (Symbol){.start = (uint32_t)at, .length = (uint32_t)step, .id = id, .whole = symbol > 0};
    }
    join(v, made.bytes, symbols, count);
    bool unknown = false;
    for (size_t i = 0; i < count; i++) {
        if (!symbols[i].length) continue;
        const uint32_t id = symbols[i].id;
        const bool known = id != NONE && (v->kinds[id] == NORMAL_TOKEN || v->kinds[id] == SYMBOL_TOKEN);
        if (known) push(ids, id);
        else push_unknown(v, made.bytes + symbols[i].start, symbols[i].length, unknown, ids);
        unknown = !known;
    }
    free(symbols);
    free(made.bytes);
}
