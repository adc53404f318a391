// One tile times a few quantised activation rows, written once for all instruction sets.
//
// Included by tile_product_<isa>.cpp after a vector class V with
//   width, max_rows                    lanes, which are rows of the matrix; most activation rows held in registers
//   Bytes, Sums, Ints, Floats          4 codes a lane; sums of products as the dot instruction leaves them; int32; float
//   load_bytes, field, raise, either   a line; bits of every byte after a shift right; shift left; or
//   dot, dot_signed                    add the four products of every lane to sums: unsigned codes, signed codes
//   held(bits)                         how many quads the sums hold before they overflow (8: a whole group)
//   widen(total, sums)                 total + sums, and `direct` where sums are int32 already
//   biased                             dot_signed takes codes as code + 128, so 128 * sum has to be taken away
// Everything lies in an unnamed namespace: each file is compiled for its own instruction set, and no function of one
// file may stand in for that of another.
#pragma once

#include <cmath>
#include <cstring>

#include "formats.h"

namespace vesalius {
namespace {

// Quad j of a group: the codes of four columns. `lines` points to line 0, at the lanes wanted.
template <class V, int BITS>
inline __attribute__((always_inline)) typename V::Bytes quad(const uint8_t* lines, int j) {
    if constexpr (BITS == 8) {
        return V::load_bytes(lines + j * LINE);
    } else if constexpr (BITS <= 3) {
        auto codes = V::field(V::load_bytes(lines + j / 4 * LINE), 2 * (j % 4), 0x03);
        if constexpr (BITS == 3)
            codes = V::either(codes, V::raise(V::field(V::load_bytes(lines + 2 * LINE), j, 0x01), 2));
        return codes;
    } else {
        auto codes = V::field(V::load_bytes(lines + j % 4 * LINE), j / 4 * 4, 0x0f);
        if constexpr (BITS == 5)
            codes = V::either(codes, V::raise(V::field(V::load_bytes(lines + 4 * LINE), j, 0x01), 4));
        if constexpr (BITS == 6)
            codes = V::either(codes, V::raise(V::field(V::load_bytes(lines + (4 + j / 4) * LINE), j % 4 * 2, 0x03), 4));
        return codes;
    }
}

inline int32_t four(const int8_t* values) {
    int32_t out;
    std::memcpy(&out, values, 4);
    return out;
}

// Products of quads FIRST..LAST-1 with R activation rows, less the offset of the codes.
template <class V, Format F, int R, int FIRST, int LAST>
inline __attribute__((always_inline)) void integer_products(const uint8_t* lines, const ActivationGroup* x,
                                                            typename V::Ints (&total)[R]) {
    constexpr FormatTraits T = TRAITS[F];
    constexpr int OFFSET = T.bits == 8 && V::biased ? 128 : T.offset;
    constexpr int HELD = V::held(T.bits);
    typename V::Sums sums[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        if constexpr (OFFSET != 0) {
            int sum = (FIRST < 4 ? x[r].sum[0] : 0) + (LAST > 4 ? x[r].sum[1] : 0);
            total[r] = V::broadcast(-OFFSET * sum);
        } else {
            total[r] = V::broadcast(0);
        }
        if constexpr (V::direct)
            sums[r] = total[r];
        else
            sums[r] = V::no_sums();
    }
#pragma GCC unroll 8
    for (int j = FIRST; j < LAST; j++) {
        typename V::Bytes codes = quad<V, T.bits>(lines, j);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            if constexpr (T.bits == 8)
                sums[r] = V::dot_signed(sums[r], codes, four(x[r].values + 4 * j));
            else
                sums[r] = V::dot(sums[r], codes, four(x[r].values + 4 * j));
            if (!V::direct && ((j + 1 - FIRST) % HELD == 0 || j + 1 == LAST)) {
                total[r] = V::widen(total[r], sums[r]);
                sums[r] = V::no_sums();
            }
        }
    }
    if constexpr (V::direct)
        for (int r = 0; r < R; r++) total[r] = sums[r];
}

// out[r][0..15] = the tile times activation rows x[g * panel + r], r < R.
template <class V, Format F, int R>
void tile_product(const uint8_t* codes, const uint8_t* scales, int64_t groups, const ActivationGroup* x, int panel,
                  float* out) {
    constexpr FormatTraits T = TRAITS[F];
    constexpr int PER_SUPER = groups_of_super(T);
    for (int lane = 0; lane < TILE; lane += V::width) {
        typename V::Floats y[R], d = V::zero(), m = V::zero();
        for (int r = 0; r < R; r++) y[r] = V::zero();
        const uint8_t *lines = codes + 4 * lane, *sub = scales;
        const ActivationGroup* group = x;
        for (int64_t g = 0; g < groups; g++, lines += code_lines(T.bits) * LINE, group += panel, sub += sub_bytes(T)) {
            if (g % PER_SUPER == 0) {
                d = V::load_halves(sub + 2 * lane);
                if constexpr (T.minimum) m = V::load_halves(sub + 2 * TILE + 2 * lane);
                sub += head_bytes(T);
            }
            typename V::Ints products[R];
            if constexpr (T.layout == ScaleLayout::SUB16) {
                constexpr int HALF = sub_bytes(T) / 2;
                auto add_half = [&](int half, auto scale, auto minimum) __attribute__((always_inline)) {
#pragma GCC unroll 8
                    for (int r = 0; r < R; r++) {
                        y[r] = V::fma(V::mul(V::floats(products[r]), V::splat(group[r].scale)), scale, y[r]);
                        if constexpr (T.minimum)
                            y[r] = V::fnma(minimum, V::splat(group[r].scale * float(group[r].sum[half])), y[r]);
                    }
                };
                integer_products<V, F, R, 0, 4>(lines, group, products);
                add_half(0, V::mul(d, V::load_i8(sub + lane)), V::mul(m, V::load_u8(sub + HALF - TILE + lane)));
                integer_products<V, F, R, 4, 8>(lines, group, products);
                add_half(1, V::mul(d, V::load_i8(sub + HALF + lane)), V::mul(m, V::load_u8(sub + 2 * HALF - TILE + lane)));
            } else {
                constexpr bool SUB = T.layout == ScaleLayout::SUB32;
                integer_products<V, F, R, 0, 8>(lines, group, products);
                auto scale = d, minimum = m;
                if constexpr (SUB) {
                    scale = V::mul(d, V::load_u8(sub + lane));
                    minimum = V::mul(m, V::load_u8(sub + TILE + lane));
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    y[r] = V::fma(V::mul(V::floats(products[r]), V::splat(group[r].scale)), scale, y[r]);
                    if constexpr (T.minimum && SUB) y[r] = V::fnma(minimum, V::splat(group[r].scaled_sum), y[r]);
                    if constexpr (T.minimum && !SUB) y[r] = V::fma(minimum, V::splat(group[r].scaled_sum), y[r]);
                }
            }
        }
        for (int r = 0; r < R; r++) V::store(out + r * TILE + lane, y[r]);
    }
}

template <class V, Format F, int R>
inline void tile_rows(const uint8_t* codes, const uint8_t* scales, int64_t groups, const ActivationGroup* x, int panel,
                      float* y, int64_t stride, int rows) {
    alignas(64) float out[R * TILE];
    tile_product<V, F, R>(codes, scales, groups, x, panel, out);
    for (int r = 0; r < R; r++) std::memcpy(y + r * stride, out + r * TILE, sizeof(float) * rows);
}

template <class V, Format F>
void product_of(const PackedMatrix& matrix, const ActivationGroup* x, int panel, float* y, int64_t stride, int first,
                int last) {
    constexpr FormatTraits T = TRAITS[F];
    const int64_t groups = matrix.columns / GROUP;
    const int64_t code_bytes = code_bytes_of_tile(T, groups), scale_bytes = scale_bytes_of_tile(T, groups);
    for (int tile = first; tile < last; tile++) {
        const uint8_t *codes = matrix.codes + tile * code_bytes, *scales = matrix.scales + tile * scale_bytes;
        const int rows = matrix.rows - tile * TILE < TILE ? matrix.rows - tile * TILE : TILE;
        float* out = y + tile * TILE;
        for (int r = 0; r < panel;) {
            const int left = panel - r;
            if (V::max_rows >= 8 && left >= 8) {
                tile_rows<V, F, V::max_rows >= 8 ? 8 : 1>(codes, scales, groups, x + r, panel, out + r * stride, stride, rows);
                r += 8;
            } else if (left >= 4) {
                tile_rows<V, F, 4>(codes, scales, groups, x + r, panel, out + r * stride, stride, rows);
                r += 4;
            } else if (left >= 2) {
                tile_rows<V, F, 2>(codes, scales, groups, x + r, panel, out + r * stride, stride, rows);
                r += 2;
            } else {
                tile_rows<V, F, 1>(codes, scales, groups, x + r, panel, out + r * stride, stride, rows);
                r += 1;
            }
        }
    }
}

template <class V>
void product(const PackedMatrix& matrix, const ActivationGroup* x, int panel, float* y, int64_t stride, int first,
             int last) {
    static constexpr Product BY_FORMAT[FORMAT_COUNT] = {
        product_of<V, Q4_0>, product_of<V, Q4_1>, product_of<V, Q5_0>, product_of<V, Q5_1>, product_of<V, Q8_0>,
        product_of<V, Q2_K>, product_of<V, Q3_K>, product_of<V, Q4_K>, product_of<V, Q5_K>, product_of<V, Q6_K>,
    };
    BY_FORMAT[matrix.format](matrix, x, panel, y, stride, first, last);
}

// Plain loops over 32 that every compiler turns into the vectors of the file's instruction set.
inline void quantise_group(const float* x, ActivationGroup& out) {
    uint32_t largest = 0;  // magnitudes compared as integers, where NaN is the largest of all and so is not lost
    for (int i = 0; i < GROUP; i++) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float magnitude;
    std::memcpy(&magnitude, &largest, 4);
    const float inverse = largest == 0 ? 0.0f : 127.0f / magnitude;
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: added, the fraction is rounded off to nearest even
    int32_t values[GROUP];
    for (int i = 0; i < GROUP; i++) {
        float rounded = x[i] * inverse + ROUND;
        std::memcpy(&values[i], &rounded, 4);
        values[i] -= 0x4b400000;
    }
    int32_t low = 0, high = 0;
    for (int i = 0; i < GROUP; i++) out.values[i] = int8_t(values[i]);
    for (int i = 0; i < GROUP / 2; i++) {
        low += out.values[i];
        high += out.values[GROUP / 2 + i];
    }
    out.scale = magnitude / 127.0f;
    out.scaled_sum = out.scale * float(low + high);
    out.sum[0] = low;
    out.sum[1] = high;
}

void quantise_row(const float* x, int64_t columns, int panel, ActivationGroup* out) {
    for (int64_t g = 0; g < columns / GROUP; g++) quantise_group(x + g * GROUP, out[g * panel]);
}

}  // namespace
}  // namespace vesalius
