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

// Formats of four bits whose halves have one weight scale add up both halves as integers. The codes of quads 4 to 7 stay in
// the upper half of their bytes, which is the shift by FINEST.
template <class V, Format F>
constexpr bool chained() {
    return TRAITS[F].bits == 4 && TRAITS[F].layout != ScaleLayout::SUB16 && V::takes_bytes;
}

template <class V, int R>
inline __attribute__((always_inline)) void chained_products(const uint8_t* lines, const ActivationGroup* x,
                                                            typename V::Ints (&total)[R]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) total[r] = V::broadcast(0);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const typename V::Bytes codes = V::field(V::load_bytes(lines + j % 4 * LINE), 0, j < 4 ? 0x0f : 0xf0);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if (j == 4) total[r] = V::shift_left(total[r], x[r].shift);
            total[r] = V::dot(total[r], codes, four(x[r].values + 4 * j));
        }
    }
}

// Products of quads FIRST..LAST-1 with R activation rows, less the offset of the codes.
template <class V, Format F, int R, int FIRST, int LAST>
inline __attribute__((always_inline)) void integer_products(const uint8_t* lines, const ActivationGroup* x,
                                                            typename V::Ints (&total)[R]) {
    constexpr FormatTraits T = TRAITS[F];
    constexpr int OFFSET = T.bits == 8 && V::biased ? 128 : T.offset;
    constexpr int HELD = V::held(T.bits);
    typename V::Sums sums[R];
#pragma GCC unroll 16
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
#pragma GCC unroll 16
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

// out[r * stride + 0..15] = the tile times activation rows x[g * panel + r], r < R.
template <class V, Format F, int R>
void tile_product(const uint8_t* codes, const uint8_t* scales, int64_t groups, const ActivationGroup* x, int panel,
                  float* out, int64_t stride) {
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
#pragma GCC unroll 16
                for (int r = 0; r < R; r++)
                    y[r] = V::fma(V::mul(V::floats(products[r]), V::splat(group[r].scale[half])), scale, y[r]);
            };
            auto take_minimum = [&](auto minimum, auto sum_of) __attribute__((always_inline)) {
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) y[r] = V::fnma(minimum, V::splat(sum_of(group[r])), y[r]);
            };
            auto scale = d;
            if constexpr (T.layout == ScaleLayout::SUB32) scale = V::mul(d, V::load_u8(sub + lane));
            if constexpr (T.layout == ScaleLayout::SUB16) scale = V::mul(d, V::load_i8(sub + lane));
            if constexpr (chained<V, F>()) {
                chained_products<V, R>(lines, group, products);
                const auto part = V::mul(scale, V::splat(1.0f / (1 << FINEST)));
#pragma GCC unroll 16
                for (int r = 0; r < R; r++)
                    y[r] = V::fma(V::mul(V::floats(products[r]), V::splat(group[r].scale[1])), part, y[r]);
                if constexpr (T.offset != 0) m = V::mul(scale, V::splat(float(-T.offset)));
            } else if constexpr (T.layout == ScaleLayout::SUB16) {
                integer_products<V, F, R, 0, 4>(lines, group, products);
                add_half(0, scale);
                integer_products<V, F, R, 4, 8>(lines, group, products);
                add_half(1, V::mul(d, V::load_i8(sub + sub_bytes(T) / 2 + lane)));
            } else {  // both halves have one weight scale: a product less
                typename V::Floats both[R];
                integer_products<V, F, R, 0, 4>(lines, group, products);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) both[r] = V::mul(V::floats(products[r]), V::splat(group[r].scale[0]));
                integer_products<V, F, R, 4, 8>(lines, group, products);
#pragma GCC unroll 16
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
            } else if constexpr (T.minimum || (chained<V, F>() && T.offset != 0)) {
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) y[r] = V::fma(m, V::splat(group[r].scaled_sum), y[r]);
            }
        }
        for (int r = 0; r < R; r++) V::store(out + r * stride + lane, y[r]);
    }
}

// R rows of the panel, and how many that were; only the tile's real rows are written.
template <class V, Format F, int R>
inline int tile_rows(const uint8_t* codes, const uint8_t* scales, int64_t groups, const ActivationGroup* x, int panel,
                     float* y, int64_t stride, int rows) {
    if (rows == TILE) {
        tile_product<V, F, R>(codes, scales, groups, x, panel, y, stride);
        return R;
    }
    alignas(64) float out[R * TILE];
    tile_product<V, F, R>(codes, scales, groups, x, panel, out, TILE);
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

inline float float_of(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

// Factors of a few groups, group after group, so that loops over them become vectors: x * inverse = values.
struct Factors {
    static constexpr int GROUPS = 8;
    uint32_t largest[2][GROUPS];  // bits of the largest magnitude of each half
    float inverse[2][GROUPS], scale[2][GROUPS];
    int32_t shift[GROUPS];
};

// Magnitudes are compared as integers, where NaN is the largest of all and so is not lost, and where a difference of
// 2^23 is a factor of two. Neither branches nor inlined, where it would be unrolled first, so that it becomes vectors.
__attribute__((noinline)) void find_factors(Factors& f) {
    constexpr uint32_t TINY = 27u << 23;  // 2^-100: the least that is scaled up to 127
    constexpr uint32_t ONE = 127u << 23;
    for (int g = 0; g < Factors::GROUPS; g++) {
        const uint32_t a = f.largest[0][g], b = f.largest[1][g], least = a < b ? a : b, larger = a < b ? b : a;
        const uint32_t most = larger < TINY ? TINY : larger, powers = (most - least) >> 23;
        const uint32_t finer = powers < FINEST ? powers : FINEST, first = a < b ? finer << 23 : 0, second = (finer << 23) - first;
        const float inverse = 127.0f / float_of(most), scale = float_of(most) / 127.0f;
        f.inverse[0][g] = inverse * float_of(ONE + first), f.scale[0][g] = scale * float_of(ONE - first);
        f.inverse[1][g] = inverse * float_of(ONE + second), f.scale[1][g] = scale * float_of(ONE - second);
        f.shift[g] = int32_t(FINEST + (second >> 23) - (first >> 23));
    }
}

template <class V>
void quantise_row(const float* x, int64_t columns, int panel, ActivationGroup* out) {
    Factors f = {};
    for (int64_t first = 0; first < columns / GROUP; first += Factors::GROUPS) {
        const int64_t rest = columns / GROUP - first;
        const int count = rest < Factors::GROUPS ? int(rest) : Factors::GROUPS;
        for (int g = 0; g < count; g++)
            for (int half = 0; half < 2; half++)
                f.largest[half][g] = V::largest(x + (first + g) * GROUP + half * GROUP / 2);
        find_factors(f);
        for (int g = 0; g < count; g++) {
            ActivationGroup& to = out[(first + g) * panel];
            for (int half = 0; half < 2; half++) {
                const int at = half * GROUP / 2;
                to.scale[half] = f.scale[half][g];
                to.sum[half] = V::round(x + (first + g) * GROUP + at, f.inverse[half][g], to.values + at);
            }
            to.scaled_sum = to.scale[0] * float(to.sum[0]) + to.scale[1] * float(to.sum[1]);
            to.shift = f.shift[g];
        }
    }
}

}  // namespace
}  // namespace vesalius
