// cache_floats.h: keys and values as floats, or as f16 and worked on as floats. Tiles are [HEAD_DIM][16] and [16][V_ROW].
#if CACHE_BITS == 32
typedef float Cached;
INLINE Floats load_cached(const void *p) { return load(p); }
INLINE Cached to_cached(float x) { return x; }
#else
typedef uint16_t Cached;
INLINE Floats load_cached(const void *p) { return load_halves(p); }
INLINE Cached to_cached(float x) { return float_to_half(x); }
#endif
#define KEY_TILE (HEAD_DIM * TILE * sizeof(Cached))
#define VALUE_TILE (TILE * V_ROW * sizeof(Cached))

typedef struct { float q[HEAD_DIM]; } Query;
typedef struct { float w[CHUNK]; } Weights;

static void cache_key(uint8_t *tile, int place, const float *k) {
    Cached *to = (Cached *)(void *)tile + place;
    for (int d = 0; d < HEAD_DIM; d++) to[d * TILE] = to_cached(k[d]);
}
static void cache_value(uint8_t *tile, int place, const float *v) {
    Cached *to = (Cached *)(void *)tile + place * V_ROW;
    for (int d = 0; d < HEAD_DIM; d++) to[d] = to_cached(v[d]);
}

static void make_query(Query *query, const float *q) { memcpy(query->q, q, sizeof query->q); }

INLINE void score(const int count, const int vectors, const Query *q, const uint8_t *keys, Floats (*sum)[MAX_VECTORS]) {
    const Cached *tile = (const Cached *)(const void *)keys;
    for (int d = 0; d < HEAD_DIM; d++) {
        Floats k[MAX_VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) k[i] = load_cached(tile + (i * LANES / TILE * HEAD_DIM + d) * TILE + i * LANES % TILE);
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) sum[r][i] = fma_(k[i], splat(q[r].q[d]), sum[r][i]);
    }
}

static void make_weights(Weights *weights, const float *e, const uint8_t *values, int begin, int end) {
    (void)values;
    memcpy(weights->w + begin, e + begin, (size_t)(end - begin) * sizeof *e);
}

// Positions begin … end − 1 of the chunk.
INLINE void weigh(const int count, const Weights *weights, const uint8_t *values, int begin, int end, Gathered *gathered) {
    const int vectors = values_for(count);
    for (int d = 0; d < V_ROW; d += vectors * LANES) {
        Floats sum[MAX_QUERIES][8];
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) sum[r][i] = splat(0);
        const Cached *value = (const Cached *)(const void *)values + (size_t)begin * V_ROW + d;
        for (int at = begin; at < end; at++, value += V_ROW) {
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
