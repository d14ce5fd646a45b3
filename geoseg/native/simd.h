/* Vectors of eight floats, and KERNEL, which compiles a function for processors that have them. */

#ifndef GEOSEG_SIMD_H
#define GEOSEG_SIMD_H

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
/* Compiled twice; the loader picks the version for the processor. */
#define CLONES(level) __attribute__((target_clones("arch=x86-64-" level, "default")))
#else
#define CLONES(level)
#endif
#define KERNEL CLONES("v3")

enum { LANES = 8 };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES), aligned(4)));

INLINE lanes load(const float *at) { return *(const lanes *)at; }
INLINE void store(float *at, lanes values) { *(lanes *)at = values; }
INLINE lanes choose(mask where, lanes yes, lanes no)
{
    return (lanes)((where & (mask)yes) | (~where & (mask)no));
}

/* e^x for x <= 0, to 1e-7 of the result: 2^n times a polynomial on half a power of two. */
INLINE lanes exponential(lanes x)
{
    const lanes least = -87.0f - (lanes){0}, magic = 12582912.0f - (lanes){0}; /* 1.5 * 2^23 */
    x = choose(x < least, least, x);
    const lanes shifted = x * 1.44269504f + magic, whole = shifted - magic;
    const lanes rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    lanes p = 1.9875691500e-4f * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1.0f;
    return (lanes)((mask)p + (((mask)shifted - (mask)magic) << 23));
}

#endif
