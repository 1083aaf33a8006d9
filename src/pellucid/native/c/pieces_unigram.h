// pieces_unigram.h: SentencePiece's unigram model (Kudo 2018): every piece has a log-probability, and of all ways to cut the text the one with
// the largest sum is taken, found by Viterbi's algorithm: best[i] is the best way to cut the first i bytes.
#define UNKNOWN_PENALTY 10.0f // below the least likely piece

typedef struct {
    float score;
    uint32_t start, id; // of its last piece; start NONE: nothing ends here yet
} Best;

static void offer(Best *best, float score, size_t start, uint32_t id) {
    if (best->start == NONE || score > best->score) *best = (Best){score, (uint32_t)start, id};
}

static void encode_plain(const Vocabulary *v, const char *text, size_t length, bool space_first, Ids *ids) {
    if (!length) return;
    const Text made = normalized(v, text, length, space_first);
    Best *best = grown(NULL, (made.length + 1) * sizeof *best);
    for (size_t i = 0; i <= made.length; i++) best[i] = (Best){0, NONE, NONE};
    float least = INFINITY;
    for (uint32_t id = 0; id < VOCAB_TOKENS; id++)
        if (v->kinds[id] == NORMAL_TOKEN && v->scores[id] < least) least = v->scores[id];
    for (size_t at = 0, step; at < made.length; at += step) {
        bool character_is_piece = false;
        uint32_t low = 0, high = VOCAB_TOKENS;
        character(made.bytes + at, made.length - at, &step);
        for (uint32_t depth = 0; at + depth < made.length && low < high; depth++) {
            narrow(v, &low, &high, depth, (uint8_t)made.bytes[at + depth]);
            for (uint32_t i = low; i < high && length_of(v, v->sorted[i]) == depth + 1; i++) {
                const uint32_t id = v->sorted[i];
                if (v->kinds[id] != NORMAL_TOKEN && v->kinds[id] != SYMBOL_TOKEN) continue;
                // A user-defined symbol costs next to nothing, a longer one less: it is always taken.
                const float score = v->kinds[id] == SYMBOL_TOKEN ? (float)(depth + 1) * 1.17549435e-38f - 0.1f : v->scores[id];
                offer(&best[at + depth + 1], score + best[at].score, at, id);
                character_is_piece |= depth + 1 == step;
            }
        }
        if (!character_is_piece) offer(&best[at + step], least - UNKNOWN_PENALTY + best[at].score, at, NONE);
    }
    uint32_t *ends = grown(NULL, (made.length + 1) * sizeof *ends); // of the piece that begins at a place
    for (size_t end = made.length; end > 0; end = best[end].start) ends[best[end].start] = (uint32_t)end;
    bool unknown = false;
    for (size_t at = 0; at < made.length; at = ends[at]) {
        const uint32_t id = best[ends[at]].id;
        if (id != NONE) push(ids, id);
        else push_unknown(v, made.bytes + at, ends[at] - at, unknown, ids);
        unknown = id == NONE;
    }
    free(ends);
    free(best);
    free(made.bytes);
}
