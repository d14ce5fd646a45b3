/* Bilinear interpolation, argmax and softmax of selected pixels; see tiling/decoding.py. */

#include "simd.h"

enum { CLASSES = 256 }; /* at most; the last vector is padded with LOWEST, which never wins */
static const float LOWEST = -1e30f;

/* Interpolate between a cell and the one below, `next` floats further, at the row of a pixel. */
INLINE void lerp_rows(float *out, const float *cell, long next, float weight, long classes)
{
    for (long i = 0; i < classes; i++)
        out[i] = cell[i] + (cell[next + i] - cell[i]) * weight;
}

/* Find the classes of the pixels whose id is `unknown`, and the scores of these and of all pixels
 * of a class from `least` on. ids: (height, width). scores: (height, width) or NULL. logits: (rows,
 * columns, classes). Pixel x lies `across[x]` of the way from the cell at column[x] to the one
 * `right` floats further; pixel y `down[y]` of the way from row[y] to the one `below` further. */
KERNEL void geoseg_decode(unsigned char *ids, float *scores, const float *logits, const long *row,
                          const float *down, const long *column, const float *across, long height,
                          long width, long columns, long classes, long below, long right,
                          long unknown, long least)
{
    const long padded = (classes + LANES - 1) / LANES * LANES;
    float left_side[CLASSES], right_side[CLASSES], values[CLASSES];
    for (long i = classes; i < padded; i++)
        left_side[i] = right_side[i] = LOWEST;
    for (long y = 0; y < height; y++, ids += width, scores += scores ? width : 0) {
        const float *cells = logits + row[y] * columns * classes;
        long cell = -1;
        for (long x = 0; x < width; x++) {
            if (ids[x] != unknown && (!scores || ids[x] < least))
                continue;
            if (column[x] != cell) {
                cell = column[x];
                lerp_rows(left_side, cells + cell * classes, below, down[y], classes);
                lerp_rows(right_side, cells + cell * classes + right, below, down[y], classes);
            }
            lanes highest = LOWEST - (lanes){0};
            for (long i = 0; i < padded; i += LANES) {
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
                for (long i = 0; i < padded; i += LANES)
                    sums += exponential(load(values + i) - top);
                float sum = 0;
                for (int i = 0; i < LANES; i++)
                    sum += sums[i];
                scores[x] = 1 / sum;
            }
        }
    }
}
