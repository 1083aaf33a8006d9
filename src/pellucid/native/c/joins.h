// joins.h: neighbours are joined, the best pair of them first, until none is left that makes a token (byte-pair encoding, Sennrich et al.
// 2016). The pairs wait in a heap; one whose parts have meanwhile become something else is passed over.
typedef struct {
    uint32_t start, length; // bytes; length 0: it has become part of the one on its left
    uint32_t id;            // NONE: no token
    uint32_t left, right;   // neighbours, or NONE
    bool whole;             // never joined
} Symbol;
typedef struct {
    float rank; // the lowest is joined first, of equal ones the leftmost
    uint32_t left, length, joined;
} Pair;
typedef struct { Pair *pairs; size_t count, room; } Heap;

static bool before(const Pair *a, const Pair *b) { return a->rank < b->rank || (a->rank == b->rank && a->left < b->left); }
static void heap_add(Heap *heap, Pair pair) {
    if (heap->count == heap->room) heap->pairs = grown(heap->pairs, (heap->room = heap->room * 2 + 64) * sizeof *heap->pairs);
    size_t at = heap->count++;
    for (; at > 0 && before(&pair, &heap->pairs[(at - 1) / 2]); at = (at - 1) / 2) heap->pairs[at] = heap->pairs[(at - 1) / 2];
    heap->pairs[at] = pair;
}
static Pair heap_take(Heap *heap) {
    const Pair first = heap->pairs[0], last = heap->pairs[--heap->count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap->count; at = child) {
        if (child + 1 < heap->count && before(&heap->pairs[child + 1], &heap->pairs[child])) child++;
        if (!before(&heap->pairs[child], &last)) break;
        heap->pairs[at] = heap->pairs[child];
    }
    heap->pairs[at] = last;
    return first;
}

SOME const Merge *merge_of(const Vocabulary *v, uint32_t left, uint32_t right) {
    size_t low = 0, high = NUM_MERGES;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const Merge *merge = &v->merges[middle];
        if (merge->left == left && merge->right == right) return merge;
        if (merge->left < left || (merge->left == left && merge->right < right)) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

// A pair into the heap, where together it is a token: in SentencePiece any piece, by its score; else by the list of merges.
static void consider(const Vocabulary *v, const char *text, const Symbol *symbols, uint32_t left, Heap *heap) {
    if (left == NONE || symbols[left].right == NONE) return;
    const Symbol *a = &symbols[left], *b = &symbols[a->right];
    if (a->whole || b->whole) return;
    Pair pair = {.left = left, .length = a->length + b->length};
    if (TOKENIZER == SENTENCEPIECE) {
        pair.joined = token_of(v, text + a->start, pair.length);
        if (pair.joined == NONE || v->kinds[pair.joined] != NORMAL_TOKEN) return;
        pair.rank = -v->scores[pair.joined];
    } else {
        const Merge *merge = merge_of(v, a->id, b->id);
        if (!merge) return;
        pair.joined = merge->joined, pair.rank = (float)merge->rank;
    }
    heap_add(heap, pair);
}

static void join(const Vocabulary *v, const char *text, Symbol *symbols, size_t count) {
    Heap heap = {0};
    for (size_t i = 0; i < count; i++) symbols[i].left = i ? (uint32_t)i - 1 : NONE, symbols[i].right = i + 1 < count ? (uint32_t)i + 1 : NONE;
    for (size_t i = 0; i < count; i++) consider(v, text, symbols, (uint32_t)i, &heap);
    while (heap.count) {
        const Pair pair = heap_take(&heap);
        Symbol *a = &symbols[pair.left];
        if (!a->length || a->right == NONE || a->length + symbols[a->right].length != pair.length) continue;
        Symbol *b = &symbols[a->right];
        a->length = pair.length, a->id = pair.joined, a->right = b->right;
        if (a->right != NONE) symbols[a->right].left = pair.left;
        b->length = 0;
        consider(v, text, symbols, a->left, &heap);
        consider(v, text, symbols, pair.left, &heap);
    }
    free(heap.pairs);
}
