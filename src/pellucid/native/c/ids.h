// ids.h: a growing list of token ids, and ids written as text.
#define NONE 0xffffffffu

typedef struct { uint32_t *ids; size_t count, room; } Ids;

static void *grown(void *p, size_t bytes) {
    void *q = realloc(p, bytes);
    if (!q) fprintf(stderr, "no memory\n"), exit(1);
    return q;
}
static void push(Ids *ids, uint32_t id) {
    if (ids->count == ids->room) ids->ids = grown(ids->ids, (ids->room = ids->room * 2 + 64) * sizeof *ids->ids);
    ids->ids[ids->count++] = id;
}

SOME void read_ids(const char *text, Ids *ids) {
    for (char *end; *text; text = end) {
        const unsigned long id = strtoul(text, &end, 10);
        if (end == text) {
            if (strspn(text, " ,\n\t") == strlen(text)) return;
            fprintf(stderr, "run: this model's tokenizer is of a kind that is not in here; give the prompt as token ids\n"), exit(1);
        }
        push(ids, id < VOCAB_SIZE ? (uint32_t)id : VOCAB_SIZE);
        end += strspn(end, " ,\n\t");
    }
}

