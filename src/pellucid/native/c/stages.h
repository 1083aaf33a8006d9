// stages.h: the stages of forward(), each with its work cut into pieces that any thread may take.

// Rows of x, normalized, as panels. A single row is made by each thread for itself, which is quicker than waiting for another.
static const Panels *prepare(Model *m, Turn *turn, const float *x, int row_size, int rows, int width, const Norm *norm, int forms) {
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST;
    Panels *panels = rows == 1 ? &m->own[turn->thread] : &m->shared;
    const bool alone = rows == 1;
    while (alone ? pending(turn) : take(turn, rows, share_of(turn, rows, 4))) {
        for (int r = alone ? 0 : turn->begin; r < (alone ? 1 : turn->end); r++) {
            const float *row = x + (size_t)r * row_size;
            if (norm->kind != NO_NORM) normalize(norm, row, width, row_size, scratch), row = scratch;
            fill(panels, r, rows, row, row_size, forms);
        }
        if (alone) break;
    }
    return panels;
}

typedef struct {
    const Matrix *matrix;
    const float *bias; // may be NULL
    float *out;        // [rows][row_size]
    size_t row_size;
    int width;         // outputs kept of a row: rows of the matrix beyond them are padding
    bool add;          // to what `out` holds
    float scale;       // of what is made, before it is added; 0: as it is
} Product;

// raw[row] = outputs t · 16 … of a matrix, for all rows.
static void multiply_tile(const Model *m, const Product *p, int t, const Panels *x, int rows, float (*raw)[TILE]) {
    const Matrix *w = p->matrix;
    const uint8_t *tile = m->parameters.bytes + w->offset + (size_t)t * w->stride;
    for (int first = 0, size; first < rows; first += size) {
        size = panel_size(rows - first);
        PRODUCTS[w->format][size == 8 ? 3 : size / 2](tile, w->columns / 32, x, (size_t)first * x->columns, raw + first);
    }
}

// x Wᵀ + b for one matrix or several; a piece of work is a tile.
static void multiply(Model *m, Turn *turn, const Panels *x, int rows, const Product *products, int count) {
    int tiles = 0;
    for (int i = 0; i < count; i++) tiles += products[i].matrix->rows / TILE;
    float raw[MAX_ROWS][TILE];
    while (take(turn, tiles, share_of(turn, tiles, 3))) {
        for (int i = turn->begin; i < turn->end; i++) {
            const Product *p = products;
            int t = i;
            while (t >= p->matrix->rows / TILE) t -= p->matrix->rows / TILE, p++;
            multiply_tile(m, p, t, x, rows, raw);
            const int kept = p->width - t * TILE < TILE ? p->width - t * TILE : TILE;
            for (int r = 0; r < rows; r++) {
                float *out = p->out + r * p->row_size + t * TILE, *y = raw[r];
                if (p->bias)
                    for (int j = 0; j < TILE; j++) y[j] += p->bias[t * TILE + j];
                if (p->scale)
                    for (int j = 0; j < TILE; j++) y[j] *= p->scale;
                if (p->add)
                    for (int j = 0; j < kept; j++) y[j] += out[j];
                if (kept == TILE) memcpy(out, y, TILE * sizeof(float));
                else memcpy(out, y, (size_t)kept * sizeof(float));
            }
        }
    }
}

// act(gate x) ⊙ up x, or act(up x) where there is no gate.
static void multiply_activated(Model *m, Turn *turn, const Panels *x, int rows, const Product *gate, const Product *up) {
    const int tiles = up->matrix->rows / TILE;
    float raw[MAX_ROWS][TILE], gates[MAX_ROWS][TILE];
    while (take(turn, tiles, share_of(turn, tiles, 3))) {
        for (int t = turn->begin; t < turn->end; t++) {
            if (gate) multiply_tile(m, gate, t, x, rows, gates);
            multiply_tile(m, up, t, x, rows, raw);
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < TILE; i += LANES) {
                    const int at = t * TILE + i;
                    Floats y = load(raw[r] + i), g;
                    if (up->bias) y += load(up->bias + at);
                    if (gate) {
                        g = load(gates[r] + i);
                        if (gate->bias) g += load(gate->bias + at);
                        y *= activate(ACTIVATION, g);
                    } else {
                        y = activate(ACTIVATION, y);
                    }
                    store(up->out + r * up->row_size + at, y);
                }
        }
    }
}

// A matrix's row, as floats.
static void read_row(const Model *m, const Matrix *w, int row, int width, float *out) {
    const uint8_t *tile = m->parameters.bytes + w->offset + (size_t)(row / TILE) * w->stride;
    for (int c = 0; c < width; c++) out[c] = weight_at(w->format, tile, row % TILE, c);
}

#ifdef ROTARY_FREQUENCIES
// Radians a position of pair j, for a request of so many tokens.
INLINE float frequency(const Model *m, int kind, int length, int j) {
    (void)kind; // where they go by the length there is one kind
#if defined(DYNAMIC_FACTOR) // θ grows with the request: θ · stretch^(dim / (dim − 2)), stretch 1 up to the original length
    const double dim = 2.0 * ROTARY_PAIRS, long_as = length > ORIGINAL_LENGTH ? length : ORIGINAL_LENGTH;
    const double stretch = DYNAMIC_FACTOR * long_as / ORIGINAL_LENGTH - (DYNAMIC_FACTOR - 1);
    return (float)exp(-(log(ROPE_THETA) + log(stretch) * (dim / (dim - 2))) * (2 * j / dim));
#elif defined(ORIGINAL_LENGTH) // two rows of frequencies: up to the original length, and beyond it
    return numbers(m, ROTARY_FREQUENCIES)[(length > ORIGINAL_LENGTH ? FREQUENCIES_ROW : 0) + j];
#else
    (void)length;
    return numbers(m, ROTARY_FREQUENCIES)[kind * FREQUENCIES_ROW + j];
#endif
}
#endif

// Rows of the residual stream replaced by their norm.
SOME void normalize_rows(Model *m, Turn *turn, const Norm *norm) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) normalize(norm, m->x + (size_t)r * D_ROW, D_MODEL, D_ROW, m->x + (size_t)r * D_ROW);
}

// Rows of what a part of a layer made, normalized where there is a norm, added to the residual stream.
SOME void add_part(Model *m, Turn *turn, const Norm *norm) {
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST;
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            const float *part = m->part + (size_t)r * D_ROW;
            if (norm->kind != NO_NORM) normalize(norm, part, D_MODEL, D_ROW, scratch), part = scratch;
            for (int i = 0; i < D_MODEL; i++) m->x[(size_t)r * D_ROW + i] += part[i];
        }
}

// q and k of each row normalized, all heads of either as one vector.
SOME void normalize_all_heads(Model *m, Turn *turn, const Norm *q_norm, const Norm *k_norm) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            float *q = m->q + (size_t)r * Q_ROW, *k = m->k + (size_t)r * KV_ROW;
            normalize(q_norm, q, NUM_HEADS * HEAD_DIM, Q_ROW, q);
            normalize(k_norm, k, NUM_KV_HEADS * HEAD_DIM, KV_ROW, k);
        }
}

// The q or k of one row and head; heads are counted through q's and then k's.
enum { HEADS = NUM_HEADS + NUM_KV_HEADS };
INLINE float *head_of(const Model *m, int unit) {
    const int r = unit / HEADS, head = unit % HEADS;
    return head < NUM_HEADS ? m->q + (size_t)r * Q_ROW + head * HEAD_DIM : m->k + (size_t)r * KV_ROW + (head - NUM_HEADS) * HEAD_DIM;
}
SOME void normalize_heads(Model *m, Turn *turn, const Norm *q_norm, const Norm *k_norm) {
    while (take(turn, m->rows * HEADS, share_of(turn, m->rows * HEADS, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++)
            normalize_head(unit % HEADS < NUM_HEADS ? q_norm : k_norm, head_of(m, unit), HEAD_DIM);
}

// Each q and k turned, where the layer has rotary positions (else −1).
SOME void rotate_heads(Model *m, Turn *turn, int rotary) {
    while (take(turn, m->rows * HEADS, share_of(turn, m->rows * HEADS, 1)))
        for (int unit = turn->begin; unit < turn->end && rotary >= 0; unit++) {
            const size_t at = ((size_t)(unit / HEADS) * NUM_ROTARY + (size_t)rotary) * ROTARY_PAIRS;
            rotate(head_of(m, unit), m->cosine + at, m->sine + at, ROTARY_PAIRS, ROTARY_APART, ROTARY_STEP);
        }
}

// The same, and keys and values into their slots.
static void rotate_and_append(Model *m, Turn *turn, int i, int rotary) {
    while (take(turn, m->rows * HEADS, share_of(turn, m->rows * HEADS, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const int r = unit / HEADS, kv_head = unit % HEADS - NUM_HEADS;
            const size_t at = ((size_t)r * NUM_ROTARY + (size_t)(rotary < 0 ? 0 : rotary)) * ROTARY_PAIRS;
            float *x = head_of(m, unit);
            if (rotary >= 0) rotate(x, m->cosine + at, m->sine + at, ROTARY_PAIRS, ROTARY_APART, ROTARY_STEP);
            if (kv_head >= 0) append(m->slots[r], i, kv_head, m->positions[r], x, m->v + (size_t)r * KV_ROW + kv_head * HEAD_DIM);
        }
}

enum { SHARING = NUM_HEADS / NUM_KV_HEADS }; // heads that share one key-value head

// z of every row and head. A piece of work: a run of rows, and the heads that share one key-value head; or of a single row one chunk of it.
static void attend_rows(Model *m, Turn *turn, int i, const Layer *layer) {
    Attention *w = &m->attention[turn->thread];
    while (take(turn, m->num_pieces, 1)) {
        int low = 0, high = m->num_runs - 1; // the last run whose first piece is not beyond this one
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (m->runs[middle].piece <= turn->begin) low = middle;
            else high = middle - 1;
        }
        const Run run = m->runs[low];
        const int kv_head = (turn->begin - run.piece) / run.chunks, own_chunk = (turn->begin - run.piece) % run.chunks;
        const Slot *slot = m->slots[run.first];
        for (int done = 0, count; done < run.count * SHARING; done += count) {
            int first = INT_MAX, last = 0;
            count = run.count * SHARING - done < MAX_QUERIES ? run.count * SHARING - done : MAX_QUERIES;
            const int rounded = rounded_queries(count);
            for (int n = 0; n < rounded; n++) { // beyond `count` the last one again
                const int query = done + (n < count ? n : count - 1), r = run.first + query / SHARING, head = kv_head * SHARING + query % SHARING;
                make_query(&w->q[n], m->q + (size_t)r * Q_ROW + head * HEAD_DIM);
                const int until = w->until[n] = m->positions[r] + 1, from = w->from[n] = until > layer->window ? until - layer->window : 0;
                first = from < first ? from : first;
                last = until > last ? until : last;
                w->all[n].total = 0;
            }
            if (run.chunks > 1) { // this chunk alone; merge_chunks() puts them together
                Gathered *kept = slot->shared + (size_t)(kv_head * SHARING + done) * chunks_of(slot) + own_chunk;
                const bool seen = (own_chunk + 1) * CHUNK > first;
                if (seen) gather_chunk(rounded, w, keys_of(slot, i, kv_head, own_chunk), values_of(slot, i, kv_head, own_chunk), layer->scale, own_chunk * CHUNK);
                for (int n = 0; n < count; n++, kept += chunks_of(slot)) *kept = seen ? w->chunk[n] : (Gathered){.total = 0};
                continue;
            }
            for (int chunk = first / CHUNK; chunk * CHUNK < last; chunk++) {
                gather_chunk(rounded, w, keys_of(slot, i, kv_head, chunk), values_of(slot, i, kv_head, chunk), layer->scale, chunk * CHUNK);
                for (int n = 0; n < count; n++) merge(&w->all[n], &w->chunk[n]);
            }
            for (int n = 0; n < count; n++)
                finish(&w->all[n], m->z + (size_t)(run.first + (done + n) / SHARING) * Q_ROW + (kv_head * SHARING + (done + n) % SHARING) * HEAD_DIM);
        }
    }
}

// z of the rows whose chunks were shared.
static void merge_chunks(Model *m, Turn *turn) {
    while (take(turn, m->num_runs * NUM_HEADS, share_of(turn, m->num_runs * NUM_HEADS, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const Run run = m->runs[unit / NUM_HEADS];
            const Slot *slot = m->slots[run.first];
            if (run.chunks == 1) continue;
            const Gathered *chunks = slot->shared + (size_t)(unit % NUM_HEADS) * chunks_of(slot);
            Gathered all = {.total = 0};
            for (int chunk = 0; chunk < run.chunks; chunk++) merge(&all, &chunks[chunk]);
            finish(&all, m->z + (size_t)run.first * Q_ROW + unit % NUM_HEADS * HEAD_DIM);
        }
}

// The residual stream of the rows whose logits are wanted.
static void gather_wanted(Model *m, Turn *turn) {
    while (take(turn, m->num_wanted, share_of(turn, m->num_wanted, 4)))
        for (int n = turn->begin; n < turn->end; n++)
            memcpy(m->final + (size_t)n * D_ROW, m->x + (size_t)m->wanted[n] * D_ROW, D_ROW * sizeof(float));
}
