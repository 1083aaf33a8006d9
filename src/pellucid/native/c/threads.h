// threads.h: a team of threads that works through the stages of the model together.
//
// A stage is a number of pieces of work; it is over when all pieces are done, not when all threads have arrived. So a thread that has lost
// its core holds the others up only while it is in the middle of a piece: on a busy machine, or one with fewer cores than threads, the
// rest go on without it, and it catches up when it runs again. All a stage needs is
//
//     while (take(turn, pieces, share))
//         for (int i = turn->begin; i < turn->end; i++) …
//
// The counters of a stage carry the round (the call of run()) they belong to, so nothing need be reset, and a thread that comes back after
// its round is over sees that and leaves: whatever it may have read meanwhile, it gets no piece to write.
#define SPINS 2000 // pauses, some 50 microseconds, before a waiting thread offers its core to others
#define ALL_TAKEN 0x7fffffff

typedef struct {
    _Alignas(64) atomic_llong taken; // round << 32 | pieces taken, or ALL_TAKEN
    _Alignas(64) atomic_llong done;  // round << 32 | pieces done
} Stage;

typedef struct {
    int size; // threads, the caller's own included
    Stage *stages;
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
    long long round;
    int stage;
    int begin, end; // the pieces it has taken
    bool late;      // the round is over without it
} Turn;

INLINE void pause_(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Adds to a counter of this round: its value before, or −1 where another round has begun. With `limit`, reaching it means ALL_TAKEN.
INLINE long long advance(atomic_llong *counter, long long round, long long add, long long limit) {
    long long value = atomic_load_explicit(counter, memory_order_acquire);
    for (;;) {
        if (value >> 32 > round) return -1;
        const long long before = value >> 32 == round ? value & ALL_TAKEN : 0;
        if (before == ALL_TAKEN) return before;
        const long long after = limit && before + add >= limit ? ALL_TAKEN : before + add;
        if (atomic_compare_exchange_weak_explicit(counter, &value, round << 32 | after, memory_order_acq_rel, memory_order_acquire)) return before;
    }
}

// True: the pieces begin … end − 1 of this stage, at most `share`, are this thread's. False: the stage is over, and the next begins.
static bool take(Turn *turn, int pieces, int share) {
    if (turn->late) return false;
    Stage *stage = &turn->team->stages[turn->stage];
    if (turn->end > turn->begin) {
        advance(&stage->done, turn->round, turn->end - turn->begin, 0);
        turn->begin = turn->end = 0;
    }
    const long long first = advance(&stage->taken, turn->round, share, pieces);
    if (first >= 0 && first < pieces) {
        turn->begin = (int)first;
        turn->end = first + share < pieces ? (int)first + share : pieces;
        return true;
    }
    for (int spins = 0; first >= 0; spins++) { // until the others' pieces are done, too
        const long long done = atomic_load_explicit(&stage->done, memory_order_acquire);
        if (atomic_load_explicit(&turn->team->round, memory_order_relaxed) != turn->round) break;
        if (done == (turn->round << 32 | pieces)) {
            turn->stage++;
            return false;
        }
        if (spins < SPINS) pause_();
        else sched_yield();
    }
    turn->late = true;
    return false;
}

// Whether there may be something left to take in the stage that comes.
INLINE bool pending(const Turn *turn) {
    return !turn->late && atomic_load_explicit(&turn->team->stages[turn->stage].taken, memory_order_acquire) < (turn->round << 32 | ALL_TAKEN);
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
        Turn turn = {.team = team, .thread = member->number, .round = round};
        team->work(team->argument, &turn);
    }
}

static void next_round(Team *team) {
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->round, 1, memory_order_acq_rel);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

// All threads run work(argument, their turn); returns when every stage is over.
static void run(Team *team, void (*work)(void *, void *), void *argument) {
    team->work = work;
    team->argument = argument;
    next_round(team);
    Turn turn = {.team = team, .round = atomic_load(&team->round)};
    work(argument, &turn);
}

static void team_stop(Team *team) {
    atomic_store(&team->stop, true);
    next_round(team);
    for (int i = 1; i < team->started; i++) pthread_join(team->members[i].thread, NULL);
    pthread_mutex_destroy(&team->lock);
    pthread_cond_destroy(&team->wake);
    free(team->members);
    free(team->stages);
    team->size = 0;
}

// False where the threads cannot be had.
static bool team_start(Team *team, int size, int stages) {
    memset(team, 0, sizeof *team);
    team->members = calloc((size_t)size, sizeof *team->members);
    if (posix_memalign((void **)&team->stages, 64, (size_t)stages * sizeof *team->stages)) team->stages = NULL;
    if (!team->members || !team->stages) {
        free(team->members), free(team->stages);
        return false;
    }
    memset((void *)team->stages, 0, (size_t)stages * sizeof *team->stages);
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
