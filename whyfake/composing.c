/* Perturbed copies in one pass over memory. perturbation.py defines what they are, to the bit: no
 * operation here may be fused with another (-ffp-contract=off) or done in another order.
 *
 * Copies (n, 3, pixels), frame and baseline (3, pixels) and masks are float32 without gaps. All
 * copies of a block of pixels are written before the next block, so that frame and baseline are
 * read from memory once. hatch_build.py compiles this where it can; compiled.py calls it.
 */
#include "compiled.h"

#define ABI 3
#define BLOCK 4096
#define REGIONS 256 /* a label is a byte: so many values for a copy */

int64_t whyfake_abi(void) { return ABI; }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Of pixel j, or of four from it on. */
#define ONE(array) array[j]
#define MIXED(AT) (AT(frame) + (AT(baseline) - AT(frame)) * AT(hidden))
#define NOISY(AT) (AT(middle) + AT(own) * step)

#if defined(__SSE2__) && !defined(WHYFAKE_PLAIN)
#include <emmintrin.h>
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
#define FOUR(array) (*(const Four *)(array + j))

/* out[j] = SHOWN(ONE) for `count` pixels, past the caches where they fill whole places of 16 bytes:
 * what a lane composes before it runs is more than they hold, and a usual store reads first what it
 * writes over. */
#define WRITE(out, count, SHOWN)                                                    \
    do {                                                                            \
        int64_t j = 0;                                                              \
        for (; j < count && (uintptr_t)(out + j) % 16; j++) out[j] = SHOWN(ONE);    \
        for (; j + 4 <= count; j += 4) _mm_stream_ps(out + j, (__m128)SHOWN(FOUR)); \
        for (; j < count; j++) out[j] = SHOWN(ONE);                                 \
    } while (0)
#else
#define WRITE(out, count, SHOWN) \
    for (int64_t j = 0; j < count; j++) out[j] = SHOWN(ONE)
#define _mm_sfence() ((void)0)
#endif

/* `count` pixels of the three channels of a copy: of the frame, the baseline as far as it is hidden. */
INLINE void show(float *restrict out, const float *restrict frame, const float *restrict baseline,
                 const float *restrict hidden, int64_t pixels, int64_t count) {
    for (int channel = 0; channel < 3; channel++) {
        WRITE(out, count, MIXED);
        out += pixels, frame += pixels, baseline += pixels;
    }
    _mm_sfence(); /* whoever runs the copies in another thread sees them */
}

/* values (n, 256): how much of each region is hidden; labels (pixels). */
BOTH void whyfake_regions(float *restrict out, const float *restrict frame,
                          const float *restrict baseline, const uint8_t *restrict labels,
                          const float *restrict values, int64_t copies, int64_t pixels) {
    float hidden[BLOCK];
    for (int64_t at = 0; at < pixels; at += BLOCK) {
        int64_t count = least(BLOCK, pixels - at);
        for (int64_t copy = 0; copy < copies; copy++) {
            for (int64_t j = 0; j < count; j++) hidden[j] = values[copy * REGIONS + labels[at + j]];
            show(out + copy * 3 * pixels + at, frame + at, baseline + at, hidden, pixels, count);
        }
    }
}

/* What copies that differ little are made of. Region i lies in the runs (first pixel, how many) from
 * begins[i] to begins[i + 1]; more of the regions than `few` are not worth changing. */
typedef struct {
    const float *frame, *baseline, *values;
    const uint8_t *labels;
    const int32_t *runs, *begins;
    int64_t pixels, few;
} Regions;

/* Make copy `wanted` of what `out` holds: copy `held`, or none where that is negative. */
BOTH void whyfake_change(const Regions *regions, float *restrict out, int64_t held,
                         int64_t wanted) {
    const float *restrict frame = regions->frame, *restrict baseline = regions->baseline;
    const float *before = regions->values + (held < 0 ? wanted : held) * REGIONS;
    const float *now = regions->values + wanted * REGIONS;
    int64_t pixels = regions->pixels, differing = 0;
    for (int i = 0; i < REGIONS; i++) differing += before[i] != now[i];
    if (held < 0 || differing > regions->few) {
        whyfake_regions(out, frame, baseline, regions->labels, now, 1, pixels);
        return;
    }
    for (int i = 0; i < REGIONS; i++) {
        if (before[i] == now[i]) continue;
        float hidden = now[i];
        for (int32_t run = regions->begins[i]; run < regions->begins[i + 1]; run++) {
            int64_t at = regions->runs[2 * run], end = at + regions->runs[2 * run + 1];
            for (int channel = 0; channel < 3; channel++, at += pixels, end += pixels)
                for (int64_t j = at; j < end; j++)
                    out[j] = frame[j] + (baseline[j] - frame[j]) * hidden;
        }
    }
}

/* wide (n, size, length): grids that are as wide as the picture and its shifts; row y of a copy lies
 * `parts` of the way from grid row `tops` to `bottoms`, all three read at y + its first shift. */
BOTH void whyfake_grids(float *restrict out, const float *restrict frame,
                        const float *restrict baseline, const float *restrict wide,
                        const int64_t *restrict shifts, const int64_t *restrict tops,
                        const int64_t *restrict bottoms, const float *restrict parts,
                        int64_t copies, int64_t size, int64_t length, int64_t height,
                        int64_t width) {
    float hidden[BLOCK];
    int64_t pixels = height * width, across = least(width, BLOCK), down = BLOCK / across;
    for (int64_t y = 0; y < height; y += down) {
        int64_t rows = least(down, height - y);
        for (int64_t x = 0; x < width; x += across) { /* more than once only where rows is 1 */
            int64_t count = least(across, width - x), at = y * width + x;
            for (int64_t copy = 0; copy < copies; copy++) {
                const float *grid = wide + copy * size * length + shifts[2 * copy + 1] + x;
                for (int64_t row = 0; row < rows; row++) {
                    int64_t place = y + row + shifts[2 * copy];
                    const float *top = grid + tops[place] * length;
                    const float *bottom = grid + bottoms[place] * length;
                    float part = parts[place], *own = hidden + row * count;
                    for (int64_t j = 0; j < count; j++) own[j] = top[j] + (bottom[j] - top[j]) * part;
                }
                show(out + copy * 3 * pixels + at, frame + at, baseline + at, hidden, pixels,
                     rows * count);
            }
        }
    }
}

/* center (3, pixels); table from `offsets` on: noise (channels, pixels), 1 for one that all share. */
BOTH void whyfake_noise(float *restrict out, const float *restrict center,
                        const float *restrict table, const int64_t *restrict offsets,
                        const float *restrict steps, int64_t copies, int64_t channels,
                        int64_t pixels) {
    for (int64_t copy = 0; copy < copies; copy++) {
        const float *noise = table + offsets[copy];
        float step = steps[copy];
        for (int64_t channel = 0; channel < 3; channel++, out += pixels) {
            const float *middle = center + channel * pixels;
            const float *own = noise + (channels == 3 ? channel * pixels : 0);
            WRITE(out, pixels, NOISY);
        }
    }
    _mm_sfence();
}

/* pictures: where values (channels, cells) lie; of each place of a copy, those of the picture that
 * index (n, classes) says for the class (cells) of the place. */
BOTH void whyfake_cells(float *restrict out, const float *const *restrict pictures,
                        const int16_t *restrict index, const int32_t *restrict class,
                        int64_t copies, int64_t channels, int64_t cells, int64_t classes) {
    const float *from[BLOCK];
    for (int64_t copy = 0; copy < copies; copy++, index += classes, out += channels * cells) {
        for (int64_t at = 0; at < cells; at += BLOCK) {
            int64_t count = least(BLOCK, cells - at);
            for (int64_t j = 0; j < count; j++) from[j] = pictures[index[class[at + j]]] + at + j;
            for (int64_t channel = 0; channel < channels; channel++)
                for (int64_t j = 0; j < count; j++)
                    out[channel * cells + at + j] = from[j][channel * cells];
        }
    }
}
