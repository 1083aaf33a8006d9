// cache_bf16.h: keys and values as bf16, multiplied as bf16 and summed as floats. Tiles hold pairs: [head_dim / 2][16][2] and [8][value_row][2].
INLINE int pairs_of(const Heads *h) { return (h->head_dim + 1) / 2; }
INLINE size_t key_tile(const Heads *h) { return (size_t)pairs_of(h) * TILE * 4; }
INLINE size_t value_tile(const Heads *h) { return (size_t)TILE * value_row(h) * 2; }

typedef struct { int32_t pairs[(MAX_HEAD_DIM + 1) / 2]; } Query;
typedef struct { int32_t pairs[CHUNK / 2]; } Weights;

// Rounded; what is beyond the largest number becomes that number, so that a cache holds no infinities.
INLINE uint16_t to_cached(float x) {
    const float largest = 3.3895314e38f;
    return float_to_bf16(x > largest ? largest : x < -largest ? -largest : x);
}
INLINE void cache_key(const Heads *h, uint8_t *tile, int place, const float *k) {
    uint16_t *to = (uint16_t *)(void *)tile + place * 2;
    for (int d = 0; d < h->head_dim; d++) to[d / 2 * TILE * 2 + d % 2] = to_cached(k[d]);
}
INLINE void cache_value(const Heads *h, uint8_t *tile, int place, const float *v) {
    uint16_t *to = (uint16_t *)(void *)tile + (size_t)(place / 2) * value_row(h) * 2 + place % 2;
    for (int d = 0; d < h->value_dim; d++) to[d * 2] = to_cached(v[d]);
}

INLINE void make_query(const Heads *h, Query *query, const float *q) {
    uint16_t to[MAX_HEAD_DIM + 1];
    to[pairs_of(h) * 2 - 1] = 0;
    for (int d = 0; d < h->head_dim; d++) to[d] = to_cached(q[d]);
    memcpy(query->pairs, to, (size_t)pairs_of(h) * 4);
}

INLINE __m512 multiply_pairs(__m512 sum, __m512i pairs, int32_t by) { return _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(by)); }

INLINE void score(const Heads *h, const int count, const int vectors, const Query *q, const uint8_t *keys, Floats (*sum)[MAX_VECTORS]) {
    for (int p = 0; p < pairs_of(h); p++) {
        __m512i k[MAX_VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) k[i] = _mm512_loadu_si512(keys + i * key_tile(h) + p * 64);
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) sum[r][i] = (Floats)multiply_pairs((__m512)sum[r][i], k[i], q[r].pairs[p]);
    }
}

INLINE void make_weights(const Heads *h, Weights *weights, const float *e, const uint8_t *values, int begin, int end) {
    (void)h, (void)values;
    for (int at = begin; at < end; at += 32) {
        const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)load(e + at + 16), (__m512)load(e + at));
        memcpy(weights->pairs + at / 2, &pairs, sizeof pairs);
    }
}

// Positions begin … end − 1 of the chunk.
INLINE void weigh(const Heads *h, const int count, const Weights *weights, const uint8_t *values, int begin, int end, Gathered *gathered) {
    const int vectors = values_for(h, count);
    const int row = value_row(h);
    for (int d = 0; d < row; d += vectors * LANES) {
        __m512 sum[MAX_QUERIES][8];
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) sum[r][i] = _mm512_setzero_ps();
        for (int pair = begin / 2; pair < (end + 1) / 2; pair++) {
            __m512i v[8];
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) v[i] = _mm512_loadu_si512(values + ((size_t)pair * row + d + i * LANES) * 4);
#pragma GCC unroll 12
            for (int r = 0; r < count; r++)
#pragma GCC unroll 8
                for (int i = 0; i < vectors; i++) sum[r][i] = multiply_pairs(sum[r][i], v[i], weights[r].pairs[pair]);
        }
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) store(gathered[r].z + d + i * LANES, (Floats)sum[r][i]);
    }
}
