// model.h: where the weights are, the buffers that a step works in, and the step itself.
// Consecutive rows of one slot, few enough to be attended to together. A slot's only row may be shared by chunks of its positions.
typedef struct {
    int first, count;
    int chunks; // pieces of work for each key-value head
    int piece;  // the first of its pieces
} Run;
typedef struct {
    Run *runs; // [MAX_ROWS]
    int count, num_pieces;
    bool shared_chunks; // whether there is a run of several chunks
} Runs; // for one kind of heads

//[if experts]
// Which rows go through which experts: entries, put together by expert.
typedef struct {
    int num_groups, num_entries;
    struct Group { int expert, first, count; } *groups; // [MAX_EXPERTS + 1]: those that have rows, in order; the shared one last
    int *rows;      // [MAX_ENTRIES]
    float *weights; // [MAX_ENTRIES]: what the expert counts for in the row's sum
} Routing;

//[end]
//[if recurrent]
// Consecutive rows of one slot, all of them.
typedef struct { int first, count; } Sequence;

//[end]
typedef struct {
    Parameters parameters;
    Team team;
    float *x, *q, *k, *v, *z, *act;   // [MAX_ROWS][…_ROW]: residual stream; by head; the MLP's inner activations
    float *part;                      // [MAX_ROWS][D_ROW]: what a part of a layer made, where it is not added at once
//[if experts]
    float *router, *shared_gate;      // [MAX_ROWS][EXPERTS_ROW]: the router's logits; [MAX_ROWS]: the shared expert's gate
    int *chosen;                      // [MAX_ROWS][MAX_CHOSEN]: each row's experts
    float *chosen_weights;            // [MAX_ROWS][MAX_CHOSEN]
    Routing routing, *own_routing;    // of all rows; of a single row, each thread for itself
    Panels entries;                   // [MAX_ENTRIES]: rows as the experts' products take them
    float *expert_act;                // [MAX_ENTRIES][EXPERT_ROW]: the experts' inner activations
//[end]
//[if gated]
    float *gate;                      // [MAX_ROWS][Q_ROW]: what opens z
//[end]
//[if latent]
    float *latent;                    // [MAX_ROWS][LATENT_ROW]: what queries are made of
    Panels *by_head;                  // [threads]: rows of one head
//[end]
//[if recurrent]
    float *maps[NUM_MAPS];            // each [MAX_ROWS][MAPS_ROW]: linear maps of what a mixer with a state reads
    Sequence *sequences;              // [num_sequences]: the slots of a step
    int num_sequences;
//[end]
    float *final;                     // [MAX_ROWS][D_ROW]: the wanted rows
    float *cosine, *sine;             // [MAX_ROWS][NUM_ROTARY][ROTARY_PAIRS]
    Panels shared, *own;              // activations as products take them: of all rows; of a single row, each thread for itself
    float *scratch;                   // [threads][WIDEST]: a normalized row
    Attention *attention;             // [threads]
    Runs runs[NUM_HEAD_KINDS];             // for each kind of heads
    int steps; // so far, up to STEPS_BEFORE_MOVING
    // The step that is being run:
    int rows, num_wanted;
    const int32_t *token_ids, *positions, *lengths, *wanted;
    Slot *const *slots;
    float *logits;
} Model;

INLINE const float *numbers(const Model *m, size_t offset) { return offset ? (const float *)(const void *)(m->parameters.bytes + offset) : NULL; }

static void *zeroed(size_t count, size_t size) { // 64-byte aligned; NULL where there is no memory
    size_t bytes = (count * size + 63) / 64 * 64 + 64;
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes)) return NULL;
    memset(p, 0, bytes);
    return p;
}
//[if experts]
static bool make_routing(Routing *routing, int entries) {
    routing->groups = zeroed(MAX_EXPERTS + 1, sizeof *routing->groups);
    routing->rows = zeroed((size_t)entries, sizeof *routing->rows);
    routing->weights = zeroed((size_t)entries, sizeof *routing->weights);
    return routing->groups && routing->rows && routing->weights;
}
static void free_routing(Routing *routing) { free(routing->groups), free(routing->rows), free(routing->weights); }

//[end]
static bool make_panels(Panels *p, size_t rows, int columns) {
    p->columns = columns;
    p->floats = zeroed(rows * columns, sizeof(float));
    p->bf16 = BF16_PRODUCTS ? zeroed(rows * columns, sizeof(uint16_t)) : NULL;
    p->bytes = zeroed(rows * columns, 1);
    p->sums = zeroed(rows * columns / 32, sizeof(Sums));
    return p->floats && (p->bf16 || !BF16_PRODUCTS) && p->bytes && p->sums;
}
static void free_panels(Panels *p) { free(p->floats), free(p->bf16), free(p->bytes), free(p->sums); }

// ---- taps: compiled with -DTRACE, a step writes every value that has a name, for those who want to see it ----------------------------
#ifdef TRACE
static FILE *trace_file;
// "name layer rows width\n", then the floats.
static void tap(Model *m, Turn *turn, const char *name, int layer, int rows, const float *values, int row_size, int width) {
    (void)m;
    while (take(turn, 1, 1)) {
        if (!trace_file) continue;
        fprintf(trace_file, "%s %d %d %d\n", name, layer, rows, width);
        for (int r = 0; r < rows; r++) fwrite(values + (size_t)r * row_size, sizeof(float), (size_t)width, trace_file);
    }
}
#define TAP(name, layer, rows, values, row_size, width) tap(m, turn, name, layer, rows, values, row_size, width)
#else
#define TAP(name, layer, rows, values, row_size, width) ((void)0)
#endif
