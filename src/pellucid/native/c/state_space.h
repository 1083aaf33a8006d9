// state_space.h: the stages of Mamba and Mamba-2. A state h fades and takes in what comes: h' = e^(Δ A) h + Δ x B, y = C · h' + D x, A = −e^A_log.

// Δ = softplus(Δ + bias), within bounds; in its place.
SOME void make_steps(Model *m, Turn *turn, float *dt, const float *bias, int width, float low, float high) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++)
            for (int i = 0; i < width; i++) {
                float *x = dt + (size_t)r * MAPS_ROW + i;
                *x = fminf(fmaxf(softplus(*x + bias[i]), low), high);
            }
}

// Mamba: each channel has a state of its own, so many numbers; [numbers][channels]. A piece of work: some channels of a slot.
SOME void scan_channels(Model *m, Turn *turn, size_t place, int channels, int size, const float *x, const float *dt, const float *b, const float *c, const float *A_log,
                        const float *skip, float *y) {
    const int blocks = blocks_of_channels(channels);
    const size_t wide = (size_t)blocks * CHANNELS;
    while (take(turn, m->num_sequences * blocks, 1))
        for (int piece = turn->begin; piece < turn->end; piece++) {
            const Sequence *rows = &m->sequences[piece / blocks];
            const size_t at = (size_t)(piece % blocks) * CHANNELS;
            float *h = state_of(m, rows, place + at, size, wide, CHANNELS);
            for (size_t r = (size_t)rows->first; r < (size_t)(rows->first + rows->count); r++)
                for (size_t i = at; i < at + CHANNELS; i += LANES) {
                    const Floats step = load(dt + r * MAPS_ROW + i), in = load(x + r * MAPS_ROW + i), taken = step * in;
                    Floats sum = load(skip + i) * in;
                    for (int n = 0; n < size; n++) {
                        float *own = h + (size_t)n * wide + (i - at);
                        const Floats fading = exp_(-step * exp_(load(A_log + (size_t)n * wide + i)));
                        const Floats now = fma_(taken, splat(b[r * MAPS_ROW + (size_t)n]), load(own) * fading);
                        store(own, now);
                        sum = fma_(now, splat(c[r * MAPS_ROW + (size_t)n]), sum);
                    }
                    store(y + r * Q_ROW + i, sum);
                }
        }
}

// Mamba-2: each head has a state, [head_dim][numbers]; groups of heads share B and C. A piece of work: a head of a slot.
SOME void scan_heads(Model *m, Turn *turn, size_t place, int heads, int head_dim, int size, int groups, const float *x, const float *dt, const float *b, const float *c,
                     const float *A_log, const float *skip, float *y) {
    const size_t wide = (size_t)(size + TILE - 1) / TILE * TILE;
    while (take(turn, m->num_sequences * heads, 1))
        for (int piece = turn->begin; piece < turn->end; piece++) {
            const Sequence *rows = &m->sequences[piece / heads];
            const int head = piece % heads, group = head / (heads / groups);
            const size_t numbers = (size_t)head_dim * wide;
            float *h = state_of(m, rows, place + (size_t)head * numbers, 1, 0, numbers), in[MAX_STATE] = {0}, out[MAX_STATE] = {0};
            for (size_t r = (size_t)rows->first; r < (size_t)(rows->first + rows->count); r++) {
                const float step = dt[r * MAPS_ROW + (size_t)head], fading = expf(-step * expf(A_log[head]));
                memcpy(in, b + r * MAPS_ROW + group * size, (size_t)size * sizeof *in);
                memcpy(out, c + r * MAPS_ROW + group * size, (size_t)size * sizeof *out);
                for (int p = 0; p < head_dim; p++) {
                    const float value = x[r * MAPS_ROW + (size_t)(head * head_dim + p)];
                    float *own = h + (size_t)p * wide;
                    Floats sum = splat(0);
                    for (size_t n = 0; n < wide; n += LANES) {
                        const Floats now = fma_(load(in + n), splat(step * value), load(own + n) * fading);
                        store(own + n, now);
                        sum = fma_(now, load(out + n), sum);
                    }
                    y[r * Q_ROW + (size_t)(head * head_dim + p)] = sum_lanes(sum) + skip[head] * value;
                }
            }
        }
}

// y through its gate: y ⊙ silu(z).
SOME void gate_rows(Model *m, Turn *turn, float *y, const float *z, int width) {
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++)
            for (int i = 0; i < width; i++) y[(size_t)r * Q_ROW + i] *= opened(SILU_GATE, z[(size_t)r * MAPS_ROW + i]);
}

// Rows normalized, each of so many parts by itself.
SOME void normalize_parts(Model *m, Turn *turn, float *x, int row_size, int width, int parts, const Norm *norm) {
    const int units = m->rows * parts, own = width / parts;
    while (take(turn, units, share_of(turn, units, 4)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            Norm of_part = *norm;
            const int at = unit % parts * own;
            of_part.weight += at;
            if (of_part.bias) of_part.bias += at;
            normalize_head(&of_part, x + (size_t)(unit / parts) * row_size + at, own);
        }
}
