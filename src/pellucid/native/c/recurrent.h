// recurrent.h: what mixers that keep a state have in common. A state is a few numbers of each layer, however many tokens there were; it goes
// on token by token, so a slot's rows are worked on in order, and threads share slots and channels.
#define CHANNELS 64 // worked on together
INLINE int blocks_of_channels(int channels) { return (channels + CHANNELS - 1) / CHANNELS; }

// What a layer has kept of a sequence's slot; where its text begins, `count` numbers of each `step` are zero.
INLINE float *state_of(const Model *m, const Sequence *sequence, size_t place, size_t begin, size_t end, size_t step, size_t count) {
    float *state = m->slots[sequence->first]->states + place;
    if (m->positions[sequence->first] == 0)
        for (size_t at = begin; at < end; at += step) memset(state + at, 0, count * sizeof *state);
    return state;
}

// One row of a convolution of CHANNELS channels from c on: Σ weight · row over its last `width` places, the oldest first. `state`:
// [width − 1][wide], what came before the sequence's first row; weights are [width][wide], and rows of x so far apart.
INLINE void convolve(const float *weight, const float *bias, int width, size_t wide, const float *state, const float *x, size_t apart, int t, int c, float *out) {
    for (int i = c; i < c + CHANNELS; i += LANES) {
        Floats sum = bias ? load(bias + i) : splat(0);
        for (int w = 0; w < width; w++) {
            const int at = t - (width - 1) + w; // before 0: it is in the state
            const float *from = at < 0 ? state + (size_t)(at + width - 1) * wide : x + (size_t)at * apart;
            sum = fma_(load(weight + (size_t)w * wide + i), load(from + i), sum);
        }
        store(out + i - c, sum);
    }
}
// The last `width` − 1 rows, for the tokens that come.
INLINE void keep_last(float *state, const float *x, size_t apart, int rows, int width, size_t wide, int c) {
    for (int w = 0; w < width - 1; w++) {
        const int at = rows - (width - 1) + w;
        const float *from = at < 0 ? state + (size_t)(at + width - 1) * wide : x + (size_t)at * apart;
        memmove(state + (size_t)w * wide + c, from + c, CHANNELS * sizeof *from);
    }
}
