// recurrent.h: what mixers that keep a state have in common. A state is a few numbers of each layer, however many tokens there were; it goes
// on token by token, so a slot's rows are worked on in order, and threads share slots, channels and heads.
#define CHANNELS 64 // worked on together
INLINE int blocks_of_channels(int channels) { return (channels + CHANNELS - 1) / CHANNELS; }

// Where a layer's state of a sequence's slot is. Where the sequence's text begins it is nothing: `times` times `count` numbers, `step` apart.
INLINE float *state_of(const Model *m, const Sequence *sequence, size_t place, int times, size_t step, size_t count) {
    float *state = m->slots[sequence->first]->states + place;
    if (m->positions[sequence->first] == 0)
        for (int i = 0; i < times; i++) memset(state + (size_t)i * step, 0, count * sizeof *state);
    return state;
}

// A convolution of CHANNELS channels, of the next row: Σ weight · row over its last `width` places, the oldest first, which the state moves on
// to: [width − 1][wide], from the channels on. So are weights.
INLINE void convolve(const float *weight, const float *bias, int width, size_t wide, float *state, const float *x, float *out) {
    for (int i = 0; i < CHANNELS; i += LANES) {
        const Floats now = load(x + i);
        Floats sum = bias ? load(bias + i) : splat(0);
        for (int w = 0; w < width - 1; w++) sum = fma_(load(weight + (size_t)w * wide + i), load(state + (size_t)w * wide + i), sum);
        store(out + i, fma_(load(weight + (size_t)(width - 1) * wide + i), now, sum));
        for (int w = 0; w < width - 2; w++) store(state + (size_t)w * wide + i, load(state + (size_t)(w + 1) * wide + i));
        if (width > 1) store(state + (size_t)(width - 2) * wide + i, now);
    }
}

// What is to be convolved in one stage: rows of a map, each replaced by its convolution.
typedef struct {
    float *x; // [rows][MAPS_ROW]
    int channels;
    const float *weight, *bias; // bias: NULL: none
    size_t place;               // of the state
    float *raw;                 // where what is not activated yet is put, for those who look; or NULL
} Convolved;
SOME void convolve_maps(Model *m, Turn *turn, const Convolved *maps, int count, int width, const Activation *activation, size_t raw_row) {
    int blocks = 0;
    for (int i = 0; i < count; i++) blocks += blocks_of_channels(maps[i].channels);
    while (take(turn, m->num_sequences * blocks, 1))
        for (int piece = turn->begin; piece < turn->end; piece++) {
            const Sequence *rows = &m->sequences[piece / blocks];
            const Convolved *map = maps;
            int block = piece % blocks;
            while (block >= blocks_of_channels(map->channels)) block -= blocks_of_channels(map->channels), map++;
            const size_t wide = (size_t)blocks_of_channels(map->channels) * CHANNELS, at = (size_t)block * CHANNELS;
            float *state = state_of(m, rows, map->place + at, width - 1, wide, CHANNELS);
            for (int r = rows->first; r < rows->first + rows->count; r++) {
                float *x = map->x + (size_t)r * MAPS_ROW + at;
                convolve(map->weight + at, map->bias ? map->bias + at : NULL, width, wide, state, x, x);
                if (map->raw) memcpy(map->raw + (size_t)r * raw_row + at, x, CHANNELS * sizeof *x);
                for (int i = 0; i < CHANNELS && activation; i += LANES) store(x + i, activate(activation, load(x + i)));
            }
        }
}

enum { NO_GATE, SILU_GATE, SIGMOID_GATE };
INLINE float opened(int gate, float x) { return gate == SILU_GATE ? x / (1 + expf(-x)) : 1 / (1 + expf(-x)); }
