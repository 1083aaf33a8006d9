// threads.h: a team of threads that walks through the steps of the model together.
//
// All run the same function; barrier() keeps them in step. A thread that waits spins for a while, since the others are microseconds
// away, then yields, since on a busy machine one of them may have lost its core.

#define SPINS 2000

typedef struct {
    int size;                    // threads, the caller's own included
    atomic_int arrived, passed;  // at the barrier: threads waiting; barriers passed
    atomic_int next;             // the next piece of work of this step; back to 0 at each barrier
    atomic_int round;            // counts calls of run()
    atomic_bool stop;
    void (*work)(void *, int);
    void *argument;
    pthread_mutex_t lock; // for those that sleep between rounds
    pthread_cond_t wake;
    int started;
    struct Member { void *team; int number; pthread_t thread; } *members;
} Team;

INLINE void pause_(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void barrier(Team *team) {
    if (team->size == 1) {
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        return;
    }
    int passed = atomic_load_explicit(&team->passed, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->size - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        atomic_store_explicit(&team->passed, passed + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->passed, memory_order_acquire) == passed; spins++) {
        if (spins < SPINS) pause_();
        else sched_yield();
    }
}

// The next `count` pieces of work of this step that nobody has taken: their first.
INLINE int take(Team *team, int count) { return atomic_fetch_add_explicit(&team->next, count, memory_order_relaxed); }

static void *member_main(void *given) {
    struct Member *member = given;
    Team *team = member->team;
    for (int round = 0;; round++) {
        for (int spins = 0; atomic_load_explicit(&team->round, memory_order_acquire) == round; spins++) {
            if (spins < SPINS) pause_();
            else if (spins < SPINS + 200) sched_yield();
            else { // nothing to do for some time: sleep
                pthread_mutex_lock(&team->lock);
                while (atomic_load_explicit(&team->round, memory_order_acquire) == round) pthread_cond_wait(&team->wake, &team->lock);
                pthread_mutex_unlock(&team->lock);
            }
        }
        if (atomic_load(&team->stop)) return NULL;
        team->work(team->argument, member->number);
        barrier(team);
    }
}

// All threads run work(argument, number), the caller as number 0; returns when all are done.
static void run(Team *team, void (*work)(void *, int), void *argument) {
    team->work = work;
    team->argument = argument;
    if (team->size > 1) {
        pthread_mutex_lock(&team->lock);
        atomic_fetch_add_explicit(&team->round, 1, memory_order_release);
        pthread_cond_broadcast(&team->wake);
        pthread_mutex_unlock(&team->lock);
    }
    work(argument, 0);
    barrier(team);
}

static void team_stop(Team *team) {
    atomic_store(&team->stop, true);
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->round, 1, memory_order_release);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
    for (int i = 1; i < team->started; i++) pthread_join(team->members[i].thread, NULL);
    pthread_mutex_destroy(&team->lock);
    pthread_cond_destroy(&team->wake);
    free(team->members);
}

// False where the threads cannot be had.
static bool team_start(Team *team, int size) {
    memset(team, 0, sizeof *team);
    team->members = calloc((size_t)size, sizeof *team->members);
    if (!team->members) return false;
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
