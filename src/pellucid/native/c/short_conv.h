// short_conv.h: the stage of gated short convolutions: z = c ⊙ conv(b ⊙ u). u becomes b ⊙ u; `raw`: conv alone, for those who look; or NULL.
SOME void short_convolution(Model *m, Turn *turn, size_t place, int channels, int width, const float *weight, const float *bias, const float *b, float *u, const float *c,
                            float *z, size_t z_row, float *raw, size_t raw_row) {
    const int blocks = blocks_of_channels(channels);
    const size_t wide = (size_t)blocks * CHANNELS;
    while (take(turn, m->num_sequences * blocks, 1))
        for (int piece = turn->begin; piece < turn->end; piece++) {
            const Sequence *rows = &m->sequences[piece / blocks];
            const size_t at = (size_t)(piece % blocks) * CHANNELS;
            float *state = state_of(m, rows, place + at, width - 1, wide, CHANNELS), y[CHANNELS];
            for (size_t r = (size_t)rows->first; r < (size_t)(rows->first + rows->count); r++) {
                float *x = u + r * MAPS_ROW + at;
                for (int i = 0; i < CHANNELS; i++) x[i] *= b[r * MAPS_ROW + at + (size_t)i];
                convolve(weight + at, bias ? bias + at : NULL, width, wide, state, x, y);
                if (raw) memcpy(raw + r * raw_row + at, y, sizeof y);
                for (int i = 0; i < CHANNELS; i++) z[r * z_row + at + (size_t)i] = c[r * MAPS_ROW + at + (size_t)i] * y[i];
            }
        }
}
