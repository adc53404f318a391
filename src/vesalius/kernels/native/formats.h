// What tells one block format from another: bits of a code, how codes become weights, where scales lie.
//
// weight = scale * (code - offset) - minimum          (Q4_1 and Q5_1 store the negative: weight = d * code + m)
//
// Codes of a group of 32 columns are eight quads of four columns; a plane spreads them over lines of 64 bytes:
//   NIBBLE plane  4 lines  line j: low half of the byte = quad j, high half = quad j + 4        (low four bits)
//   PAIR plane    2 lines  line j / 4, bits 2 (j % 4) of the byte = quad j                       (two bits)
//   BIT plane     1 line   bit j of the byte = quad j                                            (one bit)
//   BYTE plane    8 lines  line j = quad j, as signed bytes
// 2 bits = PAIR, 3 = PAIR + BIT, 4 = NIBBLE, 5 = NIBBLE + BIT, 6 = NIBBLE + PAIR, 8 = BYTE; the later plane holds the
// higher bits.
#pragma once

#include "quantised.h"

namespace vesalius {

// Scales of a tile, super-block after super-block; [16] runs over the rows of the tile:
//   PLAIN  per group:              half d[16], and half m[16] where the format has a minimum
//   SUB32  per 8 groups: half d[16], half dmin[16], then per group u8 scale[16], u8 minimum[16]
//   SUB16  per 8 groups: half d[16], half dmin[16] if minimum, then per group and half: i8 scale[16] (, u8 minimum[16])
enum class ScaleLayout { PLAIN, SUB32, SUB16 };

struct FormatTraits {
    int bits;
    int offset;
    bool minimum;
    ScaleLayout layout;
    int block_bytes;  // of one row in ggml's layout
};

constexpr FormatTraits TRAITS[FORMAT_COUNT] = {
    {4, 8, false, ScaleLayout::PLAIN, 18},    // Q4_0
    {4, 0, true, ScaleLayout::PLAIN, 20},     // Q4_1
    {5, 16, false, ScaleLayout::PLAIN, 22},   // Q5_0
    {5, 0, true, ScaleLayout::PLAIN, 24},     // Q5_1
    {8, 0, false, ScaleLayout::PLAIN, 34},    // Q8_0
    {2, 0, true, ScaleLayout::SUB16, 84},     // Q2_K
    {3, 4, false, ScaleLayout::SUB16, 110},   // Q3_K
    {4, 0, true, ScaleLayout::SUB32, 144},    // Q4_K
    {5, 0, true, ScaleLayout::SUB32, 176},    // Q5_K
    {6, 32, false, ScaleLayout::SUB16, 210},  // Q6_K
};

constexpr int LINE = 64;
constexpr int SUPER = 8;  // groups of a super-block of the K formats

// Lines of 64 bytes that hold the codes of one group.
constexpr int code_lines(int bits) { return bits; }  // 32 columns x 16 rows x bits / 8 = 64 x bits

// Groups that share one pair of half-precision scales.
constexpr int groups_of_super(FormatTraits t) { return t.layout == ScaleLayout::PLAIN ? 1 : SUPER; }

// Bytes of half-precision scales at the head of a super-block, and of the small scales of each of its groups.
constexpr int head_bytes(FormatTraits t) { return 2 * TILE * (t.minimum ? 2 : 1); }
constexpr int sub_bytes(FormatTraits t) {
    if (t.layout == ScaleLayout::PLAIN) return 0;
    return TILE * (t.layout == ScaleLayout::SUB16 ? 2 : 1) * (t.minimum ? 2 : 1);
}
constexpr int super_bytes(FormatTraits t) { return head_bytes(t) + groups_of_super(t) * sub_bytes(t); }

inline int64_t code_bytes_of_tile(FormatTraits t, int64_t groups) { return groups * code_lines(t.bits) * LINE; }
inline int64_t scale_bytes_of_tile(FormatTraits t, int64_t groups) {
    return groups / groups_of_super(t) * super_bytes(t);
}

// float32 from half precision by integer arithmetic: exact, subnormals and infinities included.
inline float half_to_float(uint16_t half) {
    uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x0400) {
        bits = sign | ((rest << 13) + 0x38000000);
    } else {
        float value = float(rest) * 5.9604644775390625e-08f;  // 2^-24
        uint32_t magnitude;
        __builtin_memcpy(&magnitude, &value, 4);
        bits = sign | magnitude;
    }
    float out;
    __builtin_memcpy(&out, &bits, 4);
    return out;
}

}  // namespace vesalius
