// The rows of a block's tiles on their way through shared memory.
//
// A strip is what the threads of a block take of a tile at a time: four rows to each slot, 16 bytes
// of each row to a thread, 16 KiB together. A thread asks for its share of a strip by cp.async
// while `ahead` strips before it are still to be added up, the next tile's among them, so that
// memory delivers while the block adds, waits at its barriers and writes. While a block waits for a
// strip, ahead + 1 of them are in flight: 48 KiB of two ahead, 96 KiB of two such blocks on a
// multiprocessor (docs/internals/gpu.md has what a GPU needs).
//
// Strips lie in a ring. Each thread copies and reads chunks of its own, so that it waits for its
// own copies alone, and no barrier is needed. A kernel that needs a tile's strips twice has a ring
// that holds all of them beside those ahead: a slot is asked for again one tile later.
//
// cp.async moves 4 bytes or more from addresses aligned to as many: where rows are not aligned to
// 16 bytes threads load elements instead, when they need them.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "cuda/matrix_tiles.cuh"

namespace adak::cuda {

inline constexpr int most_ahead = 2;
inline constexpr int strip_chunks = rows_together * moments_threads;
inline constexpr std::int64_t strip_bytes = strip_chunks * 16;

template <class T, bool aligned>
class Strips {
 public:
  // `memory` has room for `ring` strips: `ahead`, and one more, or all of a tile if they are kept.
  // Without any, rows that are not aligned go by registers.
  __device__ Strips(const Tile<T, aligned>& tile, uint4* memory)
      : tile_(tile),
        own_(memory + threadIdx.x),
        ahead_(tile.matrix.ahead),
        ring_(tile.matrix.ring),
        asked_start_(static_cast<std::int64_t>(blockIdx.x) * tile.width()) {
    if constexpr (aligned)
      for (int strip = 0; strip < ahead_; ++strip) ask();
  }

  // The slot of the strip that is taken next.
  __device__ int slot() const { return slot_; }
  // This thread's chunks of the next strip, the one of `base` and `start`; zero where there is
  // nothing.
  __device__ void take(int base, std::int64_t start, Chunk<T> (&chunks)[rows_together]) {
    if constexpr (aligned) {
      ask();
      wait();
      slot_ = read(slot_, chunks);
    } else {
      tile_.load(base, start, chunks);
      if (ring_ > 0) {
#pragma unroll
        for (int r = 0; r < rows_together; ++r) chunk(slot_, r) = chunks[r].bits();
        slot_ = after(slot_);
      }
    }
  }
  // The same chunks once more, of a strip that is still in its slot. Returns the next slot.
  __device__ int read(int slot, Chunk<T> (&chunks)[rows_together]) const {
#pragma unroll
    for (int r = 0; r < rows_together; ++r) chunks[r] = Chunk<T>::of(chunk(slot, r));
    return after(slot);
  }

 private:
  __device__ uint4& chunk(int slot, int row) const {
    return own_[slot * strip_chunks + row * moments_threads];
  }
  __device__ int after(int slot) const { return slot + 1 < ring_ ? slot + 1 : 0; }

  // Asks for the next strip there is. Groups of copies are counted, those of no copy too.
  __device__ void ask() {
    if (asked_start_ < tile_.matrix.features) {
      copy();
      asked_slot_ = after(asked_slot_);
      asked_base_ += tile_.rows_at_a_time();
      if (asked_base_ >= tile_.rows) {
        asked_base_ = 0;
        asked_start_ += static_cast<std::int64_t>(gridDim.x) * tile_.width();
      }
    }
    __pipeline_commit();
  }
  __device__ void copy() const {
    const std::int64_t stride = tile_.matrix.row_stride;
    const T* const span = tile_.span(asked_base_, asked_start_);
    const std::int64_t left = tile_.matrix.features - asked_start_;
    const int there = tile_.rows_there(asked_base_);
    const int column = tile_.lane * Chunk<T>::size;
    const bool whole = column + Chunk<T>::size <= reach(left);
    if (whole && there == rows_together) {
#pragma unroll
      for (int r = 0; r < rows_together; ++r)
        __pipeline_memcpy_async(&chunk(asked_slot_, r), span + r * stride + column, 16);
      return;
    }
#pragma unroll 1
    for (int r = 0; r < rows_together; ++r) {
      uint4& to = chunk(asked_slot_, r);
      if (whole && r < there)
        __pipeline_memcpy_async(&to, span + r * stride + column, 16);
      else
        to = (r < there ? load_chunk(span + r * stride, left, tile_.lane, tile_.matrix.lanes, true)
                        : Chunk<T>::zero())
                 .bits();
    }
  }
  // For the strip in `slot_`: all groups but those of the strips ahead.
  __device__ void wait() const {
    if (ahead_ == 2)
      __pipeline_wait_prior(2);
    else if (ahead_ == 1)
      __pipeline_wait_prior(1);
    else
      __pipeline_wait_prior(0);
    // What is loaded from here on stays here: to the compiler the wait does not touch memory.
    asm volatile("" ::: "memory");
  }

  const Tile<T, aligned>& tile_;
  uint4* own_;  // [ring, rows_together, moments_threads]
  int ahead_;
  int ring_;
  int slot_ = 0;
  // The strip that is asked for next.
  std::int64_t asked_start_;
  int asked_base_ = 0;
  int asked_slot_ = 0;
};

}  // namespace adak::cuda
