// Attention of a ragged batch over keys and values in pages (kernels/paged_attention.py says what it computes).
//
// Work is cut into blocks of rows times key heads times ranges of keys. A long context of one sequence is so shared by
// all threads: each range gives a largest score, a sum and a mixed value, merged at the end (Flash-Decoding, Dao et al.
// 2023; the online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867). Within a task it is flash attention (Dao et
// al. 2022, arXiv:2205.14135, algorithm 1): all query heads that share keys, of all rows of the block, meet one block of
// keys after the other, so that each key is read, and turned into float32, once for all of them.
//
// Few queries are multiplied with keys as they lie, sixteen keys at a time, whose sums are added up side by side, and
// elements become float32 on their way into a register; for many that is done once, and the keys are transposed, so that
// both products run along rows of registers. Scales of int8 pages multiply scores and weights, not elements.

#include "paged_attention.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "arithmetic.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace vesalius {
namespace {

constexpr int KEYS = 64;               // whose scores are softmaxed together
constexpr int STRIP = 32;              // queries whose scores stay in the first cache
constexpr int STRIDE = KEYS + LANES;   // of scores: what sixteen at a time write beyond the last key
constexpr int FEW_ROWS = 8;            // rows of a sequence up to which ranges are short and sums in one order
constexpr int SHORT_RANGE = 128, LONG_RANGE = 512;  // keys
constexpr int MOST_QUERIES = 256, MOST_ROWS = 64;   // of a block of rows
constexpr int TRANSPOSED = 24;         // queries from which transposing the keys pays
constexpr int ROWS = 4;                // of a product held in registers
constexpr int DIRECT = ROWS;           // queries up to which elements are made float32 in a register
constexpr int DEPTH = 64;              // of a product before its sums are written
constexpr int HELD = V::width == 16 ? 4 : 2;  // vectors of one row in registers
constexpr double WORTH_THREADS = 1e5;  // operations below which starting a team costs more

int padded(int width) { return (width + LANES - 1) / LANES * LANES; }

// Buffers of a thread, kept between calls.
struct Buffers {
    std::vector<float> queries, mixed, scores, keys, values, transposed, largest, sum;
    float key_scales[KEYS], value_scales[KEYS];
};

float* at_least(std::vector<float>& buffer, int64_t size) {
    if (int64_t(buffer.size()) < size) buffer.resize(size);
    return buffer.data();
}

// Neighbouring keys in memory: `count` of them, that stand at `at` of the block of KEYS. `readable` of them may be read.
struct Piece {
    const void *keys, *values;
    int at, count, readable;
};

struct Pieces {
    Piece of[KEYS];
    int count = 0, key_stride, value_stride;
    int32_t element;  // of what keys and values point to
    bool scaled;
};

template <class T>
void to_floats(const T* from, int count, int width, int stride, float* to) {
    for (int i = 0; i < count; i++) {
        const T* row = from + int64_t(i) * width;
        float* out = to + i * stride;
        int e = 0;
        for (; e + V::width <= width; e += V::width) V::store(out + e, vector(row + e));
        for (; e < width; e++) out[e] = load(row + e);
        for (; e < stride; e++) out[e] = 0.0f;
    }
}

// Where one head's keys and values of a sequence lie.
class HeadPages {
   public:
    HeadPages(const Pages& pages, const Segments& segments, int sequence, int head)
        : p(pages), table(segments.tables + segments.starts[sequence]), head(head) {}

    // Keys start..start+count-1 in rows padded to whole vectors: where they lie, or copied as float32 where rows are no
    // whole vectors, or are read often.
    void read(int64_t start, int count, bool often, Buffers& b, Pieces& out) const {
        out.key_stride = padded(p.key_width), out.value_stride = p.values ? padded(p.value_width) : out.key_stride;
        out.scaled = p.element == INT8;
        const bool whole = p.key_width % LANES == 0 && (!p.values || p.value_width % LANES == 0);
        const bool sixteens = p.positions % LANES == 0 && start % LANES == 0;
        if (whole && (p.element == FLOAT32 || (sixteens && !often)))
            point(start, count, b, out);
        else if (p.element == FLOAT32)
            copy<float>(start, count, b, out);
        else if (p.element == BFLOAT16)
            copy<Bf16>(start, count, b, out);
        else
            copy<int8_t>(start, count, b, out);
    }

   private:
    const Pages& p;
    const int64_t* table;
    const int head;

    // Calls visit(first position in memory, where it stands in the block of KEYS, how many, how many may be read).
    template <class Visit>
    void each(int64_t start, int count, Visit visit) const {
        int64_t block = start / p.positions;
        int offset = int(start % p.positions);
        for (int at = 0; at < count; block++, offset = 0) {
            const int some = std::min(count - at, p.positions - offset);
            visit((table[block] * p.kv_heads + head) * p.positions + offset, at, some, p.positions - offset);
            at += some;
        }
    }

    const char* place(const void* storage, int64_t element) const {
        return static_cast<const char*>(storage) + element * (p.element == FLOAT32 ? 4 : p.element == BFLOAT16 ? 2 : 1);
    }

    void copy_scales(int64_t row, int at, int some, Buffers& b) const {
        if (p.element != INT8) return;
        std::copy_n(p.key_scales + row, some, b.key_scales + at);
        std::copy_n((p.values ? p.value_scales : p.key_scales) + row, some, b.value_scales + at);
    }

    void point(int64_t start, int count, Buffers& b, Pieces& out) const {
        out.element = p.element;
        each(start, count, [&](int64_t row, int at, int some, int readable) {
            const char* keys = place(p.keys, row * p.key_width);
            out.of[out.count++] = {keys, p.values ? place(p.values, row * p.value_width) : keys, at, some, readable};
            copy_scales(row, at, some, b);
        });
    }

    template <class T>
    void copy(int64_t start, int count, Buffers& b, Pieces& out) const {
        out.element = FLOAT32;
        float* keys = at_least(b.keys, int64_t(KEYS) * out.key_stride);
        float* values = p.values ? at_least(b.values, int64_t(KEYS) * out.value_stride) : keys;
        each(start, count, [&](int64_t row, int at, int some, int) {
            to_floats(static_cast<const T*>(p.keys) + row * p.key_width, some, p.key_width, out.key_stride,
                      keys + at * out.key_stride);
            if (p.values)
                to_floats(static_cast<const T*>(p.values) + row * p.value_width, some, p.value_width, out.value_stride,
                          values + at * out.value_stride);
            copy_scales(row, at, some, b);
        });
        out.of[out.count++] = {keys, values, 0, count, KEYS};
    }
};

// scores[s] of R queries = query . key, sixteen keys at a time; as few registers are loaded as four keys times R need.
template <int R, class T>
void score_sixteen(const float* queries, const T* keys, int width, int count, int readable, float* scores) {
    int s = 0;
    for (; s < count && s + LANES <= readable; s += LANES) {
        V::Floats sums[R][LANES];
        for (int i = 0; i < LANES; i += 4) {
            V::Floats four[R][4];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) four[r][j] = V::zero();
            const T* key = keys + int64_t(s + i) * width;
            for (int e = 0; e < width; e += V::width) {
                V::Floats some[4];
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) hold(some[j] = vector(key + j * width + e));
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    V::Floats query = V::load(queries + r * width + e);
                    hold(query);
#pragma GCC unroll 4
                    for (int j = 0; j < 4; j++) four[r][j] = V::fma(query, some[j], four[r][j]);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) sums[r][i + j] = four[r][j];
        }
        for (int r = 0; r < R; r++) add_lanes(sums[r], scores + r * STRIDE + s);
    }
    if constexpr (std::is_same_v<T, float>)  // others are whole sixteens where they lie
        for (; s < count; s++)
            for (int r = 0; r < R; r++) scores[r * STRIDE + s] = dot(queries + r * width, keys + int64_t(s) * width, width);
}

template <class T>
void score(const float* queries, int count, int width, const Pieces& pieces, float* scores) {
    for (int i = 0; i < pieces.count; i++) {
        const Piece& p = pieces.of[i];
        for (int r = 0; r < count; r += 4) {
            const auto run = count - r >= 4   ? score_sixteen<4, T>
                             : count - r == 3 ? score_sixteen<3, T>
                             : count - r == 2 ? score_sixteen<2, T>
                                              : score_sixteen<1, T>;
            run(queries + int64_t(r) * width, static_cast<const T*>(p.keys), width, p.count, p.readable, scores + r * STRIDE + p.at);
        }
    }
}

// c (R, J vectors) += a (R, k) times b (k, J vectors)
template <int R, int J, class T>
inline void tile_product(const float* a, int a_stride, const T* b, int b_stride, float* c, int c_stride, int k) {
    V::Floats sums[R][J];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) sums[r][j] = V::load(c + r * c_stride + j * V::width);
    for (int p = 0; p < k; p++) {
        V::Floats row[J];
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) hold(row[j] = vector(b + int64_t(p) * b_stride + j * V::width));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const V::Floats value = V::splat(a[r * a_stride + p]);
#pragma GCC unroll 4
            for (int j = 0; j < J; j++) sums[r][j] = V::fma(value, row[j], sums[r][j]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) V::store(c + r * c_stride + j * V::width, sums[r][j]);
}

template <int J, class T>
void product_columns(const float* a, int a_stride, const T* b, int b_stride, float* c, int c_stride, int rows, int k) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        tile_product<ROWS, J, T>(a + r * a_stride, a_stride, b, b_stride, c + int64_t(r) * c_stride, c_stride, k);
    const auto run = rows - r == 3 ? tile_product<3, J, T> : rows - r == 2 ? tile_product<2, J, T> : tile_product<1, J, T>;
    if (r < rows) run(a + r * a_stride, a_stride, b, b_stride, c + int64_t(r) * c_stride, c_stride, k);
}

// c (rows, columns) += a (rows, k) times b (k, columns); columns is a multiple of a vector's width. What is taken of b at
// a time stays in the first cache while all rows pass it.
template <class T>
void product(const float* a, int a_stride, const T* b, int b_stride, float* c, int c_stride, int rows, int columns,
             int all) {
    for (int first = 0; first < all; first += DEPTH, a += DEPTH, b += int64_t(DEPTH) * b_stride) {
        const int k = std::min(DEPTH, all - first);
        int j = 0;
        for (; j + HELD * V::width <= columns; j += HELD * V::width)
            product_columns<HELD, T>(a, a_stride, b + j, b_stride, c + j, c_stride, rows, k);
        for (; j < columns; j += V::width) product_columns<1, T>(a, a_stride, b + j, b_stride, c + j, c_stride, rows, k);
    }
}

// mixed (rows, value_width) += weights times values
template <class T>
void mix(const float* weights, const Pieces& pieces, float* mixed, int rows, int width) {
    for (int i = 0; i < pieces.count; i++) {
        const Piece& p = pieces.of[i];
        product(weights + p.at, STRIDE, static_cast<const T*>(p.values), pieces.value_stride, mixed, width, rows, width, p.count);
    }
}

// What reads keys and values of one kind.
struct Readers {
    decltype(&score<float>) score;
    decltype(&mix<float>) mix;
};
constexpr Readers READERS[] = {{score<float>, mix<float>}, {score<Bf16>, mix<Bf16>}, {score<int8_t>, mix<int8_t>}};

// Keys as columns of (width, KEYS); what stands beside them is never looked at.
void transpose(const Pieces& pieces, int width, float* out) {
    for (int i = 0; i < pieces.count; i++) {
        const Piece& p = pieces.of[i];
        for (int e = 0; e < width; e++)
            for (int s = 0; s < p.count; s++) out[e * KEYS + p.at + s] = static_cast<const float*>(p.keys)[int64_t(s) * width + e];
    }
}

// One query of a task: which of the keys start..start+KEYS-1 it reads, and how their scores are changed.
struct View {
    int first, last;        // of the keys of the block
    int64_t distance;       // from key 0 of the block to the query
    uint64_t hidden;        // bit j: the query does not read key new_first + j
    int new_first;
    float slope, softcap;
};

void change_scores(const View& view, float* scores) {
    if (view.softcap != 0.0f)
        for (int s = 0; s < KEYS; s++) {
            const float twice = exponential(2.0f * scores[s] / view.softcap);
            scores[s] = view.softcap * (1.0f - 2.0f / (twice + 1.0f));
        }
    if (view.slope != 0.0f)
        for (int s = 0; s < KEYS; s++) scores[s] -= view.slope * float(view.distance - s);
    for (int s = 0; s < view.first; s++) scores[s] = -INFINITY;
    for (int s = view.last; s < KEYS; s++) scores[s] = -INFINITY;
    if (view.hidden)
        for (int s = std::max(0, view.new_first); s < view.last; s++)
            if (view.hidden >> (s - view.new_first) & 1) scores[s] = -INFINITY;
}

// Scores of one query -> weights. Rescales what it has gathered before.
void soften(float* scores, float* mixed, int width, float& largest, float& sum) {
    const float most = largest_of(scores, KEYS, largest);
    if (most == -INFINITY) return std::fill(scores, scores + KEYS, 0.0f);
    if (most != largest) {
        const float shrink = sum > 0 ? exponential(largest - most) : 0.0f;
        for (int e = 0; e < width; e++) mixed[e] *= shrink;
        sum *= shrink;
        largest = most;
    }
    sum += exponentials(scores, KEYS, most);  // e^-87 where no key is read
}

}  // namespace

std::vector<Place> places_of(const Segments& s, int positions) {
    std::vector<Place> places;
    places.reserve(s.rows);
    for (int i = 0; i < s.sequences; i++)
        for (int64_t at = s.pasts[i]; at < s.pasts[i] + s.counts[i]; at++)
            places.push_back({s.tables[s.starts[i] + at / positions], at % positions});
    return places;
}

AttentionPlan::AttentionPlan(const Segments& s, int heads, int kv_heads, int key_width, int value_width, int window)
    : segments(s), heads(heads), kv_heads(kv_heads), value_width(value_width), window(window), block_of_row(s.rows) {
    const int most_rows = std::clamp(MOST_QUERIES / (heads / kv_heads), 1, MOST_ROWS);
    for (const bool few : {false, true}) {  // the longest tasks first
        int first = 0;
        for (int i = 0; i < s.sequences; first += int(s.counts[i++]))
            if ((s.counts[i] <= FEW_ROWS) == few) add_sequence(i, first, most_rows);
    }
    int64_t slots = 0;
    for (KeyRange& range : ranges) {
        const RowBlock& block = blocks[range.block];
        work += double(block.rows) * heads * double(range.end - range.begin) * (key_width + value_width);
        if (block.ranges == 1) continue;
        range.slot = slots;
        slots += block.rows;
    }
    mixed.resize(slots * heads * value_width);
    largest.resize(slots * heads);
    sum.resize(slots * heads);
}

bool AttentionPlan::serves(int h, int k, int width, int reach) const {
    return h == heads && k == kv_heads && width == value_width && reach == window;
}

// The last rows first: they read most.
void AttentionPlan::add_sequence(int sequence, int first, int most_rows) {
    const int count = int(segments.counts[sequence]);
    const int64_t past = segments.pasts[sequence], length = count <= FEW_ROWS ? SHORT_RANGE : LONG_RANGE;
    for (int at = (count - 1) / most_rows * most_rows; at >= 0 && count; at -= most_rows) {
        const int rows = std::min(most_rows, count - at), index = int(blocks.size());
        const int64_t end = past + (segments.ancestors ? count : at + rows);
        int64_t begin = window ? std::max<int64_t>(0, past + at + 1 - window) : 0;
        blocks.push_back({sequence, first + at, rows, int32_t(ranges.size()), 0, past, past + at});
        for (int row = first + at; row < first + at + rows; row++) block_of_row[row] = index;
        for (; begin < end; begin = (begin / length + 1) * length) {
            ranges.push_back({index, begin, std::min(end, (begin / length + 1) * length), 0});
            blocks.back().ranges++;
        }
    }
}

namespace {

// Divides by the sum of the weights; a sink takes weight and gives nothing.
void finish(const float* mixed, float largest, float sum, const Rule& rule, int head, int width, float* out) {
    float shrink = 1.0f;
    if (rule.sinks) {
        const float most = std::max(largest, rule.sinks[head]);
        shrink = exponential(largest - most);
        sum = sum * shrink + exponential(rule.sinks[head] - most);
    }
    for (int e = 0; e < width; e++) out[e] = mixed[e] * shrink / sum;
}

}  // namespace

const float* AttentionPlan::merged(int row, const Rule& rule, const float* out, float* room) const {
    const RowBlock& block = blocks[block_of_row[row]];
    const int64_t width = int64_t(heads) * value_width;
    if (block.ranges == 1) return out + row * width;
    std::fill(room, room + width, 0.0f);
    for (int h = 0; h < heads; h++) {
        float most = -INFINITY, total = 0, *head = room + int64_t(h) * value_width;
        const auto slot = [&](int i) { return (ranges[block.range + i].slot + row - block.first) * heads + h; };
        for (int i = 0; i < block.ranges; i++) most = std::max(most, largest[slot(i)]);
        for (int i = 0; i < block.ranges; i++) {
            const float weight = exponential(largest[slot(i)] - most);
            const float* part = mixed.data() + slot(i) * value_width;
            if (sum[slot(i)] == 0) continue;
            total += weight * sum[slot(i)];
            for (int e = 0; e < value_width; e++) head[e] = __builtin_fmaf(weight, part[e], head[e]);
        }
        finish(head, most, total, rule, h, value_width, head);
    }
    return room;
}

void attend(const AttentionPlan& plan, int task, const Pages& pages, const Rule& rule, const float* q, float* out) {
    static thread_local Buffers b;
    const KeyRange& range = plan.ranges[task / plan.kv_heads];
    const RowBlock& block = plan.blocks[range.block];
    const Segments& segments = plan.segments;
    const int kv = task % plan.kv_heads, group = plan.heads / plan.kv_heads, count = block.rows * group;
    const int E = pages.key_width, W = pages.value_width, width = padded(E), value_width = padded(W);
    float *queries = at_least(b.queries, int64_t(count) * width), *mixed = at_least(b.mixed, int64_t(count) * value_width);
    float *largest = at_least(b.largest, count), *sum = at_least(b.sum, count), *scores = at_least(b.scores, STRIP * STRIDE);
    // A guess is read bit for bit as plain decoding would: the rows of a draft add up in the order of a single one.
    const bool many = count >= TRANSPOSED && segments.counts[block.sequence] > FEW_ROWS;
    float* transposed = many ? at_least(b.transposed, int64_t(width) * KEYS) : nullptr;
    for (int i = 0; i < count; i++) {
        const float* query = q + (int64_t(block.first + i / group) * plan.heads + kv * group + i % group) * E;
        for (int e = 0; e < E; e++) queries[int64_t(i) * width + e] = query[e] * rule.scale;
        std::fill(queries + int64_t(i) * width + E, queries + int64_t(i + 1) * width, 0.0f);
    }
    std::fill(mixed, mixed + int64_t(count) * value_width, 0.0f);
    std::fill(largest, largest + count, -INFINITY);
    std::fill(sum, sum + count, 0.0f);
    const HeadPages head(pages, segments, block.sequence, kv);
    for (int64_t start = range.begin; start < range.end; start += KEYS) {
        const int held = int(std::min<int64_t>(KEYS, range.end - start));
        Pieces pieces;
        head.read(start, held, count > DIRECT || many, b, pieces);
        if (transposed) transpose(pieces, width, transposed);
        for (int first = 0; first < count; first += STRIP) {
            const int strip = std::min(STRIP, count - first);
            if (transposed) {
                std::fill(scores, scores + strip * STRIDE, 0.0f);
                product(queries + int64_t(first) * width, width, transposed, KEYS, scores, STRIDE, strip, KEYS, width);
            } else {
                READERS[pieces.element].score(queries + int64_t(first) * width, strip, width, pieces, scores);
            }
            for (int i = 0; i < strip; i++) {
                const int row = (first + i) / group, h = kv * group + (first + i) % group;
                const int64_t position = block.position + row;
                View view = {0, held, position - start, 0, int(block.past - start), 0, rule.softcap};
                if (plan.window) view.first = int(std::clamp<int64_t>(position + 1 - plan.window - start, 0, held));
                if (segments.ancestors)
                    view.hidden = ~uint64_t(segments.ancestors[block.first + row]);
                else
                    view.last = int(std::clamp<int64_t>(position + 1 - start, 0, held));
                if (rule.slopes) view.slope = rule.slopes[h];
                float* mine = scores + i * STRIDE;
                if (pieces.scaled)
                    for (int s = 0; s < KEYS; s++) mine[s] *= b.key_scales[s];
                change_scores(view, mine);
                soften(mine, mixed + int64_t(first + i) * value_width, value_width, largest[first + i], sum[first + i]);
                if (pieces.scaled)
                    for (int s = 0; s < KEYS; s++) mine[s] *= b.value_scales[s];
            }
            READERS[pieces.element].mix(scores, pieces, mixed + int64_t(first) * value_width, strip, value_width);
        }
    }
    for (int i = 0; i < count; i++) {
        const int row = i / group, h = kv * group + i % group;
        const float* from = mixed + int64_t(i) * value_width;
        if (block.ranges == 1) {
            finish(from, largest[i], sum[i], rule, h, W, out + (int64_t(block.first + row) * plan.heads + h) * W);
            continue;
        }
        const int64_t slot = (range.slot + row) * plan.heads + h;
        std::copy(from, from + W, plan.mixed.data() + slot * W);
        plan.largest[slot] = largest[i];
        plan.sum[slot] = sum[i];
    }
}

namespace {

// As quantise_heads of paged_attention.py: half to even, a head of zeros has scale 0.
void quantise_head(const float* x, int width, int8_t* to, float* scale) {
    float most = 0;
    for (int e = 0; e < width; e++) most = std::max(most, std::fabs(x[e]));
    *scale = most / 127.0f;
    const float step = std::max(*scale, 1.17549435e-38f);
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: added, the fraction is rounded off
    for (int e = 0; e < width; e++) to[e] = int8_t(int32_t(x[e] / step + ROUND - ROUND));
}

void store_row(int32_t element, void* storage, float* scales, int64_t row, const float* x, int width) {
    if (element == FLOAT32) {
        std::copy(x, x + width, static_cast<float*>(storage) + row * width);
    } else if (element == BFLOAT16) {
        Bf16* to = static_cast<Bf16*>(storage) + row * width;
        for (int e = 0; e < width; e++) store(to + e, x[e]);
    } else {
        quantise_head(x, width, static_cast<int8_t*>(storage) + row * width, scales + row);
    }
}

}  // namespace

void write_key(const Pages& p, const Place& place, int head, const float* key) {
    store_row(p.element, p.keys, p.key_scales, (place.block * p.kv_heads + head) * p.positions + place.position, key, p.key_width);
}

void write_value(const Pages& p, const Place& place, int head, const float* value) {
    if (!p.values) return;
    store_row(p.element, p.values, p.value_scales, (place.block * p.kv_heads + head) * p.positions + place.position, value,
              p.value_width);
}

}  // namespace vesalius

using namespace vesalius;

// k (rows, kv_heads, key_width) and v alike into the pages.
EXPORT void vesalius_paged_write(const Pages* pages, const Segments* segments, const float* k, const float* v, int threads) {
    const std::vector<Place> places = places_of(*segments, pages->positions);
    const int64_t k_width = int64_t(pages->kv_heads) * pages->key_width, v_width = int64_t(pages->kv_heads) * pages->value_width;
    if (double(segments->rows) * double(k_width + v_width) < WORTH_THREADS) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int row = 0; row < segments->rows; row++)
        for (int h = 0; h < pages->kv_heads; h++) {
            write_key(*pages, places[row], h, k + row * k_width + int64_t(h) * pages->key_width);
            write_value(*pages, places[row], h, v + row * v_width + int64_t(h) * pages->value_width);
        }
}

// q (rows, heads, key_width) -> out (rows, heads, value_width); the new keys and values are written.
EXPORT void vesalius_paged_attention(const Pages* pages, const Segments* segments, const Rule* rule, const float* q, int heads,
                                     float* out, int threads) {
    const AttentionPlan plan(*segments, heads, pages->kv_heads, pages->key_width, pages->value_width, rule->window);
    if (plan.operations() < WORTH_THREADS) threads = 1;
    const int64_t width = int64_t(heads) * pages->value_width;
    std::atomic<int> next{0};
#pragma omp parallel num_threads(threads)
    {
        for (int task; (task = next.fetch_add(1)) < plan.tasks();) attend(plan, task, *pages, *rule, q, out);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int row = 0; row < segments->rows; row++) plan.merged(row, *rule, out, out + row * width);
    }
}
