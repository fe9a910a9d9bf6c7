/* A `libcuda.so.1` that forwards every call to driver_library.py.

   The compiler's command line defines FUNCTIONS, each as X(name, symbol). All arguments are
   integers or pointers, so every call fits into six words. */
#include <stdint.h>
#include <string.h>

typedef uintptr_t word;
typedef int (*callback_t)(const char *name, word, word, word, word, word, word);

static callback_t callback;

void set_callback(callback_t function) { callback = function; }

#define X(name, symbol)                                                                            \
    int symbol(word a, word b, word c, word d, word e, word f)                                     \
    {                                                                                              \
        return callback(#name, a, b, c, d, e, f);                                                    \
    }
FUNCTIONS
#undef X

static const struct { const char *name, *symbol; void *function; } known[] = {
#define X(name, symbol) {#name, #symbol, (void *)symbol},
    FUNCTIONS
#undef X
};

/* cuda-python looks up every function here; unknown ones fail when they are called. */
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
