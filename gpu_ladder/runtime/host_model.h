// CUDA's execution model on one host thread: a fiber for each thread of a block, blocks one after
// another.
//
// A fiber runs until it waits for others, at a barrier or in a collective of its warp, and then
// gives way to one that can go on; which one is the schedule's choice. What CUDA leaves undefined
// is reported with its place in the source: barriers that not all threads reach, or not the same
// one, collectives with lanes that are not there, values of lanes outside of the mask, and waiting
// for ever.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu_ladder/vectors.h"
#include "memory_model.h"

namespace gpu_ladder {

struct Place {
  const char* operation;
  const char* file;
  int line;
};

enum class Collective : std::uint8_t {
  synchronise,
  shuffle,
  ballot,
  match,
  add,
  min_signed,
  min_unsigned,
  max_signed,
  max_unsigned,
  bit_and,
  bit_or,
  bit_xor,
};

// For device code. Where a thread is does not change while it runs, so the compiler need ask once.
[[gnu::const]] uint3 thread_index();
[[gnu::const]] uint3 block_index();
[[gnu::const]] dim3 block_size();
[[gnu::const]] dim3 grid_size();
[[gnu::const]] unsigned lane();
void* dynamic_shared();
// How many threads came with a true predicate.
int block_barrier(const Place& place, bool predicate);
// What this lane gets from the values of all lanes in the mask; `source` is a shuffle's.
std::uint64_t collective(const Place& place, Collective what, unsigned mask, std::uint64_t value,
                         unsigned source = 0);
void fence();
// Asynchronous copies to shared memory, of 4, 8 or 16 bytes, of which the last `zeros` are zero and
// are not read. Each thread has groups of them, and waits for all but the last `left`.
struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  std::size_t zeros;
  const void* return_address;
};
void begin_copy(const Copy& copy);
void commit_copies();
void wait_for_copies(std::size_t left);
// Before every atomic or volatile access, which follows at once; `blind`: it writes without
// reading. Who comes here over and over may be waiting for another thread, and gives way to it.
void before_atomic(const void* address, std::size_t bytes, bool write, bool blind,
                   const void* return_address);

// For who launches.
enum class Schedule : std::uint8_t { forward, reverse, random };

struct Launch {
  const void* function;
  void (*call)(const void* function, void** args);
  dim3 grid;
  dim3 block;
  void** args;
  std::size_t shared_bytes;
};

// Runs the grid; 0, or the number of the cudaError_t for which it was given up.
int run_grid(const Launch& launch);
void set_schedule(Schedule schedule, std::uint64_t seed);
MemoryModel& memory_model();

// For the hooks of instrumented code: the running thread and its stack; null: no kernel is running.
struct RunningThread {
  std::uint32_t index;  // linear in its block
  std::uintptr_t stack_begin;
  std::uintptr_t stack_end;
};
const RunningThread* running_thread();
// Gives the grid up, as a device does after a bad access; returns only where none is running.
void give_up(int error);
// Defined by the hooks where they are part of the program.
extern const bool accesses_are_checked;
void register_shared_variables(MemoryModel& model);

}  // namespace gpu_ladder
