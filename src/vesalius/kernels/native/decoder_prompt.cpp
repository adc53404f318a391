// One layer of a Llama-like decoder for many tokens of one sequence at once: what decoder.cpp does for a few.
//
// A prompt is bound by arithmetic. Products go tile block by tile block: a block of weights stays in the second cache
// while all rows pass it (quantised.h), and what follows a product elementwise (bias, SiLU, residual, quantising for the
// next product) is done on the block while it is there. Attention is flash attention (Dao et al. 2022, arXiv:2205.14135,
// algorithm 1): a block of queries of all heads that share keys meets one block of keys after the other; the keys of a
// block are transposed once, so that both products run along rows of registers.

#include <omp.h>

#include <vector>

#include "decoder.h"
#include "formats.h"

namespace vesalius {
namespace {

constexpr int QUERIES = 64, KEYS = 64;            // of a block
constexpr int ROWS = 4;                           // of a product held in registers
constexpr int HELD = V::width == 16 ? 4 : 2;      // vectors of one row in registers
constexpr int64_t L2_SHARE = 128 << 10;

// c (ROWS, HELD vectors) += a (ROWS, k) times b (k, HELD vectors)
template <int HELD>
inline void tile_product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                         int k) {
    V::Floats sums[ROWS][HELD];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < HELD; j++) sums[r][j] = V::load(c + r * c_stride + j * V::width);
    for (int p = 0; p < k; p++) {
        V::Floats row[HELD];
#pragma GCC unroll 4
        for (int j = 0; j < HELD; j++) row[j] = V::load(b + p * b_stride + j * V::width);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            const V::Floats value = V::splat(a[r * a_stride + p]);
#pragma GCC unroll 4
            for (int j = 0; j < HELD; j++) sums[r][j] = V::fma(value, row[j], sums[r][j]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < HELD; j++) V::store(c + r * c_stride + j * V::width, sums[r][j]);
}

// c (rows, columns) += a (rows, k) times b (k, columns); rows a multiple of ROWS, columns one of a vector's width.
void product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride, int rows,
             int columns, int k) {
    int j = 0;
    for (; j + HELD * V::width <= columns; j += HELD * V::width)
        for (int r = 0; r < rows; r += ROWS)
            tile_product<HELD>(a + r * a_stride, a_stride, b + j, b_stride, c + r * c_stride + j, c_stride, k);
    for (; j < columns; j += V::width)
        for (int r = 0; r < rows; r += ROWS)
            tile_product<1>(a + r * a_stride, a_stride, b + j, b_stride, c + r * c_stride + j, c_stride, k);
}

// What one thread needs for a block of queries of one group of heads; `heads` of them, E wide.
struct AttentionBuffers {
    std::vector<float> queries, mixed, scores, keys, values, largest, sum;

    AttentionBuffers(int heads, int E)
        : queries(int64_t(heads) * QUERIES * E), mixed(int64_t(heads) * QUERIES * E), scores(QUERIES * KEYS),
          keys(int64_t(KEYS) * E), values(int64_t(KEYS) * E), largest(heads * QUERIES), sum(heads * QUERIES) {}
};

// `count` keys as columns of (E, KEYS), zeros behind them.
template <class T>
void transpose(const T* keys, int count, int E, float* out) {
    for (int e = 0; e < E; e++) {
        for (int s = 0; s < count; s++) out[e * KEYS + s] = load(keys + int64_t(s) * E + e);
        for (int s = count; s < KEYS; s++) out[e * KEYS + s] = 0.0f;
    }
}

// `count` values as rows of (KEYS, E), zeros behind them; float32 ones where they are.
const float* rows_of(const float* values, int count, int E, float* room) {
    if (count == KEYS) return values;
    std::memcpy(room, values, sizeof(float) * count * E);
    std::memset(room + count * E, 0, sizeof(float) * (KEYS - count) * E);
    return room;
}
const float* rows_of(const Bf16* values, int count, int E, float* room) {
    for (int i = 0; i < count * E; i++) room[i] = load(values + i);
    std::memset(room + count * E, 0, sizeof(float) * (KEYS - count) * E);
    return room;
}

// Scores of one row against a block of keys -> weights; keys outside first..last-1 (of the block) get none. Rescales
// what the row has gathered before.
void soften(float* scores, int first, int last, float* mixed, int E, float& largest, float& sum) {
    for (int s = 0; s < first; s++) scores[s] = -INFINITY;
    for (int s = last; s < KEYS; s++) scores[s] = -INFINITY;
    const float most = largest_of(scores, KEYS, largest);
    float added = exponentials(scores, KEYS, most);  // e^-87 where there is no key
    for (int s = 0; s < first; s++) scores[s] = 0;
    for (int s = last; s < KEYS; s++) scores[s] = 0;
    if (most != largest) {
        const float shrink = sum > 0 ? exponential(largest - most) : 0.0f;
        for (int e = 0; e < E; e++) mixed[e] *= shrink;
        sum *= shrink;
        largest = most;
    }
    sum += added;
}

// Attention of rows first..last-1 for the heads that share key head `kv`: q (rows, heads * E) before its norm and
// rotation -> the same place after mixing.
template <class T>
void attend_block(const DecoderLayer& l, const DecoderState& s, float* q, int kv, int first, int last,
                  AttentionBuffers& b) {
    const int E = l.head_dim, group = l.heads / l.kv_heads, count = last - first;
    const int64_t width = int64_t(l.heads) * E;
    const T *keys = static_cast<const T*>(s.keys) + kv * s.capacity * E;
    const T *values = static_cast<const T*>(s.values) + kv * s.capacity * E;
    std::fill(b.mixed.begin(), b.mixed.end(), 0.0f);
    std::fill(b.queries.begin(), b.queries.end(), 0.0f);
    std::fill(b.largest.begin(), b.largest.end(), -INFINITY);
    std::fill(b.sum.begin(), b.sum.end(), 0.0f);
    for (int r = 0; r < count; r++) {
        float* heads = q + (first + r) * width + int64_t(kv) * group * E;
        norm_and_rotate(heads, group, l.q_norm, l, s, first + r);
        for (int g = 0; g < group; g++)
            for (int e = 0; e < E; e++) b.queries[(g * QUERIES + r) * E + e] = heads[g * E + e] * l.scale;
    }
    const int64_t end = s.past + last, begin = l.window ? std::max<int64_t>(0, s.past + first + 1 - l.window) : 0;
    for (int64_t start = begin; start < end; start += KEYS) {
        const int held = int(std::min<int64_t>(KEYS, end - start));
        transpose(keys + start * E, held, E, b.keys.data());
        const float* rows = rows_of(values + start * E, held, E, b.values.data());
        for (int g = 0; g < group; g++) {
            float *queries = b.queries.data() + int64_t(g) * QUERIES * E, *mixed = b.mixed.data() + int64_t(g) * QUERIES * E;
            std::fill(b.scores.begin(), b.scores.end(), 0.0f);
            product(queries, E, b.keys.data(), KEYS, b.scores.data(), KEYS, QUERIES, KEYS, E);
            for (int r = 0; r < count; r++) {
                const int64_t position = s.past + first + r;
                const int64_t from = l.window ? std::max<int64_t>(0, position + 1 - l.window - start) : 0;
                const int64_t to = std::min<int64_t>(KEYS, position + 1 - start);
                float* scores = b.scores.data() + r * KEYS;
                if (from >= to)
                    std::fill(scores, scores + KEYS, 0.0f);
                else
                    soften(scores, int(from), int(to), mixed + int64_t(r) * E, E, b.largest[g * QUERIES + r],
                           b.sum[g * QUERIES + r]);
            }
            product(b.scores.data(), KEYS, rows, E, mixed, E, QUERIES, E, KEYS);
        }
    }
    for (int r = 0; r < count; r++)
        for (int g = 0; g < group; g++) {
            const float sum = b.sum[g * QUERIES + r];
            float* head = q + (first + r) * width + (int64_t(kv) * group + g) * E;
            for (int e = 0; e < E; e++) head[e] = b.mixed[(int64_t(g) * QUERIES + r) * E + e] / sum;
        }
}

// Into how many blocks of tiles a matrix is cut: each stays in the second cache while all rows pass, and every thread
// gets as many as the others.
int blocks_of(const PackedMatrix& m, int threads) {
    const FormatTraits t = TRAITS[m.format];
    const int64_t bytes = tiles(m) * (code_bytes_of_tile(t, groups(m)) + scale_bytes_of_tile(t, groups(m)));
    const int each = int(std::max<int64_t>(2, (bytes + L2_SHARE * threads - 1) / (L2_SHARE * threads)));
    return each * threads;
}

// Groups of the rows of a panel begin at its first row; its rows lie interleaved.
struct Panels {
    const Kernels& kernels;
    int rows;

    int count() const { return (rows + PANEL - 1) / PANEL; }
    int width(int panel) const { return std::min(PANEL, rows - panel * PANEL); }

    // Columns first..first+count-1 of `row` (whole groups), out of a matrix with `all` columns.
    void quantise(const float* x, int row, int64_t first, int64_t columns, int64_t all, ActivationGroup* out) const {
        const int panel = row / PANEL;
        ActivationGroup* begin = out + panel * PANEL * (all / GROUP) + first / GROUP * width(panel);
        kernels.quantise_row(x + first, columns, width(panel), begin + row % PANEL);
    }

    void multiply(const PackedMatrix& m, const ActivationGroup* x, float* y, int first, int last) const {
        for (int p = 0; p < count(); p++)
            kernels.product(m, x + p * PANEL * groups(m), width(p), y + int64_t(p) * PANEL * m.rows, m.rows, first, last);
    }
};

// Buffers of a call, kept between calls.
struct Scratch {
    std::vector<float> q, k, v, gate, up;
    std::vector<ActivationGroup> narrow, wide;
};

template <class Buffer>
auto* at_least(Buffer& buffer, int64_t size) {
    if (int64_t(buffer.size()) < size) buffer.resize(size);
    return buffer.data();
}

void norm_rows(const Panels& panels, const DecoderLayer& l, const float* x, const float* weight, ActivationGroup* out) {
    std::vector<float> normed(l.hidden);
#pragma omp for schedule(static)
    for (int row = 0; row < panels.rows; row++) {
        rms_norm(x + int64_t(row) * l.hidden, weight, l.hidden, l.eps, normed.data());
        panels.quantise(normed.data(), row, 0, l.hidden, l.hidden, out);
    }
}

// x += residual * (matrix times in + bias), block by block; y is room for the product.
void add_product(const Panels& panels, const DecoderLayer& l, const PackedMatrix& m, const float* bias,
                 const ActivationGroup* in, float* y, float* x) {
    const int blocks = blocks_of(m, omp_get_num_threads());
#pragma omp for schedule(dynamic)
    for (int i = 0; i < blocks; i++) {
        const auto [first, last] = share(tiles(m), i, blocks);
        const int end = std::min(m.rows, last * TILE);
        panels.multiply(m, in, y, first, last);
        for (int64_t row = 0; row < panels.rows; row++)
            for (int c = first * TILE; c < end; c++) {
                const float value = y[row * m.rows + c] + (bias ? bias[c] : 0.0f);
                x[row * l.hidden + c] = __builtin_fmaf(l.residual, value, x[row * l.hidden + c]);
            }
    }
}

void project(const Panels& panels, const PackedMatrix& m, const float* bias, const ActivationGroup* in, float* y) {
    const int blocks = blocks_of(m, omp_get_num_threads());
#pragma omp for schedule(dynamic) nowait
    for (int i = 0; i < blocks; i++) {
        const auto [first, last] = share(tiles(m), i, blocks);
        const int end = std::min(m.rows, last * TILE);
        panels.multiply(m, in, y, first, last);
        for (int64_t row = 0; bias && row < panels.rows; row++)
            for (int c = first * TILE; c < end; c++) y[row * m.rows + c] += bias[c];
    }
}

// silu(gate) * up, quantised for the product that follows.
void gated(const Panels& panels, const DecoderLayer& l, const ActivationGroup* in, float* gate, float* up,
           ActivationGroup* out) {
    const int blocks = blocks_of(l.gate, omp_get_num_threads()), width = l.intermediate;
#pragma omp for schedule(dynamic)
    for (int i = 0; i < blocks; i++) {
        const Range part = share(width / GROUP, i, blocks);  // whole groups of the next product's activations
        const int begin = part.first * GROUP, end = part.last * GROUP, first = begin / TILE, last = end / TILE;
        if (begin == end) continue;
        panels.multiply(l.gate, in, gate, first, last);
        panels.multiply(l.up, in, up, first, last);
        for (int row = 0; row < panels.rows; row++) {
            float *g = gate + int64_t(row) * width, *u = up + int64_t(row) * width;
            for (int c = begin; c < end; c++) g[c] = g[c] / (1.0f + exponential(-g[c])) * u[c];
            panels.quantise(g, row, begin, end - begin, width, out);
        }
    }
}

template <class T>
void write_cache(const DecoderLayer& l, const DecoderState& s, float* k, const float* v, int rows) {
    const int E = l.head_dim;
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) {
        float* heads = k + int64_t(row) * l.kv_heads * E;
        norm_and_rotate(heads, l.kv_heads, l.k_norm, l, s, row);
        for (int h = 0; h < l.kv_heads; h++)
            for (int e = 0; e < E; e++) {
                const int64_t to = (h * s.capacity + s.past + row) * E + e;
                store(static_cast<T*>(s.keys) + to, heads[h * E + e]);
                store(static_cast<T*>(s.values) + to, v[(int64_t(row) * l.kv_heads + h) * E + e]);
            }
    }
}

template <class T>
void run(const DecoderLayer& l, const DecoderState& s, float* x, int rows, int threads, const Kernels& kernels) {
    static thread_local Scratch scratch;
    const int64_t q_width = int64_t(l.heads) * l.head_dim, kv_width = int64_t(l.kv_heads) * l.head_dim;
    const int64_t room = std::max<int64_t>(l.hidden, l.intermediate);
    float *q = at_least(scratch.q, rows * q_width), *k = at_least(scratch.k, rows * kv_width);
    float *v = at_least(scratch.v, rows * kv_width), *gate = at_least(scratch.gate, rows * room);
    float* up = at_least(scratch.up, rows * room);
    ActivationGroup* narrow = at_least(scratch.narrow, rows * std::max<int64_t>(l.hidden, q_width) / GROUP);
    ActivationGroup* wide = at_least(scratch.wide, int64_t(rows) * l.intermediate / GROUP);
    const Panels panels{kernels, rows};
    const int blocks = (rows + QUERIES - 1) / QUERIES;
#pragma omp parallel num_threads(threads)
    {
        norm_rows(panels, l, x, l.input_norm, narrow);
        project(panels, l.q, l.q_bias, narrow, q);
        project(panels, l.k, l.k_bias, narrow, k);
        project(panels, l.v, l.v_bias, narrow, v);
#pragma omp barrier
        write_cache<T>(l, s, k, v, rows);
        AttentionBuffers buffers(l.heads / l.kv_heads, l.head_dim);
#pragma omp for schedule(dynamic)
        for (int task = blocks * l.kv_heads - 1; task >= 0; task--) {  // the longest first
            const int first = task / l.kv_heads * QUERIES;
            attend_block<T>(l, s, q, task % l.kv_heads, first, std::min(rows, first + QUERIES), buffers);
        }
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++) panels.quantise(q + row * q_width, row, 0, q_width, q_width, narrow);
        add_product(panels, l, l.o, l.o_bias, narrow, gate, x);
        norm_rows(panels, l, x, l.post_norm, narrow);
        gated(panels, l, narrow, gate, up, wide);
        add_product(panels, l, l.down, nullptr, wide, gate, x);
    }
}

}  // namespace

void decode_prompt(const DecoderLayer& layer, const DecoderState& state, float* x, int rows, int threads,
                   const Kernels& kernels) {
    (state.element ? run<Bf16> : run<float>)(layer, state, x, rows, threads, kernels);
}

}  // namespace vesalius
