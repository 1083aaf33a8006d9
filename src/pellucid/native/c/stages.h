// stages.h: the stages of forward(), each with its work cut into pieces that any thread may take.

INLINE int padded_width(int width) { return (width + 63) / 64 * 64; }

// A row with zeros beyond its width.
INLINE const float *padded(const float *x, int width, int columns, float *out) {
    memcpy(out, x, (size_t)width * sizeof *x);
    memset(out + width, 0, (size_t)(columns - width) * sizeof *x);
    return out;
}

// Rows of x, normalized, as panels. A single row is made by each thread for itself, which is quicker than waiting for another.
static const Panels *prepare(Model *m, Turn *turn, const float *x, int row_size, int rows, int width, const Norm *norm, int forms) {
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST;
    const int columns = padded_width(width);
    Panels *panels = rows == 1 ? &m->own[turn->thread] : &m->shared;
    const bool alone = rows == 1;
    while (alone ? pending(turn) : take(turn, rows, share_of(turn, rows, 4))) {
        for (int r = alone ? 0 : turn->begin; r < (alone ? 1 : turn->end); r++) {
            const float *row = x + (size_t)r * row_size;
            if (norm->kind != NO_NORM) normalize(norm, row, width, columns, scratch), row = scratch;
            else if (width < columns) row = padded(row, width, columns, scratch); // beyond it may be what a wider layer left
            fill(panels, r, rows, row, columns, forms);
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
    float scale;       // of what is made, before it is added
} Product;

// raw[row] = outputs t · 16 … of a matrix, for all rows.
static void multiply_tile(const Model *m, const Matrix *w, int t, const Panels *x, int rows, float (*raw)[TILE]) {
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
            multiply_tile(m, p->matrix, t, x, rows, raw);
            const int kept = p->width - t * TILE < TILE ? p->width - t * TILE : TILE;
            for (int r = 0; r < rows; r++) {
                float *out = p->out + r * p->row_size + t * TILE, *y = raw[r];
                if (p->bias)
                    for (int j = 0; j < TILE; j++) y[j] += p->bias[t * TILE + j];
                if (p->scale != 1)
                    for (int j = 0; j < TILE; j++) y[j] *= p->scale;
                if (p->add)
                    for (int j = 0; j < kept; j++) y[j] += out[j];
                if (kept == TILE) memcpy(out, y, TILE * sizeof(float));
                else memcpy(out, y, (size_t)kept * sizeof(float));
            }
        }
    }
}

// Outputs t · 16 … of act(gate x) ⊙ up x, or of act(up x) where there is no gate.
INLINE void activate_tile(const Activation *activation, int t, int rows, const float (*gates)[TILE], const float *gate_bias, const float (*ups)[TILE], const float *up_bias,
                          float *out, size_t row_size) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < TILE; i += LANES) {
            const int at = t * TILE + i;
            Floats y = load(ups[r] + i), g;
            if (up_bias) y += load(up_bias + at);
            if (gates) {
                g = load(gates[r] + i);
                if (gate_bias) g += load(gate_bias + at);
                y = limited(activation, y) * activate(activation, g);
            } else {
                y = activate(activation, y);
            }
            store(out + r * row_size + at, y);
        }
}
INLINE void multiply_activated(Model *m, Turn *turn, const Panels *x, int rows, const Activation *activation, const Product *gate, const Product *up) {
    const int tiles = up->matrix->rows / TILE;
    float ups[MAX_ROWS][TILE], gates[MAX_ROWS][TILE];
    while (take(turn, tiles, share_of(turn, tiles, 3)))
        for (int t = turn->begin; t < turn->end; t++) {
            if (gate) multiply_tile(m, gate->matrix, t, x, rows, gates);
            multiply_tile(m, up->matrix, t, x, rows, ups);
            activate_tile(activation, t, rows, gate ? gates : NULL, gate ? gate->bias : NULL, ups, up->bias, up->out, up->row_size);
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

// Rows, each number times σ of the gate's.
SOME void open_rows(Model *m, Turn *turn, float *x, const float *gate, int row_size, int width) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++)
            for (size_t i = (size_t)r * row_size; i < (size_t)r * row_size + (size_t)width; i++) x[i] /= 1 + expf(-gate[i]);
}

// Numbers of rows brought within −limit … limit.
SOME void clip_rows(Model *m, Turn *turn, float *x, int row_size, int width, float limit) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++)
            for (int i = 0; i < width; i++) x[(size_t)r * row_size + i] = fminf(fmaxf(x[(size_t)r * row_size + i], -limit), limit);
}

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

// The residual stream of the rows whose logits are wanted.
static void gather_wanted(Model *m, Turn *turn) {
    while (take(turn, m->num_wanted, share_of(turn, m->num_wanted, 4)))
        for (int n = turn->begin; n < turn->end; n++)
            memcpy(m->final + (size_t)n * D_ROW, m->x + (size_t)m->wanted[n] * D_ROW, D_ROW * sizeof(float));
}
