// taps.h: the values that a step never has in memory on its own, made once more for those who want to see them.
//
// A norm goes straight into the panels of a product, a sum straight into the residual stream, and a gate into the activation beside it. With
// -DTRACE each of them is computed again, by the same functions row by row, so bit for bit what the step used. Without it nothing is here.
#ifdef TRACE
static float tapped[MAX_ROWS][WIDEST];

// What a product reads: the rows, normed where it norms them.
static void tap_norm(Model *m, Turn *turn, const char *name, int i, int rows, const float *x, int row_size, int width, const Norm *norm) {
    while (take(turn, rows, share_of(turn, rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            const float *row = x + (size_t)r * row_size;
            if (norm->kind == NO_NORM) memcpy(tapped[r], row, (size_t)width * sizeof(float));
            else normalize(norm, row, width, padded_width(width), tapped[r]);
        }
    tap(m, turn, name, i, rows, tapped[0], WIDEST, width);
}

// norm(x) Wᵀ + b by itself.
static void tap_product(Model *m, Turn *turn, const char *name, int i, int rows, const float *x, int row_size, int columns, const Norm *norm,
                        const Matrix *w, const float *bias, float scale, int width) {
    Panels *own = &m->own[turn->thread];
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST, raw[1][TILE];
    while (take(turn, rows, share_of(turn, rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            const float *row = x + (size_t)r * row_size;
            if (norm->kind != NO_NORM) normalize(norm, row, columns, padded_width(columns), scratch), row = scratch;
            else row = padded(row, columns, padded_width(columns), scratch);
            fill(own, 0, 1, row, padded_width(columns), form_for(w->format));
            for (int t = 0; t < w->rows / TILE; t++) {
                multiply_tile(m, w, t, own, 1, raw);
                for (int j = 0; j < TILE && t * TILE + j < width; j++) {
                    const float y = raw[0][j] + (bias ? bias[t * TILE + j] : 0);
                    tapped[r][t * TILE + j] = y * scale;
                }
            }
        }
    tap(m, turn, name, i, rows, tapped[0], WIDEST, width);
}
//[if experts]
// What each expert counts for in each row; 0: it was not chosen.
static void tap_experts(Model *m, Turn *turn, const char *name, int i, int rows, const Routing *to, int num_experts) {
    while (take(turn, 1, 1)) {
        for (int r = 0; r < rows; r++) memset(tapped[r], 0, (size_t)num_experts * sizeof(float));
        for (const struct Group *group = to->groups; group < to->groups + to->num_groups && group->expert != SHARED; group++)
            for (int n = group->first; n < group->first + group->count; n++) tapped[to->rows[n]][group->expert] = to->weights[n];
    }
    tap(m, turn, name, i, rows, tapped[0], WIDEST, num_experts);
}
#define TAP_EXPERTS(...) tap_experts(m, turn, __VA_ARGS__)
//[end]
SOME void tap_scaled(Model *m, Turn *turn, const char *name, int i, int rows, const float *x, int row_size, int width, float scale) {
    while (take(turn, 1, 1))
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < width; j++) tapped[r][j] = x[(size_t)r * row_size + j] * scale;
    tap(m, turn, name, i, rows, tapped[0], WIDEST, width);
}
//[if recurrent]
static float raw[3][MAX_ROWS][MAPS_ROW];
#define RAW(map) raw[map][0] // where a stage puts what only taps want
//[end]
#define TAP_SCALED(...) tap_scaled(m, turn, __VA_ARGS__)
//[if recurrent]
// Each head normalized by itself.
SOME void tap_heads_norm(Model *m, Turn *turn, const char *name, int i, int rows, const float *x, int row_size, int heads, int width, const Norm *norm) {
    while (take(turn, rows, share_of(turn, rows, 4)))
        for (int r = turn->begin; r < turn->end; r++)
            for (int head = 0; head < heads; head++) {
                memcpy(tapped[r] + head * width, x + (size_t)r * row_size + head * width, (size_t)width * sizeof *x);
                normalize_head(norm, tapped[r] + head * width, width);
            }
    tap(m, turn, name, i, rows, tapped[0], WIDEST, heads * width);
}
#define TAP_HEADS_NORM(...) tap_heads_norm(m, turn, __VA_ARGS__)
//[end]
#define TAP_NORM(...) tap_norm(m, turn, __VA_ARGS__)
#define TAP_PRODUCT(...) tap_product(m, turn, __VA_ARGS__)
#else
#define TAP_NORM(name, layer, rows, x, row_size, width, norm) ((void)(norm))
#define TAP_PRODUCT(...) ((void)0)
#define TAP_EXPERTS(...) ((void)0)
#define TAP_SCALED(...) ((void)0)
#define TAP_HEADS_NORM(...) ((void)0)
#define RAW(map) NULL
#endif
