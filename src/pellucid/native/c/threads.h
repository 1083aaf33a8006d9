// threads.h: a team of threads that works through the stages of the model together.
//
// A stage is a number of pieces of work, of which each thread has a part of its own: a run of pieces, so that it reads one straight
// stream of weights. It takes them a share at a time, and when they are gone it takes from the others' parts. A stage is over when all pieces
// are done, not when all threads have arrived. So a thread that has lost its core holds the others up only while it is in the middle of a
// share: on a busy machine, or one with fewer cores than threads, the rest go on without it, and it catches up when it runs again. All a
// stage needs is
//
//     while (take(turn, pieces, share))
//         for (int i = turn->begin; i < turn->end; i++) …
//
// Nearly always a thread writes to its own counters alone and reads each of the others' once: what passes between cores is what
// a stage costs. Counters carry the number of the stage they belong to, counted through all calls of run(), so that nothing need be reset and
// a few of them serve in turn. A thread that comes back late sees a later number, and that its stage is over.
#define SPINS 2000 // pauses, some 50 microseconds, before a waiting thread offers its core to others
#define IN_TURN 4  // stages whose counters are kept
#define COUNT_BITS 20
#define ALL_TAKEN ((1 << COUNT_BITS) - 1)

typedef struct { // one thread's counters of a stage: number of the stage << COUNT_BITS | pieces
    _Alignas(64) atomic_llong taken; // of its part, by whomever; or ALL_TAKEN
    _Alignas(64) atomic_llong done;  // by it, of whosever part
} Part;

typedef struct {
    int size; // threads, the caller's own included
    long long stages; // at most, of a round
    Part *parts;      // [IN_TURN][size]
    atomic_llong round;
    atomic_bool stop;
    void (*work)(void *, void *);
    void *argument;
    pthread_mutex_t lock; // for those that sleep between rounds
    pthread_cond_t wake;
    int started;
    struct Member { void *team; int number; pthread_t thread; } *members;
} Team;

// One thread's way through one round.
typedef struct {
    Team *team;
    int thread;
    long long round, stage;
    int begin, end; // the pieces it has taken
    int done;       // pieces of this stage that it has done
    int passed;     // parts of this stage that it has found empty, its own first
    bool late;      // the round is over without it
} Turn;

INLINE void pause_(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

INLINE Part *parts_of(const Turn *turn) { return turn->team->parts + turn->stage % IN_TURN * turn->team->size; }

// Takes from a part of `length` pieces: how many were taken before; `length` or more where none is left, −1 where the stage is over.
INLINE int take_from(Part *part, long long stage, int share, int length) {
    long long value = atomic_load_explicit(&part->taken, memory_order_acquire);
    for (;;) {
        if (value >> COUNT_BITS > stage) return -1;
        const int before = value >> COUNT_BITS == stage ? (int)(value & ALL_TAKEN) : 0;
        if (before == ALL_TAKEN) return before;
        const long long after = before + share < length ? before + share : ALL_TAKEN;
        if (atomic_compare_exchange_weak_explicit(&part->taken, &value, stage << COUNT_BITS | after, memory_order_acq_rel, memory_order_acquire)) return before;
    }
}

// Whether all pieces of this stage are done.
INLINE bool over(const Turn *turn, int pieces) {
    const Part *parts = parts_of(turn);
    long long sum = 0;
    for (int i = 0; i < turn->team->size; i++) {
        const long long done = atomic_load_explicit(&parts[i].done, memory_order_acquire);
        if (done >> COUNT_BITS > turn->stage) return true;
        if (done >> COUNT_BITS == turn->stage) sum += done & ALL_TAKEN;
    }
    return sum == pieces;
}

// True: the pieces begin … end − 1 of this stage, at most `share`, are this thread's. False: the stage is over, and the next begins.
static bool take(Turn *turn, int pieces, int share) {
    if (turn->late) return false;
    const int size = turn->team->size;
    Part *parts = parts_of(turn);
    if (turn->end > turn->begin) {
        turn->done += turn->end - turn->begin;
        atomic_store_explicit(&parts[turn->thread].done, turn->stage << COUNT_BITS | turn->done, memory_order_release);
        turn->begin = turn->end = 0;
    }
    for (; turn->passed < size; turn->passed++) {
        const int owner = (turn->thread + turn->passed) % size;
        const int start = (pieces * owner + size - 1) / size, length = (pieces * (owner + 1) + size - 1) / size - start;
        const int before = take_from(&parts[owner], turn->stage, share, length); // an empty part, too: what is over looks over to all
        if (before < 0) break;
        if (before < length) {
            turn->begin = start + before;
            turn->end = start + (before + share < length ? before + share : length);
            return true;
        }
    }
    for (int spins = 0; !over(turn, pieces); spins++) { // until the others' pieces are done, too
        if (atomic_load_explicit(&turn->team->round, memory_order_relaxed) != turn->round) {
            turn->late = true;
            return false;
        }
        if (spins < SPINS) pause_();
        else sched_yield();
    }
    turn->stage++;
    turn->done = turn->passed = 0;
    return false;
}

// Whether there may be something left to take in the stage that comes.
INLINE bool pending(const Turn *turn) {
    if (turn->late) return false;
    const Part *parts = parts_of(turn);
    for (int i = 0; i < turn->team->size; i++) {
        const long long taken = atomic_load_explicit(&parts[(turn->thread + i) % turn->team->size].taken, memory_order_acquire);
        if (taken < (turn->stage << COUNT_BITS | ALL_TAKEN)) return true;
    }
    return false;
}

// A share such that every thread gets about `times` of them.
INLINE int share_of(const Turn *turn, int pieces, int times) {
    const int parts = turn->team->size == 1 ? 1 : turn->team->size * times;
    return (pieces + parts - 1) / parts;
}

static void *member_main(void *given) {
    struct Member *member = given;
    Team *team = member->team;
    for (long long last = 0, round;; last = round) {
        for (int spins = 0; (round = atomic_load_explicit(&team->round, memory_order_acquire)) == last; spins++) {
            if (spins < SPINS) pause_();
            else if (spins < SPINS + 100) sched_yield();
            else { // nothing to do for some time: sleep
                pthread_mutex_lock(&team->lock);
                while (atomic_load_explicit(&team->round, memory_order_acquire) == last) pthread_cond_wait(&team->wake, &team->lock);
                pthread_mutex_unlock(&team->lock);
            }
        }
        if (atomic_load(&team->stop)) return NULL;
        Turn turn = {.team = team, .thread = member->number, .round = round, .stage = round * team->stages};
        team->work(team->argument, &turn);
    }
}

static void next_round(Team *team) {
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->round, 1, memory_order_acq_rel);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

// No thread that comes back late finds a piece of this round any more: what the work goes by may change now, and with it its stages.
static void close_round(Team *team, long long last_stage) {
    for (int i = 0; i < IN_TURN * team->size; i++) {
        atomic_store_explicit(&team->parts[i].taken, last_stage << COUNT_BITS | ALL_TAKEN, memory_order_release);
        atomic_store_explicit(&team->parts[i].done, last_stage << COUNT_BITS, memory_order_release);
    }
}

// All threads run work(argument, their turn); returns when every stage is over.
static void run(Team *team, void (*work)(void *, void *), void *argument) {
    team->work = work;
    team->argument = argument;
    next_round(team);
    const long long round = atomic_load(&team->round);
    Turn turn = {.team = team, .round = round, .stage = round * team->stages};
    work(argument, &turn);
    close_round(team, (round + 1) * team->stages - 1); // beyond all that a round has
}

static void team_stop(Team *team) {
    atomic_store(&team->stop, true);
    next_round(team);
    for (int i = 1; i < team->started; i++) pthread_join(team->members[i].thread, NULL);
    pthread_mutex_destroy(&team->lock);
    pthread_cond_destroy(&team->wake);
    free(team->members);
    free(team->parts);
    team->size = 0;
}

// False where the threads cannot be had.
static bool team_start(Team *team, int size, int stages) {
    memset(team, 0, sizeof *team);
    team->members = calloc((size_t)size, sizeof *team->members);
    const size_t bytes = (size_t)IN_TURN * (size_t)size * sizeof *team->parts;
    if (posix_memalign((void **)&team->parts, 64, bytes)) team->parts = NULL;
    if (!team->members || !team->parts) {
        free(team->members), free(team->parts);
        return false;
    }
    memset((void *)team->parts, 0, bytes);
    team->stages = stages;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wake, NULL);
    team->size = size;
    for (team->started = 1; team->started < size; team->started++) {
        struct Member *member = &team->members[team->started];
        member->team = team;
        member->number = team->started;
        if (pthread_create(&member->thread, NULL, member_main, member)) {
            team_stop(team);
            return false;
        }
    }
    return true;
}
