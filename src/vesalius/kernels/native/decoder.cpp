// One layer of a Llama-like decoder for a few new tokens of one sequence: norm, q k v, rotation, attention over the
// cache, o, residual, norm, gate and up, SiLU, down, residual; all in one parallel region.
//
// Decoding a small model is a few microseconds of arithmetic between reads of weights, so what costs is everything
// around it: a Python call, a thread team started, an array written for each of a dozen operations. Here a layer is one
// call and four barriers. What is cheap (norms, rotations, merging) every thread does for itself rather than wait; rows
// of matrices are split by tiles; attention is split by positions and merged by the online softmax (Milakov &
// Gimelshein 2018, arXiv:1805.02867; split as in Flash-Decoding, Dao et al. 2023), so threads share long contexts evenly.
//
// Not here: prompts (decoder_prompt.cpp), batches of several sequences, ALiBi, sinks, soft caps, other activations.

#include <omp.h>

#include <vector>

#include "decoder.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace vesalius;

namespace {

constexpr int POSITIONS = 64;  // keys whose scores are softmaxed together

// What one head of one query has gathered from some of the keys: the softmax's largest score, sum and weighted values.
struct Partial {
    float largest, sum;
    float* mixed;  // (head_dim)
};

inline V::Floats vector(const float* p) { return V::load(p); }
inline V::Floats vector(const Bf16* p) {
    float floats[V::width];
    for (int i = 0; i < V::width; i++) floats[i] = load(p + i);
    return V::load(floats);
}

// mixed (width) = shrink * mixed + sum over s of weights[s] * values[s], some coordinates at a time held in registers.
template <class T>
void mix(const float* weights, const T* values, int count, int width, float shrink, float* mixed) {
    constexpr int HELD = 4;
    int e = 0;
    for (; e + HELD * V::width <= width; e += HELD * V::width) {
        V::Floats sums[HELD];
        for (int j = 0; j < HELD; j++) sums[j] = V::mul(V::splat(shrink), V::load(mixed + e + j * V::width));
        for (int s = 0; s < count; s++)
            for (int j = 0; j < HELD; j++)
                sums[j] = V::fma(V::splat(weights[s]), vector(values + int64_t(s) * width + e + j * V::width), sums[j]);
        for (int j = 0; j < HELD; j++) V::store(mixed + e + j * V::width, sums[j]);
    }
    for (; e < width; e++) {
        float sum = shrink * mixed[e];
        for (int s = 0; s < count; s++) sum = __builtin_fmaf(weights[s], load(values + int64_t(s) * width + e), sum);
        mixed[e] = sum;
    }
}

// scores[s] = scale * q . keys[s], sixteen keys at a time: their sums are added up side by side.
template <class T>
void score(const float* q, const T* keys, int count, int width, float scale, float* scores) {
    int s = 0;
    for (; s + LANES <= count && width % V::width == 0; s += LANES) {
        float sums[LANES][V::width];
        for (int i = 0; i < LANES; i++) {
            V::Floats sum = V::zero();
            const T* key = keys + int64_t(s + i) * width;
            for (int e = 0; e < width; e += V::width) sum = V::fma(V::load(q + e), vector(key + e), sum);
            V::store(sums[i], sum);
        }
        for (int half = V::width / 2; half > 0; half /= 2)
            for (int i = 0; i < LANES; i++)
                for (int j = 0; j < half; j++) sums[i][j] += sums[i][j + half];
        for (int i = 0; i < LANES; i++) scores[s + i] = scale * sums[i][0];
    }
    for (; s < count; s++) scores[s] = scale * dot(q, keys + int64_t(s) * width, width);
}

// Adds keys first..last-1 to the partials of the `group` queries (rows of q, head_dim apart) that share this head.
template <class T>
void attend(const float* q, int group, const T* keys, const T* values, int width, int64_t first, int64_t last, float scale,
            Partial* partials) {
    float scores[POSITIONS];
    for (int64_t start = first; start < last; start += POSITIONS) {
        const int count = int(std::min<int64_t>(POSITIONS, last - start)), whole = (count + LANES - 1) / LANES * LANES;
        for (int g = 0; g < group; g++) {
            Partial& to = partials[g];
            score(q + g * width, keys + start * width, count, width, scale, scores);
            for (int s = count; s < whole; s++) scores[s] = -INFINITY;
            const float largest = largest_of(scores, whole, to.largest);
            const float shrink = to.sum > 0 ? exponential(to.largest - largest) : 0.0f;
            const float sum = exponentials(scores, whole, largest);
            mix(scores, values + start * width, count, width, shrink, to.mixed);
            to.sum = to.sum * shrink + sum;
            to.largest = largest;
        }
    }
}

// The buffers of a call, kept between calls: shared ones first, then one set for each thread.
struct Scratch {
    std::vector<float> shared, own;
    std::vector<ActivationGroup> groups;
    std::vector<Partial> partials;
};

int64_t padded(int64_t n) { return (n + 31) / 32 * 32; }

struct Layout {
    int64_t q, k, v, gate, up, shared;          // offsets in floats, one row after the other
    int64_t normed, mixed, own;                 // offsets within a thread's own floats
    int64_t own_groups, shared_groups;          // activation groups of a thread, and of all together

    Layout(const DecoderLayer& l, int rows) {
        const int64_t q_width = int64_t(l.heads) * l.head_dim, kv_width = int64_t(l.kv_heads) * l.head_dim;
        q = 0, k = q + rows * q_width, v = k + rows * kv_width, gate = v + rows * kv_width;
        up = gate + int64_t(rows) * l.intermediate, shared = up + int64_t(rows) * l.intermediate;
        const int64_t widest = std::max<int64_t>(l.hidden, q_width);
        normed = 0, mixed = padded(widest), own = mixed + padded(rows * (q_width + kv_width) * 2);
        own_groups = rows * widest / GROUP, shared_groups = int64_t(rows) * l.intermediate / GROUP;
    }
};

// One row of x through its norm into activation groups; a panel's rows lie interleaved (quantised.h).
void norm_and_quantise(const Kernels& kernels, const float* x, const float* weight, const DecoderLayer& l, int rows,
                       float* normed, ActivationGroup* out) {
    for (int r = 0; r < rows; r++) {
        rms_norm(x + int64_t(r) * l.hidden, weight, l.hidden, l.eps, normed);
        kernels.quantise_row(normed, l.hidden, rows, out + r);
    }
}

void add_bias(float* y, const float* bias, int64_t stride, int rows, const PackedMatrix& m, Range tiles) {
    if (!bias) return;
    for (int r = 0; r < rows; r++)
        for (int i = tiles.first * TILE; i < std::min(m.rows, tiles.last * TILE); i++) y[r * stride + i] += bias[i];
}

// Rows of the three projections that fall to this thread, as if their tiles stood one behind the other.
void project_qkv(const Kernels& kernels, const DecoderLayer& l, const ActivationGroup* x, int rows, float* shared,
                 const Layout& at, int thread, int threads) {
    const PackedMatrix* matrices[] = {&l.q, &l.k, &l.v};
    const float* biases[] = {l.q_bias, l.k_bias, l.v_bias};
    float* outputs[] = {shared + at.q, shared + at.k, shared + at.v};
    const Range mine = share(tiles(l.q) + tiles(l.k) + tiles(l.v), thread, threads);
    int before = 0;
    for (int i = 0; i < 3; i++) {
        const int count = tiles(*matrices[i]);
        const Range part = {std::max(0, mine.first - before), std::min(count, mine.last - before)};
        before += count;
        if (part.first >= part.last) continue;
        kernels.product(*matrices[i], x, rows, outputs[i], matrices[i]->rows, part.first, part.last);
        add_bias(outputs[i], biases[i], matrices[i]->rows, rows, *matrices[i], part);
    }
}

// Turns this thread's own copy of the queries, writes the new keys and values if the thread owns the last positions, and
// gathers what its share of the positions gives each head of each row.
template <class T>
void attend_share(const DecoderLayer& l, const DecoderState& s, int rows, const float* shared, const Layout& at, float* own,
                  Partial* partials, int thread, int threads) {
    const int E = l.head_dim, group = l.heads / l.kv_heads;
    const int64_t q_width = int64_t(l.heads) * E, kv_width = int64_t(l.kv_heads) * E;
    T *keys = static_cast<T*>(s.keys), *values = static_cast<T*>(s.values);
    float *q = own + at.mixed, *k = q + rows * q_width;
    std::memcpy(q, shared + at.q, sizeof(float) * rows * q_width);
    for (int r = 0; r < rows; r++) norm_and_rotate(q + r * q_width, l.heads, l.q_norm, l, s, r);
    if (thread == threads - 1) {
        std::memcpy(k, shared + at.k, sizeof(float) * rows * kv_width);
        for (int r = 0; r < rows; r++) {
            norm_and_rotate(k + r * kv_width, l.kv_heads, l.k_norm, l, s, r);
            for (int h = 0; h < l.kv_heads; h++)
                for (int e = 0; e < E; e++) {
                    const int64_t to = (h * s.capacity + s.past + r) * E + e;
                    store(keys + to, k[r * kv_width + h * E + e]);
                    store(values + to, shared[at.v + r * kv_width + h * E + e]);
                }
        }
    }
    float* mixed = k + rows * kv_width;
    std::memset(mixed, 0, sizeof(float) * rows * q_width);
    for (int r = 0; r < rows; r++) {
        // The new positions all belong to the last thread, which has just written them.
        const int64_t end = s.past + r + 1, start = l.window ? std::max<int64_t>(0, end - l.window) : 0;
        const int64_t old = std::max<int64_t>(0, s.past - start);
        int64_t first = start + old * thread / threads, last = start + old * (thread + 1) / threads;
        if (thread == threads - 1) last = end;
        for (int h = 0; h < l.heads; h++) partials[r * l.heads + h] = {-INFINITY, 0.0f, mixed + r * q_width + h * E};
        for (int h = 0; h < l.kv_heads && first < last; h++)
            attend(q + r * q_width + h * group * E, group, keys + h * s.capacity * E, values + h * s.capacity * E, E, first,
                   last, l.scale, partials + r * l.heads + h * group);
    }
}

// All threads' partials of one row into one vector (heads * head_dim).
void merge(const DecoderLayer& l, const std::vector<Partial>& partials, int row, int rows, int threads, float* out) {
    for (int h = 0; h < l.heads; h++) {
        float largest = -INFINITY, sum = 0;
        for (int t = 0; t < threads; t++) largest = std::max(largest, partials[(t * rows + row) * l.heads + h].largest);
        float* head = out + int64_t(h) * l.head_dim;
        std::memset(head, 0, sizeof(float) * l.head_dim);
        for (int t = 0; t < threads; t++) {
            const Partial& p = partials[(t * rows + row) * l.heads + h];
            if (p.sum == 0) continue;
            const float weight = exponential(p.largest - largest);
            sum += weight * p.sum;
            for (int e = 0; e < l.head_dim; e++) head[e] = __builtin_fmaf(weight, p.mixed[e], head[e]);
        }
        for (int e = 0; e < l.head_dim; e++) head[e] /= sum;
    }
}

// x += residual * (matrix times the activations + bias), for this thread's tiles.
void project_onto_stream(const Kernels& kernels, const DecoderLayer& l, const PackedMatrix& m, const float* bias,
                         const ActivationGroup* in, int rows, float* x, int thread, int threads) {
    constexpr int CHUNK = 8;
    float y[PANEL * CHUNK * TILE];
    const Range mine = share(tiles(m), thread, threads);
    for (int first = mine.first; first < mine.last; first += CHUNK) {
        const int last = std::min(mine.last, first + CHUNK), begin = first * TILE, end = std::min(m.rows, last * TILE);
        kernels.product(m, in, rows, y - begin, CHUNK * TILE, first, last);
        for (int r = 0; r < rows; r++)
            for (int i = begin; i < end; i++) {
                const float value = y[r * CHUNK * TILE + i - begin] + (bias ? bias[i] : 0.0f);
                x[int64_t(r) * l.hidden + i] = __builtin_fmaf(l.residual, value, x[int64_t(r) * l.hidden + i]);
            }
    }
}

// silu(gate) * up for this thread's pairs of tiles, which are whole groups of activations.
void gated(const Kernels& kernels, const DecoderLayer& l, const ActivationGroup* x, int rows, float* gate, float* up,
           ActivationGroup* out, int thread, int threads) {
    const Range pairs = share(l.intermediate / GROUP, thread, threads);
    const int first = pairs.first * 2, last = pairs.last * 2, width = l.intermediate;
    if (first >= last) return;
    kernels.product(l.gate, x, rows, gate, width, first, last);
    kernels.product(l.up, x, rows, up, width, first, last);
    for (int r = 0; r < rows; r++) {
        float *g = gate + int64_t(r) * width, *u = up + int64_t(r) * width;
        for (int i = first * TILE; i < last * TILE; i++) g[i] = g[i] / (1.0f + exponential(-g[i])) * u[i];
        kernels.quantise_row(g + first * TILE, int64_t(last - first) * TILE, rows, out + int64_t(pairs.first) * rows + r);
    }
}

template <class T>
void decode(const DecoderLayer& l, const DecoderState& s, float* x, int rows, int threads, const Kernels& kernels) {
    static thread_local Scratch scratch;
    const Layout at(l, rows);
    scratch.shared.resize(std::max<size_t>(scratch.shared.size(), at.shared));
    scratch.own.resize(std::max<size_t>(scratch.own.size(), at.own * threads));
    scratch.groups.resize(std::max<size_t>(scratch.groups.size(), at.shared_groups + at.own_groups * threads));
    scratch.partials.resize(size_t(threads) * rows * l.heads);
    float *shared = scratch.shared.data(), *owned = scratch.own.data();
    ActivationGroup* groups = scratch.groups.data();
    std::vector<Partial>& partials = scratch.partials;
#pragma omp parallel num_threads(threads)
    {
        const int thread = omp_get_thread_num(), team = omp_get_num_threads();
        float* own = owned + at.own * thread;
        ActivationGroup* mine = groups + at.shared_groups + at.own_groups * thread;
        norm_and_quantise(kernels, x, l.input_norm, l, rows, own + at.normed, mine);
        project_qkv(kernels, l, mine, rows, shared, at, thread, team);
#pragma omp barrier
        attend_share<T>(l, s, rows, shared, at, own, partials.data() + thread * rows * l.heads, thread, team);
#pragma omp barrier
        for (int r = 0; r < rows; r++) {
            merge(l, partials, r, rows, team, own + at.normed);
            kernels.quantise_row(own + at.normed, int64_t(l.heads) * l.head_dim, rows, mine + r);
        }
        project_onto_stream(kernels, l, l.o, l.o_bias, mine, rows, x, thread, team);
#pragma omp barrier
        norm_and_quantise(kernels, x, l.post_norm, l, rows, own + at.normed, mine);
        gated(kernels, l, mine, rows, shared + at.gate, shared + at.up, groups, thread, team);
#pragma omp barrier
        project_onto_stream(kernels, l, l.down, nullptr, groups, rows, x, thread, team);
    }
}

}  // namespace

// Layers one behind the other; x (rows, hidden) in place: tokens that follow the `past` ones of the cache, whose room
// reaches to past + rows; their keys and values are written there. More than PANEL rows need a head_dim that is a multiple
// of 16.
EXPORT void vesalius_decoder_layers(const DecoderLayer* const* layers, const DecoderState* states, int count, float* x,
                                    int rows, int threads, int isa) {
    const Kernels& found = *kernels(isa);
    for (int i = 0; i < count; i++) {
        if (rows > PANEL)
            decode_prompt(*layers[i], states[i], x, rows, threads, found);
        else
            (states[i].element ? decode<Bf16> : decode<float>)(*layers[i], states[i], x, rows, threads, found);
    }
}
