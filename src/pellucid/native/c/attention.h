// attention.h: z = softmax(q kᵀ · scale) v over what a slot has cached.
//
// Keys lie in tiles of 16 positions, [position / 16][HEAD_DIM][16], so that a vector is one dimension of 16 keys; values lie
// [position][V_ROW]. Positions are worked on in chunks whose bounds are fixed places in the sequence, each with a softmax of its own, and the
// chunks are merged in order (Milakov & Gimelshein 2018). So a row's numbers depend on its own position only: not on how rows were grouped,
// nor on which thread took which chunk.
#define CHUNK 512
#define MAX_QUERIES (LANES == 16 ? 8 : LANES == 8 ? 4 : 2) // worked on at a time: a key or value, once loaded, serves all of them
#define V_ROW ((HEAD_DIM + TILE - 1) / TILE * TILE)
#define VALUES (V_ROW / LANES % 2 ? 1 : 2) // vectors of a value worked on at a time

#if HALF_CACHE
typedef uint16_t Cached;
INLINE Floats load_cached(const Cached *p) { return load_halves(p); }
INLINE Cached to_cached(float x) { return float_to_half(x); }
#else
typedef float Cached;
INLINE Floats load_cached(const Cached *p) { return load(p); }
INLINE Cached to_cached(float x) { return x; }
#endif

// What a query has gathered from some of the positions.
typedef struct {
    float most, total; // the largest score; Σ e^(score − most)
    float z[V_ROW];    // Σ e^(score − most) · v
} Gathered;

typedef struct {
    int capacity;    // positions, a multiple of 16
    Cached *keys;    // [NUM_LAYERS][NUM_KV_HEADS][capacity / 16][HEAD_DIM][16]
    Cached *values;  // [NUM_LAYERS][NUM_KV_HEADS][capacity][V_ROW]
    Gathered *chunks; // [NUM_HEADS][capacity / CHUNK + 1]: of the one row of a step, where threads share its chunks
} Slot;

INLINE Cached *keys_of(const Slot *slot, int layer, int head) {
    return slot->keys + ((size_t)layer * NUM_KV_HEADS + head) * slot->capacity * HEAD_DIM;
}
INLINE Cached *values_of(const Slot *slot, int layer, int head) {
    return slot->values + ((size_t)layer * NUM_KV_HEADS + head) * slot->capacity * V_ROW;
}

static void append(const Slot *slot, int layer, int head, int position, const float *k, const float *v) {
    Cached *key = keys_of(slot, layer, head) + (size_t)(position / TILE) * HEAD_DIM * TILE + position % TILE;
    Cached *value = values_of(slot, layer, head) + (size_t)position * V_ROW;
    for (int d = 0; d < HEAD_DIM; d++) {
        key[d * TILE] = to_cached(k[d]);
        value[d] = to_cached(v[d]);
    }
}

// Working space of one thread.
typedef struct {
    float q[MAX_QUERIES][HEAD_DIM];
    float scores[MAX_QUERIES][CHUNK];
    Gathered chunk[MAX_QUERIES], all[MAX_QUERIES];
} Attention;

// `count` queries, in w->q; query r sees positions from[r] to until[r] − 1. What it gathers from the chunk's positions: w->chunk[r].
INLINE void gather(const int count, Attention *w, const Cached *keys, const Cached *values, float scale, const int *from, const int *until, int chunk) {
    int first = from[0], last = until[0];
    for (int r = 0; r < count; r++) {
        first = from[r] < first ? from[r] : first;
        last = until[r] > last ? until[r] : last;
    }
    const int begin = chunk > first ? chunk : first / TILE * TILE, end = chunk + CHUNK < last ? chunk + CHUNK : last;
    Floats most[MAX_QUERIES];
    for (int r = 0; r < count; r++) most[r] = splat(-1e30f);
    for (int at = begin; at < end; at += TILE) { // scores of 16 positions
        const Cached *tile = keys + (size_t)at * HEAD_DIM;
        for (int g = 0; g < GROUPS; g++) {
            Floats even[MAX_QUERIES], odd[MAX_QUERIES]; // sums of even and odd dimensions: additions need not wait for one another
#pragma GCC unroll 8
            for (int r = 0; r < count; r++) even[r] = odd[r] = splat(0);
            for (int d = 0; d + 1 < HEAD_DIM; d += 2) {
                const Floats first = load_cached(tile + d * TILE + g * LANES), second = load_cached(tile + (d + 1) * TILE + g * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < count; r++) {
                    even[r] = fma_(first, splat(w->q[r][d]), even[r]);
                    odd[r] = fma_(second, splat(w->q[r][d + 1]), odd[r]);
                }
            }
            if (HEAD_DIM % 2)
                for (int r = 0; r < count; r++) even[r] = fma_(load_cached(tile + (HEAD_DIM - 1) * TILE + g * LANES), splat(w->q[r][HEAD_DIM - 1]), even[r]);
            Ints place = splat_int(at + g * LANES);
            for (int i = 0; i < LANES; i++) place[i] += i;
#pragma GCC unroll 8
            for (int r = 0; r < count; r++) {
                Floats score = (even[r] + odd[r]) * scale;
                if (ATTENTION_SOFTCAP > 0) score = ATTENTION_SOFTCAP * tanh_(score / ATTENTION_SOFTCAP);
                score = choose((place >= from[r]) & (place < until[r]), score, splat(-INFINITY));
                most[r] = max_(most[r], score);
                store(w->scores[r] + (at - chunk) + g * LANES, score);
            }
        }
    }
    for (int r = 0; r < count; r++) { // scores → e^(score − most)
        const float highest = max_lanes(most[r]);
        Floats sum = splat(0);
        for (int i = begin - chunk; i < end - chunk; i += LANES) {
            const Floats score = load(w->scores[r] + i), e = choose(score > -1e30f, exp_(score - highest), splat(0));
            store(w->scores[r] + i, e);
            sum += e;
        }
        w->chunk[r].most = highest;
        w->chunk[r].total = sum_lanes(sum);
    }
    for (int d = 0; d < V_ROW; d += VALUES * LANES) { // z = Σ e · v
        Floats sum[MAX_QUERIES][VALUES];
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 2
            for (int i = 0; i < VALUES; i++) sum[r][i] = splat(0);
        for (int at = begin; at < end; at++) {
            Floats v[VALUES];
#pragma GCC unroll 2
            for (int i = 0; i < VALUES; i++) v[i] = load_cached(values + (size_t)at * V_ROW + d + i * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < count; r++)
#pragma GCC unroll 2
                for (int i = 0; i < VALUES; i++) sum[r][i] = fma_(v[i], splat(w->scores[r][at - chunk]), sum[r][i]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 2
            for (int i = 0; i < VALUES; i++) store(w->chunk[r].z + d + i * LANES, sum[r][i]);
    }
}

static void gather_chunk(int count, Attention *w, const Cached *keys, const Cached *values, float scale, const int *from, const int *until, int chunk) {
    switch (count) {
    case 1: gather(1, w, keys, values, scale, from, until, chunk); break;
    case 2: gather(2, w, keys, values, scale, from, until, chunk); break;
#if MAX_QUERIES > 2
    case 3: gather(3, w, keys, values, scale, from, until, chunk); break;
    case 4: gather(4, w, keys, values, scale, from, until, chunk); break;
#endif
#if MAX_QUERIES > 4
    case 5: gather(5, w, keys, values, scale, from, until, chunk); break;
    case 6: gather(6, w, keys, values, scale, from, until, chunk); break;
    case 7: gather(7, w, keys, values, scale, from, until, chunk); break;
    case 8: gather(8, w, keys, values, scale, from, until, chunk); break;
#endif
    default: break;
    }
}

// The same query, of more positions: both are scaled to the larger maximum.
static void merge(Gathered *all, const Gathered *more) {
    if (more->total == 0) return;
    if (all->total == 0) {
        *all = *more;
        return;
    }
    const float most = all->most > more->most ? all->most : more->most, mine = expf(all->most - most), its = expf(more->most - most);
    all->total = all->total * mine + more->total * its;
    all->most = most;
    for (int d = 0; d < V_ROW; d += LANES) store(all->z + d, load(all->z + d) * mine + load(more->z + d) * its);
}

static void finish(const Gathered *all, float *z) {
    for (int d = 0; d < HEAD_DIM; d++) z[d] = all->z[d] / all->total;
}
