// Cuts lists of tensors into tasks for the AdaGrad and AdaGrad-Norm updates.
//
// The cut depends on the sizes alone and partial sums are added in a fixed order, so results are
// bitwise the same for any number of threads.
#include "contracts/updates.h"

#include <math.h>

#include "cpu/parallel.h"

namespace adak::cpu {
namespace {

// Elements of a task: enough tasks for every thread to have its share, and long ones where there
// are many elements, because memory streams best in long runs.
constexpr std::int64_t shortest_task = 1 << 14;
std::int64_t task_size(std::int64_t size) {
  const std::int64_t even = size / 64;
  return even < shortest_task ? shortest_task : even;
}
// Below this many elements in all, waking threads costs more than they save.
constexpr std::int64_t serial_size = 1 << 17;

std::int64_t total_size(const UpdateArgs& args) {
  std::int64_t size = 0;
  for (std::int64_t t = 0; t < args.count; ++t) size += args.tensors[t].size;
  return size;
}

int threads_for(const UpdateArgs& args, std::int64_t size) {
  return size < serial_size ? 1 : args.threads;
}

// Elements of one tensor; pointers to the first of them.
struct Piece {
  char* param;
  const char* grad;
  char* accumulator;
  std::int64_t size;
  int type;
};

Piece piece(const UpdatedTensor& tensor, std::int64_t begin, std::int64_t size) {
  const std::int64_t offset = begin * element_bytes(tensor.type);
  return {static_cast<char*>(tensor.param) + offset, static_cast<const char*>(tensor.grad) + offset,
          static_cast<char*>(tensor.accumulator) + offset, size, static_cast<int>(tensor.type)};
}

std::int64_t size_tasks(std::int64_t size) {
  return (size + task_size(size) - 1) / task_size(size);
}

// Lines up all tensors and cuts the line every task_size(size) elements: a task is a run of small
// tensors or a part of a large one. Calls body(piece, task) for the pieces of each task, in order.
template <class Body>
void for_each_piece(const UpdateArgs& args, std::int64_t size, Body&& body) {
  parallel_for(size_tasks(size), threads_for(args, size), [&](std::int64_t task) {
    const std::int64_t from = task * task_size(size);
    const std::int64_t until = from + task_size(size);
    std::int64_t start = 0;
    for (std::int64_t t = 0; t < args.count && start < until; ++t) {
      const std::int64_t end = start + args.tensors[t].size;
      const std::int64_t begin = from > start ? from - start : 0;
      const std::int64_t stop = (until < end ? until : end) - start;
      if (begin < stop) body(piece(args.tensors[t], begin, stop - begin), task);
      start = end;
    }
  });
}

std::int64_t row_size(const UpdatedTensor& tensor) {
  return tensor.rows > 0 ? tensor.size / tensor.rows : 0;
}
// Rows of one task: whole ones, so that a row's sum has one owner.
std::int64_t task_rows(const UpdatedTensor& tensor) {
  const std::int64_t size = row_size(tensor);
  return size == 0 || size >= shortest_task ? 1 : shortest_task / size;
}
std::int64_t row_tasks(const UpdatedTensor& tensor) {
  const std::int64_t rows = task_rows(tensor);
  return (tensor.rows + rows - 1) / rows;
}
std::int64_t row_tasks(const UpdateArgs& args) {
  std::int64_t tasks = 0;
  for (std::int64_t t = 0; t < args.count; ++t) tasks += row_tasks(args.tensors[t]);
  return tasks;
}

double add(const double* values, std::int64_t count) {
  double total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += values[i];
  return total;
}
void clear(double* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = 0;
}

// One accumulator in all: the norm of everything first, then the steps.
double shared_norm_step(const UpdateArgs& args, double* accumulator) {
  const AdagradNormLoops& loops = adagrad_norm_loops();
  const std::int64_t size = total_size(args);
  const std::int64_t tasks = size_tasks(size);
  double* of_grad = args.workspace;
  double* of_direction = args.workspace + tasks;
  clear(args.workspace, 2 * tasks);
  for_each_piece(args, size, [&](const Piece& p, std::int64_t task) {
    const Squares sums = loops.squares[p.type]({p.param, p.grad, p.size, args.scalars});
    of_grad[task] += sums.grad;
    of_direction[task] += sums.direction;
  });
  *accumulator += add(of_direction, tasks);
  const double step = args.scalars.lr / (sqrt(*accumulator) + args.scalars.eps);
  for_each_piece(args, size, [&](const Piece& p, std::int64_t) {
    loops.scaled_step[p.type]({p.param, p.grad, p.size, step, args.scalars});
  });
  return add(of_grad, tasks);
}

// One accumulator for each row: a row is read from memory once for its norm and its step.
double row_norm_step(const UpdateArgs& args) {
  const AdagradNormLoops& loops = adagrad_norm_loops();
  const std::int64_t tasks = row_tasks(args);
  clear(args.workspace, tasks);
  const int threads = threads_for(args, total_size(args));
  parallel_for(tasks, threads, [&](std::int64_t task) {
    std::int64_t t = 0;
    std::int64_t index = task;
    for (; index >= row_tasks(args.tensors[t]); ++t) index -= row_tasks(args.tensors[t]);
    const UpdatedTensor& tensor = args.tensors[t];
    const std::int64_t size = row_size(tensor);
    const std::int64_t first = index * task_rows(tensor);
    const std::int64_t end = first + task_rows(tensor);
    double* accumulators = static_cast<double*>(tensor.accumulator);
    for (std::int64_t row = first; row < end && row < tensor.rows; ++row) {
      const Piece p = piece(tensor, row * size, size);
      const Squares sums = loops.squares[p.type]({p.param, p.grad, p.size, args.scalars});
      args.workspace[task] += sums.grad;
      accumulators[row] += sums.direction;
      const double step = args.scalars.lr / (sqrt(accumulators[row]) + args.scalars.eps);
      loops.scaled_step[p.type]({p.param, p.grad, p.size, step, args.scalars});
    }
  });
  return add(args.workspace, tasks);
}

}  // namespace

std::int64_t update_workspace(const UpdateArgs& args) {
  const std::int64_t by_size = 2 * size_tasks(total_size(args));
  const std::int64_t by_row = row_tasks(args);
  return by_size > by_row ? by_size : by_row;
}

double adagrad_step(const UpdateArgs& args) {
  const AdagradLoops& loops = adagrad_loops();
  const std::int64_t size = total_size(args);
  clear(args.workspace, size_tasks(size));
  for_each_piece(args, size, [&](const Piece& p, std::int64_t task) {
    args.workspace[task] +=
        loops.step[p.type]({p.param, p.grad, p.accumulator, p.size, args.scalars});
  });
  return add(args.workspace, size_tasks(size));
}

double adagrad_norm_step(const UpdateArgs& args, double* shared) {
  return shared ? shared_norm_step(args, shared) : row_norm_step(args);
}

}  // namespace adak::cpu
