/* What torch does slowly on a CPU: GELU, depthwise convolutions, norms and skinny matrix products,
 * all in channels-last order.
 *
 * Loaded by kernels.py, which documents each function; all maps are (rows, columns, channels),
 * contiguous float32, with channels a multiple of LANES. One thread computes: tiles are what
 * runs in parallel. */

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
/* Compiled twice; the loader takes what the processor has. */
#define KERNEL __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define KERNEL
#endif

enum { LANES = 8 };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES), aligned(4)));

INLINE lanes load(const float *at) { return *(const lanes *)at; }
INLINE void store(float *at, lanes values) { *(lanes *)at = values; }
INLINE lanes choose(mask where, lanes yes, lanes no)
{
    return (lanes)((where & (mask)yes) | (~where & (mask)no));
}

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

KERNEL void geoseg_depthwise_gelu(float *map, const float *before, const float *kernel,
                                  const float *after, long rows, long columns, long channels)
{
    for (long c = 0; c < channels; c += LANES) {
        const lanes b = load(before + c), a = load(after + c);
        lanes k[9];
        for (int i = 0; i < 9; i++)
            k[i] = load(kernel + i * channels + c);
        for (long y = 0; y < rows; y++) {
            /* Each value is read once, and given to the three results of a row that it is part
             * of; so the first of them can be written where it was. */
            float *upper = map + y * columns * channels + c;
            const float *middle = upper + columns * channels, *lower = middle + columns * channels;
            lanes left, here = a, right = a;
            for (long x = 0; x < columns; x++) {
                lanes u = load(upper + x * channels) + b, m = load(middle + x * channels) + b,
                      l = load(lower + x * channels) + b;
                left = here, here = right, right = a;
                left += k[2] * u, left += k[5] * m, left += k[8] * l;
                here += k[1] * u, here += k[4] * m, here += k[7] * l;
                right += k[0] * u, right += k[3] * m, right += k[6] * l;
                if (x > 0)
                    store(upper + (x - 1) * channels, gelu(left));
            }
            store(upper + (columns - 1) * channels, gelu(here));
        }
    }
}

/* A matrix product whose left side, unlike in BLAS, is read where it lies: with so few columns,
 * packing it takes a fifth of the time. TALL rows times the BROAD columns of a panel at once. */
enum { TALL = 6, BROAD = 2 * LANES, NEAR = 8 * 1024 /* floats of the left side in the cache */ };

INLINE void multiply(float *out, long columns, const float *x, long depth, const float *panel,
                     const float *bias, long add, const int rows)
{
    lanes left[TALL], right[TALL];
    for (int i = 0; i < rows; i++) {
        const float *start = add ? out + i * columns : bias;
        left[i] = load(start), right[i] = load(start + LANES);
    }
    for (long k = 0; k < depth; k++, panel += BROAD) {
        const lanes l = load(panel), r = load(panel + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
            left[i] += l * x[i * depth + k], right[i] += r * x[i * depth + k];
    }
    for (int i = 0; i < rows; i++)
        store(out + i * columns, left[i]), store(out + i * columns + LANES, right[i]);
}

KERNEL void geoseg_product(float *out, const float *x, const float *panels, const float *bias,
                           long add, long rows, long depth, long columns)
{
    const long fit = NEAR / depth / TALL * TALL, near = fit < TALL ? TALL : fit;
    for (long top = 0; top < rows; top += near) {
        const long end = top + near < rows ? top + near : rows;
        for (long c = 0; c < columns; c += BROAD) {
            long i = top;
            for (; i + TALL <= end; i += TALL)
                multiply(out + i * columns + c, columns, x + i * depth, depth, panels + c * depth,
                         bias + c, add, TALL);
            for (; i < end; i++)
                multiply(out + i * columns + c, columns, x + i * depth, depth, panels + c * depth,
                         bias + c, add, 1);
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
    COLUMNS = 64,
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
                        long height, long width, long channels)
{
    for (long c = 0; c < channels; c += LANES, w++)
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
