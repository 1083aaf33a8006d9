// experts.h: the stages of a mixture of experts: each row goes through a few of many MLPs, and what they make of it is summed up by weight.
//
// Rows are put together by expert, so that an expert's weights are read once for all its rows, and work is cut by tiles of weights, whoever's
// they are: a single row's few experts keep all threads busy. A row's sum is in the order of the experts, whatever rows are beside it.
enum { SOFTMAX, SIGMOID, SPARSEMIXER };
enum { SHARED = -1 }; // the number of the expert that every row goes through

typedef struct {
    int num_experts, chosen; // of all, and for each row
    int scores;              // what is made of the router's logits
    int num_groups, groups;  // of experts, and of them those that a row chooses from
    bool by_two;             // a group counts as much as its two best together, else as its best
    bool normalize;          // weights sum to 1
    float normalize_eps, scale, jitter;
} Router;

// The places of the largest numbers, best first; of equal ones the first.
static void largest(const float *values, int count, int wanted, int *best) {
    for (int i = 0, n = 0; i < count; i++) {
        if (n == wanted && !(values[i] > values[best[n - 1]])) continue;
        int at = n < wanted ? n++ : n - 1;
        for (; at > 0 && values[i] > values[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = i;
    }
}

// A row's experts, in their order, and what each counts for; `correction` is added to the scores to choose by, and may be NULL.
static void choose_experts(const Router *router, const float *logits, const float *correction, int *chosen, float *weights) {
    const int count = router->num_experts, wanted = router->chosen;
    float scores[MAX_EXPERTS], rank[MAX_EXPERTS], sum = 0;
    if (router->scores == SPARSEMIXER) { // one after the other: its share of the exponentials of those left that are near it
        bool taken[MAX_EXPERTS] = {false};
        memcpy(rank, logits, (size_t)count * sizeof *rank);
        for (int n = 0; n < wanted; n++) {
            int best = -1;
            for (int e = 0; e < count; e++)
                if (!taken[e] && (best < 0 || rank[e] > rank[best])) best = e;
            const float most = logits[best];
            taken[best] = true;
            sum = 0;
            for (int e = 0; e < count; e++) {
                const float size = fabsf(logits[e]) > most ? fabsf(logits[e]) : most;
                if (!((most - logits[e]) / size > 2 * router->jitter)) sum += expf(rank[e] - most);
            }
            chosen[n] = best, weights[n] = 1 / sum;
            rank[best] = -INFINITY;
        }
    } else {
        float most = logits[0];
        for (int e = 1; e < count; e++) most = logits[e] > most ? logits[e] : most;
        for (int e = 0; e < count; e++) {
            scores[e] = router->scores == SIGMOID ? 1 / (1 + expf(-logits[e])) : expf(logits[e] - most);
            sum += scores[e];
        }
        if (router->scores == SOFTMAX)
            for (int e = 0; e < count; e++) scores[e] /= sum;
        const bool by_scores = correction || (router->num_groups > 1 && router->by_two); // else by logits, whose differences no rounding takes away
        for (int e = 0; e < count; e++) rank[e] = by_scores ? scores[e] + (correction ? correction[e] : 0) : logits[e];
        if (router->num_groups > 1) { // only the best groups are looked at
            const int size = count / router->num_groups;
            float of_group[MAX_EXPERTS];
            int best[MAX_EXPERTS];
            bool open[MAX_EXPERTS] = {false};
            for (int g = 0; g < router->num_groups; g++) {
                largest(rank + g * size, size, router->by_two ? 2 : 1, best);
                of_group[g] = rank[g * size + best[0]] + (router->by_two ? rank[g * size + best[1]] : 0);
            }
            largest(of_group, router->num_groups, router->groups, best);
            for (int n = 0; n < router->groups; n++) open[best[n]] = true;
            for (int e = 0; e < count; e++)
                if (!open[e / size]) rank[e] = -INFINITY;
        }
        largest(rank, count, wanted, chosen);
        float total = router->normalize_eps;
        for (int n = 0; n < wanted; n++) total += weights[n] = scores[chosen[n]];
        for (int n = 0; n < wanted && router->normalize; n++) weights[n] /= total;
    }
    for (int n = 0; n < wanted; n++) weights[n] *= router->scale;
    for (int n = 1; n < wanted; n++) // in the order of the experts
        for (int i = n; i > 0 && chosen[i] < chosen[i - 1]; i--) {
            const int expert = chosen[i];
            const float weight = weights[i];
            chosen[i] = chosen[i - 1], weights[i] = weights[i - 1], chosen[i - 1] = expert, weights[i - 1] = weight;
        }
}

// The rows of each expert, in order. `shared_gate`: logits of what the shared expert counts for; NULL: 1.
static void group_rows(Routing *to, const Router *router, int rows, const int *chosen, const float *weights, bool shared, const float *shared_gate) {
    int first[MAX_EXPERTS] = {0};
    const int entries = rows * router->chosen;
    for (int n = 0; n < entries; n++) first[chosen[n]]++;
    to->num_groups = to->num_entries = 0;
    for (int e = 0; e < router->num_experts; e++) {
        if (first[e]) to->groups[to->num_groups++] = (struct Group){e, to->num_entries, first[e]};
        const int count = first[e];
        first[e] = to->num_entries, to->num_entries += count;
    }
    for (int n = 0; n < entries; n++) {
        const int at = first[chosen[n]]++;
        to->rows[at] = n / router->chosen, to->weights[at] = weights[n];
    }
    if (!shared) return;
    to->groups[to->num_groups++] = (struct Group){SHARED, to->num_entries, rows};
    for (int r = 0; r < rows; r++) {
        to->rows[to->num_entries] = r;
        to->weights[to->num_entries++] = shared_gate ? 1 / (1 + expf(-shared_gate[r])) : 1;
    }
}

// Which rows go through which experts. A single row's are chosen by each thread for itself.
SOME const Routing *route(Model *m, Turn *turn, const Router *router, const float *correction, bool shared, const float *shared_gate) {
    if (m->rows == 1) {
        Routing *own = &m->own_routing[turn->thread];
        int chosen[MAX_CHOSEN];
        float weights[MAX_CHOSEN];
        choose_experts(router, m->router, correction, chosen, weights);
        group_rows(own, router, 1, chosen, weights, shared, shared_gate);
        return own;
    }
    while (take(turn, m->rows, share_of(turn, m->rows, 4)))
        for (int r = turn->begin; r < turn->end; r++) {
            const size_t at = (size_t)r * router->chosen;
            choose_experts(router, m->router + (size_t)r * EXPERTS_ROW, correction, m->chosen + at, m->chosen_weights + at);
        }
    while (take(turn, 1, 1)) group_rows(&m->routing, router, m->rows, m->chosen, m->chosen_weights, shared, shared_gate);
    return &m->routing;
}

// All experts of a layer: the first one's weights, and how many bytes further each next one's are.
typedef struct {
    const Matrix *gate, *up, *down;               // gate: NULL where there is none
    const float *gate_bias, *up_bias, *down_bias; // NULL: none
    size_t step;
    int d_ff;
    const Matrix *shared_gate, *shared_up, *shared_down;
    const float *shared_gate_bias, *shared_up_bias, *shared_down_bias;
    int shared_d_ff;
    bool weighs_input; // weights multiply what an expert reads, not what it makes
} Experts;

INLINE Matrix matrix_of(const Matrix *first, const Matrix *shared, int expert, size_t step) {
    if (expert == SHARED) return *shared;
    Matrix w = *first;
    w.offset += (size_t)expert * step;
    return w;
}
INLINE const float *bias_of(const float *first, const float *shared, int expert, size_t step) {
    if (expert == SHARED) return shared;
    return first ? (const float *)(const void *)((const uint8_t *)first + (size_t)expert * step) : NULL;
}
INLINE int width_of(const Experts *experts, int expert) { return expert == SHARED ? experts->shared_d_ff : experts->d_ff; }
INLINE Panels panels_from(const Panels *p, int row) {
    const size_t at = (size_t)row * p->columns;
    return (Panels){p->floats + at, p->bf16 ? p->bf16 + at : NULL, p->bytes + at, p->sums + at / 32, p->columns};
}
// The group that an entry is in.
INLINE const struct Group *group_of(const Routing *to, int entry) {
    const struct Group *group = to->groups;
    while (entry >= group->first + group->count) group++;
    return group;
}

// The rows of each expert, normalized, as panels. A single row is the same for all of them (what is returned), but where weights multiply it.
SOME const Panels *prepare_entries(Model *m, Turn *turn, const Routing *to, const float *x, int width, const Norm *norm, const Experts *experts, int forms) {
    if (m->rows == 1 && !experts->weighs_input) return prepare(m, turn, x, D_ROW, 1, width, norm, forms);
    const int columns = padded_width(width);
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST;
    while (take(turn, to->num_entries, share_of(turn, to->num_entries, 4)))
        for (int n = turn->begin; n < turn->end; n++) {
            const struct Group *group = group_of(to, n);
            const float *row = x + (size_t)to->rows[n] * D_ROW;
            Panels panels = panels_from(&m->entries, group->first);
            if (norm->kind != NO_NORM) normalize(norm, row, width, columns, scratch);
            else memcpy(scratch, row, (size_t)columns * sizeof *row);
            if (experts->weighs_input && group->expert != SHARED)
                for (int i = 0; i < columns; i++) scratch[i] *= to->weights[n];
            fill(&panels, n - group->first, group->count, scratch, columns, forms);
        }
    return NULL;
}

// What is inside the experts: act(gate x) ⊙ up x of every entry. `alone`: the panel of a single row; NULL: entries have their own.
INLINE void activate_experts(Model *m, Turn *turn, const Routing *to, const Panels *alone, const Experts *experts, const Activation *activation, const Activation *shared) {
    int pieces = 0;
    for (int g = 0; g < to->num_groups; g++) pieces += matrix_of(experts->up, experts->shared_up, to->groups[g].expert, 0).rows / TILE;
    float ups[MAX_ROWS][TILE], gates[MAX_ROWS][TILE];
    while (take(turn, pieces, share_of(turn, pieces, 3))) {
        const struct Group *group = to->groups;
        int passed = 0, tiles;
        for (int i = turn->begin; i < turn->end; i++) {
            while (i >= passed + (tiles = matrix_of(experts->up, experts->shared_up, group->expert, 0).rows / TILE)) passed += tiles, group++;
            const int t = i - passed, e = group->expert;
            const Matrix up = matrix_of(experts->up, experts->shared_up, e, experts->step);
            const Panels x = alone ? *alone : panels_from(&m->entries, group->first);
            float *out = m->expert_act + (size_t)group->first * EXPERT_ROW;
            multiply_tile(m, &up, t, &x, group->count, ups);
            const float *up_bias = bias_of(experts->up_bias, experts->shared_up_bias, e, experts->step);
            const float *gate_bias = bias_of(experts->gate_bias, experts->shared_gate_bias, e, experts->step);
            const bool gated = e == SHARED ? experts->shared_gate : experts->gate;
            if (gated) {
                const Matrix gate = matrix_of(experts->gate, experts->shared_gate, e, experts->step);
                multiply_tile(m, &gate, t, &x, group->count, gates);
            }
            const float (*g)[TILE] = gated ? gates : NULL;
            if (e == SHARED) activate_tile(shared, t, group->count, g, gate_bias, ups, up_bias, out, EXPERT_ROW);
            else activate_tile(activation, t, group->count, g, gate_bias, ups, up_bias, out, EXPERT_ROW);
        }
    }
}

// The same, as panels.
SOME void prepare_activated(Model *m, Turn *turn, const Routing *to, const Experts *experts) {
    float *scratch = m->scratch + (size_t)turn->thread * WIDEST;
    while (take(turn, to->num_entries, share_of(turn, to->num_entries, 4)))
        for (int n = turn->begin; n < turn->end; n++) {
            const struct Group *group = group_of(to, n);
            const int width = width_of(experts, group->expert), columns = padded_width(width);
            Panels panels = panels_from(&m->entries, group->first);
            const float *row = padded(m->expert_act + (size_t)n * EXPERT_ROW, width, columns, scratch);
            fill(&panels, n - group->first, group->count, row, columns, form_for((group->expert == SHARED ? experts->shared_down : experts->down)->format));
        }
}

// part = Σ weight · down(act) of each row's experts, in their order; and where `add`, that, scaled, onto the stream.
SOME void mix_experts(Model *m, Turn *turn, const Routing *to, const Experts *experts, bool add, float scale) {
    const int rows = m->rows, tiles = experts->down->rows / TILE;
    int share = share_of(turn, tiles, 3);
    if (share * rows > 4 * MAX_ROWS) share = 4 * MAX_ROWS / rows;
    float sums[4 * MAX_ROWS][TILE], raw[MAX_ROWS][TILE];
    while (take(turn, tiles, share)) {
        const int begin = turn->begin, count = turn->end - begin;
        memset(sums, 0, (size_t)(count * rows) * sizeof *sums);
        for (int g = 0; g < to->num_groups; g++) {
            const struct Group *group = &to->groups[g];
            const Matrix down = matrix_of(experts->down, experts->shared_down, group->expert, experts->step);
            const float *bias = bias_of(experts->down_bias, experts->shared_down_bias, group->expert, experts->step);
            const Panels x = panels_from(&m->entries, group->first);
            for (int t = 0; t < count; t++) {
                multiply_tile(m, &down, begin + t, &x, group->count, raw);
                for (int n = 0; n < group->count; n++) {
                    const float weight = experts->weighs_input && group->expert != SHARED ? 1 : to->weights[group->first + n];
                    float *sum = sums[t * rows + to->rows[group->first + n]];
                    for (int j = 0; j < TILE; j++) sum[j] += weight * (bias ? raw[n][j] + bias[(begin + t) * TILE + j] : raw[n][j]);
                }
            }
        }
        for (int t = 0; t < count; t++)
            for (int r = 0; r < rows; r++)
                for (int j = 0, at = (begin + t) * TILE; j < TILE && at + j < D_MODEL; j++) {
                    m->part[(size_t)r * D_ROW + at + j] = sums[t * rows + r][j];
                    if (add) m->x[(size_t)r * D_ROW + at + j] += scale * sums[t * rows + r][j];
                }
    }
}
