// rows.h: what is done to one row of activations at a time: norms, rotation, the MLP's activation function.
//
// Rows are as long as a multiple of 64; weights are zero beyond the model's width, and what is computed from them stays so.
enum { NO_NORM, RMS_NORM, LAYER_NORM };

typedef struct {
    int kind;
    float eps;
    const float *weight, *bias; // γ and β; β may be absent
} Norm;
SOME const Norm NONE = {NO_NORM, 0, NULL, NULL};

// RMS: x / √(mean(x²) + eps) · γ. Layer: (x − μ) / √(σ² + eps) · γ + β. `out` may be x itself.
static void normalize(const Norm *norm, const float *x, int width, int padded, float *out) {
    const int whole = width / LANES * LANES;
    float mean = 0, square = 0;
    Floats sum = splat(0);
    if (norm->kind == LAYER_NORM) {
        for (int i = 0; i < whole; i += LANES) sum += load(x + i);
        mean = sum_lanes(sum);
        for (int i = whole; i < width; i++) mean += x[i];
        mean /= (float)width;
        sum = splat(0);
    }
    for (int i = 0; i < whole; i += LANES) {
        Floats centred = load(x + i) - mean;
        sum = fma_(centred, centred, sum);
    }
    square = sum_lanes(sum);
    for (int i = whole; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(square / (float)width + norm->eps);
    for (int i = 0; i < padded; i += LANES) {
        Floats y = (load(x + i) - mean) * scale * load(norm->weight + i);
        store(out + i, norm->bias ? y + load(norm->bias + i) : y);
    }
}

// One head's q or k: the same, over a width that need not be a multiple of anything.
SOME void normalize_head(const Norm *norm, float *x, int width) {
    float mean = 0, square = 0;
    if (norm->kind == LAYER_NORM) {
        for (int i = 0; i < width; i++) mean += x[i];
        mean /= (float)width;
    }
    for (int i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(square / (float)width + norm->eps);
    for (int i = 0; i < width; i++) x[i] = (x[i] - mean) * scale * norm->weight[i] + (norm->bias ? norm->bias[i] : 0);
}

// Turn each pair (a, b) of a head's first dimensions: (a cos − b sin, b cos + a sin). `apart`: from a to b; `step`: from pair to pair.
SOME void rotate(float *x, const float *cosine, const float *sine, int pairs, int apart, int step) {
    for (int j = 0; j < pairs; j++) {
        float *a = x + j * step, *b = a + apart, turned = *a * cosine[j] - *b * sine[j];
        *b = *b * cosine[j] + *a * sine[j];
        *a = turned;
    }
}

// How some layers turn q and k.
typedef struct {
    int pairs, apart; // pair j of a head is its dimensions j and j + apart, or 2j and 2j + 1 where they are 1 apart
    float magnitude;  // what cos and sin are multiplied by
} Rotary;

enum { SILU, GELU, GELU_TANH, RELU, RELU2, XIELU };

// An MLP's activation function; in a function that the compiler knows these numbers of, only what they say is left.
typedef struct {
    int kind;
    float alpha;     // SiLU: x σ(alpha · x)
    float limit;     // a gate is brought below it, what it multiplies within ± it; 0: as they are
    float up_offset; // added to what a gate multiplies
    float positive, negative, beta, eps; // xIELU's
} Activation;

INLINE Floats activate(const Activation *act, Floats x) {
    if (act->limit > 0) x = choose(x > act->limit, splat(act->limit), x);
    if (act->kind == SILU) return act->alpha == 1 ? x / (1.0f + exp_(-x)) : x / (1.0f + exp_(-act->alpha * x));
    if (act->kind == RELU) return max_(x, splat(0));
    if (act->kind == RELU2) return max_(x, splat(0)) * max_(x, splat(0));
    if (act->kind == GELU_TANH) return 0.5f * x * (1.0f + tanh_(0.79788456080f * fma_(x * x * x, splat(0.044715f), x)));
    if (act->kind == XIELU) {
        const Floats bent = act->negative * (exp_(choose(x < act->eps, x, splat(act->eps))) - 1.0f - x);
        return choose(x > 0, act->positive * x * x, bent) + act->beta * x;
    }
    for (int i = 0; i < LANES; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f)); // GELU: x Φ(x)
    return x;
}
// What a gate multiplies.
INLINE Floats limited(const Activation *act, Floats x) {
    if (act->limit > 0) x = choose(x > act->limit, splat(act->limit), choose(x < -act->limit, splat(-act->limit), x));
    return x + act->up_offset;
}
SOME float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }
