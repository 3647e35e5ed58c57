/* SLIC superpixels (Achanta 2012), pixel by pixel as scikit-image finds them: the same operations
 * on float32 in the same order, none fused with another (-ffp-contract=off), so that the labels are
 * the same. What it does for one pixel after another is done here for as many as fit a register.
 *
 * Arrays are without gaps. hatch_build.py compiles this where it can; compiled.py calls it.
 */
#include "compiled.h"

#include <math.h>
#include <string.h>

#define FEATURES 5 /* of a centre: y, x and three colours */

/* The first and last + 1 of `size` pixels within two steps of a centre. */
INLINE void window(float center, int64_t step, int64_t size, int64_t *first, int64_t *end) {
    float low = center - 2 * step, high = center + 2 * step + 1;
    *first = low > 0 ? low : 0;
    *end = high < size ? high : size;
}

/* Give a row's pixels from `first` to `end` to a centre where it is nearer than `distance`, which
 * becomes its own; `down`: pixels to the row, squared. A centre of NaN is nowhere nearer. */
INLINE void take(int32_t own, const float *restrict center, float down, float weight,
                 const float *restrict colors, int64_t pixels, int32_t first, int32_t end,
                 int32_t *restrict labels, float *restrict distance) {
    for (int32_t x = first; x < end; x++) {
        float across = center[1] - (float)x;
        float color = 0;
        for (int channel = 0; channel < 3; channel++) {
            float apart = colors[channel * pixels + x] - center[2 + channel];
            color += apart * apart;
        }
        float far = (down + across * across) * weight + color;
        int32_t nearer = -(distance[x] > far); /* all bits or none, rather than a branch */
        labels[x] ^= (labels[x] ^ own) & nearer;
        distance[x] = distance[x] > far ? far : distance[x];
    }
}

/* Every centre becomes the mean of its pixels, or NaN where it has none. */
static void move(float *restrict centers, int32_t *restrict counts, const float *restrict colors,
                 const int32_t *restrict labels, int64_t regions, int64_t height, int64_t width) {
    int64_t pixels = height * width, at = 0;
    memset(centers, 0, sizeof(float) * FEATURES * regions);
    memset(counts, 0, sizeof(int32_t) * regions);
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++, at++) {
            float *own = centers + FEATURES * labels[at];
            counts[labels[at]]++;
            own[0] += y, own[1] += x;
            for (int c = 0; c < 3; c++) own[2 + c] += colors[c * pixels + at];
        }
    }
    for (int64_t region = 0; region < regions; region++)
        for (int i = 0; i < FEATURES; i++) centers[FEATURES * region + i] /= counts[region];
}

/* k-means. colors (3, h, w); centers (regions, 5), from where they start; labels (h, w), 0, and
 * distance (h, w): what is found; counts (regions). `rows` and `columns` lie between the centres at
 * first, `step` is what was asked for: its square weighs places against colours. */
BOTH void whyfake_cluster(const float *restrict colors, float *restrict centers,
                          int32_t *restrict labels, float *restrict distance,
                          int32_t *restrict counts, int64_t regions, int64_t height, int64_t width,
                          int64_t rows, int64_t columns, int64_t step, int64_t rounds) {
    int64_t pixels = height * width;
    float weight = 1.0 / ((float)step * (float)step);
    for (int64_t round = 0; round < rounds; round++) {
        for (int64_t at = 0; at < pixels; at++) distance[at] = INFINITY;
        for (int64_t y = 0; y < height; y++) {
            for (int64_t region = 0; region < regions; region++) {
                const float *center = centers + FEATURES * region;
                int64_t top, bottom, left, right;
                window(center[0], rows, height, &top, &bottom);
                if (y < top || y >= bottom) continue;
                window(center[1], columns, width, &left, &right);
                float down = center[0] - y;
                take(region, center, down * down, weight, colors + y * width, pixels, left, right,
                     labels + y * width, distance + y * width);
            }
        }
        move(centers, counts, colors, labels, regions, height, width);
    }
}

/* Number connected parts from 0 on, in the order of their first pixels; parts of fewer than `least`
 * pixels join a part beside them, and from `most` on a part is cut off. `labels` (h, w) gives
 * `parts` (h, w), -1 before; queue (h·w). */
void whyfake_connect(const int32_t *restrict labels, int32_t *restrict parts,
                     int32_t *restrict queue, int64_t height, int64_t width, int64_t least,
                     int64_t most) {
    static const int across[] = {1, -1, 0, 0}, down[] = {0, 0, 1, -1};
    int32_t part = 0;
    for (int64_t start = 0; start < height * width; start++) {
        if (parts[start] >= 0) continue;
        int64_t size = 1, seen = 0;
        int32_t beside = part;
        queue[0] = start, parts[start] = part;
        for (; seen < size && size < most; seen++) {
            int64_t y = queue[seen] / width, x = queue[seen] % width;
            for (int i = 0; i < 4 && size < most; i++) {
                int64_t up = y + down[i], left = x + across[i];
                if (up < 0 || up >= height || left < 0 || left >= width) continue;
                int64_t at = up * width + left;
                if (parts[at] < 0 && labels[at] == labels[start]) {
                    parts[at] = part;
                    queue[size++] = at;
                } else if (parts[at] >= 0 && parts[at] != part) {
                    beside = parts[at];
                }
            }
        }
        if (size < least)
            for (int64_t i = 0; i < size; i++) parts[queue[i]] = beside;
        else
            part++;
    }
}
