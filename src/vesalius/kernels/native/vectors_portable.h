// Sixteen lanes in the compiler's own vector types: runs on any CPU, and says what the vector classes mean.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats.h"

namespace vesalius {
namespace {

typedef uint32_t Uint16Lanes __attribute__((vector_size(64)));
typedef int32_t Int16Lanes __attribute__((vector_size(64)));
typedef float Float16Lanes __attribute__((vector_size(64)));

struct VectorPortable {
    static constexpr int width = 16, max_rows = 4;
    using Bytes = Uint16Lanes;  // four codes a lane, the first in the lowest byte
    using Sums = Int16Lanes;
    using Ints = Int16Lanes;
    using Floats = Float16Lanes;
    static constexpr bool direct = true, biased = false, takes_bytes = true;
    static constexpr int held(int) { return 8; }

    static Bytes load_bytes(const uint8_t* p) {
        Bytes out;
        std::memcpy(&out, p, sizeof(out));
        return out;
    }
    static Bytes field(Bytes b, int shift, int mask) { return (b >> uint32_t(shift)) & uint32_t(mask * 0x01010101); }
    static Bytes raise(Bytes b, int shift) { return b << uint32_t(shift); }
    static Bytes either(Bytes a, Bytes b) { return a | b; }

    // Of sixteen floats: the bits of the largest magnitude; x * inverse as int8, and the sum of that. Plain loops that
    // every compiler turns into vectors.
    static uint32_t largest(const float* x) {
        uint32_t most = 0;
        for (int i = 0; i < TILE; i++) {
            uint32_t bits;
            std::memcpy(&bits, x + i, 4);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        return most;
    }
    static int32_t round(const float* x, float inverse, int8_t* out) {
        constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: added, the fraction is rounded off to nearest even
        int32_t values[TILE], sum = 0;
        for (int i = 0; i < TILE; i++) {
            const float rounded = x[i] * inverse + ROUND;
            std::memcpy(&values[i], &rounded, 4);
            values[i] -= 0x4b400000;
        }
        for (int i = 0; i < TILE; i++) out[i] = int8_t(values[i]);
        for (int i = 0; i < TILE; i++) sum += int8_t(values[i]);  // reading `out` again would not become vectors
        return sum;
    }

    static Ints shift_left(Ints v, int32_t by) { return v << by; }
    static Ints broadcast(int32_t v) { return Ints{} + v; }
    static Sums no_sums() { return Sums{}; }
    static int32_t byte(int32_t four, int c) { return int8_t(uint32_t(four) >> 8 * c); }
    static Sums dot(Sums s, Bytes codes, int32_t x) {
        for (int c = 0; c < 4; c++) s += Sums((codes >> uint32_t(8 * c)) & 0xffu) * byte(x, c);
        return s;
    }
    static Sums dot_signed(Sums s, Bytes codes, int32_t x) {
        for (int c = 0; c < 4; c++) s += (Sums(codes << uint32_t(24 - 8 * c)) >> 24) * byte(x, c);
        return s;
    }
    static Ints widen(Ints total, Sums) { return total; }

    static Floats zero() { return Floats{}; }
    static Floats splat(float v) { return Floats{} + v; }
    static Floats floats(Ints a) { return __builtin_convertvector(a, Floats); }
    static Floats mul(Floats a, Floats b) { return a * b; }
    static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
    static Floats fnma(Floats a, Floats b, Floats c) { return c - a * b; }
    static Floats load_halves(const uint8_t* p) {
        float out[TILE];
        for (int i = 0; i < TILE; i++) {
            uint16_t half;
            std::memcpy(&half, p + 2 * i, 2);
            out[i] = half_to_float(half);
        }
        Floats lanes;
        std::memcpy(&lanes, out, sizeof(lanes));
        return lanes;
    }
    static Floats load_u8(const uint8_t* p) {
        Floats out;
        for (int i = 0; i < TILE; i++) out[i] = float(p[i]);
        return out;
    }
    static Floats load_i8(const uint8_t* p) {
        Floats out;
        for (int i = 0; i < TILE; i++) out[i] = float(int8_t(p[i]));
        return out;
    }
    static Floats load(const float* p) {
        Floats out;
        std::memcpy(&out, p, sizeof(out));
        return out;
    }
    static void store(float* p, Floats a) { std::memcpy(p, &a, sizeof(a)); }
};

}  // namespace
}  // namespace vesalius
