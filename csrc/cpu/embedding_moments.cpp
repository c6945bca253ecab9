// Sorts positions by index, then takes index after index; the arithmetic is in
// ops/embedding_moments.inl.
//
// A counting sort keeps the positions of an index in their order, so those of a sample stay
// together. A task is the indices that begin in its share of the sorted positions, and a tile of
// features; its share depends on indices and shapes alone, and its partial norms and products are
// added to the others' in a fixed order: results are bitwise the same for any number of threads.
#include "contracts/embedding_moments.h"

#include <cstring>
#include <initializer_list>

#include "cpu/huge_pages.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

struct Cut {
  std::int64_t lookups;
  std::int64_t tiles;   // of embedding_columns features
  std::int64_t shares;  // of the sorted positions
  std::int64_t tasks;

  explicit Cut(const EmbeddingMomentsArgs& args) {
    lookups = args.samples * args.positions;
    tiles = (args.features + embedding_columns - 1) / embedding_columns;
    // Partial sums of all tasks stay small beside the gradients: at most a quarter of them.
    const std::int64_t bytes = lookups * args.features * element_bytes(args.type);
    const std::int64_t most_tasks = bytes / (64 * args.samples);
    constexpr std::int64_t smallest_share = 64;
    shares = least(least(32, lookups / smallest_share), most_tasks / most(1, tiles));
    shares = most(1, shares);
    tasks = shares * tiles;
  }
};

// The parts of the workspace, in bytes from its start.
struct Workspace {
  std::int64_t ends;      // [rows + 1] int64: where the positions of each index end
  std::int64_t offsets;   // [lookups] int64
  std::int64_t samples;   // [lookups] int64
  std::int64_t norms;     // [tasks, samples] double
  std::int64_t products;  // [tasks, samples] double
  std::int64_t bytes;

  Workspace(const EmbeddingMomentsArgs& args, const Cut& cut) {
    constexpr std::int64_t alignment = 64;
    const std::int64_t partial = round_up(cut.tasks * args.samples * 8, alignment);
    ends = 0;
    offsets = round_up((args.rows + 1) * 8, alignment);
    samples = offsets + round_up(cut.lookups * 8, alignment);
    norms = samples + round_up(cut.lookups * 8, alignment);
    products = norms + partial;
    bytes = products + (args.inner_products ? partial : 0);
  }
};

struct Run {
  const EmbeddingMomentsArgs& args;
  Cut cut;
  Workspace workspace;

  explicit Run(const EmbeddingMomentsArgs& arguments)
      : args(arguments), cut(arguments), workspace(arguments, cut) {}

  template <class Number>
  Number* at(std::int64_t offset) const {
    return reinterpret_cast<Number*>(static_cast<char*>(args.workspace) + offset);
  }
  char* row(void* tensor, std::int64_t index, std::int64_t column) const {
    if (tensor == nullptr) return nullptr;
    return static_cast<char*>(tensor) + (index * args.features + column) * sum_bytes(args.type);
  }
  std::int64_t row_start(std::int64_t index) const {
    return index == 0 ? 0 : at<std::int64_t>(workspace.ends)[index - 1];
  }
  std::int64_t row_end(std::int64_t index) const { return at<std::int64_t>(workspace.ends)[index]; }
  bool is_empty(std::int64_t index) const {
    return index == args.padding_idx || row_start(index) == row_end(index);
  }

  // Where each index begins, by counting; scattering then moves every beginning to its end.
  void sort() const {
    std::int64_t* next = at<std::int64_t>(workspace.ends);
    std::memset(next, 0, static_cast<std::size_t>(args.rows + 1) * sizeof(std::int64_t));
    for (std::int64_t k = 0; k < cut.lookups; ++k) ++next[args.indices[k] + 1];
    for (std::int64_t index = 0; index < args.rows; ++index) next[index + 1] += next[index];
    std::int64_t* offsets = at<std::int64_t>(workspace.offsets);
    std::int64_t* samples = at<std::int64_t>(workspace.samples);
    const std::int64_t* index = args.indices;
    for (std::int64_t sample = 0; sample < args.samples; ++sample) {
      for (std::int64_t position = 0; position < args.positions; ++position) {
        const std::int64_t place = next[*index++]++;
        offsets[place] = sample * args.sample_stride + position * args.position_stride;
        samples[place] = sample;
      }
    }
  }

  // The first index whose positions begin at `place` or later.
  std::int64_t first_index(std::int64_t place) const {
    std::int64_t low = 0;
    std::int64_t high = args.rows;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (row_start(middle) < place) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  void task(std::int64_t task) const {
    const std::int64_t share = task / cut.tiles;
    const std::int64_t column = task % cut.tiles * embedding_columns;
    double* norms = at<double>(workspace.norms) + task * args.samples;
    double* products =
        args.inner_products ? at<double>(workspace.products) + task * args.samples : nullptr;
    for (std::int64_t i = 0; i < args.samples; ++i) norms[i] = 0;
    for (std::int64_t i = 0; products && i < args.samples; ++i) products[i] = 0;
    const std::int64_t begin = first_index(share * cut.lookups / cut.shares);
    const std::int64_t end =
        share + 1 == cut.shares ? args.rows : first_index((share + 1) * cut.lookups / cut.shares);
    const auto kernel = embedding_loops().run[static_cast<int>(args.type)];
    const char* grads =
        static_cast<const char*>(args.grad_outputs) + column * element_bytes(args.type);
    for (std::int64_t index = begin; index < end; ++index) {
      if (is_empty(index)) continue;
      const std::int64_t start = row_start(index);
      kernel({grads, at<std::int64_t>(workspace.offsets) + start,
              at<std::int64_t>(workspace.samples) + start, row_end(index) - start,
              least(embedding_columns, args.features - column), args.samples,
              row(args.grad, index, column), row(args.variance, index, column), norms, products});
    }
  }

  // Zeros for the rows [begin, end) that no sample touched, run by run.
  void clear(std::int64_t begin, std::int64_t end) const {
    const std::int64_t bytes = args.features * sum_bytes(args.type);
    for (std::int64_t index = begin; index < end;) {
      std::int64_t next = index;
      while (next < end && is_empty(next)) ++next;
      for (void* output : {args.grad, args.variance})
        if (output && next > index)
          std::memset(row(output, index, 0), 0, static_cast<std::size_t>((next - index) * bytes));
      index = next + 1;
    }
  }

  void add_tasks(std::int64_t offset, double* result) const {
    if (result == nullptr) return;
    const double* partials = at<double>(offset);
    for (std::int64_t i = 0; i < args.samples; ++i) result[i] = 0;
    for (std::int64_t t = 0; t < cut.tasks; ++t)
      for (std::int64_t i = 0; i < args.samples; ++i) result[i] += partials[t * args.samples + i];
  }
};

// Below this many bytes of gradients and outputs, waking threads costs more than they save.
constexpr std::int64_t serial_bytes = 64 << 10;

}  // namespace

std::int64_t embedding_moments_workspace(const EmbeddingMomentsArgs& args) {
  return Workspace(args, Cut(args)).bytes;
}

void embedding_moments(const EmbeddingMomentsArgs& args) {
  const Run run(args);
  const std::int64_t output_bytes = args.rows * args.features * sum_bytes(args.type);
  prefer_huge_pages(args.grad, output_bytes);
  if (args.variance) prefer_huge_pages(args.variance, output_bytes);
  run.sort();
  const std::int64_t read = run.cut.lookups * args.features * element_bytes(args.type);
  const int threads = read + output_bytes < serial_bytes ? 1 : args.threads;
  // Blocks of rows of some hundred kilobytes, to be cleared by one thread each.
  const std::int64_t row_bytes = most(1, args.features * sum_bytes(args.type));
  const std::int64_t block = most(1, (512 << 10) / row_bytes);
  const std::int64_t blocks = (args.rows + block - 1) / block;
  parallel_for(run.cut.tasks + blocks, threads, [&](std::int64_t index) {
    if (index < run.cut.tasks) return run.task(index);
    const std::int64_t begin = (index - run.cut.tasks) * block;
    run.clear(begin, least(args.rows, begin + block));
  });
  run.add_tasks(run.workspace.norms, args.sq_norms);
  run.add_tasks(run.workspace.products, args.inner_products);
}

}  // namespace adak::cpu
