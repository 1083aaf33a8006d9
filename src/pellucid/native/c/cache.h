// cache.h: how keys and values are kept: in chunks of 512 positions, of tiles of 16.
//
// Layers may differ in their heads: what depends on them is a function of `Heads`, whose numbers the compiler knows where a layer's part is
// compiled, so that each kind of heads has loops of its own.
//
// A tile of keys has its 16 positions side by side, so that a vector is one dimension (or a few, multiplied and summed by one instruction) of
// many keys; a tile of values has the dimensions side by side. The file that follows says how the numbers are kept, and gives
//
//     key_tile, value_tile   bytes of a tile
//     Query, Weights         a query, and what each position weighs for it, as the products take them
//     cache_key, cache_value one position's, into its tile
//     make_query             from floats
//     score                  q · k of some vectors of positions
//     make_weights, weigh    Σ weight · v
//
// A query's numbers never depend on the queries it is worked on with, nor on how many vectors are worked on at a time.
#define CHUNK 512
#define LOG2_E 1.44269504f
// Queries worked on at a time (a key or value, once loaded, serves all of them), and vectors of positions: as many sums as there are registers.
#define MAX_QUERIES (LANES == 16 ? 12 : LANES == 8 ? 4 : 2)
#define MAX_VECTORS 4
INLINE int vectors_for(const int queries) { return LANES > 4 && 3 * queries > MAX_QUERIES ? 2 : MAX_VECTORS; }

typedef struct {
    int num_heads, num_kv_heads; // of queries; of keys and values
    int head_dim, value_dim;     // of a query or key; of a value
    float softcap;               // scores become softcap · tanh(scores / softcap); 0: as they are
    const float *slopes;         // what each head's scores lose a position of distance; NULL: nothing
} Heads;

INLINE int sharing(const Heads *h) { return h->num_heads / h->num_kv_heads; } // heads that share one key-value head
INLINE int value_row(const Heads *h) { return (h->value_dim + TILE - 1) / TILE * TILE; }
#define SUMS_AT_A_TIME (LANES == 16 ? 24 : 8)
// Vectors of a value worked on at a time, with so many sums for each: all, where there are registers, so that memory is read in order.
INLINE int values_for(const Heads *h, const int sums) {
    int values = 8;
    while (values > 1 && (value_row(h) / LANES % values || values * sums > SUMS_AT_A_TIME)) values /= 2;
    return values;
}

// What a query has gathered from some of the positions.
typedef struct {
    float most, total;      // the largest score; Σ 2^(score − most)
    float z[MAX_VALUE_ROW]; // Σ 2^(score − most) · v
} Gathered;
