// One tile times a few quantised activation rows, written once for all instruction sets.
//
// Included by tile_product_<isa>.cpp after a vector class V with
//   width, max_rows                    lanes, which are rows of the matrix; most activation rows held in registers
//   Bytes, Sums, Ints, Floats          four codes a lane; sums as the dot instruction leaves them; int32; float
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

// What a few rows wait for is memory, and the matrices of a small model end before the hardware has learnt to run
// ahead. On one core, 1 to 4 rows: 28 GB/s without, 38 with; 8 rows: a quarter less time; many rows, whose weights are
// in the cache, lose 3 %. More than 16 kB ahead is worse again.
constexpr int AHEAD = 8192;

template <Format F>
inline void prefetch(const uint8_t* lines, const uint8_t* scales) {
    constexpr FormatTraits T = TRAITS[F];
    for (int line = 0; line < code_lines(T.bits); line++) __builtin_prefetch(lines + AHEAD + line * LINE);
    __builtin_prefetch(scales + AHEAD / (code_lines(T.bits) * LINE) * (super_bytes(T) / groups_of_super(T)));
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
            if (lane == 0) prefetch<F>(lines, sub);
            typename V::Ints products[R];
            auto add_half = [&](int half, auto scale) __attribute__((always_inline)) {
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
                    y[r] = V::fma(V::mul(V::floats(products[r]), V::splat(group[r].scale[half])), scale, y[r]);
            };
            auto take_minimum = [&](auto minimum, auto sum_of) __attribute__((always_inline)) {
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) y[r] = V::fnma(minimum, V::splat(sum_of(group[r])), y[r]);
            };
            auto scale = d;
            if constexpr (T.layout == ScaleLayout::SUB32) scale = V::mul(d, V::load_u8(sub + lane));
            if constexpr (T.layout == ScaleLayout::SUB16) scale = V::mul(d, V::load_i8(sub + lane));
            integer_products<V, F, R, 0, 4>(lines, group, products);
            if constexpr (T.layout == ScaleLayout::SUB16) {
                add_half(0, scale);
                integer_products<V, F, R, 4, 8>(lines, group, products);
                add_half(1, V::mul(d, V::load_i8(sub + sub_bytes(T) / 2 + lane)));
            } else {  // both halves have one weight scale: a product less
                typename V::Floats both[R];
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) both[r] = V::mul(V::floats(products[r]), V::splat(group[r].scale[0]));
                integer_products<V, F, R, 4, 8>(lines, group, products);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
                    y[r] = V::fma(V::fma(V::floats(products[r]), V::splat(group[r].scale[1]), both[r]), scale, y[r]);
            }
            if constexpr (T.minimum && T.layout == ScaleLayout::SUB16) {
                const uint8_t* minima = sub + TILE + lane;
                take_minimum(V::mul(m, V::load_u8(minima)), [](auto& a) { return a.scale[0] * float(a.sum[0]); });
                minima += 2 * TILE;
                take_minimum(V::mul(m, V::load_u8(minima)), [](auto& a) { return a.scale[1] * float(a.sum[1]); });
            } else if constexpr (T.minimum && T.layout == ScaleLayout::SUB32) {
                take_minimum(V::mul(m, V::load_u8(sub + TILE + lane)), [](auto& a) { return a.scaled_sum; });
            } else if constexpr (T.minimum) {
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) y[r] = V::fma(m, V::splat(group[r].scaled_sum), y[r]);
            }
        }
        for (int r = 0; r < R; r++) V::store(out + r * TILE + lane, y[r]);
    }
}

// R rows of the panel from row r on, and how many that were; only the tile's real rows are written.
template <class V, Format F, int R>
inline int tile_rows(const uint8_t* codes, const uint8_t* scales, int64_t groups, const ActivationGroup* x, int panel,
                     float* y, int64_t stride, int rows) {
    alignas(64) float out[R * TILE];
    tile_product<V, F, R>(codes, scales, groups, x, panel, out);
    for (int r = 0; r < R; r++) std::memcpy(y + r * stride, out + r * TILE, sizeof(float) * rows);
    return R;
}

template <class V, Format F>
void product_of(const PackedMatrix& matrix, const ActivationGroup* x, int panel, float* y, int64_t stride, int first,
                int last) {
    constexpr FormatTraits T = TRAITS[F];
    constexpr int MOST = V::max_rows;
    const int64_t groups = matrix.columns / GROUP;
    const int64_t code_bytes = code_bytes_of_tile(T, groups), scale_bytes = scale_bytes_of_tile(T, groups);
    for (int tile = first; tile < last; tile++) {
        const uint8_t *codes = matrix.codes + tile * code_bytes, *scales = matrix.scales + tile * scale_bytes;
        const int rows = matrix.rows - tile * TILE < TILE ? matrix.rows - tile * TILE : TILE;
        for (int r = 0; r < panel;) {
            const int left = panel - r;
            const auto run = left >= MOST ? tile_rows<V, F, MOST>
                             : left >= 4  ? tile_rows<V, F, 4>
                             : left >= 2  ? tile_rows<V, F, 2>
                                          : tile_rows<V, F, 1>;
            r += run(codes, scales, groups, x + r, panel, y + tile * TILE + r * stride, stride, rows);
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

// 16 activations to int8; returns their sum. Plain loops that every compiler turns into the file's vectors.
inline int32_t quantise_half(const float* x, int8_t* out, float& scale) {
    uint32_t largest = 0;  // magnitudes compared as integers, where NaN is the largest of all and so is not lost
    for (int i = 0; i < GROUP / 2; i++) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float magnitude;
    std::memcpy(&magnitude, &largest, 4);
    const float inverse = largest == 0 ? 0.0f : 127.0f / magnitude;
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: added, the fraction is rounded off to nearest even
    int32_t values[GROUP / 2], sum = 0;
    for (int i = 0; i < GROUP / 2; i++) {
        const float rounded = x[i] * inverse + ROUND;
        std::memcpy(&values[i], &rounded, 4);
        values[i] -= 0x4b400000;
    }
    for (int i = 0; i < GROUP / 2; i++) out[i] = int8_t(values[i]);
    for (int i = 0; i < GROUP / 2; i++) sum += int8_t(values[i]);  // reading `out` again would not become vectors
    scale = magnitude / 127.0f;
    return sum;
}

inline void quantise_group(const float* x, ActivationGroup& out) {
    for (int half = 0; half < 2; half++)
        out.sum[half] = quantise_half(x + half * GROUP / 2, out.values + half * GROUP / 2, out.scale[half]);
    out.scaled_sum = out.scale[0] * float(out.sum[0]) + out.scale[1] * float(out.sum[1]);
}

void quantise_row(const float* x, int64_t columns, int panel, ActivationGroup* out) {
    for (int64_t g = 0; g < columns / GROUP; g++) quantise_group(x + g * GROUP, out[g * panel]);
}

}  // namespace
}  // namespace vesalius
