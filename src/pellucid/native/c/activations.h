// activations.h: rows of activations, in the form that weights are multiplied with.
//
// Rows come in panels of 8, 4, 2 or 1 (PANEL at most), so that a vector of weights is used for several rows while it is in registers.
// In a panel the same 32 columns of its rows lie together: [block][row][32]. Floating-point weights take floats (bf16 where the
// processor multiplies those), quantized ones signed bytes with a scale for each 16 columns: x ≈ scale · q, scale = max |x| / 127. (Weights
// have one for each 32; halves of activations by themselves cost little and lose half as much.)
#define PANEL (LANES == 16 ? 8 : 4)

#if defined(USE_AVX512) && defined(__AVX512BF16__)
#define BF16_PRODUCTS 1
#else
#define BF16_PRODUCTS 0
#endif

enum { AS_FLOATS = 1, AS_BF16 = 2, AS_BYTES = 4 }; // forms, as bits of a set
INLINE int form_for(int format) { return !IS_FLOAT(format) ? AS_BYTES : format == BF16 && BF16_PRODUCTS ? AS_BF16 : AS_FLOATS; }

typedef struct { // of 32 columns; [2]: of their halves
    float scale[2];
    float scaled_sum; // Σ scale · q: what a minimum is multiplied with
    int32_t zero_8[2], zero_32[2], zero_128[2]; // −8 Σ q, −32 Σ q and BIAS_128 · Σ q: what a sum starts with where weights have 8, 32 or 128 added
} Sums;

typedef struct {
    float *floats;   // each: room for `rows` × `columns`
    uint16_t *bf16;
    int8_t *bytes;
    Sums *sums;      // rows × columns / 32
    int columns;     // a multiple of 64
} Panels;

// The panel of `row` among `rows`: its first row, and how many it has.
INLINE int panel_size(int left) { return left >= 8 && PANEL >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }
INLINE int panel_of(int row, int rows, int *size) {
    int first = 0;
    while (first + (*size = panel_size(rows - first)) <= row) first += *size;
    return first;
}

static void fill_bytes(int8_t *q, Sums *sums, const float *x) {
    const Floats magic = splat(12582912.0f); // 1.5 · 2^23: adding it rounds to a whole number
    sums->scaled_sum = 0;
    for (int half = 0; half < 2; half++, q += 16, x += 16) {
        Ints most = splat_int(0);
        for (int i = 0; i < 16; i += LANES) most = max_ints(most, size_bits(load(x + i)));
        const float largest = largest_of(most), scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0;
        Ints total = splat_int(0);
        for (int i = 0; i < 16; i += LANES) {
            Ints whole = (Ints)(load(x + i) * inverse + magic) - (Ints)magic;
            total += whole;
            typedef int8_t Few __attribute__((vector_size(LANES)));
            Few few = __builtin_convertvector(whole, Few);
            memcpy(q + i, &few, LANES);
        }
        const int32_t sum = sum_ints(total);
        sums->scale[half] = scale;
        sums->scaled_sum += scale * (float)sum;
        sums->zero_8[half] = -8 * sum, sums->zero_32[half] = -32 * sum, sums->zero_128[half] = BIAS_128 * sum;
    }
}

// Row `row` of `rows`: x, whose columns are a multiple of 64, in each of the forms.
static void fill(Panels *panels, int row, int rows, const float *x, int columns, int forms) {
    int size;
    const int first = panel_of(row, rows, &size), r = row - first;
    const size_t start = (size_t)first * panels->columns;
    for (int b = 0; b < columns / 32; b++) {
        const size_t at = start + ((size_t)b * size + r) * 32;
        if (forms & AS_FLOATS) memcpy(panels->floats + at, x + b * 32, 32 * sizeof(float));
#if BF16_PRODUCTS
        if (forms & AS_BF16) {
            __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + b * 32 + 16), _mm512_loadu_ps(x + b * 32));
            memcpy(panels->bf16 + at, &v, 64);
        }
#endif
        if (forms & AS_BYTES) fill_bytes(panels->bytes + at, panels->sums + at / 32, x + b * 32);
    }
}
