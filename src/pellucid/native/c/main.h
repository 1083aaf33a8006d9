// main.h: the program.
//
//     run PARAMETERS "prompt" [-n tokens] [-t threads] [-T temperature] [-s seed] [--tokenize]
//
// Without a temperature the likeliest token is taken. Where the program has no tokenizer, prompt and answer are token ids.

static void fail(const char *what) {
    fprintf(stderr, "run: %s\n", what);
    exit(1);
}

static const char *message(int code) {
    switch (code) {
    case NO_FILE: return "the parameters file cannot be opened";
    case WRONG_FILE: return "the parameters file is not the one that this program was made with";
    case NO_MEMORY: return "not enough memory";
    case BAD_TOKEN: return "a token id is out of range";
    default: return "the context is full";
    }
}

static uint64_t random_state;
static float random_float(void) { // xorshift*, in [0, 1)
    random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
    return (float)((random_state * 0x2545f4914f6cdd1dull) >> 40) / 16777216.0f;
}

static int32_t choose_token(float *logits, float temperature) {
    int32_t best = 0;
    for (int32_t i = 1; i < VOCAB_SIZE; i++)
        if (logits[i] > logits[best]) best = i;
    if (temperature <= 0) return best;
    float sum = 0;
    const float most = logits[best];
    for (int32_t i = 0; i < VOCAB_SIZE; i++) sum += logits[i] = expf((logits[i] - most) / temperature);
    float left = random_float() * sum;
    for (int32_t i = 0; i < VOCAB_SIZE; i++)
        if ((left -= logits[i]) < 0) return i;
    return best;
}

static double number_of(const char *option, const char *value) {
    char *end;
    const double number = value ? strtod(value, &end) : 0;
    if (!value || end == value || *end || !(fabs(number) < 1e15)) fprintf(stderr, "run: %s takes a number\n", option), exit(1);
    return number;
}
// -x or --word; a prompt may well begin with a dash, too.
static bool is_option(const char *a) {
    const bool letter = (a[0] && a[1] >= 'A' && a[1] <= 'Z') || (a[0] && a[1] >= 'a' && a[1] <= 'z');
    return a[0] == '-' && ((letter && !a[2]) || (a[1] == '-' && a[2] && !strpbrk(a, " \n")));
}

int main(int count, char **given) {
    const char *path = NULL, *prompt = NULL;
    long tokens = 256, asked = -1, threads = sysconf(_SC_NPROCESSORS_ONLN);
    float temperature = 0;
    bool tokenize = false;
    random_state = 42;
    for (int i = 1; i < count; i++) {
        const char *a = given[i], *value = i + 1 < count ? given[i + 1] : NULL;
        if (!strcmp(a, "--tokenize")) tokenize = true;
        else if (!strcmp(a, "-n")) tokens = asked = (long)number_of(a, value), i++;
        else if (!strcmp(a, "-t")) threads = (long)number_of(a, value), i++;
        else if (!strcmp(a, "-T")) temperature = (float)number_of(a, value), i++;
        else if (!strcmp(a, "-s")) random_state = (uint64_t)fabs(number_of(a, value)) * 2 + 1, i++;
        else if (is_option(a)) fprintf(stderr, "run: there is no option %s\n", a), exit(1);
        else if (!path) path = a;
        else if (!prompt) prompt = a;
        else fail("too many arguments");
    }
    if (!path || !prompt) fail("use: run PARAMETERS \"prompt\" [-n tokens] [-t threads] [-T temperature] [-s seed] [--tokenize]");
    if (tokens < 0 || tokens > 10000000 || threads < 1 || threads > 1024) fail("-n or -t is out of range");

    Model *m;
    int code = pellucid_open(path, (int)threads, &m);
    if (code) fail(message(code));
    Ids ids = {0};
#if TOKENIZER != 0
    Vocabulary v;
    if (!read_vocabulary(m, &v)) fail("the vocabulary in the parameters file is damaged");
    static const uint32_t prefix[] = {PREFIX_IDS NONE}; // what a text begins with: BOS, say
    for (size_t i = 0; i + 1 < sizeof prefix / sizeof *prefix; i++) push(&ids, prefix[i]);
    encode(&v, prompt, &ids);
#else
    read_ids(prompt, &ids);
#endif
    if (tokenize) {
        for (size_t i = 0; i < ids.count; i++) printf("%u%s", ids.ids[i], i + 1 < ids.count ? " " : "");
        putchar('\n');
        free(ids.ids);
        pellucid_close(m);
        return 0;
    }
    if (!ids.count) fail("the prompt is empty");
    if (ids.count > CONTEXT_LEN) {
        fprintf(stderr, "run: the prompt is too long: %zu tokens, where the model has room for %d\n", ids.count, CONTEXT_LEN);
        return 1;
    }
    const long room = CONTEXT_LEN - (long)ids.count;
    if (asked > room) {
        fprintf(stderr, "run: a prompt of %zu tokens and -n %ld are more than the context of %d\n", ids.count, asked, CONTEXT_LEN);
        return 1;
    }
    if (tokens > room) tokens = room;

    Slot *slot = pellucid_slot((int)(ids.count + (size_t)tokens)); // at most CONTEXT_LEN, which is an int
    float *logits = malloc(VOCAB_SIZE * sizeof *logits);
    if (!slot || !logits) fail(message(NO_MEMORY));
    int32_t row_ids[MAX_ROWS], positions[MAX_ROWS], lengths[MAX_ROWS], wanted, position = 0;
    Slot *slots[MAX_ROWS];
    for (long done = 0; done <= tokens; done++) {
        while ((size_t)position < ids.count) { // the prompt in pieces, then token by token
            const int left = (int)(ids.count - (size_t)position), rows = left < MAX_ROWS ? left : MAX_ROWS;
            for (int r = 0; r < rows; r++) {
                row_ids[r] = (int32_t)ids.ids[position + r], positions[r] = position + r;
                lengths[r] = (int32_t)ids.count, slots[r] = slot;
            }
            wanted = rows - 1;
            code = pellucid_step(m, rows, row_ids, positions, lengths, slots, rows == left, &wanted, logits);
            if (code) putchar('\n'), fflush(stdout), fail(message(code));
            position += rows;
        }
        if (done == tokens) break;
        const uint32_t next = (uint32_t)choose_token(logits, temperature);
        static const uint32_t ends[] = {END_IDS NONE};
        bool end = false;
        for (size_t i = 0; i + 1 < sizeof ends / sizeof *ends; i++) end |= ends[i] == next;
        if (end) break;
#if TOKENIZER != 0
        print_token(&v, next);
#else
        printf("%u ", next);
#endif
        fflush(stdout);
        push(&ids, next);
        if (done + 1 == tokens) break; // nobody asks for the logits after it
    }
    putchar('\n');
    free(logits);
    free(ids.ids);
    pellucid_free_slot(slot);
    pellucid_close(m);
    return 0;
}
