// api.h: opening a model, its slots, and the step; what a program that loads this as a library calls.
#define EXPORT __attribute__((visibility("default")))
enum { OK, NO_FILE, WRONG_FILE, NO_MEMORY, BAD_TOKEN, SLOT_FULL };

EXPORT void pellucid_close(Model *m) {
    if (!m) return;
    const int threads = m->team.size;
    if (threads) team_stop(&m->team);
    unmap_parameters(&m->parameters);
    free(m->x), free(m->q), free(m->k), free(m->v), free(m->z), free(m->act), free(m->part), free(m->final), free(m->cosine), free(m->sine);
    free(m->scratch), free(m->attention);
    for (int kind = 0; kind < NUM_HEAD_KINDS; kind++) free(m->runs[kind].runs);
    free_panels(&m->shared);
//[if recurrent]
    for (int i = 0; i < NUM_MAPS; i++) free(m->maps[i]);
    free(m->sequences);
//[end]
//[if gated]
    free(m->gate);
//[end]
//[if latent]
    free(m->latent);
    if (m->by_head)
        for (int i = 0; i < threads; i++) free_panels(&m->by_head[i]);
    free(m->by_head);
//[end]
//[if experts]
    free(m->router), free(m->shared_gate), free(m->chosen), free(m->chosen_weights), free(m->expert_act);
    free_panels(&m->entries);
    free_routing(&m->routing);
    if (m->own_routing)
        for (int i = 0; i < threads; i++) free_routing(&m->own_routing[i]);
    free(m->own_routing);
//[end]
    if (m->own)
        for (int i = 0; i < threads; i++) free_panels(&m->own[i]);
    free(m->own);
    free(m);
}

static bool make_buffers(Model *m, int threads) {
    m->x = zeroed((size_t)MAX_ROWS * D_ROW, sizeof(float));
    m->q = zeroed((size_t)MAX_ROWS * Q_ROW, sizeof(float));
    m->k = zeroed((size_t)MAX_ROWS * KV_ROW, sizeof(float));
    m->v = zeroed((size_t)MAX_ROWS * KV_ROW, sizeof(float));
    m->z = zeroed((size_t)MAX_ROWS * Q_ROW, sizeof(float));
    m->act = zeroed((size_t)MAX_ROWS * FF_ROW, sizeof(float));
    m->part = zeroed((size_t)MAX_ROWS * D_ROW, sizeof(float));
    m->final = zeroed((size_t)MAX_ROWS * D_ROW, sizeof(float));
    m->cosine = zeroed((size_t)MAX_ROWS * NUM_ROTARY * ROTARY_PAIRS, sizeof(float));
    m->sine = zeroed((size_t)MAX_ROWS * NUM_ROTARY * ROTARY_PAIRS, sizeof(float));
    m->scratch = zeroed((size_t)threads * WIDEST, sizeof(float));
    m->attention = zeroed((size_t)threads, sizeof(Attention));
    m->own = zeroed((size_t)threads, sizeof(Panels));
    bool made = m->x && m->q && m->k && m->v && m->z && m->act && m->part && m->final && m->cosine && m->sine && m->scratch && m->attention && m->own;
    for (int kind = 0; kind < NUM_HEAD_KINDS; kind++) made = (m->runs[kind].runs = zeroed(MAX_ROWS, sizeof(Run))) && made;
    made = made && make_panels(&m->shared, MAX_ROWS, WIDEST);
    for (int i = 0; i < threads && made; i++) made = make_panels(&m->own[i], 1, WIDEST);
//[if recurrent]
    for (int i = 0; i < NUM_MAPS; i++) made = (m->maps[i] = zeroed((size_t)MAX_ROWS * MAPS_ROW, sizeof(float))) && made;
    m->sequences = zeroed(MAX_ROWS, sizeof(Sequence));
    made = made && m->sequences;
//[end]
//[if gated]
    m->gate = zeroed((size_t)MAX_ROWS * Q_ROW, sizeof(float));
    made = made && m->gate;
//[end]
//[if latent]
    m->latent = zeroed((size_t)MAX_ROWS * LATENT_ROW, sizeof(float));
    m->by_head = zeroed((size_t)threads, sizeof(Panels));
    made = made && m->latent && m->by_head;
    for (int i = 0; i < threads && made; i++) made = make_panels(&m->by_head[i], MAX_ROWS, BY_HEAD_ROW);
//[end]
//[if experts]
    m->router = zeroed((size_t)MAX_ROWS * EXPERTS_ROW, sizeof(float));
    m->shared_gate = zeroed(MAX_ROWS, sizeof(float));
    m->chosen = zeroed((size_t)MAX_ROWS * MAX_CHOSEN, sizeof(int));
    m->chosen_weights = zeroed((size_t)MAX_ROWS * MAX_CHOSEN, sizeof(float));
    m->expert_act = zeroed((size_t)MAX_ENTRIES * EXPERT_ROW, sizeof(float));
    m->own_routing = zeroed((size_t)threads, sizeof(Routing));
    made = made && m->router && m->shared_gate && m->chosen && m->chosen_weights && m->expert_act && m->own_routing;
    made = made && make_routing(&m->routing, MAX_ENTRIES) && make_panels(&m->entries, MAX_ENTRIES, D_ROW > EXPERT_ROW ? D_ROW : EXPERT_ROW);
    for (int i = 0; i < threads && made; i++) made = make_routing(&m->own_routing[i], MAX_CHOSEN + 1);
//[end]
    return made;
}

// The parameters file was made for this program alone: its first 32 bytes and its size say so.
EXPORT int pellucid_open(const char *path, int threads, Model **made) {
    *made = NULL;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0) return NO_FILE;
    if (fstat(file, &facts) || (size_t)facts.st_size != PARAMETERS_SIZE) {
        close(file);
        return WRONG_FILE;
    }
    Model *m = calloc(1, sizeof *m);
    const bool mapped = m && map_parameters(&m->parameters, file);
    close(file);
    static const uint8_t expected[32] = PARAMETERS_KEY;
    const int code = !mapped ? NO_MEMORY : memcmp(m->parameters.bytes, expected, 32) ? WRONG_FILE : OK;
    if (code || !team_start(&m->team, threads, MAX_STAGES) || !make_buffers(m, threads)) {
        pellucid_close(m);
        return code ? code : NO_MEMORY;
    }
    *made = m;
    return OK;
}

// Lays the layers out; returns the bytes they take.
static size_t place_layers(Slot *slot) {
    size_t bytes = 0;
    for (int i = 0; i < NUM_LAYERS; i++) slot->layers[i].ring = ring_of(LAYERS[i].window, chunks_of(slot));
    for (int i = 0; i < NUM_LAYERS; i++) {
        struct Place *its = &slot->layers[i];
        if (its->step || LAYERS[i].heads < 0) continue;
        size_t step = 0;
        for (int j = i; j < NUM_LAYERS; j++) {
            const Heads *h = &HEADS[LAYERS[j].heads];
            if (LAYERS[j].heads < 0) continue;
            if (slot->layers[j].ring == its->ring) slot->layers[j].first = bytes + step, step += h->num_kv_heads * head_bytes(slot, h);
        }
        for (int j = i; j < NUM_LAYERS; j++)
            if (slot->layers[j].ring == its->ring) slot->layers[j].step = step;
        bytes += its->ring * step;
    }
    return bytes;
}
// Large pages (a look-up for each 2 MB instead of each 4 KB) for all but the first chunks: what is short keeps its memory small.
static void use_large_pages(const Slot *slot) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, from = ((uintptr_t)slot->start + slot->layers[0].step + page - 1) / page * page, to = ((uintptr_t)slot->start + slot->bytes) / page * page;
    if (to > from + (2 << 20)) madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)slot;
#endif
}

EXPORT void pellucid_free_slot(Slot *slot) {
    if (!slot) return;
//[if recurrent]
    free(slot->states);
//[end]
    free(slot->memory), free(slot->shared), free(slot);
}
// How a slot for `capacity` tokens is laid out.
static void measure(Slot *slot, int capacity) {
    const int longest = MAX_VECTORS * LANES, room = capacity < CHUNK ? (capacity + longest - 1) / longest * longest : CHUNK;
    slot->capacity = capacity > 0 ? capacity : 1;
    slot->tiles = room / TILE;
    slot->bytes = place_layers(slot);
}
// Room for `capacity` tokens; NULL where there is no memory.
EXPORT Slot *pellucid_slot(int capacity) {
    Slot *slot = calloc(1, sizeof *slot);
    if (!slot) return NULL;
    measure(slot, capacity);
    slot->memory = calloc(slot->bytes + 63, 1); // pages are given when first written
    slot->shared = calloc((size_t)MAX_HEADS * chunks_of(slot), sizeof(Gathered));
    slot->start = (uint8_t *)(((uintptr_t)slot->memory + 63) / 64 * 64);
//[if recurrent]
    slot->states = zeroed(STATE_SIZE, sizeof(float));
    if (!slot->states) {
        pellucid_free_slot(slot);
        return NULL;
    }
//[end]
    if (!slot->memory || !slot->shared) {
        pellucid_free_slot(slot);
        return NULL;
    }
    use_large_pages(slot);
    return slot;
}
// The same through a pointer of the caller's, who knows of the slot whatever interrupts him then; dropped twice is dropped once.
EXPORT void pellucid_make_slot(int capacity, Slot **made) { *made = pellucid_slot(capacity); }
EXPORT void pellucid_drop_slot(Slot **slot) {
    pellucid_free_slot(*slot);
    *slot = NULL;
}
// Of keys, values and states, when it is full.
EXPORT size_t pellucid_slot_bytes(const Slot *slot) {
//[if recurrent]
    return slot->bytes + STATE_SIZE * sizeof(float);
//[else]
    return slot->bytes;
//[end]
}
// The same of one that is not there yet, all that it takes counted.
EXPORT size_t pellucid_bytes(int capacity) {
    Slot slot = {0};
    measure(&slot, capacity);
    return pellucid_slot_bytes(&slot) + (size_t)MAX_HEADS * chunks_of(&slot) * sizeof(Gathered) + sizeof slot;
}
// The first `length` tokens of one slot, into another that has room for them; of windows, what both have room for.
EXPORT void pellucid_copy_slot(Slot *to, const Slot *from, int length) {
    const int chunks = (length + CHUNK - 1) / CHUNK;
//[if recurrent]
    memcpy(to->states, from->states, STATE_SIZE * sizeof(float)); // of the whole: `length` is all it has
//[end]
    for (int i = 0; i < NUM_LAYERS; i++) {
        const Heads *h = &HEADS[LAYERS[i].heads];
        if (LAYERS[i].heads < 0) continue; // it keeps no keys and values
        const int kept = to->layers[i].ring < from->layers[i].ring ? to->layers[i].ring : from->layers[i].ring;
        for (int chunk = chunks > kept ? chunks - kept : 0; chunk < chunks; chunk++)
            for (int head = 0; head < h->num_kv_heads; head++) {
                const size_t tiles = (size_t)((chunk + 1 < chunks ? CHUNK : length - chunk * CHUNK) + TILE - 1) / TILE;
                memcpy(keys_of(to, h, i, head, chunk), keys_of(from, h, i, head, chunk), tiles * key_tile(h));
                memcpy(values_of(to, h, i, head, chunk), values_of(from, h, i, head, chunk), tiles * value_tile(h));
            }
    }
}

// Rows of one slot go together, as many as are worked on at a time; the only row of a slot is cut into chunks of its positions.
static void cut_into_runs(Model *m, const Heads *h, Runs *runs) {
    const int longest = MAX_QUERIES / sharing(h) > 1 ? MAX_QUERIES / sharing(h) : 1;
    runs->count = runs->num_pieces = 0;
    runs->shared_chunks = false;
    for (int r = 0, end; r < m->rows; r = end) {
        for (end = r + 1; end < m->rows && m->slots[end] == m->slots[r]; end++) {}
        for (int first = r; first < end; first += longest) {
            Run *run = &runs->runs[runs->count++];
            *run = (Run){first, end - first < longest ? end - first : longest, 1, runs->num_pieces};
            if (end - r == 1 && m->team.size > 1) run->chunks = m->positions[r] / CHUNK + 1;
            runs->num_pieces += h->num_kv_heads * run->chunks;
            runs->shared_chunks |= run->chunks > 1;
        }
    }
}

//[if recurrent]
static void find_sequences(Model *m) {
    m->num_sequences = 0;
    for (int r = 0; r < m->rows; r++) {
        if (r == 0 || m->slots[r] != m->slots[r - 1]) m->sequences[m->num_sequences++] = (Sequence){r, 0};
        m->sequences[m->num_sequences - 1].count++;
    }
}

//[end]
// One step of at most MAX_ROWS tokens: row r is token_ids[r] at positions[r] of slots[r]; a slot's rows are consecutive and in order.
// lengths[r]: tokens of its request once this step, or the longer one that it is a part of, is over (some rotary scalings go by it).
// The logits of rows wanted[0 …] go to `logits`, [num_wanted][VOCAB_SIZE]; where that is NULL, pellucid_final tells of these rows instead.
EXPORT int pellucid_step(Model *m, int rows, const int32_t *token_ids, const int32_t *positions, const int32_t *lengths, Slot *const *slots,
                         int num_wanted, const int32_t *wanted, float *logits) {
    for (int r = 0; r < rows; r++) {
        if (token_ids[r] < 0 || token_ids[r] >= VOCAB_SIZE) return BAD_TOKEN;
        if (positions[r] < 0 || positions[r] >= slots[r]->capacity || positions[r] >= MAX_POSITIONS) return SLOT_FULL;
    }
    m->rows = rows, m->token_ids = token_ids, m->positions = positions, m->lengths = lengths, m->slots = slots;
    m->num_wanted = num_wanted, m->wanted = wanted, m->logits = logits;
    for (int kind = 0; kind < NUM_HEAD_KINDS; kind++) cut_into_runs(m, &HEADS[kind], &m->runs[kind]);
//[if recurrent]
    find_sequences(m);
//[end]
    run(&m->team, forward, m);
    if (m->steps < STEPS_BEFORE_MOVING && ++m->steps == STEPS_BEFORE_MOVING) start_moving(&m->parameters);
    return OK;
}
// What the last step made of the rows that it wanted, after the final norm: [num_wanted][D_MODEL]. At most once a step.
EXPORT void pellucid_final(Model *m, float *hidden) { final_states(m, hidden); }
#ifdef TRACE
// From now on taps are written to this file; NULL: to none.
EXPORT int pellucid_trace(const char *path) {
    if (trace_file) fclose(trace_file);
    trace_file = path ? fopen(path, "wb") : NULL;
    return path && !trace_file ? NO_FILE : OK;
}
#endif
