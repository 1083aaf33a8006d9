// vector.h: vectors of LANES floats, and the few operations that have an instruction of their own on each processor.
//
// Everything above this file is written once, for any width. A tile of weights has 16 rows; it is worked on as GROUPS vectors of
// LANES rows. AVX-512 (with VNNI) has 16 lanes, AVX2 has 8, NEON and plain C have 4; -DPLAIN_C asks for plain C.
#pragma GCC diagnostic ignored "-Wpsabi"

#if defined(PLAIN_C)
#define LANES 4
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define USE_AVX512
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define USE_AVX2
#define LANES 8
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define USE_NEON
#define LANES 4
#else
#define LANES 4
#endif
#if defined(USE_AVX512) || defined(USE_AVX2)
#include <immintrin.h>
#elif defined(USE_NEON)
#include <arm_neon.h>
#endif

#define TILE 16 // rows of a tile of weights; positions of a tile of keys
#define GROUPS (TILE / LANES)
#define INLINE static inline __attribute__((always_inline, unused))
#define SOME static __attribute__((unused)) // what only some models need

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Shorts __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(4 * LANES)));

INLINE Floats load(const float *p) {
    Floats v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, Floats v) { memcpy(p, &v, sizeof v); }
INLINE Bytes load_bytes(const void *p) {
    Bytes v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE Floats splat(float x) { return x - (Floats){0}; }
INLINE Ints splat_int(int32_t x) { return x - (Ints){0}; }
INLINE Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }
INLINE Floats choose(Ints mask, Floats yes, Floats no) { return (Floats)((mask & (Ints)yes) | (~mask & (Ints)no)); }

// a · b + c, rounded once where the processor can.
INLINE Floats fma_(Floats a, Floats b, Floats c) {
#if defined(USE_AVX512)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(USE_AVX2)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(USE_NEON)
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE Floats max_(Floats a, Floats b) {
#if defined(USE_AVX512)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(USE_AVX2)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

// Sums and maxima over the lanes, by halves, so that the order is the same everywhere.
INLINE float sum_lanes(Floats v) {
    float lane[LANES];
    store(lane, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
INLINE float max_lanes(Floats v) {
#if defined(USE_AVX512)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float lane[LANES];
    store(lane, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
#endif
}
// The largest size among numbers, by their bits, as which infinity is above all and NaN above infinity: neither is lost.
INLINE Ints max_ints(Ints a, Ints b) {
#if defined(USE_AVX512)
    return (Ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(USE_AVX2)
    return (Ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const Ints larger = a > b;
    return (a & larger) | (b & ~larger);
#endif
}
INLINE Ints size_bits(Floats v) { return (Ints)v & 0x7fffffff; }
INLINE float largest_of(Ints bits) {
    int32_t most = 0;
    float x;
#if defined(USE_AVX512)
    most = _mm512_reduce_max_epi32((__m512i)bits);
#else
    for (int i = 0; i < LANES; i++) most = bits[i] > most ? bits[i] : most;
#endif
    memcpy(&x, &most, sizeof x);
    return x;
}
INLINE float largest_size(const float *x, int count) {
    int32_t most = 0;
    float size;
    for (int i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits), bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    memcpy(&size, &most, sizeof size);
    return size;
}
INLINE int32_t sum_ints(Ints v) {
#if defined(USE_AVX512)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

// ---- 16-bit floats: f16 (IEEE half) and bf16 (the upper half of a float) -------------------------------------------------------

INLINE float bits_to_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE uint32_t float_to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
INLINE float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13); // infinity, NaN
    float size = bits_to_float(rest << 13) * 0x1p112f; // moves the exponent's bias from 15 to 127; subnormals come out right
    return bits_to_float(sign | float_to_bits(size));
}
// To nearest, ties to even; what exceeds 65504 becomes 65504, so that a cache of halves holds no infinities.
INLINE uint16_t float_to_half(float x) {
    uint32_t bits = float_to_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size > 0x477fe000) return (uint16_t)(sign | 0x7bff);
    if (size < 0x38800000) { // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
        float shifted = bits_to_float(size) + 0.5f;
        return (uint16_t)(sign | (float_to_bits(shifted) - 0x3f000000));
    }
    size += 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | ((size >> 13) - (112 << 10)));
}
INLINE uint16_t float_to_bf16(float x) {
    uint32_t bits = float_to_bits(x);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// LANES halves as floats.
INLINE Floats load_halves(const void *p) {
#if defined(USE_AVX512)
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(USE_AVX2)
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#elif defined(USE_NEON)
    return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)p)));
#else
    uint16_t h[LANES];
    memcpy(h, p, sizeof h);
    Floats v;
    for (int i = 0; i < LANES; i++) v[i] = half_to_float(h[i]);
    return v;
#endif
}

// LANES bf16 as floats.
INLINE Floats load_bf16(const void *p) {
#if defined(USE_AVX512)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#elif defined(USE_AVX2)
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#else
    uint16_t h[LANES];
    memcpy(h, p, sizeof h);
    Words v;
    for (int i = 0; i < LANES; i++) v[i] = (uint32_t)h[i] << 16;
    return (Floats)v;
#endif
}

// LANES bytes as floats.
INLINE Floats load_u8(const uint8_t *p) {
#if defined(USE_AVX512)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
#elif defined(USE_AVX2)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    Floats v;
    for (int i = 0; i < LANES; i++) v[i] = p[i];
    return v;
#endif
}
INLINE Floats load_i8(const int8_t *p) {
#if defined(USE_AVX512)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
#elif defined(USE_AVX2)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    Floats v;
    for (int i = 0; i < LANES; i++) v[i] = p[i];
    return v;
#endif
}

// For each byte of `index`, all below 16, the byte of the table there.
INLINE Bytes look_up(const uint8_t table[16], Bytes index) {
#if defined(USE_AVX512)
    const __m512i its = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
    return (Bytes)_mm512_shuffle_epi8(its, (__m512i)index);
#elif defined(USE_AVX2)
    const __m256i its = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
    return (Bytes)_mm256_shuffle_epi8(its, (__m256i)index);
#elif defined(USE_NEON)
    return (Bytes)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)index);
#else
    for (int i = 0; i < 4 * LANES; i++) index[i] = table[index[i]];
    return index;
#endif
}

// ---- products of four bytes a lane: sum += w[4i] a[4i] + … + w[4i+3] a[4i+3] ------------------------------------------------------

// w: unsigned, below 128; a: the same four signed bytes for every lane.
INLINE Ints dot_small(Ints sum, Bytes w, int32_t a) {
#if defined(USE_AVX512)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(a));
#elif defined(USE_AVX2) && defined(__AVXVNNI__)
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, _mm256_set1_epi32(a));
#elif defined(USE_AVX2)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, _mm256_set1_epi32(a)); // 2 · 127 · 127 fits 16 bits
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(USE_NEON) && defined(__ARM_FEATURE_DOTPROD)
    return (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, vreinterpretq_s8_s32(vdupq_n_s32(a)));
#else
    const int8_t four[4] = {(int8_t)a, (int8_t)(a >> 8), (int8_t)(a >> 16), (int8_t)(a >> 24)};
    for (int i = 0; i < LANES; i++)
        for (int k = 0; k < 4; k++) sum[i] += w[4 * i + k] * four[k];
    return sum;
#endif
}

// w: signed bytes with 128 added. BIAS_128 is what the sum has to start with for each unit of Σ a: −128 where the instruction takes
// unsigned bytes, 0 where w is made signed again here.
#if defined(USE_AVX512) || (defined(USE_AVX2) && defined(__AVXVNNI__))
#define BIAS_128 (-128)
#else
#define BIAS_128 0
#endif
INLINE Ints dot_biased(Ints sum, Bytes w, int32_t a) {
#if BIAS_128
    return dot_small(sum, w, a);
#elif defined(USE_AVX2)
    __m256i its = _mm256_xor_si256((__m256i)w, _mm256_set1_epi8(-128)); // |w| · (±a): 2 · 128 · 127 fits 16 bits
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(its), _mm256_sign_epi8(_mm256_set1_epi32(a), its));
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(USE_NEON) && defined(__ARM_FEATURE_DOTPROD)
    return (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)(w ^ 128), vreinterpretq_s8_s32(vdupq_n_s32(a)));
#else
    const int8_t four[4] = {(int8_t)a, (int8_t)(a >> 8), (int8_t)(a >> 16), (int8_t)(a >> 24)};
    for (int i = 0; i < LANES; i++)
        for (int k = 0; k < 4; k++) sum[i] += (w[4 * i + k] - 128) * four[k];
    return sum;
#endif
}

// ---- functions of a vector ----------------------------------------------------------------------------------------------------------

// e^x to about 1e-7 of the value. x = n ln 2 + r, |r| ≤ ln 2 / 2; e^r by a polynomial (Cephes, expf.c), times 2^n.
INLINE Floats exp_(Floats x) {
    x = choose(x < -87.0f, splat(-87.0f), x);
    x = choose(x > 88.0f, splat(88.0f), x);
    const Floats magic = splat(12582912.0f); // 1.5 · 2^23: adding it rounds to a whole number
    Floats shifted = x * 1.44269504f + magic;
    Ints n = (Ints)shifted - (Ints)magic;
    Floats whole = shifted - magic;
    Floats r = fma_(whole, splat(-0.693359375f), x);
    r = fma_(whole, splat(2.12194440e-4f), r);
    Floats p = splat(1.9875691500e-4f);
    p = fma_(p, r, splat(1.3981999507e-3f));
    p = fma_(p, r, splat(8.3334519073e-3f));
    p = fma_(p, r, splat(4.1665795894e-2f));
    p = fma_(p, r, splat(1.6666665459e-1f));
    p = fma_(p, r, splat(5.0000001201e-1f));
    p = fma_(p, r * r, r + 1.0f);
    return p * (Floats)((n + 127) << 23);
}
INLINE Floats tanh_(Floats x) { return 1.0f - 2.0f / (exp_(2.0f * x) + 1.0f); }
