// short_conv.h: the stage of gated short convolutions: z = c ⊙ conv(b ⊙ u). u becomes b ⊙ u; `raw`: conv alone, for those that look; or NULL.
SOME void short_convolution(Model *m, Turn *turn, size_t place, int channels, int width, const float *weight, const float *bias, const float *b, float *u, const float *c,
                            float *z, size_t z_row, float *raw, size_t raw_row) {
    const int blocks = blocks_of_channels(channels);
    const size_t wide = (size_t)blocks * CHANNELS;
    while (take(turn, m->num_sequences * blocks, 1))
        for (int piece = turn->begin; piece < turn->end; piece++) {
            const Sequence *rows = &m->sequences[piece / blocks];
            const int at = piece % blocks * CHANNELS;
            float *state = state_of(m, rows, place, (size_t)at, wide * (size_t)(width - 1), wide, CHANNELS), y[CHANNELS];
            float *x = u + (size_t)rows->first * MAPS_ROW;
            for (int t = 0; t < rows->count; t++) {
                const size_t row = (size_t)rows->first + (size_t)t;
                for (int i = at; i < at + CHANNELS; i++) x[(size_t)t * MAPS_ROW + i] *= b[row * MAPS_ROW + i];
                convolve(weight, bias, width, wide, state, x, MAPS_ROW, t, at, y);
                if (raw) memcpy(raw + row * raw_row + at, y, sizeof y);
                for (int i = 0; i < CHANNELS; i++) z[row * z_row + at + i] = c[row * MAPS_ROW + at + i] * y[i];
            }
            keep_last(state, x, MAPS_ROW, rows->count, width, wide, at);
        }
}
