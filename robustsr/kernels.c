// What smoothing spends its time in, for float32 on processors: 3x3 convolutions, noise, medians, counts of draws.
// kernels.py compiles it on the machine it runs on. Functions return 0, or 1 where memory ran out.

#include <stdint.h>
#include <stdlib.h>

#ifdef __AVX512F__
#define LANES 16
#define ROWS 12
#define PANELS 2 // whose sums stay in registers together, ROWS of each
#else
#define LANES 8
#define ROWS 6
#define PANELS 1
#endif
#define PANEL 16 // channel counts are multiples of it
#define VECTORS (PANEL / LANES)
#define TILES 12 // of 4x4 outputs, worked on together: what belongs to them fits into the second-level cache

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int mask __attribute__((vector_size(4 * LANES), aligned(4)));

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }
static inline vec choose(mask which, vec a, vec b) { return (vec)(((mask)a & which) | ((mask)b & ~which)); }

// --- 3x3 convolution, stride 1, zero padding 1, channels last, by Winograd's F(4x4, 3x3) ---
// Lavin & Gray 2016, "Fast algorithms for convolutional neural networks": 16 outputs take 36 products per pair of
// channels instead of 144.

// B^T of six values, into places s apart.
static inline void into(const vec *d, vec *o, int s) {
    vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1];
    vec c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    o[0] = 4 * d[0] - 5 * d[2] + d[4];
    o[s] = a + b;
    o[2 * s] = a - b;
    o[3 * s] = c + e;
    o[4 * s] = c - e;
    o[5 * s] = 4 * d[1] - 5 * d[3] + d[5];
}

// A^T of six values, into places s apart.
static inline void out_of(const vec *m, vec *o, int s) {
    vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    o[0] = m[0] + a + c;
    o[s] = b + 2 * e;
    o[2 * s] = a + 4 * c;
    o[3 * s] = b + 8 * e + m[5];
}

// m (panels, .., TILES, PANEL) = v (TILES, cin) u (panels, .., cin, PANEL), panels 36 such matrices apart.
static inline __attribute__((always_inline)) void product(const float *v, const float *u, float *m, long cin,
                                                          const int panels) {
    for (int r = 0; r < TILES; r += ROWS) {
        vec sum[ROWS][PANELS * VECTORS] = {0};
        for (long k = 0; k < cin; k++) {
            vec b[PANELS * VECTORS];
            for (int j = 0; j < panels * VECTORS; j++)
                b[j] = load(u + (j / VECTORS * 36 * cin + k) * PANEL + j % VECTORS * LANES);
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; i++) {
                vec a = v[(r + i) * cin + k] - (vec){0}; // minus 0 costs nothing, plus 0 an addition: of -0 it makes 0
                for (int j = 0; j < panels * VECTORS; j++) sum[i][j] += a * b[j];
            }
        }
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < panels * VECTORS; j++)
                store(m + (j / VECTORS * 36 * TILES + r + i) * PANEL + j % VECTORS * LANES, sum[i][j]);
    }
}

typedef struct {
    long image, top, left;
} place;

static inline place where(long tile, long down, long across) {
    return (place){tile / (down * across), tile / across % down * 4, tile % across * 4};
}

// B^T d B of the 6x6 values of x (.., h, w, cin) around the tile at `at`, into 36 places `stride` apart.
static inline void spread(const float *x, place at, long h, long w, long cin, const float *zeros, float *v,
                          long stride) {
    const float *from[36];
    for (int i = 0; i < 36; i++) {
        long r = at.top + i / 6 - 1, c = at.left + i % 6 - 1;
        int outside = r < 0 || c < 0 || r >= h || c >= w;
        from[i] = outside ? zeros : x + ((at.image * h + r) * w + c) * cin;
    }
    for (long c = 0; c < cin; c += LANES) {
        vec e[36];
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) {
            vec d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) d[i] = load(from[6 * i + j] + c);
            into(d, e + j, 6);
        }
        float *to = v + c;
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) {
            vec d[6];
            into(e + 6 * i, d, 1);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++, to += stride) store(to, d[j]);
        }
    }
}

// x (n, h, w, cin) to y (n, h, w, cout) plus bias; then, where slope is given, values below 0 times their channel's.
// u: the transformed weights (cout / PANEL, 36, cin, PANEL).
int conv3x3(const float *x, float *y, const float *u, const float *bias, const float *slope, long n, long h, long w,
            long cin, long cout, int threads) {
    long down = (h + 3) / 4, across = (w + 3) / 4, tiles = n * down * across;
    long stride = TILES * cin + 16; // no power of two: the 36 would share places in the cache
    float *zeros = calloc(cin, sizeof(float));
    int failed = !zeros;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *v = aligned_alloc(64, 36 * stride * sizeof(float)); // (36, TILES, cin), of one block
        float *m = aligned_alloc(64, PANELS * 36 * TILES * PANEL * sizeof(float)); // (PANELS, 36, TILES, PANEL)
        failed |= !zeros || !v || !m;
#pragma omp for schedule(static)
        for (long first = 0; first < tiles; first += TILES) {
            if (failed) continue;
            long count = tiles - first < TILES ? tiles - first : TILES;
            for (long t = 0; t < count; t++)
                spread(x, where(first + t, down, across), h, w, cin, zeros, v + t * cin, stride);
            for (long p = 0, panels; p < cout; p += panels * PANEL) {
                panels = p + PANELS * PANEL <= cout ? PANELS : 1;
                for (int i = 0; i < 36; i++) {
                    const float *from = u + (p / PANEL * 36 + i) * cin * PANEL;
                    if (panels == PANELS) product(v + i * stride, from, m + i * TILES * PANEL, cin, PANELS);
                    else product(v + i * stride, from, m + i * TILES * PANEL, cin, 1);
                }
                for (long t = 0; t < count; t++) {
                    place at = where(first + t, down, across);
                    for (long c = 0; c < panels * PANEL; c += LANES) {
                        vec e[24], b = load(bias + p + c), s = slope ? load(slope + p + c) : (vec){0} + 1;
                        const float *of = m + (c / PANEL * 36 * TILES + t) * PANEL + c % PANEL;
#pragma GCC unroll 6
                        for (int j = 0; j < 6; j++) {
                            vec d[6];
#pragma GCC unroll 6
                            for (int i = 0; i < 6; i++) d[i] = load(of + (6 * i + j) * TILES * PANEL);
                            out_of(d, e + j, 6);
                        }
                        float *to = y + ((at.image * h + at.top) * w + at.left) * cout + p + c;
                        long most = w - at.left;
#pragma GCC unroll 4
                        for (int i = 0; i < 4; i++) {
                            if (at.top + i >= h) break;
                            vec o[4];
                            out_of(e + 6 * i, o, 1);
#pragma GCC unroll 4
                            for (int j = 0; j < 4; j++) {
                                vec z = o[j] + b;
                                if (j < most) store(to + (i * w + j) * cout, choose(z > 0, z, z * s));
                            }
                        }
                    }
                }
            }
        }
        free(v);
        free(m);
    }
    free(zeros);
    return failed;
}

#define BATCH 24 // tiles between two visits to the sums

// A of four values, into places s apart.
static inline void out_of_transposed(const vec *d, vec *o, int s) {
    vec a = d[0] + d[2], b = d[1] + d[3], c = d[0] + 4 * d[2], e = 2 * d[1] + 8 * d[3];
    o[0] = d[0];
    o[s] = a + b;
    o[2 * s] = a - b;
    o[3 * s] = c + e;
    o[4 * s] = c - e;
    o[5 * s] = d[3];
}

// A d A^T of the 4x4 values of dy (.., h, w, cout) in the tile at `at`, into 36 places `stride` apart.
static inline void spread_back(const float *dy, place at, long h, long w, long cout, const float *zeros, float *z,
                               long stride) {
    for (long c = 0; c < cout; c += LANES) {
        vec e[24];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vec d[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                int outside = at.top + i >= h || at.left + j >= w;
                d[i] = load(outside ? zeros : dy + ((at.image * h + at.top + i) * w + at.left + j) * cout + c);
            }
            out_of_transposed(d, e + j, 4);
        }
        float *to = z + c;
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) {
            vec d[6];
            out_of_transposed(e + 4 * i, d, 1);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++, to += stride) store(to, d[j]);
        }
    }
}

// u (rank, cout) += v (count, rank)^T z (count, cout), in PANEL columns; sums stay in registers.
static inline __attribute__((always_inline)) void outer(const float *v, const float *z, float *u, long count, long cin,
                                                        long cout, const int rank) {
    vec sum[16][VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rank; i++)
        for (int j = 0; j < VECTORS; j++) sum[i][j] = load(u + i * cout + j * LANES);
    for (long t = 0; t < count; t++) {
        vec b[VECTORS];
        for (int j = 0; j < VECTORS; j++) b[j] = load(z + t * cout + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rank; i++)
            for (int j = 0; j < VECTORS; j++) sum[i][j] += v[t * cin + i] * b[j];
    }
#pragma GCC unroll 16
    for (int i = 0; i < rank; i++)
        for (int j = 0; j < VECTORS; j++) store(u + i * cout + j * LANES, sum[i][j]);
}

// u (cin, cout) += v (count, cin)^T z (count, cout)
static inline void rank_update(const float *v, const float *z, float *u, long count, long cin, long cout) {
    const long rank = LANES == 16 ? 16 : 6; // what registers hold; 6 leaves 4, 2 or none of a PANEL
    for (long o = 0; o < cout; o += PANEL) {
        long c = 0;
        for (; c + rank <= cin; c += rank) outer(v + c, z + o, u + c * cout + o, count, cin, cout, rank);
        for (; c + 4 <= cin; c += 4) outer(v + c, z + o, u + c * cout + o, count, cin, cout, 4);
        if (c < cin) outer(v + c, z + o, u + c * cout + o, count, cin, cout, 2);
    }
}

// The gradient of the transformed weights: for x (n, h, w, cin) and the gradient dy (n, h, w, cout) of what conv3x3
// gives, parts (threads, 36, cin, cout), zero before, whose sum it is: always in the same order.
int conv3x3_weights(const float *x, const float *dy, float *parts, long n, long h, long w, long cin, long cout,
                    int threads) {
    long down = (h + 3) / 4, across = (w + 3) / 4, tiles = n * down * across, size = 36 * cin * cout;
    float *zeros = calloc(cin > cout ? cin : cout, sizeof(float));
    int failed = !zeros;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : failed)
    for (int mine = 0; mine < threads; mine++) {
        long end = tiles * (mine + 1) / threads;
        float *v = aligned_alloc(64, 36 * BATCH * cin * sizeof(float));
        float *z = aligned_alloc(64, 36 * BATCH * cout * sizeof(float));
        failed |= !zeros || !v || !z;
        for (long first = tiles * mine / threads; first < end && !failed; first += BATCH) {
            long count = end - first < BATCH ? end - first : BATCH;
            for (long t = 0; t < count; t++) {
                place at = where(first + t, down, across);
                spread(x, at, h, w, cin, zeros, v + t * cin, BATCH * cin);
                spread_back(dy, at, h, w, cout, zeros, z + t * cout, BATCH * cout);
            }
            for (long i = 0; i < 36; i++)
                rank_update(v + i * BATCH * cin, z + i * BATCH * cout, parts + mine * size + i * cin * cout, count, cin,
                            cout);
        }
        free(v);
        free(z);
    }
    free(zeros);
    return failed;
}

#define RUN 32 // pixels whose sums stay in registers

// The gradient dz (size, channels) of what comes before a PReLU: for z before it and the gradient dy behind it. That of
// slope (channels) is the sum of parts (threads, channels), zero before, always in the same order.
int prelu_back(const float *z, const float *dy, const float *slope, float *dz, float *parts, long size, long channels,
               int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int mine = 0; mine < threads; mine++) {
        long end = size * (mine + 1) / threads;
        for (long first = size * mine / threads; first < end; first += RUN)
            for (long c = 0; c < channels; c += LANES) {
                float *sums = parts + mine * channels + c;
                vec sum = {0}, s = load(slope + c);
                for (long k = first; k < first + RUN && k < end; k++) {
                    vec a = load(z + k * channels + c), g = load(dy + k * channels + c);
                    store(dz + k * channels + c, choose(a > 0, g, g * s));
                    sum += choose(a > 0, (vec){0}, g * a);
                }
                store(sums, load(sums) + sum);
            }
    }
    return 0;
}

// --- element-wise median ---

#define STRETCH 4 // vectors of one value, worked on together in the first-level cache

// out[k] = the mean of line[low] and line[high] of the n values[i][k] after the comparators: (i, j, 1 if i gets the
// minimum, 1 if j gets the maximum). A value that is not a number makes the result one. k < size.
int median(const float **values, float *out, long n, long size, const int *comparators, long count, int low, int high,
           int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        vec *line = aligned_alloc(64, n * STRETCH * sizeof(vec));
        failed |= !line;
#pragma omp for schedule(static)
        for (long k = 0; k < size; k += STRETCH * LANES) {
            if (failed) continue;
            float whole[STRETCH * LANES] = {0};
            int full = k + STRETCH * LANES <= size;
            mask none[STRETCH] = {0}; // where one of the values is no number
            for (long i = 0; i < n; i++) {
                const float *from = values[i] + k;
                if (!full) {
                    for (long e = 0; k + e < size; e++) whole[e] = from[e];
                    from = whole;
                }
                for (int s = 0; s < STRETCH; s++) {
                    vec z = load(from + s * LANES);
                    line[i * STRETCH + s] = z;
                    none[s] |= z != z;
                }
            }
            for (const int *c = comparators; c < comparators + 4 * count; c += 4)
                for (int s = 0; s < STRETCH; s++) {
                    vec *i = line + c[0] * STRETCH + s, *j = line + c[1] * STRETCH + s, a = *i, b = *j;
                    mask less = a < b;
                    if (c[2]) *i = choose(less, a, b);
                    if (c[3]) *j = choose(less, b, a);
                }
            for (int s = 0; s < STRETCH; s++) {
                vec a = line[low * STRETCH + s], b = line[high * STRETCH + s];
                vec middle = low == high ? a : (a + b) / 2;
                store(whole + s * LANES, (vec)((mask)middle | none[s])); // all bits set are a NaN
            }
            for (long e = 0; e < STRETCH * LANES && k + e < size; e++) out[k + e] = whole[e];
        }
        free(line);
    }
    return failed;
}

// --- noise ---

// Philox4x32-10 (see noise.py): out (4 * blocks, n, channels, h, w), the upper 24 bits of words 0 to 3 of each block.
// The counter is (column, row, channel, block); origins (n, 2): row and column of the first pixel.
int philox(float *out, const int64_t *origins, long n, long channels, long h, long w, long block, long blocks,
           uint32_t k0, uint32_t k1, int threads) {
    long plane = n * channels * h * w, lines = blocks * n * channels * h;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long line = 0; line < lines; line++) {
        long y = line % h, channel = line / h % channels, image = line / (h * channels) % n;
        long number = line / (h * channels * n);
        uint32_t left = origins[2 * image + 1], row = origins[2 * image] + y;
        float *to = out + 4 * number * plane + line % (h * channels * n) * w;
#pragma omp simd
        for (long x = 0; x < w; x++) {
            uint32_t a = left + (uint32_t)x, b = row, c = channel, d = block + number, k = k0, l = k1;
#pragma GCC unroll 10
            for (int round = 0; round < 10; round++) {
                uint64_t p = (uint64_t)a * 0xD2511F53, q = (uint64_t)c * 0xCD9E8D57;
                a = (uint32_t)(q >> 32) ^ b ^ k;
                b = (uint32_t)q;
                c = (uint32_t)(p >> 32) ^ d ^ l;
                d = (uint32_t)p;
                k += 0x9E3779B9;
                l += 0xBB67AE85;
            }
            to[x] = (int32_t)(a >> 8);
            to[x + plane] = (int32_t)(b >> 8);
            to[x + 2 * plane] = (int32_t)(c >> 8);
            to[x + 3 * plane] = (int32_t)(d >> 8);
        }
    }
    return 0;
}

// --- histograms ---

#define LINE 64 // values worked on together

// Adds n draws of `size` values, clamped to [0, 1], to their sums and, in 256 levels, to their counts (size, 256), of
// 32 bits if `wide`, else of 16. Levels are those of `bounds.to_levels`: with a fused multiply-add, too, for every float.
int count(const float *draws, long n, long size, double *sums, void *counts, int wide, int threads) {
    int16_t *narrow = counts;
    int32_t *broad = counts;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        uint8_t *levels = malloc(n * LINE);
        failed |= !levels;
#pragma omp for schedule(static)
        for (long k = 0; k < size; k += LINE) {
            if (failed) continue;
            long most = size - k < LINE ? size - k : LINE;
            double sum[LINE] = {0};
            float whole[LINE] = {0};
            for (long i = 0; i < n; i++) {
                const float *from = draws + i * size + k;
                for (long e = 0; e < LINE; e += LANES) {
                    if (e + LANES <= most) store(whole + e, load(from + e));
                    else
                        for (long rest = e; rest < most; rest++) whole[rest] = from[rest];
                    vec z = load(whole + e);
                    mask above = z > 1, within = ~(above | (z < 0)); // what is no number stays so
                    z = (vec)(((mask)z & within) | ((mask)((vec){0} + 1) & above));
                    for (long j = 0; j < LANES; j++) {
                        sum[e + j] += z[j];
                        levels[i * LINE + e + j] = z[j] == z[j] ? (int32_t)(z[j] * 255 + 0.5f) : 0;
                    }
                }
            }
            for (long e = 0; e < most; e++) {
                sums[k + e] += sum[e];
                long ahead = e + 4 < most ? 4 : 0; // a later value, whose counts are fetched meanwhile
                const uint8_t *mine = levels + e;
                for (long i = 0; i < n; i++, mine += LINE) {
                    long place = (k + e) * 256 + mine[0], later = (k + e + ahead) * 256 + mine[ahead];
                    __builtin_prefetch(wide ? (void *)(broad + later) : (void *)(narrow + later), 1);
                    if (wide) broad[place]++;
                    else narrow[place]++;
                }
            }
        }
        free(levels);
    }
    return failed;
}
