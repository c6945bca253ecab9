// Brings what touches one coordinate together; the arithmetic is in ops/sparse_mean_step.inl.
//
// Rows with zeros are cut into tiles of columns. Stored entries go into buckets of adjacent columns
// first, by counting, which keeps their order; nothing is as long as the parameter. Within a
// bucket, in cache, a hash table finds the sum of each column that occurs. A coordinate has one
// owner, and its sum runs in the order of the samples however the work is cut; the squared norm is
// added up in the order of tiles and buckets, which depend on sizes alone: results are bitwise the
// same for any number of threads.
#include "contracts/sparse_mean_step.h"

#include <algorithm>
#include <atomic>

#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

double add(const double* values, std::int64_t count) {
  double total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += values[i];
  return total;
}

// The bits in which numbers below `count` differ.
int bits_of(std::int64_t count) {
  int bits = 0;
  while (bits < 62 && (std::int64_t{1} << bits) < count) ++bits;
  return bits;
}

// Columns of one task: wide enough to read whole lines of memory, and enough tasks for threads.
std::int64_t tile_columns(const SparseMeanDenseArgs& args) {
  constexpr std::int64_t tasks = 16;
  constexpr std::int64_t line = 64;
  return std::clamp(round_up(ceil_div(args.features, tasks), line), line, sparse_columns);
}

// Below these, waking threads costs more than they save: bytes of rows with zeros, which are read
// in order, and stored entries, for which threads are woken three times.
constexpr std::int64_t serial_bytes = 64 << 10;
constexpr std::int64_t serial_entries = 1 << 14;

using Key = std::uint64_t;

struct Cut {
  int column_bits;
  int bucket_bits;  // the upper ones of the column, which choose its bucket
  std::int64_t buckets;
  std::int64_t block_size;  // of entries
  std::int64_t blocks;
  bool few_columns;  // fewer than entries
  std::int64_t slots;

  explicit Cut(const SparseMeanCsrArgs& args) {
    constexpr std::int64_t smallest_bucket = 4096;
    constexpr int most_bucket_bits = 8;
    constexpr std::int64_t smallest_block = 1 << 15;
    constexpr std::int64_t most_blocks = 64;
    column_bits = bits_of(args.features);
    bucket_bits =
        std::min({column_bits, most_bucket_bits, bits_of(args.entries / smallest_bucket)});
    buckets = std::int64_t{1} << bucket_bits;
    block_size = most(smallest_block, ceil_div(args.entries, most_blocks));
    blocks = ceil_div(args.entries, block_size);
    few_columns = (std::int64_t{1} << column_bits) <= args.entries;
    slots = few_columns ? std::int64_t{1} << column_bits : args.entries;
  }
  int low_bits() const { return column_bits - bucket_bits; }

  // Where the slots of a bucket begin.
  std::int64_t first_slot(std::int64_t bucket, std::int64_t first_entry) const {
    return few_columns ? bucket << low_bits() : first_entry;
  }
};

// The parts of the workspace, in bytes from its start.
struct Parts {
  std::int64_t bucket_keys;  // [entries] Key, in the order of their buckets; those as read are at 0
  std::int64_t rows;         // [entries] uint32
  std::int64_t tables;       // [4 slots] uint32
  std::int64_t slots;        // [slots] of sparse_slot_bytes
  std::int64_t counters;     // [blocks, buckets] int64
  std::int64_t norms;        // [buckets] double
  std::int64_t bytes;

  Parts(const SparseMeanCsrArgs& args, const Cut& cut) {
    const auto after = [](std::int64_t start, std::int64_t size) {
      constexpr std::int64_t line = 64;
      return start + round_up(size, line);
    };
    bucket_keys = after(0, args.entries * 8);
    rows = cut.buckets > 1 ? after(bucket_keys, args.entries * 8) : bucket_keys;
    tables = after(rows, args.entries * 4);
    slots = after(tables, cut.slots * 16);
    counters = after(slots, cut.slots * sparse_slot_bytes);
    norms = after(counters, cut.blocks * cut.buckets * 8);
    bytes = after(norms, cut.buckets * 8);
  }
};

template <class Index>
struct Run {
  const SparseMeanCsrArgs& args;
  Cut cut;
  Parts parts;
  int threads;
  const Index* row_starts;
  const Index* columns;

  explicit Run(const SparseMeanCsrArgs& arguments)
      : args(arguments),
        cut(arguments),
        parts(arguments, cut),
        threads(arguments.entries < serial_entries ? 1 : arguments.threads),
        row_starts(static_cast<const Index*>(arguments.row_starts)),
        columns(static_cast<const Index*>(arguments.columns)) {}

  template <class Number>
  Number* at(std::int64_t offset) const {
    return reinterpret_cast<Number*>(static_cast<char*>(args.workspace) + offset);
  }
  std::int64_t* counters(std::int64_t block) const {
    return at<std::int64_t>(parts.counters) + block * cut.buckets;
  }
  std::int64_t bucket_of(Key key) const {
    return static_cast<std::int64_t>(key >> 32 >> cut.low_bits());
  }

  bool rows_ascend() const {
    bool ascend = row_starts[0] == 0 && row_starts[args.samples] == args.entries;
    for (std::int64_t row = 0; row < args.samples; ++row)
      ascend &= row_starts[row] <= row_starts[row + 1];
    return ascend;
  }

  // Keys and rows of a block of entries, and how many of them fall into each bucket; false where a
  // column is not of the parameter.
  bool read(std::int64_t block) const {
    Key* keys = at<Key>(0);
    std::uint32_t* rows = at<std::uint32_t>(parts.rows);
    std::int64_t* counts = counters(block);
    std::fill(counts, counts + cut.buckets, 0);
    const std::int64_t begin = block * cut.block_size;
    const std::int64_t end = least(begin + cut.block_size, args.entries);
    // The last row that starts at `begin` or before; rows without entries end where they start.
    const Index* after =
        std::upper_bound(row_starts, row_starts + args.samples, static_cast<Index>(begin));
    std::int64_t row = after - row_starts - 1;
    for (std::int64_t entry = begin; entry < end; ++entry) {
      while (row + 1 < args.samples && row_starts[row + 1] <= static_cast<Index>(entry)) ++row;
      const auto column = static_cast<Key>(columns[entry]);  // a negative one becomes huge
      if (column >= static_cast<Key>(args.features)) return false;
      rows[entry] = static_cast<std::uint32_t>(row);
      keys[entry] = column << 32 | static_cast<Key>(entry);
      ++counts[bucket_of(keys[entry])];
    }
    return true;
  }

  // Where each block's keys of each bucket go; afterwards buckets are in order, and blocks in them.
  void place() const {
    std::int64_t next = 0;
    for (std::int64_t bucket = 0; bucket < cut.buckets; ++bucket) {
      for (std::int64_t block = 0; block < cut.blocks; ++block) {
        const std::int64_t size = counters(block)[bucket];
        counters(block)[bucket] = next;
        next += size;
      }
    }
  }
  // Moves every place behind the last key that went there.
  void scatter(std::int64_t block) const {
    const Key* keys = at<Key>(0);
    Key* buckets = at<Key>(parts.bucket_keys);
    std::int64_t* places = counters(block);
    const std::int64_t begin = block * cut.block_size;
    const std::int64_t end = least(begin + cut.block_size, args.entries);
    for (std::int64_t entry = begin; entry < end; ++entry)
      buckets[places[bucket_of(keys[entry])]++] = keys[entry];
  }

  void update(std::int64_t bucket) const {
    std::int64_t begin = 0;
    std::int64_t count = args.entries;
    if (cut.buckets > 1) {
      const std::int64_t* ends = counters(cut.blocks - 1);
      begin = bucket == 0 ? 0 : ends[bucket - 1];
      count = ends[bucket] - begin;
    }
    at<double>(parts.norms)[bucket] = 0;
    if (count == 0) return;
    const std::int64_t slot = cut.first_slot(bucket, begin);
    const auto kernel = sparse_mean_loops().entries[static_cast<int>(args.type)];
    at<double>(parts.norms)[bucket] = kernel({
        at<Key>(cut.buckets == 1 ? 0 : parts.bucket_keys) + begin,
        count,
        cut.low_bits(),
        args.values,
        at<std::uint32_t>(parts.rows),
        at<std::uint32_t>(parts.tables) + 4 * slot,
        at<char>(parts.slots) + sparse_slot_bytes * slot,
        args.rule,
    });
  }

  // False, and nothing written, where rows or columns are none.
  bool operator()(double* sq_norm) const {
    if (!rows_ascend()) return false;
    std::atomic<bool> inside{true};
    parallel_for(cut.blocks, threads, [&](std::int64_t block) {
      if (!read(block)) inside = false;
    });
    if (!inside) return false;
    if (cut.buckets > 1) {
      place();
      parallel_for(cut.blocks, threads, [&](std::int64_t block) { scatter(block); });
    }
    parallel_for(cut.buckets, threads, [&](std::int64_t bucket) { update(bucket); });
    *sq_norm = add(at<double>(parts.norms), cut.buckets);
    return true;
  }
};

}  // namespace

std::int64_t sparse_mean_dense_workspace(const SparseMeanDenseArgs& args) {
  return ceil_div(args.features, tile_columns(args)) * static_cast<std::int64_t>(sizeof(double));
}

double sparse_mean_dense_step(const SparseMeanDenseArgs& args) {
  const std::int64_t tile = tile_columns(args);
  const std::int64_t tiles = ceil_div(args.features, tile);
  const std::int64_t bytes = element_bytes(args.type);
  const int threads = args.samples * args.features * bytes < serial_bytes ? 1 : args.threads;
  const auto kernel = sparse_mean_loops().columns[static_cast<int>(args.type)];
  double* norms = static_cast<double*>(args.workspace);
  parallel_for(tiles, threads, [&](std::int64_t index) {
    const std::int64_t first = index * tile;
    const char* grads = static_cast<const char*>(args.grads) + first * bytes;
    norms[index] =
        kernel({{grads, args.row_stride, args.samples, least(tile, args.features - first)},
                first,
                args.rule});
  });
  return add(norms, tiles);
}

std::int64_t sparse_mean_csr_workspace(const SparseMeanCsrArgs& args) {
  return Parts(args, Cut(args)).bytes;
}

bool sparse_mean_csr_step(const SparseMeanCsrArgs& args, double* sq_norm) {
  return args.wide_indices ? Run<std::int64_t>(args)(sq_norm) : Run<std::int32_t>(args)(sq_norm);
}

}  // namespace adak::cpu
