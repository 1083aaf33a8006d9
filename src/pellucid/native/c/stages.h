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
} Product;

// raw[row] = outputs t · 16 … of a matrix, for all rows.
static void multiply_tile(const Model *m, const Product *p, int t, const Panels *x, int rows, float (*raw)[TILE]) {
    const Matrix *w = p->matrix;
    const uint8_t *tile = m->parameters + w->offset + (size_t)t * tile_bytes(w->format, w->columns);
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
            multiply_tile(m, up, t, x, rows, raw);
            if (gate) multiply_tile(m, gate, t, x, rows, gates);
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
    const uint8_t *tile = m->parameters + w->offset + (size_t)(row / TILE) * tile_bytes(w->format, w->columns);
    for (int c = 0; c < width; c++) out[c] = weight_at(w->format, tile, row % TILE, c);
}

// Rows of the residual stream replaced by their norm.
SOME void normalize_rows(Model *m, Turn *turn, const Norm *norm) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) normalize(norm, m->x + (size_t)r * D_ROW, D_MODEL, D_ROW, m->x + (size_t)r * D_ROW);
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

// Each q and k turned, where the layer has rotary positions; keys and values into their slots.
static void rotate_and_append(Model *m, Turn *turn, int i, bool rotary) {
    while (take(turn, m->rows * HEADS, share_of(turn, m->rows * HEADS, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const int r = unit / HEADS, kv_head = unit % HEADS - NUM_HEADS;
            const size_t at = (size_t)r * ROTARY_PAIRS;
            float *x = head_of(m, unit);
            if (rotary) rotate(x, m->cosine + at, m->sine + at, ROTARY_PAIRS, ROTARY_APART, ROTARY_STEP);
            if (kv_head >= 0) append(m->slots[r], i, kv_head, m->positions[r], x, m->v + (size_t)r * KV_ROW + kv_head * HEAD_DIM);
        }
}

// z of every row and head. A piece of work: a few rows of one slot, and the heads that share one key-value head.
static void attend_rows(Model *m, Turn *turn, int i, const Layer *layer) {
    enum { SHARING = NUM_HEADS / NUM_KV_HEADS };
    Attention *w = &m->attention[turn->thread];
    while (take(turn, m->num_runs * NUM_KV_HEADS, 1)) {
        const Run run = m->runs[turn->begin / NUM_KV_HEADS];
        const int kv_head = turn->begin % NUM_KV_HEADS, queries = run.count * SHARING;
        const Slot *slot = m->slots[run.first];
        for (int done = 0, count; done < queries; done += count) {
            int from[MAX_QUERIES], until[MAX_QUERIES];
            float *z[MAX_QUERIES];
            count = queries - done < MAX_QUERIES ? queries - done : MAX_QUERIES;
            for (int n = 0; n < count; n++) {
                const int r = run.first + (done + n) / SHARING, head = kv_head * SHARING + (done + n) % SHARING;
                memcpy(w->q[n], m->q + (size_t)r * Q_ROW + head * HEAD_DIM, sizeof w->q[n]);
                until[n] = m->positions[r] + 1;
                from[n] = until[n] > layer->window ? until[n] - layer->window : 0;
                z[n] = m->z + (size_t)r * Q_ROW + head * HEAD_DIM;
            }
            attend(count, w, keys_of(slot, i, kv_head), values_of(slot, i, kv_head), layer->scale, from, until);
            for (int n = 0; n < count; n++) memcpy(z[n], w->z[n], HEAD_DIM * sizeof(float));
        }
    }
}

// The residual stream of the rows whose logits are wanted.
static void gather_wanted(Model *m, Turn *turn) {
    while (take(turn, m->num_wanted, m->num_wanted))
        for (int n = 0; n < m->num_wanted; n++)
            memcpy(m->final + (size_t)n * D_ROW, m->x + (size_t)m->wanted[n] * D_ROW, D_ROW * sizeof(float));
}
