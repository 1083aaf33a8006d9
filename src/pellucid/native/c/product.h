// product.h: a tile of weights times a panel of activations, out[m][r] = Σ_c w[r][c] x[m][c]: where the time goes.
//
// A row of x meets the same operations in the same order whatever panel it is in, so its outputs never depend on its neighbours.

// Asks for the weights that are needed some hundred nanoseconds from now, block by block. Only where a block is worked on long enough:
// for one row or two the processor's own prefetcher does better alone (a fifth to a quarter of a decode step).
INLINE void ahead(const int format, const int size, const uint8_t *tile, int b) {
    const size_t block = tile_bytes(format, 256) / 8;
    if (size < 4) return;
    for (size_t i = 0; i < block; i += 64) __builtin_prefetch(tile + (size_t)b * block + 4096 + i);
}

INLINE void quantized_tile(const int format, const int size, const uint8_t *tile, int blocks, const int8_t *q, const Sums *sums, float (*out)[TILE]) {
    for (int g = 0; g < GROUPS; g++) {
        Floats total[8];
#pragma GCC unroll 8
        for (int m = 0; m < size; m++) total[m] = splat(0);
        // Blocks that come in eights share their bytes: written out as one, what they share is read once, and no shift is a variable.
        const int together = size <= 2 && (format == Q4_K || format == Q5_K || format == Q6_K) ? 8 : 1;
        for (int eight = 0; eight < blocks / together; eight++)
#pragma GCC unroll 8
        for (int b = eight * together; b < (eight + 1) * together; b++) {
            if (g == 0) ahead(format, size, tile, b);
            const Block w = unpack(format, tile, b, g);
            const int32_t *a = (const int32_t *)(const void *)(q + (size_t)b * size * 32); // fours of bytes
            const Sums *its = sums + (size_t)b * size;
#pragma GCC unroll 8
            for (int m = 0; m < size; m++, a += 8) {
                Ints low = splat_int(0), high = splat_int(0); // of either half of the columns
                if (format == Q4_0) low = splat_int(its[m].zero_8[0]), high = splat_int(its[m].zero_8[1]);
                if (IS_BIASED(format)) low = splat_int(its[m].zero_128[0]), high = splat_int(its[m].zero_128[1]);
                if (format == Q6_K) low = splat_int(its[m].zero_32[0]), high = splat_int(its[m].zero_32[1]);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    low = IS_BIASED(format) ? dot_biased(low, w.q[j], a[j]) : dot_small(low, w.q[j], a[j]);
                    high = IS_BIASED(format) ? dot_biased(high, w.q[j + 4], a[j + 4]) : dot_small(high, w.q[j + 4], a[j + 4]);
                }
                const Floats first = to_floats(low) * its[m].scale[0];
                if (format == Q6_K) {
                    const Floats second = to_floats(high) * its[m].scale[1];
                    total[m] = fma_(second, w.scale_high, fma_(first, w.scale, total[m]));
                } else {
                    total[m] = fma_(fma_(to_floats(high), splat(its[m].scale[1]), first), w.scale, total[m]);
                }
                if (format == Q4_1 || format == Q4_K || format == Q5_K) total[m] = fma_(w.minimum, splat(its[m].scaled_sum), total[m]);
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < size; m++) store(out[m] + g * LANES, total[m]);
    }
}

// Column c of a tile of floats, group g.
INLINE Floats column_of(const int format, const uint8_t *tile, int c, int g) {
    if (format == F32) return load((const float *)(const void *)tile + (size_t)c * TILE + g * LANES);
    if (format == F16) return load_halves(tile + ((size_t)c * TILE + g * LANES) * 2);
    Words pair;
    memcpy(&pair, tile + ((size_t)(c / 2) * TILE + g * LANES) * 4, sizeof pair);
    return (Floats)(c % 2 ? pair & 0xffff0000u : pair << 16);
}

INLINE void float_tile(const int format, const int size, const uint8_t *tile, int blocks, const float *x, float (*out)[TILE]) {
    for (int g = 0; g < GROUPS; g++) {
        Floats even[8], odd[8]; // two sums, of even and odd columns: additions need not wait for one another
#pragma GCC unroll 8
        for (int m = 0; m < size; m++) even[m] = odd[m] = splat(0);
        for (int b = 0; b < blocks; b++, x += 32 * size) {
            if (g == 0) ahead(format, size, tile, b);
            for (int c = 0; c < 32; c += 2) {
                const Floats first = column_of(format, tile, b * 32 + c, g), second = column_of(format, tile, b * 32 + c + 1, g);
#pragma GCC unroll 8
                for (int m = 0; m < size; m++) {
                    even[m] = fma_(first, splat(x[m * 32 + c]), even[m]);
                    odd[m] = fma_(second, splat(x[m * 32 + c + 1]), odd[m]);
                }
            }
        }
        x -= (size_t)blocks * 32 * size;
#pragma GCC unroll 8
        for (int m = 0; m < size; m++) store(out[m] + g * LANES, even[m] + odd[m]);
    }
}

#if BF16_PRODUCTS
INLINE void bf16_tile(const int size, const uint8_t *tile, int blocks, const uint16_t *x, float (*out)[TILE]) {
    __m512 even[8], odd[8];
#pragma GCC unroll 8
    for (int m = 0; m < size; m++) even[m] = odd[m] = _mm512_setzero_ps();
    const int32_t *a = (const int32_t *)(const void *)x; // pairs
    for (int b = 0; b < blocks; b++, tile += 1024, a += 16 * size) {
        ahead(BF16, size, tile, 0);
        for (int c = 0; c < 16; c += 2) {
            const __m512bh first = (__m512bh)_mm512_loadu_si512(tile + c * 64), second = (__m512bh)_mm512_loadu_si512(tile + c * 64 + 64);
#pragma GCC unroll 8
            for (int m = 0; m < size; m++) {
                even[m] = _mm512_dpbf16_ps(even[m], first, (__m512bh)_mm512_set1_epi32(a[m * 16 + c]));
                odd[m] = _mm512_dpbf16_ps(odd[m], second, (__m512bh)_mm512_set1_epi32(a[m * 16 + c + 1]));
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < size; m++) _mm512_storeu_ps(out[m], _mm512_add_ps(even[m], odd[m]));
}
#endif

// One function for each format and panel size, so that the compiler knows both.
#define TILES_OF(format, size)                                                                                                       \
    static void tile_##format##_##size(const uint8_t *tile, int blocks, const Panels *x, size_t start, float (*out)[TILE]) {          \
        if (!IS_FLOAT(format)) quantized_tile(format, size, tile, blocks, x->bytes + start, x->sums + start / 32, out);               \
        else if (form_for(format) == AS_FLOATS) float_tile(format, size, tile, blocks, x->floats + start, out);                       \
        else BF16_TILE(size);                                                                                                         \
    }
#if BF16_PRODUCTS
#define BF16_TILE(size) bf16_tile(size, tile, blocks, x->bf16 + start, out)
#define EIGHT(format) TILES_OF(format, 8)
#define TILE_8(format) tile_##format##_8
#elif PANEL == 8
#define BF16_TILE(size) (void)0
#define EIGHT(format) TILES_OF(format, 8)
#define TILE_8(format) tile_##format##_8
#else
#define BF16_TILE(size) (void)0
#define EIGHT(format)
#define TILE_8(format) NULL
#endif
#define TILES(format) TILES_OF(format, 1) TILES_OF(format, 2) TILES_OF(format, 4) EIGHT(format)
#define ROW_OF_TILES(format) {tile_##format##_1, tile_##format##_2, tile_##format##_4, TILE_8(format)}
typedef void TileProduct(const uint8_t *tile, int blocks, const Panels *x, size_t start, float (*out)[TILE]);
