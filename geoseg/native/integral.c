/* Sums over rectangles of a raster; see geo/vector/polygonize.py. */

/* sums: (height + 1, width + 1): of all values above and to the left, in whole units. */
void geoseg_accumulate(long long *sums, const float *values, float unit, long height, long width)
{
    for (long x = 0; x <= width; x++)
        sums[x] = 0;
    for (long y = 0; y < height; y++, values += width) {
        const long long *above = sums + 1;
        long long row = 0;
        sums += width + 1;
        sums[0] = 0;
        for (long x = 0; x < width; x++) {
            row += __builtin_lrintf(values[x] * unit);
            sums[x + 1] = above[x] + row;
        }
    }
}
