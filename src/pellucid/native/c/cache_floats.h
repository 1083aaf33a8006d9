// cache_floats.h: keys and values as floats, or as f16 and worked on as floats. Tiles are [head_dim][16] and [16][value_row].
#if CACHE_BITS == 32
typedef float Cached;
INLINE Floats load_cached(const void *p) { return load(p); }
INLINE Cached to_cached(float x) { return x; }
#else
typedef uint16_t Cached;
INLINE Floats load_cached(const void *p) { return load_halves(p); }
INLINE Cached to_cached(float x) { return float_to_half(x); }
#endif
INLINE size_t key_tile(const Heads *h) { return (size_t)h->head_dim * TILE * sizeof(Cached); }
INLINE size_t value_tile(const Heads *h) { return (size_t)TILE * value_row(h) * sizeof(Cached); }

typedef struct { float q[MAX_HEAD_DIM]; } Query;
typedef struct { float w[CHUNK]; } Weights;

INLINE void cache_key(const Heads *h, uint8_t *tile, int place, const float *k) {
    Cached *to = (Cached *)(void *)tile + place;
    for (int d = 0; d < h->head_dim; d++) to[d * TILE] = to_cached(k[d]);
}
INLINE void cache_value(const Heads *h, uint8_t *tile, int place, const float *v) {
    Cached *to = (Cached *)(void *)tile + place * value_row(h);
    for (int d = 0; d < h->value_dim; d++) to[d] = to_cached(v[d]);
}

INLINE void make_query(const Heads *h, Query *query, const float *q) { memcpy(query->q, q, (size_t)h->head_dim * sizeof *q); }

INLINE void score(const Heads *h, const int count, const int vectors, const Query *q, const uint8_t *keys, Floats (*sum)[MAX_VECTORS]) {
    const Cached *tile = (const Cached *)(const void *)keys;
    for (int d = 0; d < h->head_dim; d++) {
        Floats k[MAX_VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) k[i] = load_cached(tile + (i * LANES / TILE * h->head_dim + d) * TILE + i * LANES % TILE);
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) sum[r][i] = fma_(k[i], splat(q[r].q[d]), sum[r][i]);
    }
}

INLINE void make_weights(const Heads *h, Weights *weights, const float *e, const uint8_t *values, int begin, int end) {
    (void)h, (void)values;
    memcpy(weights->w + begin, e + begin, (size_t)(end - begin) * sizeof *e);
}

// Positions begin … end − 1 of the chunk.
INLINE void weigh(const Heads *h, const int count, const Weights *weights, const uint8_t *values, int begin, int end, Gathered *gathered) {
    const int vectors = values_for(h, count);
    const int row = value_row(h);
    for (int d = 0; d < row; d += vectors * LANES) {
        Floats sum[MAX_QUERIES][8];
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) sum[r][i] = splat(0);
        const Cached *value = (const Cached *)(const void *)values + (size_t)begin * row + d;
        for (int at = begin; at < end; at++, value += row) {
            Floats v[8];
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) v[i] = load_cached(value + i * LANES);
#pragma GCC unroll 12
            for (int r = 0; r < count; r++)
#pragma GCC unroll 8
                for (int i = 0; i < vectors; i++) sum[r][i] = fma_(v[i], splat(weights[r].w[at]), sum[r][i]);
        }
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) store(gathered[r].z + d + i * LANES, sum[r][i]);
    }
}
