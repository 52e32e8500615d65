"""Locks and counts that several threads share, with or without a GIL."""

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    static __inline int lstm_cy_try_lock(volatile long *flag) { return !_InterlockedExchange(flag, 1); }
    static __inline void lstm_cy_unlock(volatile long *flag) { _InterlockedExchange(flag, 0); }
    static __inline long lstm_cy_add_fetch(volatile long *count, long n) {
        return _InterlockedExchangeAdd(count, n) + n;
    }
    #else
    static inline int lstm_cy_try_lock(volatile long *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static inline void lstm_cy_unlock(volatile long *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    static inline long lstm_cy_add_fetch(volatile long *count, long n) {
        return __atomic_add_fetch(count, n, __ATOMIC_ACQ_REL);
    }
    #endif
    """
    # True if the lock was free; the caller must then unlock it
    bint try_lock "lstm_cy_try_lock"(long*) noexcept nogil
    void unlock "lstm_cy_unlock"(long*) noexcept nogil
    # returns the new number
    long add_fetch "lstm_cy_add_fetch"(long*, long) noexcept nogil
