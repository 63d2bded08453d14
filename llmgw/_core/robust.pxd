# A process-shared robust mutex in mapped memory: the kernel tells its next taker that the holder died.

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <time.h>

    static inline int robust_init(void *at)
    {
        pthread_mutexattr_t kind;
        int failed = pthread_mutexattr_init(&kind);
        if (failed) return failed;
        pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    #ifdef __linux__
        pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    #endif
        failed = pthread_mutex_init((pthread_mutex_t *)at, &kind);
        pthread_mutexattr_destroy(&kind);
        return failed;
    }

    /* 0: taken; EOWNERDEAD: taken, and what the dead holder began must be put right; else: not taken. */
    static inline int robust_lock(void *at, long timeout_s)
    {
        int state = pthread_mutex_trylock((pthread_mutex_t *)at);
        if (state != EBUSY) return state;
    #ifdef __linux__
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += timeout_s;
        return pthread_mutex_timedlock((pthread_mutex_t *)at, &until);
    #else
        return pthread_mutex_lock((pthread_mutex_t *)at);
    #endif
    }

    static inline void robust_mend(void *at)
    {
    #ifdef __linux__
        pthread_mutex_consistent((pthread_mutex_t *)at);
    #endif
    }

    static inline void robust_unlock(void *at) { pthread_mutex_unlock((pthread_mutex_t *)at); }

    /* What a dying process wrote, it wrote in this order: the compiler must not change it. */
    static inline void in_order(void) { __asm__ volatile("" ::: "memory"); }
    enum { ROBUST_BYTES = sizeof(pthread_mutex_t) };
    """
    int EOWNERDEAD
    int ROBUST_BYTES
    int robust_init(void* at) noexcept nogil
    int robust_lock(void* at, long timeout_s) noexcept nogil
    void robust_mend(void* at) noexcept nogil
    void robust_unlock(void* at) noexcept nogil
    void in_order() noexcept nogil
