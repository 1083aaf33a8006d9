// attention.h: z = softmax(q kᵀ · scale) v over what a slot has cached.
//
// Positions are worked on in chunks whose bounds are fixed places in the sequence, each with a softmax of its own, and the chunks are merged
// in order (Milakov & Gimelshein 2018). So a row's numbers depend on its own position only: not on how rows were grouped, nor on which
// thread took which chunk. Scores are in units of log 2, for 2^x takes less than e^x.

// 2^x for x ≤ 0, to about 1e-7 of the value; 0 below 2^−126. x = n + r, |r| ≤ ½; 2^r by a polynomial (Cephes, exp2f.c).
INLINE Floats exp2_(Floats x) {
#if defined(USE_AVX512)
    const Floats n = (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    x = max_(x, splat(-127.0f));
    const Floats magic = splat(12582912.0f), shifted = x + magic, n = shifted - magic;
#endif
    const Floats r = x - n;
    Floats p = splat(1.535336188319500e-4f);
    p = fma_(p, r, splat(1.339887440266574e-3f));
    p = fma_(p, r, splat(9.618437357674640e-3f));
    p = fma_(p, r, splat(5.550332471162809e-2f));
    p = fma_(p, r, splat(2.402264791363012e-1f));
    p = fma_(p, r, splat(6.931472028550421e-1f));
    p = fma_(p, r, splat(1.0f));
#if defined(USE_AVX512)
    return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (Floats)(((Ints)shifted - (Ints)magic + 127) << 23);
#endif
}

// Working space of one thread.
typedef struct {
    Query q[MAX_QUERIES];
    int from[MAX_QUERIES], until[MAX_QUERIES]; // query r sees positions from[r] to until[r] − 1
    float slope[MAX_QUERIES];                   // what its scores lose a position of distance
    float scores[MAX_QUERIES][CHUNK];
    Weights weights[MAX_QUERIES];
    Gathered chunk[MAX_QUERIES], all[MAX_QUERIES];
} Attention;

// What the first `count` queries gather from the positions of a chunk: w->chunk.
INLINE void gather(const Heads *h, const int count, Attention *w, const uint8_t *keys, const uint8_t *values, float scale, int chunk) {
    const int vectors = vectors_for(count), span = vectors * LANES;
    int first = INT_MAX, last = 0, all_from = 0, all_until = INT_MAX; // seen by any, seen by all
    for (int r = 0; r < count; r++) {
        first = w->from[r] < first ? w->from[r] : first, last = w->until[r] > last ? w->until[r] : last;
        all_from = w->from[r] > all_from ? w->from[r] : all_from, all_until = w->until[r] < all_until ? w->until[r] : all_until;
    }
    first = first > chunk ? first - chunk : 0, last = last < chunk + CHUNK ? last - chunk : CHUNK;
    const int begin = first / span * span, end = (last + span - 1) / span * span;
    Floats most[MAX_QUERIES];
    for (int r = 0; r < count; r++) most[r] = splat(-1e30f);
    for (int at = begin; at < end; at += span) {
        Floats scores[MAX_QUERIES][MAX_VECTORS];
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) scores[r][i] = splat(0);
        score(h, count, vectors, w->q, keys + (size_t)(at / TILE) * key_tile(h), scores);
        const bool masked = chunk + at < all_from || chunk + at + span > all_until;
#pragma GCC unroll 12
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++) {
                Floats its = scores[r][i] * (h->softcap > 0 ? scale / h->softcap : scale * LOG2_E);
                if (h->softcap > 0) its = h->softcap * LOG2_E * tanh_(its);
                Ints place = splat_int(chunk + at + i * LANES);
                if (masked || h->slopes)
                    for (int j = 0; j < LANES; j++) place[j] += j;
                if (h->slopes) its += __builtin_convertvector(place - (w->until[r] - 1), Floats) * (w->slope[r] * LOG2_E);
                if (masked) {
                    its = choose((place >= w->from[r]) & (place < w->until[r]), its, splat(-1e30f));
                }
                most[r] = max_(most[r], its);
                store(w->scores[r] + at + i * LANES, its);
            }
    }
    for (int r = 0; r < count; r++) { // scores → 2^(score − most): 0 where masked, even where all are
        const float largest = max_lanes(most[r]), highest = largest > -1e29f ? largest : -1e29f;
        Floats sum = splat(0);
        for (int at = begin; at < end; at += LANES) {
            const Floats e = exp2_(load(w->scores[r] + at) - highest);
            store(w->scores[r] + at, e);
            sum += e;
        }
        w->chunk[r].most = highest;
        w->chunk[r].total = sum_lanes(sum);
        make_weights(h, &w->weights[r], w->scores[r], values, begin, end);
    }
    weigh(h, count, w->weights, values, begin, last, w->chunk);
}

// One function for each kind of heads and number of queries, so that the compiler knows both; other numbers are rounded up to one of these.
INLINE int rounded_queries(int count) { return count <= 4 ? count : count <= 6 ? 6 : count <= 8 ? 8 : MAX_QUERIES; }
typedef void Gather(int count, Attention *w, const uint8_t *keys, const uint8_t *values, float scale, int chunk);
INLINE void gather_chunk(const Heads *h, int count, Attention *w, const uint8_t *keys, const uint8_t *values, float scale, int chunk) {
    switch (count) {
    case 1: gather(h, 1, w, keys, values, scale, chunk); break;
    case 2: gather(h, 2, w, keys, values, scale, chunk); break;
#if MAX_QUERIES > 2
    case 3: gather(h, 3, w, keys, values, scale, chunk); break;
    case 4: gather(h, 4, w, keys, values, scale, chunk); break;
#endif
#if MAX_QUERIES > 4
    case 6: gather(h, 6, w, keys, values, scale, chunk); break;
    case 8: gather(h, 8, w, keys, values, scale, chunk); break;
    case 12: gather(h, 12, w, keys, values, scale, chunk); break;
#endif
    default: break;
    }
}

// The same query, of more positions: both are scaled to the larger maximum.
INLINE void merge(const Heads *h, Gathered *all, const Gathered *more) {
    if (more->total == 0) return;
    if (all->total == 0) {
        *all = *more;
        return;
    }
    const float most = all->most > more->most ? all->most : more->most, mine = exp2f(all->most - most), its = exp2f(more->most - most);
    all->total = all->total * mine + more->total * its;
    all->most = most;
    for (int d = 0; d < value_row(h); d += LANES) store(all->z + d, load(all->z + d) * mine + load(more->z + d) * its);
}

// `sink`: the head's own score, whose share is nobody's; NULL: there is none.
INLINE void finish(const Heads *h, const Gathered *all, const float *sink, float *z) {
    const float total = all->total + (sink ? exp2f(*sink * LOG2_E - all->most) : 0);
    for (int d = 0; d < h->value_dim; d++) z[d] = all->z[d] / total;
}
