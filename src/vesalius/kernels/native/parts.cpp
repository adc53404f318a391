// Parts of a decoder layer by themselves, made of what decoder.cpp is made of: for tests of each and for bench/kernels.py.

#include <algorithm>
#include <vector>

#include "arithmetic.h"
#include "paged_attention.h"
#include "quantised.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace vesalius;

namespace {

// Rows made by make(row, room of `columns`) as activations; what these stand for goes to `out` if it is wanted.
template <class Make>
void quantise_rows(int rows, int64_t columns, float* out, int threads, int isa, Make make) {
    static thread_local std::vector<ActivationGroup> scratch;
    const int64_t groups = columns / GROUP;
    const Kernels& found = *kernels(isa);
    scratch.resize(std::max<size_t>(scratch.size(), rows * groups));
    ActivationGroup* all = scratch.data();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> room(columns);
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++) {
            ActivationGroup* mine = all + row * groups;
            make(row, room.data());
            found.quantise_row(room.data(), columns, 1, mine);
            for (int64_t c = 0; out && c < columns; c++)
                out[row * columns + c] = mine[c / GROUP].scale[c % GROUP / (GROUP / 2)] * float(mine[c / GROUP].values[c % GROUP]);
        }
    }
}

}  // namespace

// x (rows, columns) through its norm.
EXPORT void vesalius_norm_quantise(const float* x, const float* weight, int rows, int64_t columns, float eps, float* out,
                                   int threads, int isa) {
    quantise_rows(rows, columns, out, threads, isa, [&](int row, float* room) {
        rms_norm(x + row * columns, weight, int(columns), eps, room);
    });
}

// silu(gate) * up, (rows, columns) each.
EXPORT void vesalius_gate_quantise(const float* gate, const float* up, int rows, int64_t columns, float* out, int threads,
                                   int isa) {
    quantise_rows(rows, columns, out, threads, isa, [&](int row, float* room) {
        std::copy(gate + row * columns, gate + (row + 1) * columns, room);
        gate_by_silu(room, up + row * columns, int(columns));
    });
}

// Turns q (rows, heads, key_width) and k (rows, kv_heads, key_width) in place by cos and sin (rows, size), and writes k
// and v into the pages.
EXPORT void vesalius_turn_and_write(const Pages* pages, const Segments* segments, const float* cos, const float* sin, int size,
                                    float* q, int heads, float* k, const float* v, int threads) {
    const std::vector<Place> places = places_of(*segments, pages->positions);
    const int E = pages->key_width, K = pages->kv_heads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < segments->rows; row++) {
        for (int h = 0; h < heads; h++) rotate(q + (int64_t(row) * heads + h) * E, cos + row * size, sin + row * size, size);
        for (int h = 0; h < K; h++) {
            float* key = k + (int64_t(row) * K + h) * E;
            rotate(key, cos + row * size, sin + row * size, size);
            write_key(*pages, places[row], h, key);
            write_value(*pages, places[row], h, v + (int64_t(row) * K + h) * pages->value_width);
        }
    }
}
