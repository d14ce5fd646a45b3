/* Depthwise convolutions of bfloat16 maps with a clipped result, in channels-last order, for
 * processors with AVX-512.
 *
 * Called by model/cpu/depthwise.py. Sums are float32. A call computes in one thread: tiles run in
 * parallel. */

#include "simd.h"

enum {
    WIDE = 16,       /* floats of a vector */
    PAIR = 2 * WIDE, /* channels at once: as bfloat16, they fill a vector */
    MOST = 5,        /* rows and columns of a kernel */
};
typedef float floats __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef int ints __attribute__((vector_size(4 * WIDE), aligned(4)));
typedef unsigned words __attribute__((vector_size(4 * WIDE), aligned(2), may_alias));

/* Weights of PAIR channels: of those with an even number first. */
struct group {
    float bias[2][WIDE];
    float taps[][2][WIDE];
};

INLINE floats clip(floats x, float low, float high)
{
    const floats lows = low - (floats){0}, highs = high - (floats){0};
    const ints above = x > lows;
    x = (floats)((above & (ints)x) | (~above & (ints)lows));
    const ints below = x < highs;
    return (floats)((below & (ints)x) | (~below & (ints)highs));
}

/* The bits of bfloat16, rounded to the nearest, even on ties, in the upper half of each word. */
INLINE words rounded(floats x)
{
    const words bits = (words)x;
    return bits + 0x7fff + ((bits >> 16) & 1);
}

/* One row of results for PAIR channels. Each input is read once and added to all the sums that it
 * contributes to. Step x reads `stride` columns, begins the sum of result x in slot 0 and ends that
 * of result x - slots + 1. `left` columns of zeros precede the map. */
INLINE void convolve_row(unsigned short *out, const unsigned short *const *rows,
                         const struct group *group, float low, float high, long outputs,
                         long columns, long channels, long left, const int side, const int stride)
{
    const int slots = (side + stride - 1) / stride;
    floats even[MOST], odd[MOST];
    for (int s = 0; s < slots; s++)
        even[s] = *(const floats *)group->bias[0], odd[s] = *(const floats *)group->bias[1];
    for (long x = 0; x < outputs + slots - 1; x++) {
#pragma GCC unroll 2
        for (int j = 0; j < stride; j++) {
            const long column = x * stride - left + j;
            if (column < 0 || column >= columns)
                continue;
#pragma GCC unroll 5
            for (int k = 0; k < side; k++) {
                const words both = *(const words *)(rows[k] + column * channels);
                const floats e = (floats)(both << 16), o = (floats)(both & 0xffff0000);
#pragma GCC unroll 5
                for (int s = 0; s < slots; s++)
                    if (s * stride + j < side) {
                        const float(*tap)[WIDE] = group->taps[k * side + s * stride + j];
                        even[s] += e * *(const floats *)tap[0];
                        odd[s] += o * *(const floats *)tap[1];
                    }
            }
        }
        if (x >= slots - 1) {
            const words e = rounded(clip(even[slots - 1], low, high)),
                        o = rounded(clip(odd[slots - 1], low, high));
            *(words *)(out + (x - slots + 1) * channels) = (e >> 16) | (o & 0xffff0000);
        }
#pragma GCC unroll 5
        for (int s = slots - 1; s > 0; s--)
            even[s] = even[s - 1], odd[s] = odd[s - 1];
        even[0] = *(const floats *)group->bias[0], odd[0] = *(const floats *)group->bias[1];
    }
}

struct shape {
    long height, width, channels; /* of the map */
    long rows, columns;           /* of the result */
    long before;                  /* rows and columns of zeros above and left of the map */
};

INLINE void convolve(unsigned short *out, const unsigned short *map, const float *groups,
                     const unsigned short *zeros, float low, float high, const struct shape *of,
                     const int side, const int stride)
{
    const long size = 2 * WIDE * (1 + side * side), channels = of->channels;
    for (long y = 0; y < of->rows; y++)
        for (long i = 0; i * PAIR < channels; i++) {
            /* The last channels overlap those before. */
            const long c = (i + 1) * PAIR <= channels ? i * PAIR : channels - PAIR;
            const unsigned short *rows[MOST];
            for (int k = 0; k < side; k++) {
                const long row = y * stride - of->before + k;
                const int inside = row >= 0 && row < of->height;
                rows[k] = inside ? map + row * of->width * channels + c : zeros;
            }
            convolve_row(out + y * of->columns * channels + c, rows,
                         (const struct group *)(groups + i * size), low, high, of->columns,
                         of->width, channels, of->before, side, stride);
        }
}

/* Kernels have 3 or 5 rows and columns, strides are 1 or 2. zeros: a row of the map. */
CLONES("v4") void geoseg_depthwise(unsigned short *out, const unsigned short *map, const float *groups,
                             const unsigned short *zeros, float low, float high, long height,
                             long width, long channels, long rows, long columns, long before,
                             long side, long stride)
{
    const struct shape of = {height, width, channels, rows, columns, before};
    if (side == 3 && stride == 1)
        convolve(out, map, groups, zeros, low, high, &of, 3, 1);
    else if (side == 3)
        convolve(out, map, groups, zeros, low, high, &of, 3, 2);
    else if (stride == 1)
        convolve(out, map, groups, zeros, low, high, &of, 5, 1);
    else
        convolve(out, map, groups, zeros, low, high, &of, 5, 2);
}
