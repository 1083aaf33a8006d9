// cache_bf16.h: keys and values as bf16, multiplied as bf16 and summed as floats. Tiles hold pairs: [HEAD_DIM / 2][16][2] and [8][V_ROW][2].
#define PAIRS ((HEAD_DIM + 1) / 2)
#define KEY_TILE ((size_t)PAIRS * TILE * 4)
#define VALUE_TILE ((size_t)TILE * V_ROW * 2)

typedef struct { int32_t pairs[PAIRS]; } Query;
typedef struct { int32_t pairs[CHUNK / 2]; } Weights;

// Rounded; what is beyond the largest number becomes that number, so that a cache holds no infinities.
INLINE uint16_t to_cached(float x) {
    const float largest = 3.3895314e38f;
    return float_to_bf16(x > largest ? largest : x < -largest ? -largest : x);
}
static void cache_key(uint8_t *tile, int place, const float *k) {
    uint16_t *to = (uint16_t *)(void *)tile + place * 2;
    for (int d = 0; d < HEAD_DIM; d++) to[d / 2 * TILE * 2 + d % 2] = to_cached(k[d]);
}
static void cache_value(uint8_t *tile, int place, const float *v) {
    uint16_t *to = (uint16_t *)(void *)tile + (size_t)(place / 2) * V_ROW * 2 + place % 2;
    for (int d = 0; d < HEAD_DIM; d++) to[d * 2] = to_cached(v[d]);
}

static void make_query(Query *query, const float *q) {
    uint16_t to[PAIRS * 2] = {0};
    for (int d = 0; d < HEAD_DIM; d++) to[d] = to_cached(q[d]);
    memcpy(query->pairs, to, sizeof to);
}

INLINE __m512 multiply_pairs(__m512 sum, __m512i pairs, int32_t by) { return _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(by)); }

INLINE void score(const int count, const int vectors, const Query *q, const uint8_t *keys, Floats (*sum)[MAX_VECTORS]) {
    for (int p = 0; p < PAIRS; p++) {
        __m512i k[MAX_VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) k[i] = _mm512_loadu_si512(keys + i * KEY_TILE + p * 64);
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) sum[r][i] = (Floats)multiply_pairs((__m512)sum[r][i], k[i], q[r].pairs[p]);
    }
}

static void make_weights(Weights *weights, const float *e, const uint8_t *values, int begin, int end) {
    (void)values;
    for (int at = begin; at < end; at += 32) {
        const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)load(e + at + 16), (__m512)load(e + at));
        memcpy(weights->pairs + at / 2, &pairs, sizeof pairs);
    }
}

// Positions begin … end − 1 of the chunk.
INLINE void weigh(const int count, const Weights *weights, const uint8_t *values, int begin, int end, Gathered *gathered) {
    const int vectors = values_for(count);
    for (int d = 0; d < V_ROW; d += vectors * LANES) {
        __m512 sum[MAX_QUERIES][8];
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) sum[r][i] = _mm512_setzero_ps();
        for (int pair = begin / 2; pair < (end + 1) / 2; pair++) {
            __m512i v[8];
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) v[i] = _mm512_loadu_si512(values + ((size_t)pair * V_ROW + d + i * LANES) * 4);
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
