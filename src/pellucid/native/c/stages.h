// stages.h: the steps of forward(), and how their work is divided among the threads. Each ends with all threads waiting for one another.

// Rows of x, normalized, as panels. A single row is made by each thread for itself, which is quicker than waiting for another.
static const Panels *prepare(Model *m, int thread, const float *x, int row_size, int rows, int width, const Norm *norm, int forms) {
    float *scratch = m->scratch + (size_t)thread * WIDEST;
    Panels *panels = rows == 1 ? &m->own[thread] : &m->shared;
    for (int r = rows == 1 ? 0 : thread; r < rows; r += rows == 1 ? 1 : m->team.size) {
        const float *row = x + (size_t)r * row_size;
        if (norm->kind != NO_NORM) normalize(norm, row, width, row_size, scratch), row = scratch;
        fill(panels, r, rows, row, row_size, forms);
    }
    if (rows > 1) barrier(&m->team);
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

// out[row][t · 16 …] of tile t, all rows.
static void multiply_tile(Model *m, const Product *p, int t, const Panels *x, int rows, float (*raw)[TILE]) {
    const Matrix *w = p->matrix;
    const uint8_t *tile = m->parameters + w->offset + (size_t)t * tile_bytes(w->format, w->columns);
    for (int first = 0, size; first < rows; first += size) {
        size = panel_size(rows - first);
        PRODUCTS[w->format][size == 8 ? 3 : size / 2](tile, w->columns / 32, x, (size_t)first * x->columns, raw + first);
    }
}

// A share of the tiles small enough that all threads end together, large enough to read on for a while.
INLINE int share(const Team *team, int tiles) {
    int count = tiles / (team->size * 4);
    return team->size == 1 ? tiles : count < 1 ? 1 : count;
}

static void multiply(Model *m, const Panels *x, int rows, const Product *products, int count) {
    int tiles = 0;
    for (int i = 0; i < count; i++) tiles += products[i].matrix->rows / TILE;
    const int many = share(&m->team, tiles);
    float raw[MAX_ROWS][TILE];
    for (int begin; (begin = take(&m->team, many)) < tiles;) {
        for (int t = begin; t < begin + many && t < tiles; t++) {
            const Product *p = products;
            int own = t;
            while (own >= p->matrix->rows / TILE) own -= p->matrix->rows / TILE, p++;
            multiply_tile(m, p, own, x, rows, raw);
            const int kept = p->width - own * TILE < TILE ? p->width - own * TILE : TILE;
            for (int r = 0; r < rows; r++) {
                float *out = p->out + r * p->row_size + own * TILE;
                for (int i = 0; i < kept; i++) {
                    const float y = p->bias ? raw[r][i] + p->bias[own * TILE + i] : raw[r][i];
                    out[i] = p->add ? out[i] + y : y;
                }
            }
        }
    }
    barrier(&m->team);
}

// act(gate x) ⊙ up x, or act(up x) where there is no gate.
static void multiply_activated(Model *m, const Panels *x, int rows, const Product *gate, const Product *up) {
    const int tiles = up->matrix->rows / TILE, many = share(&m->team, tiles);
    float raw[MAX_ROWS][TILE], gates[MAX_ROWS][TILE];
    for (int begin; (begin = take(&m->team, many)) < tiles;) {
        for (int t = begin; t < begin + many && t < tiles; t++) {
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
    barrier(&m->team);
}

// A matrix's row, as floats.
static void read_row(const Model *m, const Matrix *w, int row, int width, float *out) {
    const uint8_t *tile = m->parameters + w->offset + (size_t)(row / TILE) * tile_bytes(w->format, w->columns);
    for (int c = 0; c < width; c++) out[c] = weight_at(w->format, tile, row % TILE, c);
}

// Rows of the residual stream replaced by their norm.
SOME void normalize_rows(Model *m, int thread, const Norm *norm) {
    for (int r = thread; r < m->rows; r += m->team.size) normalize(norm, m->x + (size_t)r * D_ROW, D_MODEL, D_ROW, m->x + (size_t)r * D_ROW);
    barrier(&m->team);
}

// The q or k of one row and head; heads are counted through q's and then k's.
enum { HEADS = NUM_HEADS + NUM_KV_HEADS };
INLINE float *head_of(const Model *m, int unit) {
    const int r = unit / HEADS, head = unit % HEADS;
    return head < NUM_HEADS ? m->q + (size_t)r * Q_ROW + head * HEAD_DIM : m->k + (size_t)r * KV_ROW + (head - NUM_HEADS) * HEAD_DIM;
}
SOME void normalize_heads(Model *m, int thread, const Norm *q_norm, const Norm *k_norm) {
    for (int unit = thread; unit < m->rows * HEADS; unit += m->team.size)
        normalize_head(unit % HEADS < NUM_HEADS ? q_norm : k_norm, head_of(m, unit), HEAD_DIM);
    barrier(&m->team);
}
SOME void rotate_heads(Model *m, int thread) {
    for (int unit = thread; unit < m->rows * HEADS; unit += m->team.size) {
        const size_t at = (size_t)(unit / HEADS) * ROTARY_PAIRS;
        rotate(head_of(m, unit), m->cosine + at, m->sine + at, ROTARY_PAIRS, ROTARY_APART, ROTARY_STEP);
    }
    barrier(&m->team);
}

// The rows' keys and values, into their slots.
static void append_rows(Model *m, int thread, int i) {
    for (int unit = thread; unit < m->rows * NUM_KV_HEADS; unit += m->team.size) {
        const int r = unit / NUM_KV_HEADS, head = unit % NUM_KV_HEADS;
        const size_t at = (size_t)r * KV_ROW + head * HEAD_DIM;
        append(m->slots[r], i, head, m->positions[r], m->k + at, m->v + at);
    }
    barrier(&m->team);
}

// z of every row and head. A piece of work: a few rows of one slot, and the heads that share one key-value head.
static void attend_rows(Model *m, int thread, int i, const Layer *layer) {
    enum { SHARING = NUM_HEADS / NUM_KV_HEADS };
    Attention *w = &m->attention[thread];
    for (int unit; (unit = take(&m->team, 1)) < m->num_runs * NUM_KV_HEADS;) {
        const Run run = m->runs[unit / NUM_KV_HEADS];
        const int kv_head = unit % NUM_KV_HEADS, queries = run.count * SHARING;
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
    barrier(&m->team);
}

// The residual stream of the rows whose logits are wanted.
static void gather_wanted(Model *m, int thread) {
    for (int n = thread; n < m->num_wanted; n += m->team.size)
        memcpy(m->final + (size_t)n * D_ROW, m->x + (size_t)m->wanted[n] * D_ROW, D_ROW * sizeof(float));
    barrier(&m->team);
}
