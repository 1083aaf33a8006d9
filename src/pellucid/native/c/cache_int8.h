// cache_int8.h: keys and values as bytes: a scale (f16) for 32 dimensions of a key, and for a value. 8.5 bits a number where heads have 64.
//
// Queries and weights have 15 bits, as two bytes: x = scale · (high + low / 128). So all that is lost is lost in keeping. Bytes have 128
// added, as dot_biased() wants them. Tiles hold fours: [head_dim / 4][16][4], then [blocks][16] scales; [4][value_row][4], then [16] scales.
#define MAX_FOURS ((MAX_HEAD_DIM + 3) / 4)
#define MAX_BLOCKS ((MAX_HEAD_DIM + 31) / 32)
INLINE int fours_of(const Heads *h) { return (h->head_dim + 3) / 4; }
INLINE int blocks_of(const Heads *h) { return (h->head_dim + 31) / 32; }
INLINE size_t key_scales(const Heads *h) { return (size_t)fours_of(h) * TILE * 4; } // where they begin
INLINE size_t key_tile(const Heads *h) { return (key_scales(h) + (size_t)blocks_of(h) * TILE * 2 + 63) / 64 * 64; }
INLINE size_t value_scales(const Heads *h) { return (size_t)TILE * value_row(h); }
INLINE size_t value_tile(const Heads *h) { return value_scales(h) + 64; }

typedef struct {
    int32_t high[MAX_FOURS], low[MAX_FOURS];             // fours of bytes
    int32_t high_zero[MAX_BLOCKS], low_zero[MAX_BLOCKS]; // what their sums start with, for keys have 128 added
    float scale[MAX_BLOCKS];
} Query;
typedef struct {
    int8_t high[CHUNK], low[CHUNK];
    int32_t high_zero, low_zero;
    float scale;
} Weights;

// `count` numbers as bytes, `step` apart; returns their scale.
INLINE uint16_t to_bytes(uint8_t *to, int step_of_four, const float *x, int count) {
    const uint16_t scale = float_to_half(largest_size(x, count) / 127.0f);
    const float size = half_to_float(scale), inverse = size > 0 ? 1.0f / size : 0;
    for (int i = 0; i < count; i++) {
        const float whole = rintf(x[i] * inverse);
        to[i / 4 * step_of_four + i % 4] = (uint8_t)(128 + (int)(whole > 127 ? 127 : whole < -127 ? -127 : whole));
    }
    return scale;
}
INLINE void cache_key(const Heads *h, uint8_t *tile, int place, const float *k) {
    for (int b = 0; b < blocks_of(h); b++) {
        const int count = h->head_dim - b * 32 < 32 ? h->head_dim - b * 32 : 32;
        const uint16_t scale = to_bytes(tile + (size_t)(b * 8 * TILE + place) * 4, TILE * 4, k + b * 32, count);
        memcpy(tile + key_scales(h) + (b * TILE + place) * 2, &scale, 2);
    }
}
INLINE void cache_value(const Heads *h, uint8_t *tile, int place, const float *v) {
    uint8_t bytes[MAX_VALUE_ROW];
    const uint16_t scale = to_bytes(bytes, 4, v, h->value_dim);
    for (int d = 0; d < h->value_dim; d++) tile[((size_t)(place / 4) * value_row(h) + d) * 4 + place % 4] = bytes[d];
    memcpy(tile + value_scales(h) + place * 2, &scale, 2);
}

INLINE void make_query(const Heads *h, Query *query, const float *q) {
    memset(query, 0, sizeof *query);
    for (int b = 0; b < blocks_of(h); b++) {
        const int count = h->head_dim - b * 32 < 32 ? h->head_dim - b * 32 : 32;
        int8_t *high = (int8_t *)(query->high + b * 8), *low = (int8_t *)(query->low + b * 8);
        const float largest = largest_size(q + b * 32, count);
        const float inverse = largest > 0 ? 127.0f / largest : 0;
        for (int i = 0; i < count; i++) {
            const float x = q[b * 32 + i] * inverse, whole = rintf(x);
            high[i] = (int8_t)whole, low[i] = (int8_t)rintf((x - whole) * 128.0f);
            query->high_zero[b] += BIAS_128 * high[i], query->low_zero[b] += BIAS_128 * low[i];
        }
        query->scale[b] = largest / (127.0f * 128.0f);
    }
}

INLINE void score(const Heads *h, const int count, const int vectors, const Query *q, const uint8_t *keys, Floats (*sum)[MAX_VECTORS]) {
#pragma GCC unroll 4
    for (int i = 0; i < vectors; i++) {
        const uint8_t *tile = keys + i * LANES / TILE * key_tile(h);
        for (int b = 0; b < blocks_of(h); b++) {
            Ints high[MAX_QUERIES], low[MAX_QUERIES];
#pragma GCC unroll 12
            for (int r = 0; r < count; r++) high[r] = splat_int(q[r].high_zero[b]), low[r] = splat_int(q[r].low_zero[b]);
            for (int j = b * 8; j < fours_of(h) && j < b * 8 + 8; j++) {
                const Bytes k = load_bytes(tile + (j * TILE + i * LANES % TILE) * 4);
#pragma GCC unroll 12
                for (int r = 0; r < count; r++) high[r] = dot_biased(high[r], k, q[r].high[j]), low[r] = dot_biased(low[r], k, q[r].low[j]);
            }
            const Floats scale = load_halves(tile + key_scales(h) + (b * TILE + i * LANES % TILE) * 2);
#pragma GCC unroll 12
            for (int r = 0; r < count; r++) sum[r][i] = fma_(to_floats((high[r] << 7) + low[r]), scale * q[r].scale[b], sum[r][i]);
        }
    }
}

INLINE void make_weights(const Heads *h, Weights *weights, const float *e, const uint8_t *values, int begin, int end) {
    float scaled[CHUNK];
    Ints most = splat_int(0);
    for (int at = begin; at < end; at += LANES) {
        const Floats w = load(e + at) * load_halves(values + (size_t)(at / TILE) * value_tile(h) + value_scales(h) + at % TILE * 2);
        most = max_ints(most, size_bits(w));
        store(scaled + at, w);
    }
    const float largest = largest_of(most), inverse = largest > 0 ? 127.0f / largest : 0;
    const Floats magic = splat(12582912.0f); // 1.5 · 2^23: adding it rounds to a whole number
    Ints high_sum = splat_int(0), low_sum = splat_int(0);
    typedef int8_t Few __attribute__((vector_size(LANES)));
    for (int at = begin; at < end; at += LANES) {
        const Floats x = load(scaled + at) * inverse, whole = x + magic;
        const Ints high = (Ints)whole - (Ints)magic, low = (Ints)((x - (whole - magic)) * 128.0f + magic) - (Ints)magic;
        const Few high_bytes = __builtin_convertvector(high, Few), low_bytes = __builtin_convertvector(low, Few);
        memcpy(weights->high + at, &high_bytes, LANES);
        memcpy(weights->low + at, &low_bytes, LANES);
        high_sum += high, low_sum += low;
    }
    weights->high_zero = BIAS_128 * sum_ints(high_sum), weights->low_zero = BIAS_128 * sum_ints(low_sum);
    weights->scale = largest / (127.0f * 128.0f);
}

// Positions begin … end − 1 of the chunk.
INLINE void weigh(const Heads *h, const int count, const Weights *weights, const uint8_t *values, int begin, int end, Gathered *gathered) {
    const int vectors = values_for(h, 2 * count);
    const int row = value_row(h);
    for (int d = 0; d < row; d += vectors * LANES) {
        Ints high[MAX_QUERIES][8], low[MAX_QUERIES][8]; // 512 · 127 · 127 · 128 fits 31 bits
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) high[r][i] = splat_int(weights[r].high_zero), low[r][i] = splat_int(weights[r].low_zero);
        for (int at = begin / 4 * 4; at < end; at += 4) {
            Bytes v[8];
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++)
                v[i] = load_bytes(values + (size_t)(at / TILE) * value_tile(h) + ((size_t)(at % TILE / 4) * row + d + i * LANES) * 4);
#pragma GCC unroll 12
            for (int r = 0; r < count; r++) {
                int32_t four[2];
                memcpy(&four[0], weights[r].high + at, 4), memcpy(&four[1], weights[r].low + at, 4);
#pragma GCC unroll 8
                for (int i = 0; i < vectors; i++) high[r][i] = dot_biased(high[r][i], v[i], four[0]), low[r][i] = dot_biased(low[r][i], v[i], four[1]);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int i = 0; i < vectors; i++) store(gathered[r].z + d + i * LANES, to_floats((high[r][i] << 7) + low[r][i]) * weights[r].scale);
    }
}
