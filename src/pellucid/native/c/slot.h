// slot.h: the keys and values of one request.
//
// A layer that sees all positions has room for all; one with a sliding window has a ring of chunks, in which the newest take the places of
// those that no query can see any more, nor any that comes after up to TAKE_BACK tokens were taken back. Layers with rings of one length lie
// together, chunk by chunk, so that memory fills as the request grows.
typedef struct {
    int capacity;            // positions
    int tiles;               // of a chunk
    size_t bytes;            // of all layers
    uint8_t *memory, *start; // as allocated, and from its first multiple of 64 bytes on
    struct Place {
        int ring;            // chunks
        size_t first, step;  // where they begin, and how far apart they are: each [num_kv_heads]{tiles of keys, tiles of values}
    } layers[NUM_LAYERS];
//[if recurrent]
    float *states;           // of the layers whose mixers keep one
//[end]
    Gathered *shared;        // [MAX_HEADS][chunks]: of the one row of a step, where threads share its chunks
} Slot;

INLINE int chunks_of(const Slot *slot) { return (slot->capacity + CHUNK - 1) / CHUNK; }

// Chunks that a step of MAX_ROWS may reach into, after the longest taking back.
INLINE int ring_of(int window, int chunks) {
    const long long reach = (long long)window + MAX_ROWS + TAKE_BACK, ring = (reach - 2) / CHUNK + 2;
    return ring < chunks ? (int)ring : chunks;
}

INLINE size_t head_bytes(const Slot *slot, const Heads *h) { return slot->tiles * (key_tile(h) + value_tile(h)); } // of a chunk
INLINE uint8_t *keys_of(const Slot *slot, const Heads *h, int layer, int head, int chunk) {
    const struct Place *its = &slot->layers[layer];
    return slot->start + its->first + (size_t)(chunk % its->ring) * its->step + head * head_bytes(slot, h);
}
INLINE uint8_t *values_of(const Slot *slot, const Heads *h, int layer, int head, int chunk) { return keys_of(slot, h, layer, head, chunk) + slot->tiles * key_tile(h); }

INLINE void append(const Slot *slot, const Heads *h, int layer, int head, int position, const float *k, const float *v) {
    const int chunk = position / CHUNK, tile = position % CHUNK / TILE, place = position % TILE;
    cache_key(h, keys_of(slot, h, layer, head, chunk) + tile * key_tile(h), place, k);
    cache_value(h, values_of(slot, h, layer, head, chunk) + tile * value_tile(h), place, v);
}
