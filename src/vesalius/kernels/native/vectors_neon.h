// Four lanes: ARM NEON with the dot-product extension (ARMv8.2). Written from the manual, not measured, not yet run.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace vesalius {
namespace {

struct VectorNeon {
    static constexpr int width = 4, max_rows = 8;
    using Bytes = uint8x16_t;
    using Sums = int32x4_t;
    using Ints = int32x4_t;
    using Floats = float32x4_t;
    static constexpr bool direct = true, biased = false, takes_bytes = false;
    static constexpr int held(int) { return 8; }

    static Bytes load_bytes(const uint8_t* p) { return vld1q_u8(p); }
    static Bytes field(Bytes b, int shift, int mask) {
        return vandq_u8(vshlq_u8(b, vdupq_n_s8(int8_t(-shift))), vdupq_n_u8(uint8_t(mask)));
    }
    static Bytes raise(Bytes b, int shift) { return vshlq_u8(b, vdupq_n_s8(int8_t(shift))); }
    static Bytes either(Bytes a, Bytes b) { return vorrq_u8(a, b); }

    // Of sixteen floats: the bits of the largest magnitude; x * inverse as int8, and the sum of that.
    static uint32_t largest(const float* x) {
        uint32x4_t most = vdupq_n_u32(0);
        for (int i = 0; i < 16; i += 4)
            most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
        return vmaxvq_u32(most);
    }
    static int32_t round(const float* x, float inverse, int8_t* out) {
        int16x4_t parts[4];
        for (int i = 0; i < 4; i++) parts[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse)));
        const int8x16_t values = vcombine_s8(vqmovn_s16(vcombine_s16(parts[0], parts[1])),
                                             vqmovn_s16(vcombine_s16(parts[2], parts[3])));
        vst1q_s8(out, values);
        return vaddlvq_s8(values);
    }

    static Ints broadcast(int32_t v) { return vdupq_n_s32(v); }
    static Sums no_sums() { return vdupq_n_s32(0); }
    // Unsigned codes are below 64 and so the same as signed bytes.
    static Sums dot(Sums s, Bytes codes, int32_t x) {
        return vdotq_s32(s, vreinterpretq_s8_u8(codes), vreinterpretq_s8_s32(vdupq_n_s32(x)));
    }
    static Sums dot_signed(Sums s, Bytes codes, int32_t x) { return dot(s, codes, x); }
    static Ints widen(Ints total, Sums) { return total; }

    static Floats zero() { return vdupq_n_f32(0.0f); }
    static Floats splat(float v) { return vdupq_n_f32(v); }
    static Floats floats(Ints v) { return vcvtq_f32_s32(v); }
    static Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
    static Floats fnma(Floats a, Floats b, Floats c) { return vfmsq_f32(c, a, b); }
    static Floats load_halves(const uint8_t* p) {
        uint16x4_t bits;
        std::memcpy(&bits, p, sizeof(bits));
        return vcvt_f32_f16(vreinterpret_f16_u16(bits));
    }
    static Floats load_u8(const uint8_t* p) {
        uint32_t bytes[4] = {p[0], p[1], p[2], p[3]};
        return vcvtq_f32_u32(vld1q_u32(bytes));
    }
    static Floats load_i8(const uint8_t* p) {
        int32_t bytes[4] = {int8_t(p[0]), int8_t(p[1]), int8_t(p[2]), int8_t(p[3])};
        return vcvtq_f32_s32(vld1q_s32(bytes));
    }
    static Floats load(const float* p) { return vld1q_f32(p); }
    static void store(float* p, Floats v) { vst1q_f32(p, v); }
};

}  // namespace
}  // namespace vesalius
