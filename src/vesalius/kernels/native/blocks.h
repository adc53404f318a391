// ggml's blocks, one row at a time: from the bytes of a block to plain codes and scales, and back to the same bytes.
//
// The byte orders are those of ggml-common.h / the GGUF specification, described in kernels/block_formats.
#pragma once

#include <cstring>

#include "formats.h"

namespace vesalius {

// One block of one row. Formats of 32 columns fill the first 32 codes; `scale` and `minimum` are per 16 or 32 columns
// in the K formats. d and m are half-precision bits.
struct Block {
    uint16_t d, m;
    uint8_t codes[SUPER * GROUP];
    uint8_t scale[16], minimum[16];
};

inline uint16_t load_half(const uint8_t* p) {
    uint16_t out;
    std::memcpy(&out, p, 2);
    return out;
}
inline void store_half(uint8_t* p, uint16_t v) { std::memcpy(p, &v, 2); }

// 6-bit scales and minima of Q4_K and Q5_K: eight of each in twelve bytes.
inline void read_scales_12(const uint8_t* s, Block& b) {
    for (int j = 0; j < 4; j++) {
        b.scale[j] = s[j] & 63;
        b.minimum[j] = s[j + 4] & 63;
        b.scale[j + 4] = (s[j + 8] & 15) | (s[j] >> 6) << 4;
        b.minimum[j + 4] = s[j + 8] >> 4 | (s[j + 4] >> 6) << 4;
    }
}
inline void write_scales_12(const Block& b, uint8_t* s) {
    for (int j = 0; j < 4; j++) {
        s[j] = b.scale[j] | (b.scale[j + 4] >> 4) << 6;
        s[j + 4] = b.minimum[j] | (b.minimum[j + 4] >> 4) << 6;
        s[j + 8] = (b.scale[j + 4] & 15) | (b.minimum[j + 4] & 15) << 4;
    }
}

// 6-bit scales of Q3_K, stored plus 32: sixteen in twelve bytes.
inline void read_scales_q3(const uint8_t* s, Block& b) {
    for (int k = 0; k < 16; k++) {
        const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4, high = s[8 + k % 4] >> (2 * (k / 4)) & 3;
        b.scale[k] = uint8_t((low | high << 4) - 32);
    }
}
inline void write_scales_q3(const Block& b, uint8_t* s) {
    std::memset(s, 0, 12);
    for (int k = 0; k < 16; k++) {
        const int value = (int8_t(b.scale[k]) + 32) & 63;
        s[k % 8] |= (value & 15) << (k < 8 ? 0 : 4);
        s[8 + k % 4] |= (value >> 4) << (2 * (k / 4));
    }
}

template <Format F>
inline void read_block(const uint8_t* p, Block& b) {
    constexpr FormatTraits T = TRAITS[F];
    uint8_t* q = b.codes;
    if constexpr (T.layout == ScaleLayout::PLAIN) {  // d, m if any, one bit of every code if 5, then the codes
        b.d = load_half(p);
        b.m = T.minimum ? load_half(p + 2) : 0;
        p += T.minimum ? 4 : 2;
        if constexpr (T.bits == 8) {
            std::memcpy(q, p, 32);
        } else {
            uint32_t high = 0;
            if constexpr (T.bits == 5) {
                std::memcpy(&high, p, 4);
                p += 4;
            }
            for (int i = 0; i < 16; i++) {
                q[i] = uint8_t((p[i] & 15) | (high >> i & 1) << 4);
                q[i + 16] = uint8_t(p[i] >> 4 | (high >> (i + 16) & 1) << 4);
            }
        }
    } else if constexpr (F == Q2_K) {  // scales and minima 16, codes 64, d, dmin
        for (int k = 0; k < 16; k++) {
            b.scale[k] = p[k] & 15;
            b.minimum[k] = p[k] >> 4;
        }
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++) q[32 * g + l] = p[16 + g / 4 * 32 + l] >> (2 * (g % 4)) & 3;
        b.d = load_half(p + 80);
        b.m = load_half(p + 82);
    } else if constexpr (F == Q3_K) {  // high bits 32, low pairs 64, scales 12, d
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++)
                q[32 * g + l] =
                    uint8_t((p[32 + g / 4 * 32 + l] >> (2 * (g % 4)) & 3) | (p[l] >> g & 1) << 2);
        read_scales_q3(p + 96, b);
        b.d = load_half(p + 108);
    } else if constexpr (F == Q4_K || F == Q5_K) {  // d, dmin, scales 12, high bits 32 if 5, codes 128
        b.d = load_half(p);
        b.m = load_half(p + 2);
        read_scales_12(p + 4, b);
        const uint8_t *high = p + 16, *low = p + (F == Q5_K ? 48 : 16);
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++) {
                uint8_t code = low[g / 2 * 32 + l] >> (4 * (g % 2)) & 15;
                if constexpr (F == Q5_K) code |= (high[l] >> g & 1) << 4;
                q[32 * g + l] = code;
            }
    } else {  // Q6_K: low halves 128, high pairs 64, scales 16, d
        const uint8_t* high = p + 128;
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++)
                q[32 * g + l] = uint8_t((p[g / 4 * 64 + g % 2 * 32 + l] >> (g % 4 / 2 * 4) & 15) |
                                        (high[g / 4 * 32 + l] >> (2 * (g % 4)) & 3) << 4);
        std::memcpy(b.scale, p + 192, 16);
        b.d = load_half(p + 208);
    }
}

template <Format F>
inline void write_block(const Block& b, uint8_t* p) {
    constexpr FormatTraits T = TRAITS[F];
    const uint8_t* q = b.codes;
    std::memset(p, 0, T.block_bytes);
    if constexpr (T.layout == ScaleLayout::PLAIN) {
        store_half(p, b.d);
        if constexpr (T.minimum) store_half(p + 2, b.m);
        p += T.minimum ? 4 : 2;
        if constexpr (T.bits == 8) {
            std::memcpy(p, q, 32);
        } else {
            if constexpr (T.bits == 5) {
                uint32_t high = 0;
                for (int i = 0; i < 32; i++) high |= uint32_t(q[i] >> 4) << i;
                std::memcpy(p, &high, 4);
                p += 4;
            }
            for (int i = 0; i < 16; i++) p[i] = uint8_t((q[i] & 15) | q[i + 16] << 4);
        }
    } else if constexpr (F == Q2_K) {
        for (int k = 0; k < 16; k++) p[k] = uint8_t(b.scale[k] | b.minimum[k] << 4);
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++) p[16 + g / 4 * 32 + l] |= q[32 * g + l] << (2 * (g % 4));
        store_half(p + 80, b.d);
        store_half(p + 82, b.m);
    } else if constexpr (F == Q3_K) {
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++) {
                p[32 + g / 4 * 32 + l] |= (q[32 * g + l] & 3) << (2 * (g % 4));
                p[l] |= (q[32 * g + l] >> 2) << g;
            }
        write_scales_q3(b, p + 96);
        store_half(p + 108, b.d);
    } else if constexpr (F == Q4_K || F == Q5_K) {
        store_half(p, b.d);
        store_half(p + 2, b.m);
        write_scales_12(b, p + 4);
        uint8_t *high = p + 16, *low = p + (F == Q5_K ? 48 : 16);
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++) {
                low[g / 2 * 32 + l] |= (q[32 * g + l] & 15) << (4 * (g % 2));
                if constexpr (F == Q5_K) high[l] |= (q[32 * g + l] >> 4) << g;
            }
    } else {
        for (int g = 0; g < 8; g++)
            for (int l = 0; l < 32; l++) {
                p[g / 4 * 64 + g % 2 * 32 + l] |= (q[32 * g + l] & 15) << (g % 4 / 2 * 4);
                p[128 + g / 4 * 32 + l] |= (q[32 * g + l] >> 4) << (2 * (g % 4));
            }
        std::memcpy(p + 192, b.scale, 16);
        store_half(p + 208, b.d);
    }
}

}  // namespace vesalius
