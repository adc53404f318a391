// Block-quantised matrix products: what other native files may call from inside their own parallel region.
//
// A weight matrix (rows, columns) is stored in tiles of 16 rows, packed once from ggml blocks at equal size:
//
//   codes   [tile][group of 32 columns][line][row in tile][4 columns]      one line = 64 bytes = 16 rows x 4 columns
//   scales  [tile][super-block][...]                                        see ScaleLayout in formats.h
//
// so that one 512-bit load holds the same four columns of sixteen rows, four activations are broadcast against it, and
// sums of the sixteen rows lie in the sixteen lanes: no horizontal sum anywhere. Rows are padded with zeros to whole
// tiles. Activations are quantised to int8 per 16 columns (Dettmers et al. 2022, arXiv:2208.07339, does so per row,
// llama.cpp per 32), products within 32 columns are integers and exact, and are added up in float32.
//
// Nothing here starts threads. A caller splits tiles among its threads:
//
//   const Kernels& kernels = best_kernels();
//   kernels.quantise_row(x, columns, 1, groups);                            // one thread, or by pieces of 32 columns
//   #pragma omp barrier
//   kernels.product(matrix, groups, 1, y, matrix.rows, first, last);        // each thread its own tiles
#pragma once

#include <cstdint>

namespace vesalius {

constexpr int TILE = 16;   // rows of a tile
constexpr int GROUP = 32;  // columns of a weight block, or of its part in the K formats
constexpr int PANEL = 8;   // most activation rows that go through a tile together

// The numbers are part of the interface with Python (packing.py: FORMATS).
enum Format : int32_t { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, FORMAT_COUNT };

struct PackedMatrix {
    int32_t format;
    int32_t rows;      // as the model knows them, padding left out
    int64_t columns;   // a multiple of 32, of 256 for the K formats
    const uint8_t* codes;
    const uint8_t* scales;
};

inline int tiles(const PackedMatrix& matrix) { return (matrix.rows + TILE - 1) / TILE; }
inline int64_t groups(const PackedMatrix& matrix) { return matrix.columns / GROUP; }

// 32 activations: x = scale[column / 16] * values, rounded to nearest even. An infinite or NaN activation makes the scales
// so. Two scales and not one: the inputs of attention and MLP have a few channels that are tens of times larger than
// their neighbours, and what shares a scale with them loses its small bits. The half with the larger magnitude has a
// scale of its own; the other's is that one divided by the largest power of two, up to 2^FINEST, that its values allow,
// so that integer sums of both halves can be shifted and added before they are scaled. On SmolLM2-135M the divergence
// from float32 in nats a token is 0.0020 with one scale, 0.0011 with two free ones, 0.0013 with two as here.
//     scale[0] * a + scale[1] * b = scale[1] / 2^FINEST * ((a << shift) + (b << FINEST))
constexpr int FINEST = 4;

struct ActivationGroup {
    int8_t values[GROUP];
    float scale[2];    // of columns 0-15 and 16-31
    float scaled_sum;  // sum of scale * values: what the minimum of a block is multiplied with
    int32_t sum[2];    // sums of values 0-15 and 16-31: what a constant offset of the codes is multiplied with
    int32_t shift;     // FINEST + log2(scale[0] / scale[1])
};

// x (columns) -> out[g * panel] for every group g. Rows of a panel lie interleaved: row r of the panel starts at
// out + r, so one row alone has panel = 1. columns is a multiple of 32.
using QuantiseRow = void (*)(const float* x, int64_t columns, int panel, ActivationGroup* out);

// y[r * stride + row] = sum over columns of matrix[row] * x[r], for the rows of tiles first..last-1 (last excluded) and
// for r < panel <= PANEL; x interleaved as above. Writes only rows < matrix.rows.
using Product = void (*)(const PackedMatrix& matrix, const ActivationGroup* x, int panel, float* y, int64_t stride,
                         int first, int last);

enum Isa : int32_t { BEST, PORTABLE, AVX2, AVXVNNI, AVX512, AVX512VNNI, NEON, ISA_COUNT };

struct Kernels {
    const char* name;
    QuantiseRow quantise_row;
    Product product;
};

// The kernels of one instruction set; nullptr where this CPU lacks it. BEST: what this CPU runs fastest, or what
// $VESALIUS_ISA names when the library is loaded (portable, avx2, avxvnni, avx512, avx512vnni, neon).
const Kernels* kernels(int isa);
const Kernels& best_kernels();

// float32 values of rows `first` to `last` - 1 of a tile (both within 0..16), one row after the other.
void dequantise_tile(const PackedMatrix& matrix, int tile, int first, int last, float* out);

}  // namespace vesalius
