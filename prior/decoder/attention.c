/* Attention of new positions to a cache in 24-bit fixed point, on a CPU.

   A decoding step reads the whole cache once and computes little with it, so its time is that of the bytes. A key or
   value of d channels is kept as d integers of 24 bits and a float32 that scales them. Their errors, 2^-24 of the largest
   channel, are those that float32 arithmetic makes in a sum of that size anyway; the bytes are 3/4 of float32's.

   Every (row, head) is computed by one thread, in one order: the result depends on nothing else in the batch and not
   on the number of threads.

   Legend of shapes, as in cache.py: R rows, n new positions, H heads, d channels of a head. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* One version for each width of vector registers; the processor's own is chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LARGEST = (1 << 23) - 3, MOST_CHANNELS = 256 }; /* rounded up twice, LARGEST is still below 2^23 */

/* exp(x) for x <= 0, to 1e-7 of itself; 0 below -87. A polynomial (Cephes' expf), since libm's is not vectorized. */
INLINE float exponential(float x)
{
    union { int32_t bits; float value; } power;
    float bounded = x < -87.0f ? -87.0f : x; /* NaN stays NaN */
    float n = rintf(bounded * 1.44269504f);
    float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    power.bits = ((int32_t)n + 127) << 23;
    return x < -87.0f ? 0.0f : p * power.value;
}

/* Sixteen lanes: one or more vector registers. Heads are filled up with zeros to whole groups of 64 channels. */
enum { LANES = 16, GROUP = 4 * LANES, MOST_GROUPS = MOST_CHANNELS / GROUP, GROUP_BYTES = 3 * GROUP, AHEAD = 48 };
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

/* A group of 64 integers in the cache, as three vectors of 32-bit lanes: the upper 16 bits of channel j beside those of
   channel 16 + j, the same of 32 + j and 48 + j, and the lower 8 bits of all four. So nothing is ever widened. */
INLINE void unpack(const uint8_t *group, Floats channels[4])
{
    Integers first, second, lower;
    memcpy(&first, group, sizeof first);
    memcpy(&second, group + sizeof first, sizeof second);
    memcpy(&lower, group + 2 * sizeof first, sizeof lower);
    channels[0] = __builtin_convertvector((first << 16) | ((lower << 8) & 0xff00), Floats);
    channels[1] = __builtin_convertvector((first & ~0xffff) | (lower & 0xff00), Floats);
    channels[2] = __builtin_convertvector((second << 16) | ((lower >> 8) & 0xff00), Floats);
    channels[3] = __builtin_convertvector((second & ~0xffff) | ((lower >> 16) & 0xff00), Floats);
}

/* A vector of d channels in the cache, from x. */
INLINE void store(const float *x, uint8_t *record, float *scale, int d)
{
    float most = 0.0f, nothing = 0.0f;
#pragma omp simd reduction(max : most) reduction(+ : nothing)
    for (int i = 0; i < d; i++) {
        most = fmaxf(most, fabsf(x[i]));
        nothing += 0.0f * x[i]; /* NaN if a channel is not finite: then the whole vector is */
    }
    float factor = most > 1e-30f ? LARGEST / most : 0.0f;
    *scale = most / LARGEST / 256.0f + nothing; /* what unpack returns is 256 times the integers */
    for (int i = 0; i < d; i += GROUP) {
        int32_t integers[GROUP] = {0}, words[3 * LANES];
        int count = d - i < GROUP ? d - i : GROUP;
#pragma omp simd
        for (int j = 0; j < count; j++)
            integers[j] = (int32_t)rintf(x[i + j] * factor);
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            int32_t a = integers[j], b = integers[LANES + j], c = integers[2 * LANES + j], e = integers[3 * LANES + j];
            words[j] = (a >> 8 & 0xffff) | (b << 8 & ~0xffff);
            words[LANES + j] = (c >> 8 & 0xffff) | (e << 8 & ~0xffff);
            words[2 * LANES + j] = (a & 0xff) | (b & 0xff) << 8 | (c & 0xff) << 16 | (e & 0xff) << 24;
        }
        memcpy(record + i / GROUP * GROUP_BYTES, words, sizeof words);
    }
}

/* Ask for the record AHEAD positions from t, or of the stream that is read next: the processor itself sees a stream only
   after some of it was read. Into its second cache: the first has too few places for what is on its way. */
INLINE void prefetch(int t, int count, const uint8_t *stream, const float *scales, const uint8_t *next,
                     const float *next_scales, int bytes)
{
    int within = t + AHEAD < count;
    size_t ahead = within ? t + AHEAD : t + AHEAD - count;
    const uint8_t *record = (within ? stream : next) + ahead * bytes;
    for (int i = 0; i < bytes; i += 64)
        __builtin_prefetch(record + i, 0, 2);
    __builtin_prefetch((within ? scales : next_scales) + ahead, 0, 2);
}

/* By halves that stay in registers. */
INLINE float sum_of(Floats x)
{
    typedef float Eight __attribute__((vector_size(4 * LANES / 2)));
    typedef float Four __attribute__((vector_size(4 * LANES / 4)));
    Eight halves[2];
    Four quarters[2];
    memcpy(halves, &x, sizeof x);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof quarters);
    quarters[0] += quarters[1];
    return (quarters[0][0] + quarters[0][1]) + (quarters[0][2] + quarters[0][3]);
}

/* softmax(scale * query . keys) . values, over `count` positions; `weights` is room for as many numbers. */
INLINE void attend_one(const float *query, const uint8_t *keys, const float *key_scales, const uint8_t *values,
                       const float *value_scales, float *out, float *weights, int count, int d, float scale)
{
    int groups = (d + GROUP - 1) / GROUP, bytes = groups * GROUP_BYTES;
    const uint8_t *next_keys = values + (values - keys); /* of the next head */
    const float *next_scales = value_scales + (value_scales - key_scales);
    float most = -INFINITY, total = 0.0f, padded[MOST_CHANNELS] = {0};
    Floats queries[4 * MOST_GROUPS], sums[4 * MOST_GROUPS], channels[4];
    memcpy(padded, query, d * sizeof *query);
    memcpy(queries, padded, 4 * groups * sizeof *queries);
    for (int t = 0; t < count; t++) {
        const uint8_t *key = keys + (size_t)t * bytes;
        prefetch(t, count, keys, key_scales, values, value_scales, bytes);
        Floats products = {0};
        for (int g = 0; g < groups; g++) {
            unpack(key + g * GROUP_BYTES, channels);
            for (int c = 0; c < 4; c++)
                products += queries[4 * g + c] * channels[c];
        }
        weights[t] = sum_of(products) * scale * key_scales[t];
    }
#pragma omp simd reduction(max : most)
    for (int t = 0; t < count; t++)
        most = fmaxf(most, weights[t]);
#pragma omp simd reduction(+ : total)
    for (int t = 0; t < count; t++) {
        float weight = exponential(weights[t] - most);
        total += weight;
        weights[t] = weight * value_scales[t];
    }
    for (int c = 0; c < 4 * groups; c++)
        sums[c] = (Floats){0};
    for (int t = 0; t < count; t++) {
        const uint8_t *value = values + (size_t)t * bytes;
        prefetch(t, count, values, value_scales, next_keys, next_scales, bytes);
        for (int g = 0; g < groups; g++) {
            unpack(value + g * GROUP_BYTES, channels);
            for (int c = 0; c < 4; c++)
                sums[4 * g + c] += weights[t] * channels[c];
        }
    }
    memcpy(padded, sums, 4 * groups * sizeof *sums);
    for (int i = 0; i < d; i++)
        out[i] = padded[i] / total;
}

/* Store the keys and values of n positions of one row and head, then attend from each to all up to it. */
INLINE void attend_head(const float *heads, uint8_t *cache, float *scales, float *out, float *weights, int n, int H,
                        int d, int start, int room, float scale)
{
    size_t step = (size_t)3 * H * d, kind = (size_t)H * d, bytes = (d + GROUP - 1) / GROUP * GROUP_BYTES;
    uint8_t *values = cache + room * bytes;
    for (int j = 0; j < n; j++) {
        store(heads + j * step + kind, cache + (start + j) * bytes, scales + start + j, d);
        store(heads + j * step + 2 * kind, values + (start + j) * bytes, scales + room + start + j, d);
    }
    for (int j = 0; j < n; j++)
        attend_one(heads + j * step, cache, scales, values, scales + room, out + j * kind, weights, start + j + 1, d,
                   scale);
}

FOR_EACH_PROCESSOR
static void attend_any(const float *heads, uint8_t *cache, float *scales, float *out, float *weights, int n, int H,
                       int d, int start, int room, float scale)
{
    if (d == 64) /* with a known number of channels nothing of a vector leaves the registers */
        attend_head(heads, cache, scales, out, weights, n, H, 64, start, room, scale);
    else
        attend_head(heads, cache, scales, out, weights, n, H, d, start, room, scale);
}

static void attend_all(const float *heads, uint8_t *cache, float *scales, float *out, float *weights, int R, int n,
                       int H, int d, int start, int room, float scale, int threads)
{
    size_t record = (d + GROUP - 1) / GROUP * GROUP_BYTES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (int index = R * H * thread / threads; index < R * H * (thread + 1) / threads; index++) {
            int row = index / H, head = index % H;
            attend_any(heads + ((size_t)row * n * 3 * H + head) * d, cache + (size_t)index * 2 * room * record,
                       scales + (size_t)index * 2 * room, out + ((size_t)row * n * H + head) * d,
                       weights + (size_t)thread * room, n, H, d, start, room, scale);
        }
}

static PyObject *attend(PyObject *module, PyObject *arguments)
{
    unsigned long long heads, cache, scales, out, weights;
    int R, n, H, d, start, room, threads;
    float scale;
    if (!PyArg_ParseTuple(arguments, "KKKKKiiiiiifi", &heads, &cache, &scales, &out, &weights, &R, &n, &H, &d, &start,
                          &room, &scale, &threads))
        return NULL;
    if (R < 1 || n < 1 || H < 1 || d < 1 || d > MOST_CHANNELS || start < 0 || start + n > room || threads < 1)
        return PyErr_Format(PyExc_ValueError, "attend: R %d, n %d, H %d, d %d, start %d, room %d, threads %d", R, n, H,
                            d, start, room, threads);
    Py_BEGIN_ALLOW_THREADS
    attend_all((const float *)(uintptr_t)heads, (uint8_t *)(uintptr_t)cache, (float *)(uintptr_t)scales,
               (float *)(uintptr_t)out, (float *)(uintptr_t)weights, R, n, H, d, start, room, scale, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"attend", attend, METH_VARARGS,
     "attend(heads, cache, scales, out, weights, R, n, H, d, start, room, scale, threads): store keys and values of n\n"
     "positions from `start` on and attend from each to all up to it. Addresses of contiguous memory: heads float32\n"
     "(R, n, 3, H, d), queries, keys and values; cache uint8 (R, H, 2, room, 3 D), D being d rounded up to a multiple of\n"
     "64; scales float32 (R, H, 2, room); out float32 (R, n, H, d); weights float32 (threads, room), overwritten.\n"
     "d is at most 256."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef description = {PyModuleDef_HEAD_INIT, "_attention", NULL, -1, functions, NULL, NULL, NULL,
                                         NULL};

PyMODINIT_FUNC PyInit__attention(void)
{
    return PyModule_Create(&description);
}
