// Eight lanes: AVX2 with FMA and F16C, with the dot instruction of AVX-VNNI where the file is compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace vesalius {
namespace {

struct Vector256 {
    static constexpr int width = 8, max_rows = 4;
    using Bytes = __m256i;
    using Sums = __m256i;
    using Ints = __m256i;
    using Floats = __m256;

    static Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static Bytes field(Bytes b, int shift, int mask) {
        return _mm256_and_si256(shift ? _mm256_srli_epi16(b, shift) : b, _mm256_set1_epi8(char(mask)));
    }
    static Bytes raise(Bytes b, int shift) { return _mm256_slli_epi16(b, shift); }
    static Bytes either(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }

    // Of sixteen floats: the bits of the largest magnitude; x * inverse as int8, and the sum of that.
    static uint32_t largest(const float* x) {
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i eight = _mm256_max_epu32(_mm256_and_si256(load_bytes(reinterpret_cast<const uint8_t*>(x)), magnitude),
                                         _mm256_and_si256(load_bytes(reinterpret_cast<const uint8_t*>(x + 8)), magnitude));
        __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
        return uint32_t(_mm_cvtsi128_si32(_mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1))));
    }
    static int32_t round(const float* x, float inverse, int8_t* out) {
        const __m256 factor = _mm256_set1_ps(inverse);
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(load(x), factor)), b = _mm256_cvtps_epi32(_mm256_mul_ps(load(x + 8), factor));
        __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_packs_epi16(low, high));
        __m128i sum = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
    }

    static Ints broadcast(int32_t v) { return _mm256_set1_epi32(v); }
    static Sums no_sums() { return _mm256_setzero_si256(); }
#ifdef __AVXVNNI__
    static constexpr bool direct = true, biased = true, takes_bytes = true;
    static Ints shift_left(Ints v, int32_t by) { return _mm256_sllv_epi32(v, _mm256_set1_epi32(by)); }
    static constexpr int held(int) { return 8; }
    static Sums dot(Sums s, Bytes codes, int32_t x) {
        return _mm256_dpbusd_avx_epi32(s, codes, _mm256_set1_epi32(x));
    }
    static Sums dot_signed(Sums s, Bytes codes, int32_t x) {
        return dot(s, _mm256_xor_si256(codes, _mm256_set1_epi8(char(0x80))), x);
    }
    static Ints widen(Ints total, Sums) { return total; }
#else
    // Pairs of products are added in int16: 2 * 127 * largest code a quad, up to 32767.
    static constexpr bool direct = false, biased = false, takes_bytes = false;
    static constexpr int held(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }
    static Sums dot(Sums s, Bytes codes, int32_t x) {
        return _mm256_add_epi16(s, _mm256_maddubs_epi16(codes, _mm256_set1_epi32(x)));
    }
    static Sums dot_signed(Sums s, Bytes codes, int32_t x) {
        // maddubs wants one side unsigned: |code| times x with the sign of the code.
        __m256i four = _mm256_sign_epi8(_mm256_set1_epi32(x), codes);
        return _mm256_add_epi16(s, _mm256_maddubs_epi16(_mm256_abs_epi8(codes), four));
    }
    static Ints widen(Ints total, Sums s) {
        return _mm256_add_epi32(total, _mm256_madd_epi16(s, _mm256_set1_epi16(1)));
    }
#endif
    static Floats zero() { return _mm256_setzero_ps(); }
    static Floats splat(float v) { return _mm256_set1_ps(v); }
    static Floats floats(Ints v) { return _mm256_cvtepi32_ps(v); }
    static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static Floats fnma(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }
    static Floats load_halves(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static Floats load_u8(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats load_i8(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
};

}  // namespace
}  // namespace vesalius
