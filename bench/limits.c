// What this machine can do, for bench/native.py: bytes read a second, and products a second in each of the arithmetics that weights are
// multiplied in. Each thread works by itself; a figure is the sum over threads, or 0 where the processor lacks the instruction.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

typedef float Floats __attribute__((vector_size(64)));
typedef uint64_t Words __attribute__((vector_size(64)));
enum { CHAINS = 12, MAX_THREADS = 256 };

static uint8_t *memory;
static size_t share; // bytes a thread reads
static int repeats, kind;
static volatile uint64_t sink;
enum { READ, F32, BF16, INT8 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Bytes read.
static double read_memory(const uint8_t *p) {
    Words sum[4] = {{0}};
    for (size_t i = 0; i < share; i += 256)
        for (int k = 0; k < 4; k++) {
            Words v;
            memcpy(&v, p + i + 64 * k, sizeof v);
            sum[k] += v;
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    sink += sum[0][0] + sum[0][7];
    return (double)share;
}

// Operations: an addition and a multiplication a product.
static double multiply(void) {
    const int steps = 500000; // some 2 milliseconds: short enough to fall between what else the machine does
    double done = 0;
    float out = 0;
    if (kind == F32) {
        Floats sum[CHAINS], a = (Floats){0} + 1e-9f, b = (Floats){0} + 0.5f;
        for (int k = 0; k < CHAINS; k++) sum[k] = b;
        for (int i = 0; i < steps; i++)
            for (int k = 0; k < CHAINS; k++) {
                sum[k] = a * b + sum[k];
                __asm__("" : "+x"(sum[k])); // the product is to be computed each time
            }
        for (int k = 0; k < CHAINS; k++) out += sum[k][0];
        done = 2.0 * 16 * CHAINS * steps;
    }
#if defined(__AVX512BF16__)
    if (kind == BF16) {
        __m512 sum[CHAINS];
        __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80);
        for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_setzero_ps();
        for (int i = 0; i < steps; i++)
            for (int k = 0; k < CHAINS; k++) {
                sum[k] = _mm512_dpbf16_ps(sum[k], a, a);
                __asm__("" : "+v"(sum[k]));
            }
        for (int k = 0; k < CHAINS; k++) out += sum[k][0];
        done = 2.0 * 32 * CHAINS * steps;
    }
#endif
#if defined(__AVX512VNNI__)
    if (kind == INT8) {
        __m512i sum[CHAINS], a = _mm512_set1_epi8(1);
        for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_setzero_si512();
        for (int i = 0; i < steps; i++)
            for (int k = 0; k < CHAINS; k++) {
                sum[k] = _mm512_dpbusd_epi32(sum[k], a, a);
                __asm__("" : "+v"(sum[k]));
            }
        for (int k = 0; k < CHAINS; k++) out += (float)_mm512_reduce_add_epi32(sum[k]);
        done = 2.0 * 64 * CHAINS * steps;
    }
#endif
    sink += (uint64_t)out;
    return done;
}

static void *work(void *given) {
    double *done = given;
    const int thread = (int)*done;
    *done = 0;
    for (int i = 0; i < repeats; i++) *done += kind == READ ? read_memory(memory + share * (size_t)thread) : multiply();
    return NULL;
}

static double rate(int its_kind, int threads) {
    pthread_t ids[MAX_THREADS];
    double done[MAX_THREADS], sum = 0, start = now();
    kind = its_kind;
    for (int i = 0; i < threads; i++) {
        done[i] = i;
        if (pthread_create(&ids[i], NULL, work, &done[i])) abort();
    }
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL), sum += done[i];
    return sum / (now() - start);
}

// out: bytes read a second from `bytes` of memory (beyond every cache); operations a second in f32, bf16 and int8. Best of many short trials.
__attribute__((visibility("default"))) int limits(int threads, size_t bytes, double *out) {
    if (threads < 1 || threads > MAX_THREADS) return 1;
    share = bytes / (size_t)threads / 4096 * 4096;
    if (posix_memalign((void **)&memory, 2 << 20, share * (size_t)threads)) return 1;
#if defined(MADV_HUGEPAGE)
    madvise(memory, share * (size_t)threads, MADV_HUGEPAGE);
#endif
    memset(memory, 1, share * (size_t)threads);
    for (int k = READ; k <= INT8; k++) {
        out[k] = 0;
        repeats = 1;
        for (int i = 0; i < (k == READ ? 5 : 20); i++) {
            const double found = rate(k, threads);
            if (found > out[k]) out[k] = found;
        }
    }
    free(memory);
    return 0;
}
