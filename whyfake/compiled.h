/* What the C files share. */
#include <stdint.h>

/* Twice as wide where the processor can; chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(WHYFAKE_PLAIN)
#define BOTH __attribute__((target_clones("avx2", "default")))
#else
#define BOTH
#endif
#define INLINE static inline __attribute__((always_inline))
