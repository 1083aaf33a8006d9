// delta_net.h: the stages of gated DeltaNet. Each head has a memory S, keys by values: a token lets it fade (α), corrects what it says to the
// token's key by a part β of what it says wrongly, and asks it with its query.
typedef struct {
    int num_heads, num_key_heads, key_dim, value_dim;
    bool by_channel; // α is one number for each of a key's, else one a head
    float beta_scale;
    size_t memory; // of the state, where S begins: [num_heads][key_dim][value_row]
} Delta;
INLINE int memory_row(const Delta *d) { return (d->value_dim + TILE - 1) / TILE * TILE; }

// q and k of each head made 1 long (q then divided by √key_dim); decay: log α = −e^A softplus(d + bias); beta: scale · σ(b). In their places.
SOME void make_rates(Model *m, Turn *turn, const Delta *d, float *q, float *k, float *decay, const float *A_log, const float *dt_bias, float *beta) {
    const int units = m->rows * (2 * d->num_key_heads + 1), own = d->by_channel ? d->key_dim : 1;
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const int head = unit % (2 * d->num_key_heads + 1) - 1, keys = head >= d->num_key_heads;
            const size_t row = (size_t)(unit / (2 * d->num_key_heads + 1)) * MAPS_ROW;
            if (head < 0) {
                for (int h = 0; h < d->num_heads; h++) {
                    const float rate = -expf(A_log[h]);
                    for (int i = h * own; i < (h + 1) * own; i++) decay[row + (size_t)i] = rate * softplus(decay[row + (size_t)i] + dt_bias[i]);
                    beta[row + (size_t)h] = d->beta_scale / (1 + expf(-beta[row + (size_t)h]));
                }
                continue;
            }
            float *x = (keys ? k : q) + row + (head - keys * d->num_key_heads) * d->key_dim, sum = 1e-6f;
            for (int i = 0; i < d->key_dim; i++) sum += x[i] * x[i];
            const float scale = 1 / sqrtf(sum) / (keys ? 1 : sqrtf((float)d->key_dim));
            for (int i = 0; i < d->key_dim; i++) x[i] *= scale;
        }
}

// S' = α S, w = β (v − S'ᵀ k), S = S' + k wᵀ, z = Sᵀ q; w takes v's place. A piece of work: a head of a slot.
SOME void remember(Model *m, Turn *turn, const Delta *d, size_t place, const float *q, const float *k, float *v, const float *decay, const float *beta, float *z, size_t z_row) {
    const int dims = d->value_dim, wide = memory_row(d), groups = d->num_heads / d->num_key_heads;
    while (take(turn, m->num_sequences * d->num_heads, 1))
        for (int piece = turn->begin; piece < turn->end; piece++) {
            const Sequence *rows = &m->sequences[piece / d->num_heads];
            const int head = piece % d->num_heads;
            const size_t size = (size_t)d->key_dim * (size_t)wide;
            float *memory = state_of(m, rows, place + d->memory + (size_t)head * size, 1, 0, size), said[MAX_VALUE_DIM], wrong[MAX_VALUE_DIM], out[MAX_VALUE_DIM];
            for (int r = rows->first; r < rows->first + rows->count; r++) {
                const size_t row = (size_t)r * MAPS_ROW;
                const float *own_q = q + row + head / groups * d->key_dim, *own_k = k + row + head / groups * d->key_dim;
                const float *fading = decay + row + (d->by_channel ? head * d->key_dim : head);
                float *value = v + row + head * dims;
                float alpha = expf(fading[0]);
                for (int j = 0; j < wide; j += LANES) store(said + j, splat(0)), store(out + j, splat(0));
                for (int e = 0; e < d->key_dim; e++) {
                    float *s = memory + (size_t)e * (size_t)wide;
                    if (d->by_channel) alpha = expf(fading[e]);
                    for (int j = 0; j < wide; j += LANES) {
                        const Floats faded = load(s + j) * alpha;
                        store(s + j, faded);
                        store(said + j, fma_(faded, splat(own_k[e]), load(said + j)));
                    }
                }
                memset(wrong, 0, sizeof wrong);
                for (int j = 0; j < dims; j++) wrong[j] = value[j] = beta[row + (size_t)head] * (value[j] - said[j]);
                for (int e = 0; e < d->key_dim; e++) {
                    float *s = memory + (size_t)e * (size_t)wide;
                    for (int j = 0; j < wide; j += LANES) {
                        const Floats now = fma_(load(wrong + j), splat(own_k[e]), load(s + j));
                        store(s + j, now);
                        store(out + j, fma_(now, splat(own_q[e]), load(out + j)));
                    }
                }
                memcpy(z + (size_t)r * z_row + head * dims, out, (size_t)dims * sizeof *out);
            }
        }
}

// z of each head normalized, and through its gate.
SOME void gate_heads(Model *m, Turn *turn, const Delta *d, const Norm *norm, const float *gates, int gate, float *z, size_t z_row) {
    const int units = m->rows * d->num_heads;
    while (take(turn, units, share_of(turn, units, 1)))
        for (int unit = turn->begin; unit < turn->end; unit++) {
            const int r = unit / d->num_heads, at = unit % d->num_heads * d->value_dim;
            float *x = z + (size_t)r * z_row + at;
            normalize_head(norm, x, d->value_dim);
            for (int j = 0; j < d->value_dim; j++) x[j] *= opened(gate, gates[(size_t)r * MAPS_ROW + at + j]);
        }
}
