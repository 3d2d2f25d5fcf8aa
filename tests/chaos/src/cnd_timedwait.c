/*
 * glibc's cnd_timedwait, by which librdkafka waits, follows the kernel's clock, whatever clock
 * libfaketime shows. This one follows the shown clock, also when that changes during the wait, as
 * the kernel does when its own clock is set.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <threads.h>
#include <time.h>

#define SECOND 1000000000LL
/* How often the shown clock is read. */
#define SLICE (SECOND / 10)

static long long left(const struct timespec *until)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (until->tv_sec - now.tv_sec) * SECOND + until->tv_nsec - now.tv_nsec;
}

static int wait_for(pthread_cond_t *cond, pthread_mutex_t *mutex, long long time)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (end.tv_nsec + time) / SECOND;
    end.tv_nsec = (end.tv_nsec + time) % SECOND;
    return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &end);
}

int cnd_timedwait(cnd_t *cond, mtx_t *mutex, const struct timespec *until)
{
    for (;;) {
        long long time = left(until);
        if (time <= 0)
            return thrd_timedout;
        int woken = wait_for((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, time < SLICE ? time : SLICE);
        if (woken != ETIMEDOUT)
            return woken == 0 ? thrd_success : thrd_error;
    }
}
