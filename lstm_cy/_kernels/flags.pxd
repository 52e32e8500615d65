"""Flags and counts that several threads share, with or without a GIL."""

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    static __inline int lstm_cy_take(volatile long *flag) { return !_InterlockedExchange(flag, 1); }
    static __inline void lstm_cy_give_back(volatile long *flag) { _InterlockedExchange(flag, 0); }
    static __inline long lstm_cy_add(volatile long *count, long n) { return _InterlockedExchangeAdd(count, n) + n; }
    #else
    static inline int lstm_cy_take(volatile long *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static inline void lstm_cy_give_back(volatile long *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    static inline long lstm_cy_add(volatile long *count, long n) {
        return __atomic_add_fetch(count, n, __ATOMIC_ACQ_REL);
    }
    #endif
    """
    # a flag that one thread at a time can take
    bint take "lstm_cy_take"(long*) noexcept nogil
    void give_back "lstm_cy_give_back"(long*) noexcept nogil
    # the new number
    long add "lstm_cy_add"(long*, long) noexcept nogil
