// parameters.h: the parameters file, mapped into memory; and, while the model runs, moved to large pages.
//
// Mapping makes a start cost nothing. But the file comes in pages of 4 KB, a decode step reads them all, and at the end of each the processor
// stops fetching ahead until it has looked up where the next one lies: a sixth of the step. So after the first steps a thread puts memory
// of 2 MB pages with the same bytes in the file's place, piece by piece. Whoever reads meanwhile reads the one or the other.
#define LARGE_PAGE ((size_t)2 << 20)
#define STEPS_BEFORE_MOVING 4 // a program that says one word need not move

typedef struct {
    const uint8_t *bytes; // begins at a multiple of LARGE_PAGE
    void *reserved;       // the addresses it lies in; NULL: none
    size_t num_reserved;
    pthread_t mover;
    bool moving;
    atomic_bool stop;
} Parameters;

static bool map_parameters(Parameters *p, int file) {
    p->num_reserved = PARAMETERS_SIZE + LARGE_PAGE;
    p->reserved = mmap(NULL, p->num_reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->reserved == MAP_FAILED) {
        p->reserved = NULL;
        return false;
    }
    void *start = (uint8_t *)p->reserved + (LARGE_PAGE - (uintptr_t)p->reserved % LARGE_PAGE) % LARGE_PAGE;
    p->bytes = start;
    return mmap(start, PARAMETERS_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED;
}

static void unmap_parameters(Parameters *p) {
    atomic_store(&p->stop, true);
    if (p->moving) pthread_join(p->mover, NULL);
    if (p->reserved) munmap(p->reserved, p->num_reserved);
}

#if defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
// Whether the whole file fits beside what is in use; the system says what it could free.
static bool room_to_move(void) {
    FILE *file = fopen("/proc/meminfo", "r");
    unsigned long long available = 0;
    char line[128];
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &available) == 1) break;
    if (file) fclose(file);
    return available * 1024 > PARAMETERS_SIZE + PARAMETERS_SIZE / 4;
}

static void *move_parameters(void *given) {
    Parameters *p = given;
    if (!room_to_move()) return NULL;
    for (size_t at = 0; at + LARGE_PAGE <= PARAMETERS_SIZE && !atomic_load(&p->stop); at += LARGE_PAGE) {
        uint8_t *room = mmap(NULL, 2 * LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED) break;
        uint8_t *page = room + (LARGE_PAGE - (uintptr_t)room % LARGE_PAGE) % LARGE_PAGE, *end = room + 2 * LARGE_PAGE;
        if (page > room) munmap(room, (size_t)(page - room)); // now: once the page has moved, others may be given the addresses around it
        if (page + LARGE_PAGE < end) munmap(page + LARGE_PAGE, (size_t)(end - page) - LARGE_PAGE);
        bool moved = !madvise(page, LARGE_PAGE, MADV_HUGEPAGE);
        if (moved) {
            memcpy(page, p->bytes + at, LARGE_PAGE);
            moved = !mprotect(page, LARGE_PAGE, PROT_READ);
            moved = moved && mremap(page, LARGE_PAGE, LARGE_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)(p->bytes + at)) != MAP_FAILED;
        }
        if (!moved) munmap(page, LARGE_PAGE);
        if (!moved) break;
    }
    return NULL;
}

static void start_moving(Parameters *p) {
    if (!p->moving) p->moving = !pthread_create(&p->mover, NULL, move_parameters, p);
}
#else
static void start_moving(Parameters *p) { (void)p; }
#endif
