// Between ggml's blocks and tiles, both ways without loss, and from tiles to float32.
//
// The layout of a tile is told in formats.h; packing.py does the same in torch, readably, and is the test's oracle.

#include <algorithm>

#include "blocks.h"

namespace vesalius {
namespace {

// Puts the 32 codes of row `row` of a tile into the lines of a group, which are zero at first.
template <int BITS>
inline void write_codes(const uint8_t* q, int row, uint8_t* lines) {
    uint8_t* at = lines + 4 * row;
    for (int j = 0; j < 8; j++)
        for (int c = 0; c < 4; c++) {
            const uint8_t code = q[4 * j + c];
            if constexpr (BITS == 8) at[j * LINE + c] = code;
            if constexpr (BITS == 2 || BITS == 3) at[j / 4 * LINE + c] |= (code & 3) << (2 * (j % 4));
            if constexpr (BITS == 3) at[2 * LINE + c] |= code >> 2 << j;
            if constexpr (BITS >= 4 && BITS <= 6) at[j % 4 * LINE + c] |= (code & 15) << (j / 4 * 4);
            if constexpr (BITS == 5) at[4 * LINE + c] |= code >> 4 << j;
            if constexpr (BITS == 6) at[(4 + j / 4) * LINE + c] |= code >> 4 << (2 * (j % 4));
        }
}

template <int BITS>
inline void read_codes(const uint8_t* lines, int row, uint8_t* q) {
    const uint8_t* at = lines + 4 * row;
    for (int j = 0; j < 8; j++)
        for (int c = 0; c < 4; c++) {
            uint8_t code = 0;
            if constexpr (BITS == 8) code = at[j * LINE + c];
            if constexpr (BITS == 2 || BITS == 3) code = at[j / 4 * LINE + c] >> (2 * (j % 4)) & 3;
            if constexpr (BITS == 3) code |= (at[2 * LINE + c] >> j & 1) << 2;
            if constexpr (BITS >= 4 && BITS <= 6) code = at[j % 4 * LINE + c] >> (j / 4 * 4) & 15;
            if constexpr (BITS == 5) code |= (at[4 * LINE + c] >> j & 1) << 4;
            if constexpr (BITS == 6) code |= (at[(4 + j / 4) * LINE + c] >> (2 * (j % 4)) & 3) << 4;
            q[4 * j + c] = code;
        }
}

// Where the scales of a super-block lie for one row. `at(g, half)` are the small ones of a group of the K formats.
template <Format F>
struct Scales {
    static constexpr FormatTraits T = TRAITS[F];
    static constexpr int PARTS = T.layout == ScaleLayout::SUB16 ? 2 : T.layout == ScaleLayout::SUB32 ? 1 : 0;

    static int64_t head(int64_t super, int row) { return super * super_bytes(T) + 2 * row; }
    static int64_t small(int64_t super, int part, int row) {  // part = group in the super-block * PARTS + half
        return super * super_bytes(T) + head_bytes(T) + part * TILE * (T.minimum ? 2 : 1) + row;
    }
};

template <Format F>
void put_block(const Block& b, int64_t super, int row, uint8_t* codes, uint8_t* scales) {
    constexpr FormatTraits T = TRAITS[F];
    constexpr int GROUPS = groups_of_super(T);
    for (int g = 0; g < GROUPS; g++)
        write_codes<T.bits>(b.codes + g * GROUP, row, codes + (super * GROUPS + g) * code_lines(T.bits) * LINE);
    store_half(scales + Scales<F>::head(super, row), b.d);
    if constexpr (T.minimum) store_half(scales + Scales<F>::head(super, row) + 2 * TILE, b.m);
    for (int part = 0; part < GROUPS * Scales<F>::PARTS; part++) {
        scales[Scales<F>::small(super, part, row)] = b.scale[part];
        if constexpr (T.minimum) scales[Scales<F>::small(super, part, row) + TILE] = b.minimum[part];
    }
}

template <Format F>
void take_block(const uint8_t* codes, const uint8_t* scales, int64_t super, int row, Block& b) {
    constexpr FormatTraits T = TRAITS[F];
    constexpr int GROUPS = groups_of_super(T);
    for (int g = 0; g < GROUPS; g++)
        read_codes<T.bits>(codes + (super * GROUPS + g) * code_lines(T.bits) * LINE, row, b.codes + g * GROUP);
    b.d = load_half(scales + Scales<F>::head(super, row));
    b.m = T.minimum ? load_half(scales + Scales<F>::head(super, row) + 2 * TILE) : 0;
    for (int part = 0; part < GROUPS * Scales<F>::PARTS; part++) {
        b.scale[part] = scales[Scales<F>::small(super, part, row)];
        b.minimum[part] = T.minimum ? scales[Scales<F>::small(super, part, row) + TILE] : 0;
    }
}

template <Format F>
struct Tile {
    static constexpr FormatTraits T = TRAITS[F];
    const uint8_t *codes, *scales;
    int64_t supers;

    Tile(const PackedMatrix& m, int tile)
        : codes(m.codes + tile * code_bytes_of_tile(T, m.columns / GROUP)),
          scales(m.scales + tile * scale_bytes_of_tile(T, m.columns / GROUP)),
          supers(m.columns / GROUP / groups_of_super(T)) {}
};

template <Format F>
void pack_tile(const PackedMatrix& m, int tile, const uint8_t* blocks) {
    const Tile<F> at(m, tile);
    constexpr FormatTraits T = TRAITS[F];
    uint8_t *codes = const_cast<uint8_t*>(at.codes), *scales = const_cast<uint8_t*>(at.scales);
    std::memset(codes, 0, code_bytes_of_tile(T, m.columns / GROUP));
    std::memset(scales, 0, scale_bytes_of_tile(T, m.columns / GROUP));
    Block block;
    for (int row = 0; row < std::min(TILE, m.rows - tile * TILE); row++) {
        const uint8_t* p = blocks + (int64_t(tile) * TILE + row) * at.supers * T.block_bytes;
        for (int64_t s = 0; s < at.supers; s++, p += T.block_bytes) {
            read_block<F>(p, block);
            put_block<F>(block, s, row, codes, scales);
        }
    }
}

template <Format F>
void unpack_tile(const PackedMatrix& m, int tile, uint8_t* blocks) {
    const Tile<F> at(m, tile);
    Block block;
    for (int row = 0; row < std::min(TILE, m.rows - tile * TILE); row++) {
        uint8_t* p = blocks + (int64_t(tile) * TILE + row) * at.supers * TRAITS[F].block_bytes;
        for (int64_t s = 0; s < at.supers; s++, p += TRAITS[F].block_bytes) {
            take_block<F>(at.codes, at.scales, s, row, block);
            write_block<F>(block, p);
        }
    }
}

// The order of operations is that of ggml, so the values are its values to the last bit.
template <Format F>
void block_values(const Block& b, float* out) {
    constexpr FormatTraits T = TRAITS[F];
    const float d = half_to_float(b.d), m = half_to_float(b.m);
    if constexpr (T.layout == ScaleLayout::PLAIN) {
        for (int i = 0; i < GROUP; i++) {
            const int code = T.bits == 8 ? int(int8_t(b.codes[i])) : int(b.codes[i]) - T.offset;
            out[i] = T.minimum ? d * float(code) + m : d * float(code);
        }
    } else {
        constexpr int WIDTH = GROUP / Scales<F>::PARTS;
        for (int part = 0; part < SUPER * Scales<F>::PARTS; part++) {
            const float scale = d * float(T.minimum ? int(b.scale[part]) : int(int8_t(b.scale[part])));
            const float minimum = m * float(b.minimum[part]);
            for (int i = part * WIDTH; i < (part + 1) * WIDTH; i++) {
                const float value = scale * float(int(b.codes[i]) - T.offset);
                out[i] = T.minimum ? value - minimum : value;
            }
        }
    }
}

template <Format F>
void values_of_tile(const PackedMatrix& m, int tile, int first, int last, float* out) {
    const Tile<F> at(m, tile);
    Block block;
    for (int row = first; row < last; row++)
        for (int64_t s = 0; s < at.supers; s++, out += groups_of_super(TRAITS[F]) * GROUP) {
            take_block<F>(at.codes, at.scales, s, row, block);
            block_values<F>(block, out);
        }
}

using PackTile = void (*)(const PackedMatrix&, int, const uint8_t*);
using UnpackTile = void (*)(const PackedMatrix&, int, uint8_t*);
using TileValues = void (*)(const PackedMatrix&, int, int, int, float*);

#define EVERY_FORMAT(f) f<Q4_0>, f<Q4_1>, f<Q5_0>, f<Q5_1>, f<Q8_0>, f<Q2_K>, f<Q3_K>, f<Q4_K>, f<Q5_K>, f<Q6_K>
constexpr PackTile PACK[FORMAT_COUNT] = {EVERY_FORMAT(pack_tile)};
constexpr UnpackTile UNPACK[FORMAT_COUNT] = {EVERY_FORMAT(unpack_tile)};
constexpr TileValues VALUES[FORMAT_COUNT] = {EVERY_FORMAT(values_of_tile)};

}  // namespace

void dequantise_tile(const PackedMatrix& matrix, int tile, int first, int last, float* out) {
    VALUES[matrix.format](matrix, tile, first, last, out);
}

}  // namespace vesalius

using namespace vesalius;

#define EXPORT extern "C" __attribute__((visibility("default")))

// blocks (rows, bytes of a row) -> the codes and scales of `matrix`, which are written.
EXPORT void vesalius_pack(const PackedMatrix* matrix, const uint8_t* blocks, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int tile = 0; tile < tiles(*matrix); tile++) PACK[matrix->format](*matrix, tile, blocks);
}

EXPORT void vesalius_unpack(const PackedMatrix* matrix, uint8_t* blocks, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int tile = 0; tile < tiles(*matrix); tile++) UNPACK[matrix->format](*matrix, tile, blocks);
}

// out (last - first, columns) = rows first..last-1 as float32.
EXPORT void vesalius_dequantise(const PackedMatrix* matrix, int first, int last, float* out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int tile = first / TILE; tile < (last + TILE - 1) / TILE; tile++) {
        const int from = std::max(first, tile * TILE), to = std::min(last, tile * TILE + TILE);
        dequantise_tile(*matrix, tile, from - tile * TILE, to - tile * TILE, out + (from - first) * matrix->columns);
    }
}

// out (count, columns) = the rows named by ids, each 0 <= id < rows, as float32.
EXPORT void vesalius_gather(const PackedMatrix* matrix, const int64_t* ids, int64_t count, float* out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count * matrix->columns > 16384)
    for (int64_t i = 0; i < count; i++) {
        const int row = int(ids[i] % TILE);
        dequantise_tile(*matrix, int(ids[i] / TILE), row, row + 1, out + i * matrix->columns);
    }
}
