// Packs lists of tensors into tables of one element type each, as many as it takes.
#pragma once

#include <vector>

#include "contracts/updates.h"
#include "cuda/launch.h"
#include "cuda/tensor_table.cuh"

namespace adak::cuda {

// `pieces_of(tensor)` says into how many pieces a tensor is cut; none leaves it out.
template <class T, class Pieces>
std::vector<TensorTable<T>> tables_of(const UpdateArgs& args, ElementType type, Pieces pieces_of) {
  std::vector<TensorTable<T>> tables;
  for (std::int64_t i = 0; i < args.count; ++i) {
    const UpdatedTensor& tensor = args.tensors[i];
    const std::int64_t pieces = tensor.type == type ? pieces_of(tensor) : 0;
    if (pieces == 0) continue;
    // Pieces are counted in 32 bits; the grid goes round over them.
    constexpr std::int64_t most_pieces = std::int64_t{1} << 30;
    if (tables.empty() || tables.back().count == TensorTable<T>::capacity ||
        tables.back().first_pieces[tables.back().count] + pieces > most_pieces) {
      tables.emplace_back();
      tables.back().count = 0;
      tables.back().first_pieces[0] = 0;
    }
    TensorTable<T>& table = tables.back();
    const int t = table.count++;
    table.params[t] = static_cast<T*>(tensor.param);
    table.grads[t] = static_cast<const T*>(tensor.grad);
    table.accumulators[t] = tensor.accumulator;
    table.sizes[t] = tensor.size;
    table.rows[t] = tensor.rows;
    table.first_pieces[t + 1] = table.first_pieces[t] + static_cast<int>(pieces);
  }
  return tables;
}

// The tables of one element type, and how many blocks of a kernel run over each.
template <class T>
class Tables {
 public:
  template <class Pieces, class... Params>
  Tables(const UpdateArgs& args, ElementType type, const Call& call, void (*kernel)(Params...),
         Pieces pieces_of)
      : tables_(tables_of<T>(args, type, pieces_of)) {
    if (tables_.empty()) return;
    const int resident = call.resident_blocks(kernel, update_threads, 0);
    for (const TensorTable<T>& table : tables_) {
      blocks_.push_back(std::min(table.first_pieces[table.count], resident));
      total_ += blocks_.back();
    }
  }

  std::int64_t blocks() const { return total_; }

  // body(table, its blocks, how many blocks of other tables came before them)
  template <class Body>
  void for_each(std::int64_t before, Body&& body) const {
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      body(tables_[i], blocks_[i], before);
      before += blocks_[i];
    }
  }

 private:
  std::vector<TensorTable<T>> tables_;
  std::vector<int> blocks_;
  std::int64_t total_ = 0;
};

inline DeviceValues device_values(const DeviceScalars& scalars) {
  return {scalars.lr, scalars.grad_scale, scalars.found_inf};
}

inline void refuse_float64(const char* op, const UpdateArgs& args) {
  for (std::int64_t i = 0; i < args.count; ++i)
    if (args.tensors[i].type == ElementType::float64)
      throw Error(std::string(op) +
                  ": float64 has no CUDA kernel; accepted are the narrower types");
}

}  // namespace adak::cuda
