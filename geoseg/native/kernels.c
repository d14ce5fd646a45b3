/* Operations that torch computes slowly on a CPU: GELU, depthwise convolutions, products with narrow
 * matrices and what follows them, all in channels-last order.
 *
 * Called by model/cpu/kernels.py and matmul.py, which document each function; all maps are (rows,
 * columns, channels), contiguous float32, with channels a multiple of LANES. A call computes in one
 * thread: tiles run in parallel. */

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

/* Computes `vectors` times LANES channels: two vectors fill a cache line, which is read once. */
INLINE void depthwise_gelu(float *map, const float *bias, const float *kernel,
                           const float *conv_bias, long rows, long columns, long channels,
                           const int vectors)
{
    enum { MOST = 2 };
    lanes a[MOST], b[MOST], k[9][MOST];
    for (int v = 0; v < vectors; v++) {
        b[v] = load(bias + v * LANES), a[v] = load(conv_bias + v * LANES);
        for (int i = 0; i < 9; i++)
            k[i][v] = load(kernel + i * channels + v * LANES);
    }
    for (long y = 0; y < rows; y++) {
        /* Each value is read once and added to the three sums of a row that it contributes to, so a
         * finished sum can overwrite it. */
        float *upper = map + y * columns * channels;
        const float *middle = upper + columns * channels, *lower = middle + columns * channels;
        lanes left[MOST], here[MOST], right[MOST];
        for (int v = 0; v < vectors; v++)
            here[v] = right[v] = a[v];
        for (long x = 0; x < columns; x++)
            for (int v = 0; v < vectors; v++) {
                const long offset = x * channels + v * LANES;
                lanes u = load(upper + offset) + b[v], m = load(middle + offset) + b[v],
                      l = load(lower + offset) + b[v];
                left[v] = here[v], here[v] = right[v], right[v] = a[v];
                left[v] += k[2][v] * u, left[v] += k[5][v] * m, left[v] += k[8][v] * l;
                here[v] += k[1][v] * u, here[v] += k[4][v] * m, here[v] += k[7][v] * l;
                right[v] += k[0][v] * u, right[v] += k[3][v] * m, right[v] += k[6][v] * l;
                if (x > 0)
                    store(upper + offset - channels, gelu(left[v]));
            }
        for (int v = 0; v < vectors; v++)
            store(upper + (columns - 1) * channels + v * LANES, gelu(here[v]));
    }
}

KERNEL void geoseg_depthwise_gelu(float *map, const float *bias, const float *kernel,
                                  const float *conv_bias, long rows, long columns, long channels)
{
    long c = 0;
    for (; c + 2 * LANES <= channels; c += 2 * LANES)
        depthwise_gelu(map + c, bias + c, kernel + c, conv_bias + c, rows, columns, channels, 2);
    for (; c < channels; c += LANES)
        depthwise_gelu(map + c, bias + c, kernel + c, conv_bias + c, rows, columns, channels, 1);
}

/* A matrix product that, unlike BLAS, does not pack its left side: with so few columns packing
 * takes a fifth of the time. TILE_ROWS rows times a panel of PANEL columns are computed at once. */
enum { TILE_ROWS = 6, PANEL = 2 * LANES, X_FLOATS = 8 * 1024 /* of the left side, in the cache */ };

/* What is fused with a product x W, column by column. */
enum activation { NONE, GELU, RELU };
struct epilogue {
    const float *bias;   /* added */
    const float *scale;  /* times the old values of `out`, added too; NULL: they are overwritten */
    const float *factor; /* (rows, columns), may be `out`: multiplies the activation; or NULL */
    long activation;     /* applied to the sum */
};

INLINE lanes initial_sum(const float *out, const struct epilogue *epilogue, long column)
{
    const lanes bias = load(epilogue->bias + column);
    if (!epilogue->scale)
        return bias;
    return load(out) * load(epilogue->scale + column) + bias;
}

INLINE void apply_epilogue(float *out, lanes sum, const struct epilogue *epilogue, long offset)
{
    if (epilogue->activation == GELU)
        sum = gelu(sum);
    if (epilogue->activation == RELU)
        sum = choose(sum < 0, (lanes){0}, sum);
    if (epilogue->factor)
        sum *= load(epilogue->factor + offset);
    store(out, sum);
}

INLINE void multiply(float *out, long columns, const float *x, long depth, const float *panel,
                     const struct epilogue *epilogue, long row, long column, const int rows)
{
    lanes left[TILE_ROWS], right[TILE_ROWS];
    out += row * columns + column, x += row * depth, panel += column * depth;
    for (int i = 0; i < rows; i++) {
        left[i] = initial_sum(out + i * columns, epilogue, column);
        right[i] = initial_sum(out + i * columns + LANES, epilogue, column + LANES);
    }
    for (long k = 0; k < depth; k++, panel += PANEL) {
        const lanes l = load(panel), r = load(panel + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
            left[i] += l * x[i * depth + k], right[i] += r * x[i * depth + k];
    }
    for (int i = 0; i < rows; i++) {
        const long offset = (row + i) * columns + column;
        apply_epilogue(out + i * columns, left[i], epilogue, offset);
        apply_epilogue(out + i * columns + LANES, right[i], epilogue, offset + LANES);
    }
}

KERNEL void geoseg_gemm(float *out, const float *x, const float *panels, const float *bias,
                        const float *scale, const float *factor, long activation, long rows,
                        long depth, long columns)
{
    const struct epilogue epilogue = {bias, scale, factor, activation};
    const long most = X_FLOATS / depth / TILE_ROWS * TILE_ROWS;
    const long step = most < TILE_ROWS ? TILE_ROWS : most;
    for (long top = 0; top < rows; top += step) {
        const long end = top + step < rows ? top + step : rows;
        for (long c = 0; c < columns; c += PANEL) {
            long i = top;
            for (; i + TILE_ROWS <= end; i += TILE_ROWS)
                multiply(out, columns, x, depth, panels, &epilogue, i, c, TILE_ROWS);
            for (; i < end; i++)
                multiply(out, columns, x, depth, panels, &epilogue, i, c, 1);
        }
    }
}

/* An MLP with a 3x3 depthwise convolution between its products, row by row in blocks of columns.
 * Of the hidden map only three rows exist at a time, and a convolved one, in panels of PANEL
 * channels, so that they stay in the cache. */
enum { ROW_FLOATS = 24 * 1024 /* of a block's row, in all hidden channels */ };

static long block_width(long width, long hidden)
{
    const long most = ROW_FLOATS / hidden < TILE_ROWS ? TILE_ROWS : ROW_FLOATS / hidden;
    const long blocks = (width + most - 1) / most;
    return (width + blocks - 1) / blocks;
}

long geoseg_mlp_workspace(long width, long hidden)
{
    return 4 * hidden * (block_width(width, hidden) + 2);
}

/* GELU(convolution) of `columns` columns, from three rows that begin one column before them and end
 * one column after. */
INLINE void convolve_panel(float *out, const float *upper, const float *middle, const float *lower,
                           const float *kernel, const float *conv_bias, long hidden, long columns)
{
    lanes k[9][2], a[2], left[2], here[2], right[2];
    for (int v = 0; v < 2; v++) {
        for (int i = 0; i < 9; i++)
            k[i][v] = load(kernel + i * hidden + v * LANES);
        a[v] = here[v] = right[v] = load(conv_bias + v * LANES);
    }
    for (long x = 0; x < columns + 2; x++)
        for (int v = 0; v < 2; v++) {
            const long offset = x * PANEL + v * LANES;
            const lanes u = load(upper + offset), m = load(middle + offset),
                        l = load(lower + offset);
            left[v] = here[v], here[v] = right[v], right[v] = a[v];
            left[v] += k[2][v] * u, left[v] += k[5][v] * m, left[v] += k[8][v] * l;
            here[v] += k[1][v] * u, here[v] += k[4][v] * m, here[v] += k[7][v] * l;
            right[v] += k[0][v] * u, right[v] += k[3][v] * m, right[v] += k[6][v] * l;
            if (x > 1)
                store(out + offset - 2 * PANEL, gelu(left[v]));
        }
}

/* out = base + x W, where the columns of x lie in panels, `step` floats apart. */
INLINE void multiply_panels(float *out, const float *base, long columns, const float *x, long step,
                            long depth, const float *panel, const int rows)
{
    lanes left[TILE_ROWS], right[TILE_ROWS];
    for (int i = 0; i < rows; i++)
        left[i] = load(base + i * columns), right[i] = load(base + i * columns + LANES);
    for (long d = 0; d < depth; d += PANEL, x += step)
        for (int k = 0; k < PANEL; k++, panel += PANEL) {
            const lanes l = load(panel), r = load(panel + LANES);
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++)
                left[i] += l * x[i * PANEL + k], right[i] += r * x[i * PANEL + k];
        }
    for (int i = 0; i < rows; i++)
        store(out + i * columns, left[i]), store(out + i * columns + LANES, right[i]);
}

/* out = x + second(GELU(convolution(first(x) + bias))), with the weights of both products in
 * panels. */
KERNEL void geoseg_mlp(float *out, const float *x, const float *first, const float *bias,
                       const float *kernel, const float *conv_bias, const float *second,
                       float *workspace, long height, long width, long channels, long hidden)
{
    const long block = block_width(width, hidden), step = (block + 2) * PANEL;
    float *rows[3], *passed = workspace + 3 * hidden * (block + 2);
    for (int i = 0; i < 3; i++)
        rows[i] = workspace + i * hidden * (block + 2);
    for (long left = 0; left < width; left += block) {
        const long columns = width - left < block ? width - left : block;
        const long from = left > 0 ? left - 1 : 0,
                   to = left + columns < width ? left + columns + 1 : width, count = to - from;
        __builtin_memset(workspace, 0, 3 * hidden * (block + 2) * sizeof(float));
        for (long y = -1; y < height; y++) {
            float *upper = rows[(y + 2) % 3], *middle = rows[(y + 3) % 3],
                  *lower = rows[(y + 1) % 3];
            const float *below = x + ((y + 1) * width + from) * channels;
            for (long c = 0; c < hidden; c += PANEL) {
                const long panel = c / PANEL * step;
                const struct epilogue epilogue = {bias + c, 0, 0, NONE};
                const float *weights = first + c * channels;
                float *next = lower + panel + (from - left + 1) * PANEL;
                if (y + 1 == height)
                    __builtin_memset(next, 0, count * PANEL * sizeof(float));
                else
                    for (long i = 0; i < count; i += TILE_ROWS)
                        if (i + TILE_ROWS <= count)
                            multiply(next, PANEL, below, channels, weights, &epilogue, i, 0,
                                     TILE_ROWS);
                        else if (count >= TILE_ROWS) /* overlaps the last tile */
                            multiply(next, PANEL, below, channels, weights, &epilogue,
                                     count - TILE_ROWS, 0, TILE_ROWS);
                        else
                            for (long j = i; j < count; j++)
                                multiply(next, PANEL, below, channels, weights, &epilogue, j, 0, 1);
                if (y >= 0)
                    convolve_panel(passed + panel, upper + panel, middle + panel, lower + panel,
                                   kernel + c, conv_bias + c, hidden, columns);
            }
            if (y < 0)
                continue;
            const long offset = (y * width + left) * channels;
            for (long c = 0; c < channels; c += PANEL)
                for (long i = 0; i < columns; i += TILE_ROWS) {
                    const int is_whole = i + TILE_ROWS <= columns || columns < TILE_ROWS;
                    const long at = is_whole ? i : columns - TILE_ROWS;
                    float *target = out + offset + at * channels + c;
                    const float *base = x + offset + at * channels + c;
                    const float *weights = second + c * hidden, *pixels = passed + at * PANEL;
                    if (columns >= TILE_ROWS)
                        multiply_panels(target, base, channels, pixels, step, hidden, weights,
                                        TILE_ROWS);
                    else
                        for (long j = 0; j < columns; j++)
                            multiply_panels(target + j * channels, base + j * channels, channels,
                                            pixels + j * PANEL, step, hidden, weights, 1);
                }
        }
    }
}

/* A 5x5 convolution plus three pairs of a horizontal and a vertical one of it, in one pass over
 * LANES channels and COLUMNS columns of the map, ROWS rows at a time, so that intermediate maps
 * stay in the cache. */
enum {
    SIDE = 8,     /* sums at once, each in a register */
    HALO = 10,    /* of the longest kernel */
    COLUMNS = 72, /* not a power of two, whose rows would share the same sets of the cache */
    ROWS = 24,
    WIDE = HALO + COLUMNS + HALO + SIDE,
};

struct weights {
    float local[25][LANES], horizontal_7[7][LANES], vertical_7[7][LANES], horizontal_11[11][LANES],
        vertical_11[11][LANES], horizontal_21[21][LANES], vertical_21[21][LANES];
    float local_bias[LANES], horizontal_bias[3][LANES], vertical_bias[LANES];
};

/* Columns begin HALO left of the results, those of the input two further left. The rows before the
 * last ROWS are the last ones of the band above. */
struct band {
    float input[2 + ROWS + 2][2 + WIDE + 2][LANES];
    float local[HALO + ROWS][WIDE][LANES];
    float horizontal_7[2 * HALO + ROWS][COLUMNS][LANES];
    float horizontal_11[2 * HALO + ROWS][COLUMNS][LANES];
    float horizontal_21[2 * HALO + ROWS][COLUMNS][LANES];
};

long geoseg_multiscale_conv_workspace(void) { return sizeof(struct band) / sizeof(float); }

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
        slide(sums, in[x + HALO - count / 2], LANES, taps, count);
        for (int i = 0; i < SIDE; i++)
            store(out[x + i], sums[i]);
    }
}

INLINE void zero(void *start, long size)
{
    for (long i = 0; i < size / (long)sizeof(float); i++)
        ((float *)start)[i] = 0.0f;
}

/* Move the last rows to the front, for the band below. */
#define CARRY(rows) __builtin_memmove(rows, rows[ROWS], sizeof(rows) - ROWS * sizeof(rows[0]))

KERNEL void geoseg_multiscale_conv(const float *map, float *result, struct weights *w,
                                   struct band *band, long height, long width, long channels)
{
    for (long c = 0; c < channels; c += LANES, w++)
        for (long left = 0; left < width; left += COLUMNS) {
            const long columns = width - left < COLUMNS ? width - left : COLUMNS;
            /* The columns of `local` and of `input` that lie on the map. */
            const long begin = left < HALO ? HALO - left : 0,
                       first = left < HALO + 2 ? HALO + 2 - left : 0;
            long end = columns + 2 * HALO, last = end + 4;
            if (end > width - left + HALO)
                end = width - left + HALO;
            if (last > width - left + HALO + 2)
                last = width - left + HALO + 2;

            zero(band, sizeof *band);
            for (long top = 0; top < height + HALO; top += ROWS) {
                if (top > 0) {
                    CARRY(band->local);
                    CARRY(band->horizontal_7);
                    CARRY(band->horizontal_11);
                    CARRY(band->horizontal_21);
                }
                for (long j = 0; j < ROWS + 4; j++) {
                    const long y = top - 2 + j;
                    const float *row = map + (y * width + left - HALO - 2) * channels + c;
                    if (y < 0 || y >= height)
                        zero(band->input[j], sizeof band->input[j]);
                    else
                        for (long x = first; x < last; x++)
                            store(band->input[j][x], load(row + x * channels));
                }
                for (long j = 0; j < ROWS; j++) {
                    float(*local)[LANES] = band->local[HALO + j];
                    const long at = 2 * HALO + j;
                    if (top + j >= height) {
                        zero(band->horizontal_7[at], sizeof band->horizontal_7[at]);
                        zero(band->horizontal_11[at], sizeof band->horizontal_11[at]);
                        zero(band->horizontal_21[at], sizeof band->horizontal_21[at]);
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
                    convolve_row(band->horizontal_7[at], local, w->horizontal_7, 7,
                                 w->horizontal_bias[0], columns);
                    convolve_row(band->horizontal_11[at], local, w->horizontal_11, 11,
                                 w->horizontal_bias[1], columns);
                    convolve_row(band->horizontal_21[at], local, w->horizontal_21, 21,
                                 w->horizontal_bias[2], columns);
                }
                for (long j = 0; j < ROWS; j += SIDE) {
                    const long y = top - HALO + j;
                    if (y <= -SIDE || y >= height)
                        continue;
                    for (long x = 0; x < columns; x++) {
                        lanes sums[SIDE];
                        for (int i = 0; i < SIDE; i++)
                            sums[i] = load(w->vertical_bias) + load(band->local[j + i][HALO + x]);
                        slide(sums, band->horizontal_7[j + HALO - 3][x], COLUMNS * LANES,
                              w->vertical_7, 7);
                        slide(sums, band->horizontal_11[j + HALO - 5][x], COLUMNS * LANES,
                              w->vertical_11, 11);
                        slide(sums, band->horizontal_21[j][x], COLUMNS * LANES,
                              w->vertical_21, 21);
                        for (int i = 0; i < SIDE; i++)
                            if (y + i >= 0 && y + i < height)
                                store(result + ((y + i) * width + left + x) * channels + c,
                                      sums[i]);
                    }
                }
            }
        }
}
