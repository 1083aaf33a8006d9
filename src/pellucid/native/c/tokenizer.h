// tokenizer.h: text to token ids and back.

// Special tokens in the text are taken whole, the longest first; the text between them is encoded.
static void encode(const Vocabulary *v, const char *text, Ids *ids) {
    const size_t length = strlen(text);
    size_t begin = 0;
    bool first[256] = {false}; // bytes that a special token begins with
    Ids special = {0};
    for (uint32_t id = 0; id < VOCAB_TOKENS; id++)
        if ((v->kinds[id] == SPECIAL_TOKEN || v->kinds[id] == ADDED_TOKEN) && length_of(v, id))
            push(&special, id), first[(uint8_t)v->text[v->starts[id]]] = true;
    for (size_t at = 0; at < length;) {
        uint32_t found = NONE, longest = 0;
        for (size_t i = 0; first[(uint8_t)text[at]] && i < special.count; i++) {
            const uint32_t id = special.ids[i], its = length_of(v, id);
            if (its > longest && its <= length - at && !memcmp(v->text + v->starts[id], text + at, its)) found = id, longest = its;
        }
        if (found == NONE) {
            at++;
            continue;
        }
        encode_plain(v, text + begin, at - begin, SPACE_FIRST == 1 || (SPACE_FIRST == 2 && begin == 0), ids);
        push(ids, found);
        begin = at += longest;
    }
    encode_plain(v, text + begin, length - begin, SPACE_FIRST == 1 || (SPACE_FIRST == 2 && begin == 0), ids);
    free(special.ids);
}

static void print_token(const Vocabulary *v, uint32_t id) {
    if (id >= VOCAB_TOKENS || v->kinds[id] == SPECIAL_TOKEN || v->kinds[id] == HIDDEN_TOKEN) return;
    if (v->kinds[id] == BYTE_TOKEN) {
        for (int byte = 0; byte < 256; byte++)
            if (v->bytes[byte] == id) putchar(byte);
        return;
    }
    const char *text = v->text + v->starts[id], *end = v->text + v->starts[id + 1];
    while (text < end) {
        if (TOKENIZER != BYTE_LEVEL && end - text >= 3 && !memcmp(text, "\xe2\x96\x81", 3)) putchar(' '), text += 3; // ▁
        else putchar(*text++);
    }
}
