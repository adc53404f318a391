// Layers of a Llama-like decoder for a ragged batch: norm, q k v, rotation, attention over pages, o, residual, norm, gate
// and up, SiLU, down, residual; all layers in one parallel region.
//
// Decoding a small model is a few microseconds of arithmetic between reads of weights, so what costs is everything
// around it: a Python call, a thread team started, an array written for each of a dozen operations, a wait for the
// slowest thread. So with a few rows every thread does for itself what is cheap (norms, merging) rather than wait, and
// reads its own share of each matrix. Many rows are bound by arithmetic: their norms are shared, and a block of weights
// stays in the second cache while all rows pass it, eight at a time (quantised.h). What follows a product elementwise
// (bias, SiLU, residual, quantising for the next one) is done on a block while it is in the first cache.
//
// Each row's result is the same whatever rows stand beside it, bit for bit, and however many threads there are.
//
// Not here: ALiBi, other activations, norms and kinds of attention (compress/fused_layers.py: is_fusable).

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <vector>

#include "arithmetic.h"
#include "formats.h"
#include "paged_attention.h"
#include "quantised.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace vesalius;

namespace vesalius {

// The fields of interface.py: DecoderLayerStruct. Pointers may be null where a layer has no such part.
struct DecoderLayer {
    PackedMatrix q, k, v, o, gate, up, down;
    const float *input_norm, *post_norm;  // (hidden)
    const float *q_norm, *k_norm;         // (head_dim)
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    Rule rule;
    int32_t hidden, heads, kv_heads, head_dim, intermediate;
    int32_t angles;  // which ones its heads turn by
    float eps, residual;
};

// The fields of interface.py: AnglesStruct. cos and sin (rows, size); 0: no coordinate turns.
struct Angles {
    const float *cos, *sin;
    int64_t size;
};

}  // namespace vesalius

namespace {

constexpr int FEW = PANEL;                    // rows of which each thread norms all
constexpr int CHUNK = 16;                     // tiles whose products wait in the first cache
constexpr int64_t L2_SHARE = 128 << 10;       // bytes of weights that stay in the second cache while all rows pass
constexpr int QUEUES = 5;                     // shared parts of a layer

template <class Item>
Item* at_least(std::vector<Item>& buffer, int64_t size) {
    if (int64_t(buffer.size()) < size) buffer.resize(size);
    return buffer.data();
}

// Buffers of a call, kept between calls: those all threads share, and a thread's own.
struct Shared {
    std::vector<float> q, k, v;
    std::vector<ActivationGroup> narrow, wide;
};
struct Own {
    std::vector<float> row;
    std::vector<ActivationGroup> groups;
};
Own& own() {
    static thread_local Own mine;
    return mine;
}

// One call: what all its layers share.
struct Step {
    const Kernels& kernels;
    const Segments& segments;
    const Angles* angles;
    const std::vector<Place> places;
    float *x, *q, *k, *v;
    ActivationGroup *narrow, *wide;
    int threads;

    int rows() const { return segments.rows; }
    bool few() const { return rows() <= FEW; }
    int panels() const { return (rows() + PANEL - 1) / PANEL; }
    int width(int panel) const { return std::min(PANEL, rows() - panel * PANEL); }

    // Columns first..first+count-1 (whole groups) of a row among groups with `all` columns; rows of a panel lie interleaved.
    void quantise(const float* x, int row, int64_t first, int64_t count, int64_t all, ActivationGroup* out) const {
        const int panel = row / PANEL;
        ActivationGroup* begin = out + panel * PANEL * (all / GROUP) + first / GROUP * width(panel);
        kernels.quantise_row(x, count, width(panel), begin + row % PANEL);
    }

    // Tiles first..last-1 times the rows of a panel -> y (rows of the panel, stride), the first tile at its beginning.
    void multiply(const PackedMatrix& m, const ActivationGroup* x, int panel, int first, int last, float* y, int stride) const {
        kernels.product(m, x + panel * PANEL * groups(m), width(panel), y - first * TILE, stride, first, last);
    }
};

using Queue = std::atomic<int>;

// Calls work(i) for i in 0..count-1: with few rows a thread takes its own share, which it reads in one go.
template <class Work>
void divide(const Step& s, int count, Queue& queue, Work work) {
    if (s.few()) {
        const Range mine = share(count, omp_get_thread_num(), s.threads);
        for (int i = mine.first; i < mine.last; i++) work(i);
        return;
    }
    for (int i; (i = queue.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
}

// Into how many blocks `units` of so many bytes and tiles each are cut, every thread getting as many as the others.
int blocks_of(const Step& s, int units, int64_t bytes, int tiles) {
    const int64_t fits = s.few() ? CHUNK : L2_SHARE / bytes, most = std::clamp<int64_t>(fits, 1, CHUNK / tiles);
    const int64_t each = (units + most * s.threads - 1) / (most * s.threads);
    return int(std::max<int64_t>(s.few() ? 1 : 2, each)) * s.threads;
}

int64_t bytes_of_tile(const PackedMatrix& m) {
    const FormatTraits t = TRAITS[m.format];
    return code_bytes_of_tile(t, groups(m)) + scale_bytes_of_tile(t, groups(m));
}

// Rows made by make(row, room of `columns`) as activations: all of them by each thread where they are few, else shared.
template <class Make>
const ActivationGroup* activations(const Step& s, int64_t columns, Make make) {
    float* room = at_least(own().row, columns);
    if (s.few()) {
        ActivationGroup* out = at_least(own().groups, s.rows() * columns / GROUP);
        for (int row = 0; row < s.rows(); row++) s.quantise(make(row, room), row, 0, columns, columns, out);
        return out;
    }
#pragma omp for schedule(static)
    for (int row = 0; row < s.rows(); row++) s.quantise(make(row, room), row, 0, columns, columns, s.narrow);
    return s.narrow;
}

const ActivationGroup* normed(const Step& s, const DecoderLayer& l, const float* weight) {
    return activations(s, l.hidden, [&](int row, float* room) {
        rms_norm(s.x + int64_t(row) * l.hidden, weight, l.hidden, l.eps, room);
        return room;
    });
}

// The three projections, as if their tiles stood one behind the other.
void project_qkv(const Step& s, const DecoderLayer& l, const ActivationGroup* in, Queue& queue) {
    const PackedMatrix* matrices[] = {&l.q, &l.k, &l.v};
    const float* biases[] = {l.q_bias, l.k_bias, l.v_bias};
    float* outputs[] = {s.q, s.k, s.v};
    const int all = tiles(l.q) + tiles(l.k) + tiles(l.v), blocks = blocks_of(s, all, bytes_of_tile(l.q), 1);
    divide(s, blocks, queue, [&](int i) {
        const Range mine = share(all, i, blocks);
        int before = 0;
        for (int j = 0; j < 3; j++) {
            const PackedMatrix& m = *matrices[j];
            const int first = std::max(0, mine.first - before), last = std::min(tiles(m), mine.last - before);
            const int begin = first * TILE, end = std::min(m.rows, last * TILE);
            before += tiles(m);
            for (int p = 0; p < s.panels() && first < last; p++) {
                float* y = outputs[j] + int64_t(p) * PANEL * m.rows;
                s.multiply(m, in, p, first, last, y + begin, m.rows);
                for (int r = 0; biases[j] && r < s.width(p); r++)
                    for (int c = begin; c < end; c++) y[int64_t(r) * m.rows + c] += biases[j][c];
            }
        }
    });
}

void norm_and_turn(const DecoderLayer& l, const Angles& angles, const float* norm, int row, float* head) {
    if (norm) rms_norm(head, norm, l.head_dim, l.eps, head);
    const int64_t at = row * angles.size;
    if (angles.size) rotate(head, angles.cos + at, angles.sin + at, int(angles.size));
}

// Turns queries and keys, and writes keys and values into the pages; each thread takes an equal share of all heads.
void place_heads(const Step& s, const DecoderLayer& l, const Pages& pages) {
    const int E = l.head_dim, each = l.heads + 2 * l.kv_heads;
    const Angles& angles = s.angles[l.angles];
    const Range mine = share(s.rows() * each, omp_get_thread_num(), s.threads);
    for (int i = mine.first; i < mine.last; i++) {
        const int row = i / each, h = i % each;
        if (h < l.heads) {
            norm_and_turn(l, angles, l.q_norm, row, s.q + (int64_t(row) * l.heads + h) * E);
        } else if (h < l.heads + l.kv_heads) {
            float* key = s.k + (int64_t(row) * l.kv_heads + h - l.heads) * E;
            norm_and_turn(l, angles, l.k_norm, row, key);
            write_key(pages, s.places[row], h - l.heads, key);
        } else {
            const int head = h - l.heads - l.kv_heads;
            write_value(pages, s.places[row], head, s.v + (int64_t(row) * l.kv_heads + head) * E);
        }
    }
}

// x += residual * (matrix times in + bias).
void add_product(const Step& s, const DecoderLayer& l, const PackedMatrix& m, const float* bias, const ActivationGroup* in,
                 Queue& queue) {
    const int blocks = blocks_of(s, tiles(m), bytes_of_tile(m), 1);
    divide(s, blocks, queue, [&](int i) {
        float y[PANEL * CHUNK * TILE];
        const auto [first, last] = share(tiles(m), i, blocks);
        const int begin = first * TILE, end = std::min(m.rows, last * TILE);
        for (int p = 0; p < s.panels() && first < last; p++) {
            s.multiply(m, in, p, first, last, y, CHUNK * TILE);
            for (int r = 0; r < s.width(p); r++) {
                float *to = s.x + (int64_t(p) * PANEL + r) * l.hidden, *from = y + r * CHUNK * TILE - begin;
                for (int c = begin; bias && c < end; c++) from[c] += bias[c];
                for (int c = begin; c < end; c++) to[c] = __builtin_fmaf(l.residual, from[c], to[c]);
            }
        }
    });
}

// silu(gate) * up as activations of the product that follows: pairs of tiles are whole groups of them.
void gated(const Step& s, const DecoderLayer& l, const ActivationGroup* in, Queue& queue) {
    const int pairs = l.intermediate / GROUP, blocks = blocks_of(s, pairs, 4 * bytes_of_tile(l.gate), 2);
    divide(s, blocks, queue, [&](int i) {
        float gate[PANEL * CHUNK * TILE], up[PANEL * CHUNK * TILE];
        const Range mine = share(pairs, i, blocks);
        const int first = mine.first * 2, last = mine.last * 2, count = (last - first) * TILE;
        for (int p = 0; p < s.panels() && first < last; p++) {
            s.multiply(l.gate, in, p, first, last, gate, CHUNK * TILE);
            s.multiply(l.up, in, p, first, last, up, CHUNK * TILE);
            for (int r = 0; r < s.width(p); r++) {
                float* g = gate + r * CHUNK * TILE;
                gate_by_silu(g, up + r * CHUNK * TILE, count);
                s.quantise(g, p * PANEL + r, int64_t(first) * TILE, count, l.intermediate, s.wide);
            }
        }
    });
}

void run_layer(const Step& s, const DecoderLayer& l, const Pages& pages, const AttentionPlan& plan, Queue* queues) {
    const int64_t width = int64_t(l.heads) * l.head_dim;
    project_qkv(s, l, normed(s, l, l.input_norm), queues[0]);
#pragma omp barrier
    place_heads(s, l, pages);
#pragma omp barrier
    for (int task; (task = queues[1].fetch_add(1, std::memory_order_relaxed)) < plan.tasks();)
        attend(plan, task, pages, l.rule, s.q, s.q);
#pragma omp barrier
    const auto mixed = [&](int row, float* room) { return plan.merged(row, l.rule, s.q, room); };
    add_product(s, l, l.o, l.o_bias, activations(s, width, mixed), queues[2]);
#pragma omp barrier
    gated(s, l, normed(s, l, l.post_norm), queues[3]);
#pragma omp barrier
    add_product(s, l, l.down, nullptr, s.wide, queues[4]);
#pragma omp barrier
}

// The division of the attention that a layer needs, made once for all layers alike.
const AttentionPlan* plan_of(std::deque<AttentionPlan>& plans, const Segments& segments, const DecoderLayer& l) {
    for (const AttentionPlan& plan : plans)
        if (plan.serves(l.heads, l.kv_heads, l.head_dim, l.rule.window)) return &plan;
    return &plans.emplace_back(segments, l.heads, l.kv_heads, l.head_dim, l.head_dim, l.rule.window);
}

}  // namespace

// Layers one behind the other; x (rows, hidden) in place: the new tokens of the segments, whose keys and values are
// written into each layer's pages. angles[0] are none, the others as the layers number them.
EXPORT void vesalius_decoder_layers(const DecoderLayer* const* layers, const Pages* const* pages, int count,
                                    const Segments* segments, const Angles* angles, float* x, int threads, int isa) {
    static thread_local Shared shared;
    int64_t q = 0, k = 0, narrow = 0, wide = 0, rows = segments->rows;
    std::deque<AttentionPlan> plans;
    std::vector<const AttentionPlan*> plan(count);
    for (int i = 0; i < count; i++) {
        const DecoderLayer& l = *layers[i];
        q = std::max<int64_t>(q, rows * l.heads * l.head_dim);
        k = std::max<int64_t>(k, rows * l.kv_heads * l.head_dim);
        narrow = std::max<int64_t>(narrow, rows * std::max<int64_t>(l.hidden, int64_t(l.heads) * l.head_dim) / GROUP);
        wide = std::max<int64_t>(wide, rows * l.intermediate / GROUP);
        plan[i] = plan_of(plans, *segments, l);
    }
    std::vector<Queue> queues(size_t(count) * QUEUES);
    Step step{*kernels(isa), *segments, angles, places_of(*segments, pages[0]->positions), x, at_least(shared.q, q),
              at_least(shared.k, k), at_least(shared.v, k), at_least(shared.narrow, narrow), at_least(shared.wide, wide),
              threads};
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        step.threads = omp_get_num_threads();  // fewer than asked for where the system gives no more
        for (int i = 0; i < count; i++) run_layer(step, *layers[i], *pages[i], *plan[i], &queues[size_t(i) * QUEUES]);
    }
}
