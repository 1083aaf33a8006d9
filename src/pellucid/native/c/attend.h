// attend.h: the stages of attention: q and k normalized and turned, keys and values into the cache, and what queries gather from it.

INLINE int q_dim(const Heads *h) { return h->num_heads * h->head_dim; }
INLINE int k_dim(const Heads *h) { return h->num_kv_heads * h->head_dim; }

// q and k of each row normalized, all heads of either as one vector.
INLINE void normalize_all_heads(Model *m, Turn *turn, const Heads *h, const Norm *q_norm, const Norm *k_norm) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            float *q = m->q + (size_t)r * Q_ROW, *k = m->k + (size_t)r * KV_ROW;
            normalize(q_norm, q, q_dim(h), padded_width(q_dim(h)), q);
            normalize(k_norm, k, k_dim(h), padded_width(k_dim(h)), k);
        }
}

// The q or k of one row and head; heads are counted through q's and then k's.
INLINE int num_units(const Heads *h) { return h->num_heads + h->num_kv_heads; }
INLINE float *head_of(const Model *m, const Heads *h, int unit) {
    const int r = unit / num_units(h), head = unit % num_units(h);
    return head < h->num_heads ? m->q + (size_t)r * Q_ROW + head * h->head_dim : m->k + (size_t)r * KV_ROW + (head - h->num_heads) * h->head_dim;
}
INLINE void normalize_heads(Model *m, Turn *turn, const Heads *h, const Norm *q_norm, const Norm *k_norm) {
    const int units = m->rows * num_units(h);
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++)
            normalize_head(unit % num_units(h) < h->num_heads ? q_norm : k_norm, head_of(m, h, unit), h->head_dim);
}

// One head turned by its position's angles, where the layer has rotary positions (else −1).
INLINE void rotate_head(const Model *m, float *x, int r, int rotary) {
#ifdef ROTARY_FREQUENCIES
    if (rotary < 0) return;
    const Rotary *how = &ROTARY[rotary];
    const size_t at = ((size_t)r * NUM_ROTARY + (size_t)rotary) * ROTARY_PAIRS;
    if (how->apart == 1) rotate(x, m->cosine + at, m->sine + at, how->pairs, 1, 2);
    else rotate(x, m->cosine + at, m->sine + at, how->pairs, how->apart, 1);
#else
    (void)m, (void)x, (void)r, (void)rotary;
#endif
}

// Each q and k turned.
INLINE void rotate_heads(Model *m, Turn *turn, const Heads *h, int rotary) {
    const int units = m->rows * num_units(h);
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) rotate_head(m, head_of(m, h, unit), unit / num_units(h), rotary);
}

// The same, and keys and values into their slots.
INLINE void rotate_and_append(Model *m, Turn *turn, const Heads *h, int i, int rotary) {
    const int units = m->rows * num_units(h);
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const int r = unit / num_units(h), kv_head = unit % num_units(h) - h->num_heads;
            float *x = head_of(m, h, unit);
            rotate_head(m, x, r, rotary);
            if (kv_head >= 0) append(m->slots[r], h, i, kv_head, m->positions[r], x, m->v + (size_t)r * KV_ROW + kv_head * h->value_dim);
        }
}

// Queries times 1 + beta · ln(1 + ⌊(position + offset) / every⌋).
INLINE void grow_queries(Model *m, Turn *turn, const Heads *h, float beta, int every, int offset) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            const float by = 1 + beta * logf(1 + (float)(((int64_t)m->positions[r] + offset) / every));
            for (int i = 0; i < q_dim(h); i++) m->q[(size_t)r * Q_ROW + i] *= by;
        }
}

// z of every row and head. A piece of work: a run of rows, and the heads that share one key-value head; or of a single row one chunk of it. `part`: a query
// sees its own part of so many positions alone.
INLINE void attend_rows(Model *m, Turn *turn, int i, const int kind, float scale, int window, int part, const float *sinks) {
    const Heads *h = &HEADS[kind];
    const Runs *runs = &m->runs[kind];
    Attention *w = &m->attention[turn->thread];
    while (take(turn, runs->num_pieces, 1)) {
        int low = 0, high = runs->count - 1; // the last run whose first piece is not beyond this one
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (runs->runs[middle].piece <= turn->begin) low = middle;
            else high = middle - 1;
        }
        const Run run = runs->runs[low];
        const int kv_head = (turn->begin - run.piece) / run.chunks, own_chunk = (turn->begin - run.piece) % run.chunks;
        const Slot *slot = m->slots[run.first];
        for (int done = 0, count; done < run.count * sharing(h); done += count) {
            int first = INT_MAX, last = 0;
            count = run.count * sharing(h) - done < MAX_QUERIES ? run.count * sharing(h) - done : MAX_QUERIES;
            const int rounded = rounded_queries(count);
            for (int n = 0; n < rounded; n++) { // beyond `count` the last one again
                const int query = done + (n < count ? n : count - 1), r = run.first + query / sharing(h), head = kv_head * sharing(h) + query % sharing(h);
                make_query(h, &w->q[n], m->q + (size_t)r * Q_ROW + head * h->head_dim);
                const int until = w->until[n] = m->positions[r] + 1, own_part = m->positions[r] / part * part; // its first position
                const int from = w->from[n] = until > window && until - window > own_part ? until - window : own_part;
                first = from < first ? from : first;
                last = until > last ? until : last;
                w->slope[n] = h->slopes ? h->slopes[head] : 0;
                w->all[n].total = 0;
            }
            if (run.chunks > 1) { // this chunk alone; merge_chunks() puts them together
                Gathered *kept = slot->shared + (size_t)(kv_head * sharing(h) + done) * chunks_of(slot) + own_chunk;
                const bool seen = (own_chunk + 1) * CHUNK > first;
                if (seen) GATHER[kind](rounded, w, keys_of(slot, h, i, kv_head, own_chunk), values_of(slot, h, i, kv_head, own_chunk), scale, own_chunk * CHUNK);
                for (int n = 0; n < count; n++, kept += chunks_of(slot)) *kept = seen ? w->chunk[n] : (Gathered){.total = 0};
                continue;
            }
            for (int chunk = first / CHUNK; chunk * CHUNK < last; chunk++) {
                GATHER[kind](rounded, w, keys_of(slot, h, i, kv_head, chunk), values_of(slot, h, i, kv_head, chunk), scale, chunk * CHUNK);
                for (int n = 0; n < count; n++) merge(h, &w->all[n], &w->chunk[n]);
            }
            for (int n = 0; n < count; n++)
                finish(h, &w->all[n], sinks ? sinks + kv_head * sharing(h) + (done + n) % sharing(h) : NULL, m->z + (size_t)(run.first + (done + n) / sharing(h)) * Q_ROW + (kv_head * sharing(h) + (done + n) % sharing(h)) * h->value_dim);
        }
    }
}

// z of the rows whose chunks were shared.
INLINE void merge_chunks(Model *m, Turn *turn, const int kind, const float *sinks) {
    const Heads *h = &HEADS[kind];
    const Runs *runs = &m->runs[kind];
    const int units = runs->count * h->num_heads;
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const Run run = runs->runs[unit / h->num_heads];
            const Slot *slot = m->slots[run.first];
            if (run.chunks == 1) continue;
            const Gathered *chunks = slot->shared + (size_t)(unit % h->num_heads) * chunks_of(slot);
            Gathered all = {.total = 0};
            for (int chunk = 0; chunk < run.chunks; chunk++) merge(h, &all, &chunks[chunk]);
            finish(h, &all, sinks ? sinks + unit % h->num_heads : NULL, m->z + (size_t)run.first * Q_ROW + unit % h->num_heads * h->value_dim);
        }
}
