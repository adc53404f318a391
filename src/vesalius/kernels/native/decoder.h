// What a decoder layer is, and the arithmetic beside its products: for decoder.cpp (few rows) and decoder_prompt.cpp
// (many rows).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantised.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include "vectors_512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "vectors_256.h"
#elif defined(__aarch64__)
#include "vectors_neon.h"
#else
#include "vectors_portable.h"
#endif

namespace vesalius {

// The fields of interface.py: DecoderLayerStruct. Pointers may be null where a layer has no such part.
struct DecoderLayer {
    PackedMatrix q, k, v, o, gate, up, down;
    const float *input_norm, *post_norm;  // (hidden)
    const float *q_norm, *k_norm;         // (head_dim)
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    int32_t hidden, heads, kv_heads, head_dim, intermediate;
    int32_t window;  // keys that a query reads, its own included; 0: all
    float eps, scale, residual;
};

// Keys and values of one layer: (kv_heads, capacity, head_dim), `past` positions filled. cos and sin: (rows, rotary).
struct DecoderState {
    void *keys, *values;
    const float *cos, *sin;
    int64_t capacity, past;
    int32_t element;  // of keys and values: 0 float32, 1 bfloat16
    int32_t rotary;   // coordinates of a head that turn, 0: none
};

struct Bf16 {
    uint16_t bits;
};
inline float load(const float* p) { return *p; }
inline float load(const Bf16* p) {
    const uint32_t bits = uint32_t(p->bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
inline void store(float* p, float x) { *p = x; }
inline void store(Bf16* p, float x) {  // to nearest even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    p->bits = x != x ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Any number of rows; head_dim is a multiple of 16.
void decode_prompt(const DecoderLayer& layer, const DecoderState& state, float* x, int rows, int threads,
                   const Kernels& kernels);

namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__)
using V = Vector512;
#elif defined(__AVX2__) && defined(__FMA__)
using V = Vector256;
#elif defined(__aarch64__)
using V = VectorNeon;
#else
using V = VectorPortable;
#endif

constexpr int LANES = 16;

inline float sum_of(const float* lanes) {
    float half[8], quarter[4];
    for (int i = 0; i < 8; i++) half[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; i++) quarter[i] = half[i] + half[i + 4];
    return quarter[0] + quarter[2] + (quarter[1] + quarter[3]);
}

template <class T>
inline float dot(const float* a, const T* b, int n) {
    float lanes[LANES] = {}, rest = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = __builtin_fmaf(a[i + j], load(b + i + j), lanes[j]);
    for (; i < n; i++) rest = __builtin_fmaf(a[i], load(b + i), rest);
    return sum_of(lanes) + rest;
}

// e^x to two units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes). No branches, so that
// loops over it become vectors. Below -87 the result is e^-87, above 88 it is e^88.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: added, the fraction is rounded off
    const float shifted = __builtin_fmaf(x, 1.44269504088896341f, ROUND), n = shifted - ROUND;
    const float r = __builtin_fmaf(n, 2.12194440e-4f, __builtin_fmaf(n, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p * r, r, r) + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4b400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

// The largest of scores and `least`; count is a multiple of LANES. Without lanes neither this nor a sum becomes vectors.
inline float largest_of(const float* scores, int count, float least) {
    float lanes[LANES];
    for (int j = 0; j < LANES; j++) lanes[j] = least;
    for (int s = 0; s < count; s += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = scores[s + j] > lanes[j] ? scores[s + j] : lanes[j];
    for (int j = 0; j < LANES; j++) least = lanes[j] > least ? lanes[j] : least;
    return least;
}

// scores -> e^(scores - largest), and their sum; count is a multiple of LANES.
inline float exponentials(float* scores, int count, float largest) {
    float lanes[LANES] = {};
    for (int s = 0; s < count; s++) scores[s] = exponential(scores[s] - largest);
    for (int s = 0; s < count; s += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += scores[s + j];
    return sum_of(lanes);
}

// out = x / rms(x) * weight
inline void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
    const float scale = 1.0f / std::sqrt(dot(x, x, n) / float(n) + eps);
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

// Coordinate i turns with coordinate i + rotary / 2 (kernels/rope.py).
inline void rotate(float* head, const float* cos, const float* sin, int rotary) {
    const int half = rotary / 2;
    for (int i = 0; i < half; i++) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

struct Range {
    int first, last;
};
inline Range share(int count, int thread, int threads) {
    return {int(int64_t(count) * thread / threads), int(int64_t(count) * (thread + 1) / threads)};
}

inline void norm_and_rotate(float* heads, int count, const float* norm, const DecoderLayer& l, const DecoderState& s, int row) {
    for (int h = 0; h < count; h++) {
        float* head = heads + int64_t(h) * l.head_dim;
        if (norm) rms_norm(head, norm, l.head_dim, l.eps, head);
        if (s.rotary) rotate(head, s.cos + int64_t(row) * s.rotary, s.sin + int64_t(row) * s.rotary, s.rotary);
    }
}

}  // namespace
}  // namespace vesalius
