// latent.h: the stages of latent attention: of a token one narrow vector c is kept, of which all heads' keys and values are linear maps.
//
// These maps are never applied to what is kept: q · (W_UK c) is (W_UKᵀ q) · c, and Σ a (W_UV c) is W_UV Σ a c. So attention is that of heads
// which share one key [k_rot; c] and one value c. A head's part of either map is a matrix of its own; they lie one after the other.

// Rows of each head times its matrix: `width` numbers of out from `columns` of x. A piece of work is a head.
SOME void multiply_heads(Model *m, Turn *turn, int heads, const Matrix *w, const float *x, int row, int apart, int columns, float *out, int out_row, int out_apart, int width) {
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST;
    Panels *panels = &m->by_head[turn->thread];
    float raw[MAX_ROWS][TILE];
    const int tiles = w->rows / TILE / heads;
    while (take(turn, heads, 1))
        for (int head = turn->begin; head < turn->end; head++) {
            for (int r = 0; r < m->rows; r++)
                fill(panels, r, m->rows, padded(x + (size_t)r * row + head * apart, columns, padded_width(columns), scratch), padded_width(columns), form_for(w->format));
            for (int t = 0; t < tiles; t++) {
                multiply_tile(m, w, head * tiles + t, panels, m->rows, raw);
                for (int r = 0; r < m->rows; r++)
                    for (int j = 0; j < TILE && t * TILE + j < width; j++) out[(size_t)r * out_row + head * out_apart + t * TILE + j] = raw[r][j];
            }
        }
}

// c normalized; the shared part of the key and of each head's query turned; the key into the slot's cache. Queries come from z, for what is
// asked of the latent takes their place; `dim` is a query's, `turned` the first of its numbers.
INLINE void turn_latent(Model *m, Turn *turn, const Heads *h, int i, int dim, int turned, const Norm *c_norm, int rotary) {
    const int units = m->rows * (h->num_heads + 1), rank = h->value_dim;
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const int r = unit / (h->num_heads + 1), head = unit % (h->num_heads + 1);
            if (head < h->num_heads) {
                float *q = m->z + (size_t)r * Q_ROW + head * dim;
                rotate_head(m, q, r, rotary);
                memcpy(m->q + (size_t)r * Q_ROW + head * h->head_dim, q, (size_t)turned * sizeof *q);
                continue;
            }
            float *k = m->k + (size_t)r * KV_ROW, *c = m->v + (size_t)r * KV_ROW;
            normalize(c_norm, c, rank, padded_width(rank), c);
            rotate_head(m, k, r, rotary);
            memcpy(k + turned, c, (size_t)rank * sizeof *c);
            append(m->slots[r], h, i, 0, m->positions[r], k, c);
        }
}

#ifdef TRACE
// Keys or values as they would be, were they made: head by head W_UK c (its matrix lies turned) or W_UV c, after `shared` numbers of k.
static void tap_of_latent(Model *m, Turn *turn, const char *name, int i, int rows, int heads, const Matrix *w, bool flipped, int rank, int shared, int width) {
    const int whole = shared + width, tiles = w->rows / TILE / heads;
    const uint8_t *bytes = m->parameters.bytes + w->offset;
    while (take(turn, rows, share_of(turn, rows, 4)))
        for (int r = turn->begin; r < turn->end; r++)
            for (int head = 0; head < heads; head++) {
                float *out = tapped[r] + head * whole;
                const float *c = m->v + (size_t)r * KV_ROW;
                memcpy(out, m->k + (size_t)r * KV_ROW, (size_t)shared * sizeof *out);
                for (int j = 0; j < width; j++) {
                    out[shared + j] = 0;
                    for (int n = 0; n < rank; n++) {
                        const int row = flipped ? n : j, column = flipped ? j : n;
                        out[shared + j] += weight_at(w->format, bytes + (size_t)(head * tiles + row / TILE) * w->stride, row % TILE, column) * c[n];
                    }
                }
            }
    tap(m, turn, name, i, rows, tapped[0], WIDEST, heads * whole);
}
#define TAP_OF_LATENT(...) tap_of_latent(m, turn, __VA_ARGS__)
#else
#define TAP_OF_LATENT(...) ((void)0)
#endif
