// formats.h: how weights lie in the parameters file.
//
// A matrix is cut into tiles of 16 rows; a tile holds its columns in blocks of 32. Within a block the 16 rows lie side by side, so
// that one vector holds the same column (or four columns, as bytes) of all of them, and a product with an activation gives 16 outputs.
// The quantized formats keep GGML's own numbers, only rearranged: f16 scales d (and minima m), small unsigned integers q.
//
//   format  weight            a block of 16 rows × 32 columns
//   F32     w                 [32 columns][16 rows] floats
//   F16     w                 [32 columns][16 rows] halves
//   BF16    w                 [16 pairs of columns][16 rows][2] bf16; BF16_EXACT: the same, for activations that are not to be rounded to bf16
//   Q8_0    d (q − 128)       two blocks: [2][16] d, [2][8 fours][16 rows][4] q
//   Q4_0    d (q − 8)         two blocks: [2][16] d, [2][4 fours][16 rows][4] bytes: low half columns 0–15, high half 16–31
//   Q4_1    d q + m           [4 fours][16 rows][4] bytes, as Q4_0's; [16] d, [16] m
//   Q4_K    d s q − dmin μ    eight blocks: [16] d, [16] dmin, [8][16] s, [8][16] μ, then 4 × [8 fours][16 rows][4] bytes: block 2i low
//   Q5_K    d s q − dmin μ    as Q4_K, but before the four low bits [8 fours][16 rows][4] bytes whose bit i is the fifth bit of block i
//   Q6_K    d s (q − 32)      eight blocks: [16] d, 32 bytes of nothing, [16 half blocks][16] signed s, then for each four of them
//                             [8 fours][16 rows][4] bytes, bits 2j and 2j+1 the upper two of block j, and the four low bits as Q4_K's
//   IQ4_NL  d t[q]            as Q4_0; t: sixteen signed bytes
//   IQ4_XS  d s t[q]          eight blocks: [16] d, [8][16] signed s, then 8 × [4 fours][16 rows][4] bytes, as Q4_0's
//   MXFP4   2^e f[q]          as Q4_0, but the powers of two are bf16; f: sixteen floats of four bits, doubled, as signed bytes
//
// What is read together lies in the order in which it is read: the processor fetches ahead along one straight stream.
enum { F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, BF16_EXACT };
#define IS_FLOAT(format) ((format) <= BF16 || (format) == BF16_EXACT)
#define IS_LOOKED_UP(format) ((format) == IQ4_NL || (format) == IQ4_XS || (format) == MXFP4)
#define IS_BIASED(format) ((format) == Q8_0 || IS_LOOKED_UP(format)) // signed bytes with 128 added

// What the codes of four bits stand for, with 128 added.
static const uint8_t IQ4_VALUES[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t MXFP4_VALUES[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};
#define VALUES_OF(format) ((format) == MXFP4 ? MXFP4_VALUES : IQ4_VALUES)

typedef struct {
    int format;
    int rows, columns; // as stored: multiples of 16, and of the format's own block
    size_t offset;     // in the parameters file, bytes
    size_t stride;     // from one tile to the next: gate and up, read together, lie tile by tile in turn
} Matrix;

// Bytes of a tile's `columns`.
INLINE size_t tile_bytes(int format, int columns) {
    size_t blocks = (size_t)columns / 32;
    switch (format) {
    case F32: return blocks * 2048;
    case F16:
    case BF16:
    case BF16_EXACT: return blocks * 1024;
    case Q8_0: return blocks / 2 * 1088;
    case Q4_0: return blocks / 2 * 576;
    case Q4_1: return blocks * 320;
    case Q4_K: return blocks / 8 * 2368;
    case Q5_K: return blocks / 8 * 2880;
    case IQ4_NL:
    case MXFP4: return blocks / 2 * 576;
    case IQ4_XS: return blocks / 8 * 2208;
    default: return blocks / 8 * 3392; // Q6_K
    }
}

// One weight: for embeddings, and as the plain statement of the table above.
static float weight_at(int format, const uint8_t *tile, int row, int column) {
    const int block = column / 32, c = column % 32, i = block % 8; // i: the block's place among eight
    const int four = (c / 4) * 64 + row * 4 + c % 4;                // of 32 columns of bytes
    const int nibble = (c % 16 / 4) * 64 + row * 4 + c % 4;         // of 16 + 16 columns of halves of bytes
    const uint8_t *p;
    uint16_t h[2];
    float w;
#define HALF(at) (memcpy(h, (at), 2), half_to_float(h[0]))
    switch (format) {
    case F32: memcpy(&w, tile + ((size_t)column * 16 + row) * 4, 4); return w;
    case F16: return HALF(tile + ((size_t)column * 16 + row) * 2);
    case BF16:
    case BF16_EXACT:
        memcpy(h, tile + ((size_t)column / 2 * 32 + row * 2 + column % 2) * 2, 2);
        return bits_to_float((uint32_t)h[0] << 16);
    case Q8_0:
        p = tile + (size_t)(block / 2) * 1088;
        return HALF(p + block % 2 * 32 + row * 2) * (float)(p[64 + block % 2 * 512 + four] - 128);
    case Q4_0:
        p = tile + (size_t)(block / 2) * 576;
        return HALF(p + block % 2 * 32 + row * 2) * (float)((p[64 + block % 2 * 256 + nibble] >> c / 16 * 4 & 15) - 8);
    case Q4_1:
        p = tile + (size_t)block * 320;
        w = HALF(p + 256 + row * 2) * (float)(p[nibble] >> c / 16 * 4 & 15);
        return w + HALF(p + 288 + row * 2);
    case Q4_K:
    case Q5_K: {
        p = tile + (size_t)(block / 8) * (format == Q4_K ? 2368 : 2880);
        int q = p[(format == Q4_K ? 320 : 832) + i / 2 * 512 + four] >> i % 2 * 4 & 15;
        if (format == Q5_K) q |= (p[320 + four] >> i & 1) << 4;
        w = HALF(p + row * 2) * p[64 + i * 16 + row] * (float)q;
        return w - HALF(p + 32 + row * 2) * p[192 + i * 16 + row];
    }
    case IQ4_NL:
    case MXFP4:
        p = tile + (size_t)(block / 2) * 576;
        memcpy(h, p + block % 2 * 32 + row * 2, 2);
        w = format == MXFP4 ? bits_to_float((uint32_t)h[0] << 16) : half_to_float(h[0]);
        return w * (float)(VALUES_OF(format)[p[64 + block % 2 * 256 + nibble] >> c / 16 * 4 & 15] - 128);
    case IQ4_XS:
        p = tile + (size_t)(block / 8) * 2208;
        w = HALF(p + row * 2) * (float)(int8_t)p[32 + i * 16 + row];
        return w * (float)(IQ4_VALUES[p[160 + i * 256 + nibble] >> c / 16 * 4 & 15] - 128);
    default: { // Q6_K
        p = tile + (size_t)(block / 8) * 3392;
        const uint8_t *its = p + 320 + i / 4 * 1536 + four; // of four blocks
        int q = (its[512 + i % 4 / 2 * 512] >> i % 2 * 4 & 15) | (its[0] >> i % 4 * 2 & 3) << 4;
        return HALF(p + row * 2) * (float)(int8_t)p[64 + (i * 2 + c / 16) * 16 + row] * (float)(q - 32);
    }
    }
#undef HALF
}

// Block b of a quantized tile, for the LANES rows of group g: the 32 columns as 8 vectors of four bytes a row, and what to do with their
// sum. A weight is scale · (q − zero) + minimum; Q6_K has a scale for each half block.
typedef struct {
    Bytes q[8];
    Floats scale, scale_high, minimum;
} Block;

INLINE Bytes low_half(Bytes v) { return v & 15; }
INLINE Bytes high_half(Bytes v) { return (Bytes)((Shorts)v >> 4) & 15; }

INLINE Block unpack(const int format, const uint8_t *tile, int b, int g) {
    Block block = {.scale = splat(0)};
    const uint8_t *p;
    const int i = b % 8, rows = g * LANES;
    switch (format) {
    case Q8_0:
        p = tile + (size_t)(b / 2) * 1088;
        block.scale = load_halves(p + b % 2 * 32 + rows * 2);
        p += 64 + b % 2 * 512;
        for (int j = 0; j < 8; j++) block.q[j] = load_bytes(p + j * 64 + rows * 4);
        break;
    case Q4_0:
        p = tile + (size_t)(b / 2) * 576;
        block.scale = load_halves(p + b % 2 * 32 + rows * 2);
        p += 64 + b % 2 * 256;
        for (int j = 0; j < 4; j++) {
            Bytes v = load_bytes(p + j * 64 + rows * 4);
            block.q[j] = low_half(v), block.q[j + 4] = high_half(v);
        }
        break;
    case Q4_1:
        p = tile + (size_t)b * 320;
        for (int j = 0; j < 4; j++) {
            Bytes v = load_bytes(p + j * 64 + rows * 4);
            block.q[j] = low_half(v), block.q[j + 4] = high_half(v);
        }
        block.scale = load_halves(p + 256 + rows * 2);
        block.minimum = load_halves(p + 288 + rows * 2);
        break;
    case Q4_K:
    case Q5_K:
        p = tile + (size_t)(b / 8) * (format == Q4_K ? 2368 : 2880);
        for (int j = 0; j < 8; j++) {
            Bytes v = load_bytes(p + (format == Q4_K ? 320 : 832) + i / 2 * 512 + j * 64 + rows * 4);
            block.q[j] = (Bytes)((Shorts)v >> i % 2 * 4) & 15;
            if (format == Q5_K) {
                Bytes fifth = load_bytes(p + 320 + j * 64 + rows * 4);
                block.q[j] |= (Bytes)((Shorts)fifth >> i << 4) & 16;
            }
        }
        block.scale = load_halves(p + rows * 2) * load_u8(p + 64 + i * 16 + rows);
        block.minimum = -load_halves(p + 32 + rows * 2) * load_u8(p + 192 + i * 16 + rows);
        break;
    case IQ4_NL:
    case MXFP4:
    case IQ4_XS:
        p = tile + (format == IQ4_XS ? (size_t)(b / 8) * 2208 : (size_t)(b / 2) * 576);
        if (format == IQ4_XS) block.scale = load_halves(p + rows * 2) * load_i8((const int8_t *)p + 32 + i * 16 + rows);
        else if (format == MXFP4) block.scale = load_bf16(p + b % 2 * 32 + rows * 2);
        else block.scale = load_halves(p + b % 2 * 32 + rows * 2);
        p += format == IQ4_XS ? 160 + i * 256 : 64 + b % 2 * 256;
        for (int j = 0; j < 4; j++) {
            Bytes v = load_bytes(p + j * 64 + rows * 4);
            block.q[j] = look_up(VALUES_OF(format), low_half(v)), block.q[j + 4] = look_up(VALUES_OF(format), high_half(v));
        }
        break;
    default: // Q6_K
        p = tile + (size_t)(b / 8) * 3392;
        for (int j = 0; j < 8; j++) {
            const uint8_t *its = p + 320 + i / 4 * 1536 + j * 64 + rows * 4;
            Bytes low = load_bytes(its + 512 + i % 4 / 2 * 512), high = load_bytes(its);
            block.q[j] = ((Bytes)((Shorts)low >> i % 2 * 4) & 15) | ((Bytes)((Shorts)high >> i % 4 * 2 << 4) & 48);
        }
        block.scale = load_halves(p + rows * 2) * load_i8((const int8_t *)p + 64 + i * 32 + rows);
        block.scale_high = load_halves(p + rows * 2) * load_i8((const int8_t *)p + 64 + i * 32 + 16 + rows);
    }
    return block;
}
