// Sixteen lanes: AVX-512, with the dot instruction of VNNI where the file is compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace vesalius {
namespace {

struct Vector512 {
    static constexpr int width = 16, max_rows = 8;
    using Bytes = __m512i;
    using Sums = __m512i;
    using Ints = __m512i;
    using Floats = __m512;

    static Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static Bytes field(Bytes b, int shift, int mask) {
        return _mm512_and_si512(shift ? _mm512_srli_epi16(b, shift) : b, _mm512_set1_epi8(char(mask)));
    }
    static Bytes raise(Bytes b, int shift) { return _mm512_slli_epi16(b, shift); }
    static Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }

    // Of sixteen floats: the bits of the largest magnitude; x * inverse as int8, and the sum of that.
    static uint32_t largest(const float* x) {
        return _mm512_reduce_max_epu32(_mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0x7fffffff)));
    }
    static int32_t round(const float* x, float inverse, int8_t* out) {
        __m512i values = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtsepi32_epi8(values));
        return _mm512_reduce_add_epi32(values);
    }

    static Ints broadcast(int32_t v) { return _mm512_set1_epi32(v); }
    static Sums no_sums() { return _mm512_setzero_si512(); }
#ifdef __AVX512VNNI__
    static constexpr bool direct = true, biased = true, takes_bytes = true;
    static Ints shift_left(Ints v, int32_t by) { return _mm512_sllv_epi32(v, _mm512_set1_epi32(by)); }
    static constexpr int held(int) { return 8; }
    static Sums dot(Sums s, Bytes codes, int32_t x) { return _mm512_dpbusd_epi32(s, codes, _mm512_set1_epi32(x)); }
    static Sums dot_signed(Sums s, Bytes codes, int32_t x) {
        return dot(s, _mm512_xor_si512(codes, _mm512_set1_epi8(char(0x80))), x);
    }
    static Ints widen(Ints total, Sums) { return total; }
#else
    // Pairs of products are added in int16: 2 * 127 * largest code a quad, up to 32767.
    static constexpr bool direct = false, biased = false, takes_bytes = false;
    static constexpr int held(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }
    static Sums dot(Sums s, Bytes codes, int32_t x) {
        return _mm512_add_epi16(s, _mm512_maddubs_epi16(codes, _mm512_set1_epi32(x)));
    }
    static Sums dot_signed(Sums s, Bytes codes, int32_t x) {
        // maddubs wants one side unsigned: |code| times x with the sign of the code.
        __m512i four = _mm512_set1_epi32(x);
        four = _mm512_mask_sub_epi8(four, _mm512_movepi8_mask(codes), _mm512_setzero_si512(), four);
        return _mm512_add_epi16(s, _mm512_maddubs_epi16(_mm512_abs_epi8(codes), four));
    }
    static Ints widen(Ints total, Sums s) {
        return _mm512_add_epi32(total, _mm512_madd_epi16(s, _mm512_set1_epi16(1)));
    }
#endif
    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats splat(float v) { return _mm512_set1_ps(v); }
    static Floats floats(Ints v) { return _mm512_cvtepi32_ps(v); }
    static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static Floats fnma(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
    static Floats load_halves(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static Floats load_u8(const uint8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats load_i8(const uint8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
};

}  // namespace
}  // namespace vesalius
