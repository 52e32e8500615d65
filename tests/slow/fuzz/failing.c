/* Preloaded by allocations.py: makes the n-th allocation fail whose caller is in a selected library.

   fuzz_watch(part)  select the libraries whose path contains `part`; "" selects all
   fuzz_fail(n)      only the n-th allocation from now on fails; 0: none
   fuzz_count()      stop, and return the number of allocations since fuzz_fail */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 256 };
static struct { char *begin, *end; } ranges[MOST];
static int known;
static const char *selected = "";
static volatile long counted, failing;
static volatile int armed;

static int add_range(struct dl_phdr_info *object, size_t size, void *unused) {
    (void)size, (void)unused;
    if (!strstr(object->dlpi_name, selected)) return 0;
    for (int i = 0; i < object->dlpi_phnum && known < MOST; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        ranges[known].begin = (char *)object->dlpi_addr + part->p_vaddr;
        ranges[known].end = ranges[known].begin + part->p_memsz;
        known++;
    }
    return 0;
}

void fuzz_watch(const char *part) { selected = part; known = 0; dl_iterate_phdr(add_range, NULL); }
void fuzz_fail(long n) { counted = 0; failing = n; armed = 1; }
long fuzz_count(void) { armed = 0; return counted; }

static int fails(void *caller) {
    if (!armed) return 0;
    for (int i = 0; i < known; i++)
        if ((char *)caller >= ranges[i].begin && (char *)caller < ranges[i].end) {
            if (__atomic_add_fetch(&counted, 1, __ATOMIC_RELAXED) != failing) return 0;
            errno = ENOMEM;
            return 1;
        }
    return 0;
}

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

void *malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size); }
void *aligned_alloc(size_t to, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(to, size); }
int posix_memalign(void **got, size_t to, size_t size) {
    if (fails(__builtin_return_address(0))) return ENOMEM;
    return (*got = __libc_memalign(to, size)) ? 0 : ENOMEM;
}
