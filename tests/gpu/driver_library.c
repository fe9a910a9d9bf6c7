/* A `libcuda.so.1` that knows nothing itself: driver_library.py answers every call.

   The compiler's command line gives FUNCTIONS, each as X(name, name of its symbol). All their
   arguments are integers or pointers, so that all can be passed on as six words. */
#include <stdint.h>
#include <string.h>

typedef uintptr_t word;
typedef int (*answer_t)(const char *name, word, word, word, word, word, word);

static answer_t answer;

void answer_with(answer_t whose) { answer = whose; }

#define X(name, symbol)                                                                            \
    int symbol(word a, word b, word c, word d, word e, word f)                                     \
    {                                                                                              \
        return answer(#name, a, b, c, d, e, f);                                                    \
    }
FUNCTIONS
#undef X

static const struct { const char *name, *symbol; void *function; } known[] = {
#define X(name, symbol) {#name, #symbol, (void *)symbol},
    FUNCTIONS
#undef X
};

/* How cuda-python finds every function; of those not known it says so when they are called. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    (void)version, (void)flags;
    *function = 0;
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name) || !strcmp(known[i].symbol, name))
            *function = known[i].function;
    if (status)
        *status = *function ? 0 : 1;
    return *function ? 0 : 500; /* CUDA_ERROR_NOT_FOUND */
}
