/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GLib's locks for the thread sanitizer, which GLib isn't built for: they are
 * made of futexes in code that it can't see, so that everything they order
 * would look like a race.  These stand before GLib's own in each program of a
 * build with -Db_sanitize=thread, call those, and tell the sanitizer.  What it
 * reports then is a race of ours, or a wrong order of locks.
 */
#include <dlfcn.h>
#include <glib.h>
#include <sanitizer/tsan_interface.h>

/* GLib's own function of that name, looked up once. */
#define REAL(name) \
    static __typeof__(name) *real; \
    __typeof__(name) *call = __atomic_load_n(&real, __ATOMIC_RELAXED); \
    if (!call) { \
        call = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); \
        __atomic_store_n(&real, call, __ATOMIC_RELAXED); \
    }

void g_mutex_init(GMutex *mutex)
{
    REAL(g_mutex_init)
    __tsan_mutex_create(mutex, 0);
    call(mutex);
}

void g_mutex_clear(GMutex *mutex)
{
    REAL(g_mutex_clear)
    __tsan_mutex_destroy(mutex, 0);
    call(mutex);
}

void g_mutex_lock(GMutex *mutex)
{
    REAL(g_mutex_lock)
    __tsan_mutex_pre_lock(mutex, 0);
    call(mutex);
    __tsan_mutex_post_lock(mutex, 0, 0);
}

gboolean g_mutex_trylock(GMutex *mutex)
{
    REAL(g_mutex_trylock)
    gboolean got;

    __tsan_mutex_pre_lock(mutex, __tsan_mutex_try_lock);
    got = call(mutex);
    __tsan_mutex_post_lock(mutex,
                           got ? __tsan_mutex_try_lock
                               : __tsan_mutex_try_lock |
                                     __tsan_mutex_try_lock_failed, 0);
    return got;
}

void g_mutex_unlock(GMutex *mutex)
{
    REAL(g_mutex_unlock)
    __tsan_mutex_pre_unlock(mutex, 0);
    call(mutex);
    __tsan_mutex_post_unlock(mutex, 0);
}

/* Waiting lets go of the mutex and takes it again. */
void g_cond_wait(GCond *cond, GMutex *mutex)
{
    REAL(g_cond_wait)
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
    call(cond, mutex);
    __tsan_mutex_pre_lock(mutex, 0);
    __tsan_mutex_post_lock(mutex, 0, 0);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
    REAL(g_cond_wait_until)
    gboolean signalled;

    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
    signalled = call(cond, mutex, end_time);
    __tsan_mutex_pre_lock(mutex, 0);
    __tsan_mutex_post_lock(mutex, 0, 0);
    return signalled;
}

/* Who lets go of the last reference frees what others read before they let go
 * of theirs.  The turns that are taken here order nothing but the same bytes:
 * the sanitizer doesn't take relaxed exchanges for a lock. */
void g_bytes_unref(GBytes *bytes)
{
    REAL(g_bytes_unref)
    static __thread unsigned depth;     /* bytes may be a part of others */
    static int busy;

    while (depth == 0 && __atomic_exchange_n(&busy, 1, __ATOMIC_RELAXED)) {
        g_thread_yield();
    }
    depth++;
    if (bytes) {
        __tsan_acquire(bytes);
        __tsan_release(bytes);
    }
    call(bytes);
    if (--depth == 0) {
        __atomic_store_n(&busy, 0, __ATOMIC_RELAXED);
    }
}
