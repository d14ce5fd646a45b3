/* Bilinear interpolation, argmax and softmax of the pixels that need them; see decode.py. */

#include "simd.h"

enum { CLASSES = 256 }; /* at most; the rest of a vector holds what never wins nor counts */
static const float NEVER = -1e30f;

/* Of the two cells of a column, `next` floats apart, at the row of a pixel. */
INLINE void between(float *out, const float *cell, long next, float weight, long classes)
{
    for (long i = 0; i < classes; i++)
        out[i] = cell[i] + (cell[next + i] - cell[i]) * weight;
}

/* ids: (height, width), with `unknown` where a class is to be found, else the class. scores: of
 * these and, from class `least` on, of all; or NULL. logits: (rows, columns, classes). Pixel x lies
 * `across[x]` of the way from the cell at column[x] to the one `right` floats further; so in y. */
KERNEL void geoseg_decode(unsigned char *ids, float *scores, const float *logits, const long *row,
                          const float *down, const long *column, const float *across, long height,
                          long width, long columns, long classes, long below, long right,
                          long unknown, long least)
{
    const long wide = (classes + LANES - 1) / LANES * LANES;
    float left_side[CLASSES], right_side[CLASSES], values[CLASSES];
    for (long i = classes; i < wide; i++)
        left_side[i] = right_side[i] = NEVER;
    for (long y = 0; y < height; y++, ids += width, scores += scores ? width : 0) {
        const float *cells = logits + row[y] * columns * classes;
        long cell = -1;
        for (long x = 0; x < width; x++) {
            if (ids[x] != unknown && (!scores || ids[x] < least))
                continue;
            if (column[x] != cell) {
                cell = column[x];
                between(left_side, cells + cell * classes, below, down[y], classes);
                between(right_side, cells + cell * classes + right, below, down[y], classes);
            }
            lanes highest = NEVER - (lanes){0};
            for (long i = 0; i < wide; i += LANES) {
                const lanes a = load(left_side + i), v = a + (load(right_side + i) - a) * across[x];
                store(values + i, v);
                highest = choose(v > highest, v, highest);
            }
            float top = highest[0];
            for (int i = 1; i < LANES; i++)
                top = highest[i] > top ? highest[i] : top;
            long best = 0;
            while (best < classes - 1 && values[best] != top)
                best++;
            ids[x] = best;
            if (scores) {
                lanes sums = {0};
                for (long i = 0; i < wide; i += LANES)
                    sums += exponential(load(values + i) - top);
                float sum = 0;
                for (int i = 0; i < LANES; i++)
                    sum += sums[i];
                scores[x] = 1 / sum;
            }
        }
    }
}
