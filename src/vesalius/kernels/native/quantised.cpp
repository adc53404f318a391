// The entries that Python calls: matrix products and the best rows of one, with threads around the kernels.

#include "quantised.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "formats.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace vesalius;

namespace {

constexpr int64_t L2_SHARE = 128 << 10;      // bytes of weights that stay in the second cache while all rows pass
constexpr int64_t WORTH_THREADS = 32 << 10;  // bytes of weights times rows below which starting a team costs more

int64_t bytes_of_tile(const PackedMatrix& m) {
    const FormatTraits t = TRAITS[m.format];
    return code_bytes_of_tile(t, groups(m)) + scale_bytes_of_tile(t, groups(m));
}

// Kept between calls by every calling thread: large allocations are returned to the system and cost page faults.
ActivationGroup* scratch(int64_t count) {
    static thread_local std::vector<ActivationGroup> buffer;
    if (int64_t(buffer.size()) < count) buffer.resize(count);
    return buffer.data();
}

// Rows of x in panels of PANEL rows; panel p starts at out + p * PANEL * groups, the last may be narrower.
void quantise_piece(const Kernels& k, const float* x, int64_t stride, int64_t rows, int64_t columns, int64_t row,
                    ActivationGroup* out) {
    const int64_t panel = row / PANEL, width = std::min<int64_t>(PANEL, rows - panel * PANEL);
    k.quantise_row(x + row * stride, columns, int(width), out + panel * PANEL * (columns / GROUP) + row % PANEL);
}

// NaN counts as the largest, as in torch.
bool greater(float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); }

struct Best {
    float value;
    int64_t id;
};

// `best[0..k-1]` sorted downwards; of equal values the lower id stays in front because ids come in rising order.
void insert(Best* best, int k, float value, int64_t id) {
    int at = k - 1;
    for (; at > 0 && (best[at - 1].id == INT64_MAX || greater(value, best[at - 1].value)); at--)
        best[at] = best[at - 1];
    best[at] = {value, id};
}

}  // namespace

// y (rows, matrix.rows) = x (rows, columns) times the matrix, transposed; strides in floats.
EXPORT void vesalius_product(const PackedMatrix* matrix, const float* x, int64_t x_stride, int64_t rows, float* y,
                             int64_t y_stride, int threads, int isa) {
    const PackedMatrix& m = *matrix;
    const Kernels& k = *kernels(isa);
    const int count = tiles(m);
    const int64_t n = groups(m);
    ActivationGroup* q = scratch(rows * n);
    if (bytes_of_tile(m) * count * rows < WORTH_THREADS) threads = 1;
    const int64_t fits = rows <= PANEL ? count : L2_SHARE / bytes_of_tile(m), fair = count / (4 * threads);
    const int block = int(std::max<int64_t>(1, std::min(fits, fair)));
    const bool alone = rows <= 2;  // quantising one row takes less than a barrier
    if (alone)
        for (int64_t row = 0; row < rows; row++) quantise_piece(k, x, x_stride, rows, m.columns, row, q);
#pragma omp parallel num_threads(threads)
    {
        if (!alone) {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < rows; row++) quantise_piece(k, x, x_stride, rows, m.columns, row, q);
        }
#pragma omp for schedule(dynamic) nowait
        for (int first = 0; first < count; first += block) {
            const int last = std::min(count, first + block);
            for (int64_t row = 0; row < rows; row += PANEL) {
                const int panel = int(std::min<int64_t>(PANEL, rows - row));
                k.product(m, q + row * n, panel, y + row * y_stride, y_stride, first, last);
            }
        }
    }
}

// The k largest entries of every row of the product, largest first, without writing the product: values and ids
// (rows, k), rows <= PANEL, k <= matrix.rows. Of equal values the lower id comes first.
EXPORT void vesalius_product_top(const PackedMatrix* matrix, const float* x, int64_t x_stride, int rows, int k_best,
                                 float* values, int64_t* ids, int threads, int isa) {
    constexpr int CHUNK = 16;  // tiles whose products wait in the first cache to be looked through
    const PackedMatrix& m = *matrix;
    const Kernels& k = *kernels(isa);
    const int count = tiles(m);
    ActivationGroup* q = scratch(rows * groups(m));
    for (int64_t row = 0; row < rows; row++) quantise_piece(k, x, x_stride, rows, m.columns, row, q);
    std::vector<Best> found(size_t(threads) * rows * k_best, Best{-INFINITY, INT64_MAX});
    const int share = (count + threads - 1) / threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int part = 0; part < threads; part++) {
        float y[PANEL * CHUNK * TILE];
        Best* best = found.data() + size_t(part) * rows * k_best;
        for (int first = part * share; first < std::min(count, (part + 1) * share); first += CHUNK) {
            const int last = std::min({count, (part + 1) * share, first + CHUNK});
            k.product(m, q, rows, y - first * TILE, CHUNK * TILE, first, last);
            const int width = std::min(m.rows, last * TILE) - first * TILE;
            for (int row = 0; row < rows; row++) {
                Best* mine = best + row * k_best;
                for (int i = 0; i < width; i++) {
                    const float value = y[row * CHUNK * TILE + i];
                    if (greater(value, mine[k_best - 1].value) || mine[k_best - 1].id == INT64_MAX)
                        insert(mine, k_best, value, first * TILE + i);
                }
            }
        }
    }
    for (int row = 0; row < rows; row++) {  // threads hold rising ids, so merging in their order keeps ties in order
        Best* into = found.data() + row * k_best;
        for (int part = 1; part < threads; part++)
            for (int i = 0; i < k_best; i++) {
                const Best& candidate = found[(size_t(part) * rows + row) * k_best + i];
                if (candidate.id == INT64_MAX) break;
                if (greater(candidate.value, into[k_best - 1].value) || into[k_best - 1].id == INT64_MAX)
                    insert(into, k_best, candidate.value, candidate.id);
            }
        for (int i = 0; i < k_best; i++) {
            values[row * k_best + i] = into[i].value;
            ids[row * k_best + i] = into[i].id;
        }
    }
}
