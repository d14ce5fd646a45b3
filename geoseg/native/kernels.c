/* What torch does slowly on a CPU: GELU, depthwise convolutions, norms, skinny matrix products and
 * what follows them, all in channels-last order.
 *
 * Called by kernels.py, which documents each function; all maps are (rows, columns, channels),
 * contiguous float32, with channels a multiple of LANES. One thread computes: tiles are what runs
 * in parallel, and parts of them where threads are idle. So where the loop is not over all of a
 * map's pixels, a function takes the rows or channels that it computes. */

#include "simd.h"

/* x Phi(x), where Phi(x) = 1/2 + x p(x^2) / q(x^2): a rational least-squares fit with a largest
 * error of 3e-9 up to the limit, beyond which Phi is 0 or 1 in single precision. */
INLINE lanes gelu(lanes x)
{
    const lanes limit = 5.2f - (lanes){0};
    lanes y = choose(x > limit, limit, choose(x < -limit, -limit, x)), t = y * y, p, q;
    p = 2.47311646e-8f * t + 6.40788734e-6f;
    p = p * t + 1.56861219e-4f;
    p = p * t + 4.60864297e-3f;
    p = p * t + 3.25445176e-2f;
    p = p * t + 3.98942261e-1f;
    q = 1.25886948e-6f * t + 7.04959882e-5f;
    q = q * t + 1.81720051e-3f;
    q = q * t + 2.79266687e-2f;
    q = q * t + 2.48243350e-1f;
    q = q * t + 1.0f;
    return x * (0.5f + y * p / q);
}

KERNEL void geoseg_bias_gelu(float *map, const float *bias, long pixels, long channels)
{
    for (long i = 0; i < pixels; i++, map += channels)
        for (long c = 0; c < channels; c += LANES)
            store(map + c, gelu(load(map + c) + load(bias + c)));
}

/* Of `vectors` times LANES channels: two fill a line of the cache, of which each is read once. */
INLINE void depthwise_gelu(float *map, const float *before, const float *kernel, const float *after,
                           long rows, long columns, long channels, const int vectors)
{
    enum { MOST = 2 };
    lanes a[MOST], b[MOST], k[9][MOST];
    for (int v = 0; v < vectors; v++) {
        b[v] = load(before + v * LANES), a[v] = load(after + v * LANES);
        for (int i = 0; i < 9; i++)
            k[i][v] = load(kernel + i * channels + v * LANES);
    }
    for (long y = 0; y < rows; y++) {
        /* Each value is read once, and given to the three results of a row that it is part of; so
         * the first of them can be written where it was. */
        float *upper = map + y * columns * channels;
        const float *middle = upper + columns * channels, *lower = middle + columns * channels;
        lanes left[MOST], here[MOST], right[MOST];
        for (int v = 0; v < vectors; v++)
            here[v] = right[v] = a[v];
        for (long x = 0; x < columns; x++)
            for (int v = 0; v < vectors; v++) {
                const long place = x * channels + v * LANES;
                lanes u = load(upper + place) + b[v], m = load(middle + place) + b[v],
                      l = load(lower + place) + b[v];
                left[v] = here[v], here[v] = right[v], right[v] = a[v];
                left[v] += k[2][v] * u, left[v] += k[5][v] * m, left[v] += k[8][v] * l;
                here[v] += k[1][v] * u, here[v] += k[4][v] * m, here[v] += k[7][v] * l;
                right[v] += k[0][v] * u, right[v] += k[3][v] * m, right[v] += k[6][v] * l;
                if (x > 0)
                    store(upper + place - channels, gelu(left[v]));
            }
        for (int v = 0; v < vectors; v++)
            store(upper + (columns - 1) * channels + v * LANES, gelu(here[v]));
    }
}

KERNEL void geoseg_depthwise_gelu(float *map, const float *before, const float *kernel,
                                  const float *after, long rows, long columns, long channels,
                                  long from, long to)
{
    long c = from;
    for (; c + 2 * LANES <= to; c += 2 * LANES)
        depthwise_gelu(map + c, before + c, kernel + c, after + c, rows, columns, channels, 2);
    for (; c < to; c += LANES)
        depthwise_gelu(map + c, before + c, kernel + c, after + c, rows, columns, channels, 1);
}

/* A matrix product whose left side, unlike in BLAS, is read where it lies: with so few columns,
 * packing it takes a fifth of the time. TALL rows times the BROAD columns of a panel at once. */
enum { TALL = 6, BROAD = 2 * LANES, NEAR = 8 * 1024 /* floats of the left side in the cache */ };

/* What becomes of a product x W, column by column. */
enum ending { NOTHING, GELU, RELU };
struct ends {
    const float *bias;   /* is added, */
    const float *scale;  /* as is what `out` held, times this; or NULL: that is overwritten. */
    const float *factor; /* (rows, columns), perhaps `out`, that multiplies the sum, or NULL */
    long ending;         /* what the sum goes through before */
};

INLINE lanes start(const float *out, const struct ends *ends, long column)
{
    const lanes bias = load(ends->bias + column);
    if (!ends->scale)
        return bias;
    return load(out) * load(ends->scale + column) + bias;
}

INLINE void finish(float *out, lanes sum, const struct ends *ends, long place)
{
    if (ends->ending == GELU)
        sum = gelu(sum);
    if (ends->ending == RELU)
        sum = choose(sum < 0, (lanes){0}, sum);
    if (ends->factor)
        sum *= load(ends->factor + place);
    store(out, sum);
}

INLINE void multiply(float *out, long columns, const float *x, long depth, const float *panel,
                     const struct ends *ends, long row, long column, const int rows)
{
    lanes left[TALL], right[TALL];
    out += row * columns + column, x += row * depth, panel += column * depth;
    for (int i = 0; i < rows; i++) {
        left[i] = start(out + i * columns, ends, column);
        right[i] = start(out + i * columns + LANES, ends, column + LANES);
    }
    for (long k = 0; k < depth; k++, panel += BROAD) {
        const lanes l = load(panel), r = load(panel + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
            left[i] += l * x[i * depth + k], right[i] += r * x[i * depth + k];
    }
    for (int i = 0; i < rows; i++) {
        const long place = (row + i) * columns + column;
        finish(out + i * columns, left[i], ends, place);
        finish(out + i * columns + LANES, right[i], ends, place + LANES);
    }
}

KERNEL void geoseg_product(float *out, const float *x, const float *panels, const float *bias,
                           const float *scale, const float *factor, long ending, long rows,
                           long depth, long columns)
{
    const struct ends ends = {bias, scale, factor, ending};
    const long fit = NEAR / depth / TALL * TALL, near = fit < TALL ? TALL : fit;
    for (long top = 0; top < rows; top += near) {
        const long end = top + near < rows ? top + near : rows;
        for (long c = 0; c < columns; c += BROAD) {
            long i = top;
            for (; i + TALL <= end; i += TALL)
                multiply(out, columns, x, depth, panels, &ends, i, c, TALL);
            for (; i < end; i++)
                multiply(out, columns, x, depth, panels, &ends, i, c, 1);
        }
    }
}

/* An MLP with a 3x3 depthwise convolution between its products, row by row in strips of columns.
 * Of the map in between there is only what the next row needs: three rows, and one that has passed
 * the convolution, in panels of BROAD channels. So it stays in the cache. */
enum { IN_CACHE = 24 * 1024 /* floats of a strip's row, in all hidden channels */ };

static long strip_of(long width, long hidden)
{
    const long most = IN_CACHE / hidden < TALL ? TALL : IN_CACHE / hidden;
    const long strips = (width + most - 1) / most;
    return (width + strips - 1) / strips;
}

long geoseg_mlp_workspace(long width, long hidden)
{
    return 4 * hidden * (strip_of(width, hidden) + 2);
}

/* GELU(convolution) of `columns` columns, from the three rows around them, which begin one column
 * before and end one after. */
INLINE void convolve_panel(float *out, const float *upper, const float *middle, const float *lower,
                           const float *kernel, const float *after, long hidden, long columns)
{
    lanes k[9][2], a[2], left[2], here[2], right[2];
    for (int v = 0; v < 2; v++) {
        for (int i = 0; i < 9; i++)
            k[i][v] = load(kernel + i * hidden + v * LANES);
        a[v] = here[v] = right[v] = load(after + v * LANES);
    }
    for (long x = 0; x < columns + 2; x++)
        for (int v = 0; v < 2; v++) {
            const long place = x * BROAD + v * LANES;
            const lanes u = load(upper + place), m = load(middle + place), l = load(lower + place);
            left[v] = here[v], here[v] = right[v], right[v] = a[v];
            left[v] += k[2][v] * u, left[v] += k[5][v] * m, left[v] += k[8][v] * l;
            here[v] += k[1][v] * u, here[v] += k[4][v] * m, here[v] += k[7][v] * l;
            right[v] += k[0][v] * u, right[v] += k[3][v] * m, right[v] += k[6][v] * l;
            if (x > 1)
                store(out + place - 2 * BROAD, gelu(left[v]));
        }
}

/* out = base + x W, where the columns of x lie in panels, `step` floats apart. */
INLINE void multiply_panels(float *out, const float *base, long columns, const float *x, long step,
                            long depth, const float *panel, const int rows)
{
    lanes left[TALL], right[TALL];
    for (int i = 0; i < rows; i++)
        left[i] = load(base + i * columns), right[i] = load(base + i * columns + LANES);
    for (long d = 0; d < depth; d += BROAD, x += step)
        for (int k = 0; k < BROAD; k++, panel += BROAD) {
            const lanes l = load(panel), r = load(panel + LANES);
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++)
                left[i] += l * x[i * BROAD + k], right[i] += r * x[i * BROAD + k];
        }
    for (int i = 0; i < rows; i++)
        store(out + i * columns, left[i]), store(out + i * columns + LANES, right[i]);
}

/* out = x + second(GELU(convolution(first(x) + before))), with both products' weights in panels, in
 * the rows from `begin` to `end`. */
KERNEL void geoseg_mlp(float *out, const float *x, const float *first, const float *before,
                       const float *kernel, const float *after, const float *second,
                       float *workspace, long height, long width, long channels, long hidden,
                       long begin, long end)
{
    const long strip = strip_of(width, hidden), step = (strip + 2) * BROAD;
    float *rows[3], *passed = workspace + 3 * hidden * (strip + 2);
    for (int i = 0; i < 3; i++)
        rows[i] = workspace + i * hidden * (strip + 2);
    for (long left = 0; left < width; left += strip) {
        const long columns = width - left < strip ? width - left : strip;
        const long from = left > 0 ? left - 1 : 0,
                   to = left + columns < width ? left + columns + 1 : width, count = to - from;
        __builtin_memset(workspace, 0, 3 * hidden * (strip + 2) * sizeof(float));
        for (long y = begin > 0 ? begin - 2 : -1; y < end; y++) {
            float *upper = rows[(y + 2) % 3], *middle = rows[(y + 3) % 3], *lower = rows[(y + 1) % 3];
            const float *below = x + ((y + 1) * width + from) * channels;
            for (long c = 0; c < hidden; c += BROAD) {
                const long panel = c / BROAD * step;
                const struct ends ends = {before + c, 0, 0, NOTHING};
                float *next = lower + panel + (from - left + 1) * BROAD;
                if (y + 1 == height)
                    __builtin_memset(next, 0, count * BROAD * sizeof(float));
                else
                    for (long i = 0; i < count; i += TALL)
                        if (i + TALL <= count)
                            multiply(next, BROAD, below, channels, first + c * channels, &ends, i,
                                     0, TALL);
                        else if (count >= TALL) /* some once more */
                            multiply(next, BROAD, below, channels, first + c * channels, &ends,
                                     count - TALL, 0, TALL);
                        else
                            for (long j = i; j < count; j++)
                                multiply(next, BROAD, below, channels, first + c * channels, &ends,
                                         j, 0, 1);
                if (y >= begin)
                    convolve_panel(passed + panel, upper + panel, middle + panel, lower + panel,
                                   kernel + c, after + c, hidden, columns);
            }
            if (y < begin)
                continue;
            const long place = (y * width + left) * channels;
            for (long c = 0; c < channels; c += BROAD)
                for (long i = 0; i < columns; i += TALL) {
                    const long at = i + TALL <= columns || columns < TALL ? i : columns - TALL;
                    float *target = out + place + at * channels + c;
                    const float *base = x + place + at * channels + c;
                    const float *weights = second + c * hidden, *pixels = passed + at * BROAD;
                    if (columns >= TALL)
                        multiply_panels(target, base, channels, pixels, step, hidden, weights, TALL);
                    else
                        for (long j = 0; j < columns; j++)
                            multiply_panels(target + j * channels, base + j * channels, channels,
                                            pixels + j * BROAD, step, hidden, weights, 1);
                }
        }
    }
}

/* sums (depth, BROAD) += columns c to c + `width` of x, transposed, times y (rows, BROAD). */
INLINE void multiply_transposed(float *sums, const float *x, const float *y, long rows, long depth,
                                long c, const int width)
{
    lanes left[TALL], right[TALL];
    for (int i = 0; i < width; i++)
        left[i] = load(sums + (c + i) * BROAD), right[i] = load(sums + (c + i) * BROAD + LANES);
    for (long k = 0; k < rows; k++) {
        const lanes l = load(y + k * BROAD), r = load(y + k * BROAD + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < width; i++)
            left[i] += l * x[k * depth + c + i], right[i] += r * x[k * depth + c + i];
    }
    for (int i = 0; i < width; i++)
        store(sums + (c + i) * BROAD, left[i]), store(sums + (c + i) * BROAD + LANES, right[i]);
}

INLINE void correlate(float *sums, const float *x, const float *y, long rows, long depth)
{
    long c = 0;
    for (; c + TALL <= depth; c += TALL)
        multiply_transposed(sums, x, y, rows, depth, c, TALL);
    for (; c + 4 <= depth; c += 4)
        multiply_transposed(sums, x, y, rows, depth, c, 4);
    for (; c < depth; c++)
        multiply_transposed(sums, x, y, rows, depth, c, 1);
}

INLINE void softmax(float *row)
{
    float highest = row[0], sum = 0;
    for (int i = 1; i < BROAD; i++)
        highest = row[i] > highest ? row[i] : highest;
    const lanes left = exponential(load(row) - highest),
                right = exponential(load(row + LANES) - highest);
    for (int i = 0; i < LANES; i++)
        sum += left[i] + right[i];
    store(row, left / sum), store(row + LANES, right / sum);
}

/* A multiplicative update of the coefficients (rows, BROAD), or with `first` their softmax and then
 * one; and with `correlations` (depth, BROAD) and `squares` (BROAD, BROAD), which are added to, what
 * the update of the bases needs: transposed, x and the coefficients times the coefficients. All of
 * it reads x (rows, depth) once. */
KERNEL void geoseg_nmf(const float *x, const float *bases, const float *shrink, float *coefficients,
                       float *correlations, float *squares, float epsilon, long first, long rows,
                       long depth)
{
    enum { RUN = 5 * TALL };
    static const float zeros[BROAD];
    const struct ends plain = {zeros, 0, 0, NOTHING};
    float products[RUN * BROAD], divisors[RUN * BROAD];
    for (long top = 0; top < rows; top += RUN, x += RUN * depth, coefficients += RUN * BROAD) {
        const long count = rows - top < RUN ? rows - top : RUN;
        long i = 0;
        for (; i + TALL <= count; i += TALL)
            multiply(products, BROAD, x, depth, bases, &plain, i, 0, TALL);
        for (; i < count; i++)
            multiply(products, BROAD, x, depth, bases, &plain, i, 0, 1);
        if (first)
            for (i = 0; i < count; i++) {
                float *row = coefficients + i * BROAD;
                store(row, load(products + i * BROAD));
                store(row + LANES, load(products + i * BROAD + LANES));
                softmax(row);
            }
        for (i = 0; i + TALL <= count; i += TALL)
            multiply(divisors, BROAD, coefficients, BROAD, shrink, &plain, i, 0, TALL);
        for (; i < count; i++)
            multiply(divisors, BROAD, coefficients, BROAD, shrink, &plain, i, 0, 1);
        for (i = 0; i < count * BROAD; i += LANES)
            store(coefficients + i,
                  load(coefficients + i) * load(products + i) / (load(divisors + i) + epsilon));
        if (correlations) {
            correlate(correlations, x, coefficients, count, depth);
            correlate(squares, coefficients, coefficients, count, BROAD);
        }
    }
}

/* Adds to a map what bilinear resizing makes of a coarser one. */
KERNEL void geoseg_add_resized(float *map, const float *coarse, long height, long width,
                               long coarse_height, long coarse_width, long channels)
{
    const float down = (float)coarse_height / height, across = (float)coarse_width / width;
    for (long y = 0; y < height; y++) {
        float at = (y + 0.5f) * down - 0.5f;
        at = at < 0 ? 0 : at;
        const long row = at, below = row + 1 < coarse_height ? coarse_width * channels : 0;
        const float lower = at - row;
        for (long x = 0; x < width; x++, map += channels) {
            at = (x + 0.5f) * across - 0.5f;
            at = at < 0 ? 0 : at;
            const long column = at, next = column + 1 < coarse_width ? channels : 0;
            const float *cell = coarse + (row * coarse_width + column) * channels;
            const float right = at - column;
            for (long c = 0; c < channels; c += LANES, cell += LANES) {
                const lanes a = load(cell), b = load(cell + next), d = load(cell + below),
                            e = load(cell + below + next);
                const lanes upper = a + (b - a) * right, under = d + (e - d) * right;
                store(map + c, load(map + c) + upper + (under - upper) * lower);
            }
        }
    }
}

/* Adds to the sums of each channel, and of its squares. */
KERNEL void geoseg_moments(const float *map, double *sums, double *squares, long pixels,
                           long channels)
{
    enum { RUN = 64 }; /* pixels that are added in single precision */
    for (long start = 0; start < pixels; start += RUN, map += RUN * channels) {
        const long count = pixels - start < RUN ? pixels - start : RUN;
        for (long c = 0; c < channels; c += LANES) {
            lanes sum = {0}, square = {0};
            for (long i = 0; i < count; i++) {
                const lanes x = load(map + i * channels + c);
                sum += x, square += x * x;
            }
            for (int i = 0; i < LANES; i++)
                sums[c + i] += sum[i], squares[c + i] += square[i];
        }
    }
}

KERNEL void geoseg_affine_relu(float *map, const float *slope, const float *offset, long pixels,
                               long channels)
{
    for (long i = 0; i < pixels; i++, map += channels)
        for (long c = 0; c < channels; c += LANES) {
            const lanes x = load(map + c) * load(slope + c) + load(offset + c);
            store(map + c, choose(x < 0, (lanes){0}, x));
        }
}

/* A 5x5 convolution and what three pairs of strips make of it, summed: all in one go over LANES
 * channels and COLUMNS columns of the map, ROWS rows at a time, so that what comes between stays
 * in the cache. */
enum {
    SIDE = 8,   /* sums at once, each in a register */
    REACH = 10, /* of the longest strip */
    COLUMNS = 72, /* no power of two: rows would meet in the same sets of the cache */
    ROWS = 24,
    WIDE = REACH + COLUMNS + REACH + SIDE,
};

struct weights {
    float local[25][LANES], across_7[7][LANES], down_7[7][LANES], across_11[11][LANES],
        down_11[11][LANES], across_21[21][LANES], down_21[21][LANES];
    float local_bias[LANES], across_bias[3][LANES], down_bias[LANES];
};

/* Columns begin REACH left of the results', those of the input two before. Rows before the last
 * ROWS are what the band above ended with. */
struct band {
    float input[2 + ROWS + 2][2 + WIDE + 2][LANES];
    float local[REACH + ROWS][WIDE][LANES];
    float across_7[2 * REACH + ROWS][COLUMNS][LANES];
    float across_11[2 * REACH + ROWS][COLUMNS][LANES];
    float across_21[2 * REACH + ROWS][COLUMNS][LANES];
};

long geoseg_strips_workspace(void) { return sizeof(struct band) / sizeof(float); }

/* sums[i] += taps[0] in[i step] + taps[1] in[(i + 1) step] + ... */
INLINE void slide(lanes *sums, const float *in, long step, float taps[][LANES], int count)
{
    for (int k = 0; k < count; k++, in += step) {
        const lanes tap = load(taps[k]);
#pragma GCC unroll 8
        for (int i = 0; i < SIDE; i++)
            sums[i] += tap * load(in + i * step);
    }
}

INLINE void convolve_row(float out[][LANES], float in[][LANES], float taps[][LANES], int count,
                         const float *bias, long columns)
{
    for (long x = 0; x < columns; x += SIDE) {
        lanes sums[SIDE];
        for (int i = 0; i < SIDE; i++)
            sums[i] = load(bias);
        slide(sums, in[x + REACH - count / 2], LANES, taps, count);
        for (int i = 0; i < SIDE; i++)
            store(out[x + i], sums[i]);
    }
}

INLINE void clear(void *start, long size)
{
    for (long i = 0; i < size / (long)sizeof(float); i++)
        ((float *)start)[i] = 0.0f;
}

/* Move the rows before the last ROWS to where they were a band ago. */
#define CARRY(rows) __builtin_memmove(rows, rows[ROWS], sizeof(rows) - ROWS * sizeof(rows[0]))

KERNEL void geoseg_strips(const float *map, float *result, struct weights *w, struct band *band,
                          long height, long width, long channels, long from, long to)
{
    w += from / LANES;
    for (long c = from; c < to; c += LANES, w++)
        for (long left = 0; left < width; left += COLUMNS) {
            const long columns = width - left < COLUMNS ? width - left : COLUMNS;
            /* The columns of `local` and of `input` that are on the map. */
            const long begin = left < REACH ? REACH - left : 0,
                       first = left < REACH + 2 ? REACH + 2 - left : 0;
            long end = columns + 2 * REACH, last = end + 4;
            if (end > width - left + REACH)
                end = width - left + REACH;
            if (last > width - left + REACH + 2)
                last = width - left + REACH + 2;

            clear(band, sizeof *band);
            for (long top = 0; top < height + REACH; top += ROWS) {
                if (top > 0) {
                    CARRY(band->local);
                    CARRY(band->across_7);
                    CARRY(band->across_11);
                    CARRY(band->across_21);
                }
                for (long j = 0; j < ROWS + 4; j++) {
                    const long y = top - 2 + j;
                    const float *row = map + (y * width + left - REACH - 2) * channels + c;
                    if (y < 0 || y >= height)
                        clear(band->input[j], sizeof band->input[j]);
                    else
                        for (long x = first; x < last; x++)
                            store(band->input[j][x], load(row + x * channels));
                }
                for (long j = 0; j < ROWS; j++) {
                    float(*local)[LANES] = band->local[REACH + j];
                    const long at = 2 * REACH + j;
                    if (top + j >= height) {
                        clear(band->across_7[at], sizeof band->across_7[at]);
                        clear(band->across_11[at], sizeof band->across_11[at]);
                        clear(band->across_21[at], sizeof band->across_21[at]);
                        continue;
                    }
                    for (long x = begin; x < end; x += SIDE) {
                        lanes sums[SIDE];
                        for (int i = 0; i < SIDE; i++)
                            sums[i] = load(w->local_bias);
                        for (int k = 0; k < 5; k++)
                            slide(sums, band->input[j + k][x], LANES, w->local + 5 * k, 5);
                        for (int i = 0; i < SIDE; i++)
                            store(local[x + i], x + i < end ? sums[i] : (lanes){0});
                    }
                    convolve_row(band->across_7[at], local, w->across_7, 7,
                                 w->across_bias[0], columns);
                    convolve_row(band->across_11[at], local, w->across_11, 11,
                                 w->across_bias[1], columns);
                    convolve_row(band->across_21[at], local, w->across_21, 21,
                                 w->across_bias[2], columns);
                }
                for (long j = 0; j < ROWS; j += SIDE) {
                    const long y = top - REACH + j;
                    if (y <= -SIDE || y >= height)
                        continue;
                    for (long x = 0; x < columns; x++) {
                        lanes sums[SIDE];
                        for (int i = 0; i < SIDE; i++)
                            sums[i] = load(w->down_bias) + load(band->local[j + i][REACH + x]);
                        slide(sums, band->across_7[j + REACH - 3][x], COLUMNS * LANES,
                              w->down_7, 7);
                        slide(sums, band->across_11[j + REACH - 5][x], COLUMNS * LANES,
                              w->down_11, 11);
                        slide(sums, band->across_21[j][x], COLUMNS * LANES,
                              w->down_21, 21);
                        for (int i = 0; i < SIDE; i++)
                            if (y + i >= 0 && y + i < height)
                                store(result + ((y + i) * width + left + x) * channels + c,
                                      sums[i]);
                    }
                }
            }
        }
}

/* Colours (3, pixels) become (pixels, 3), looked up in a table (3, 256); 0 where not valid. */
void geoseg_look_up(float *out, const unsigned char *colors, const unsigned char *valid,
                    const float *table, long pixels)
{
    const unsigned char *green = colors + pixels, *blue = green + pixels;
    for (long i = 0; i < pixels; i++, out += 3) {
        const float used = valid[i] ? 1 : 0;
        out[0] = used * table[colors[i]];
        out[1] = used * table[256 + green[i]];
        out[2] = used * table[512 + blue[i]];
    }
}
