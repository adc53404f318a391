// Attention of a ragged batch over keys and values in pages: what decoder.cpp calls of paged_attention.cpp.
//
// Nothing here starts threads. A caller builds a plan, then, inside its own parallel region:
//
//   write_key(pages, place, head, key);                      // and values: new ones, each thread some
//   #pragma omp barrier
//   attend(plan, task, pages, rule, q, out);                 // tasks 0..plan.tasks(pages) - 1, in any order
//   #pragma omp barrier
//   const float* mixed = plan.merged(row, rule, out, room);  // what the row has read
#pragma once

#include <cstdint>
#include <vector>

namespace vesalius {

enum Element : int32_t { FLOAT32, BFLOAT16, INT8 };  // by the numbers of interface.py: ELEMENTS

// The fields of interface.py: PagesStruct. keys (blocks, kv_heads, positions, key_width), values alike; null values are
// the first numbers of the keys. Scales (blocks, kv_heads, positions) where elements are INT8.
struct Pages {
    void *keys, *values;
    float *key_scales, *value_scales;
    int32_t element, kv_heads, positions, key_width, value_width;
};

// The fields of interface.py: SegmentsStruct. Sequence i has counts[i] new rows after pasts[i] earlier ones, in blocks
// tables[starts[i]] and on. Bit j of ancestors[row]: the row reads the j-th new one of its sequence; null: all up to it.
struct Segments {
    const int64_t *counts, *pasts, *starts, *tables, *ancestors;
    int32_t sequences, rows;
};

// The fields of interface.py: RuleStruct, as kernels/attention.py: AttentionRule. slopes and sinks (heads) or null.
struct Rule {
    const float *slopes, *sinks;
    float scale, softcap;
    int32_t window;
};

// Where a row's own token stands: the block, and the position in it.
struct Place {
    int64_t block, position;
};
std::vector<Place> places_of(const Segments& segments, int positions);

// Neighbouring rows of one sequence that meet each key together, and the ranges of keys that they read.
struct RowBlock {
    int32_t sequence, first, rows, range, ranges;
    int64_t past, position;  // of the sequence, and of the first row
};

// A range of keys for a block of rows. Where there are several, what each gives waits in `slot` and on, a row each.
struct KeyRange {
    int32_t block;
    int64_t begin, end, slot;
};

// How the work of one attention divides, and room for what waits to be merged. The division follows from each sequence
// alone, not from its neighbours nor the threads, and so does each bit of the result.
class AttentionPlan {
   public:
    AttentionPlan(const Segments& segments, int heads, int kv_heads, int key_width, int value_width, int window);
    bool serves(int heads, int kv_heads, int value_width, int window) const;
    int tasks() const { return int(ranges.size()) * kv_heads; }
    double operations() const { return work; }
    // Of one row (heads * value_width): where it lies in `out`, or merged into `room`.
    const float* merged(int row, const Rule& rule, const float* out, float* room) const;

    const Segments& segments;
    const int heads, kv_heads, value_width, window;
    std::vector<RowBlock> blocks;
    std::vector<KeyRange> ranges;
    std::vector<int32_t> block_of_row;
    mutable std::vector<float> mixed, largest, sum;  // (slots, heads, value_width) and (slots, heads)

   private:
    void add_sequence(int sequence, int first, int most_rows);
    double work = 0;
};

// The new key of one head (key_width), or its value, into its place.
void write_key(const Pages& pages, const Place& place, int head, const float* key);
void write_value(const Pages& pages, const Place& place, int head, const float* value);

// One range of keys for one key head; q and out (rows, heads * width). Writes `out` where the range is the only one of
// its rows, so that out may be q.
void attend(const AttentionPlan& plan, int task, const Pages& pages, const Rule& rule, const float* q, float* out);

}  // namespace vesalius
