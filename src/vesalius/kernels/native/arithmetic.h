// The arithmetic between products of matrices: vectors of this CPU, sums, exponentials, norms and rotations, for
// paged_attention.cpp, decoder.cpp and parts.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

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
inline float load(const int8_t* p) { return float(*p); }
inline void store(Bf16* p, float x) {  // to nearest even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    p->bits = x != x ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

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

// A vector of what pages hold.
inline V::Floats vector(const float* p) { return V::load(p); }
inline V::Floats vector(const int8_t* p) { return V::load_i8(reinterpret_cast<const uint8_t*>(p)); }
inline V::Floats vector(const Bf16* p) {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#elif defined(__AVX2__) && defined(__FMA__)
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#elif defined(__aarch64__)
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16));
#else
    float floats[V::width];
    for (int i = 0; i < V::width; i++) floats[i] = load(p + i);
    return V::load(floats);
#endif
}

// Holds a vector in its register: GCC else reads it from memory again in each of the products that it is part of.
inline void hold(V::Floats& x) {
#if defined(__x86_64__) && defined(__AVX2__)
    asm("" : "+v"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#endif
}

// Of sixteen lanes, in the order of a tree: the other half is added to the first until one is left.
#if defined(__AVX512F__) && defined(__AVX512BW__)
inline float sum_of(const float* lanes) { return _mm512_reduce_add_ps(_mm512_loadu_ps(lanes)); }
inline float largest_lane(const float* lanes) { return _mm512_reduce_max_ps(_mm512_loadu_ps(lanes)); }
#else
inline float sum_of(const float* lanes) {
    float half[8], quarter[4];
    for (int i = 0; i < 8; i++) half[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; i++) quarter[i] = half[i] + half[i + 4];
    return quarter[0] + quarter[2] + (quarter[1] + quarter[3]);
}
inline float largest_lane(const float* lanes) {
    float largest = lanes[0];
    for (int j = 1; j < LANES; j++) largest = lanes[j] > largest ? lanes[j] : largest;
    return largest;
}
#endif

// out[i] = sum of the lanes of sums[i], for sixteen of them side by side. In registers half of the vectors is added to
// the other half after a transposition, until one is left: three instructions for each sum, where one alone takes ten.
#if defined(__AVX512F__) && defined(__AVX512BW__)
inline __m512 fold_four(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
inline __m512 fold_quarters(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline void add_lanes(const V::Floats* s, float* out) {
    const __m512 a = fold_quarters(fold_four(s[0], s[1], s[2], s[3]), fold_four(s[4], s[5], s[6], s[7]));
    const __m512 b = fold_quarters(fold_four(s[8], s[9], s[10], s[11]), fold_four(s[12], s[13], s[14], s[15]));
    _mm512_storeu_ps(out, fold_quarters(a, b));
}
#elif defined(__AVX2__) && defined(__FMA__)
inline __m256 fold_four(__m256 a, __m256 b, __m256 c, __m256 d) {
    return _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
}
inline void add_lanes(const V::Floats* s, float* out) {
    for (int i = 0; i < LANES; i += 8) {
        const __m256 a = fold_four(s[i], s[i + 1], s[i + 2], s[i + 3]);
        const __m256 b = fold_four(s[i + 4], s[i + 5], s[i + 6], s[i + 7]);
        const __m256 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
        _mm256_storeu_ps(out + i, _mm256_add_ps(low, high));
    }
}
#else
inline void add_lanes(const V::Floats* s, float* out) {
    float lanes[LANES][V::width];
    for (int i = 0; i < LANES; i++) V::store(lanes[i], s[i]);
    for (int half = V::width / 2; half > 0; half /= 2)
        for (int i = 0; i < LANES; i++)
            for (int j = 0; j < half; j++) lanes[i][j] += lanes[i][j + half];
    for (int i = 0; i < LANES; i++) out[i] = lanes[i][0];
}
#endif

inline float dot(const float* a, const float* b, int n) {
    float lanes[LANES] = {}, rest = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = __builtin_fmaf(a[i + j], b[i + j], lanes[j]);
    for (; i < n; i++) rest = __builtin_fmaf(a[i], b[i], rest);
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
    return largest_lane(lanes);
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

// gate = silu(gate) * up
inline void gate_by_silu(float* gate, const float* up, int n) {
    for (int i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
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

}  // namespace
}  // namespace vesalius
