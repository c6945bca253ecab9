#include "host_model.h"

#include "gpu_ladder/api.h"
#include "machine.h"
#include "sites.h"

namespace gpu_ladder {

uint3 thread_index() { return machine.current->place; }
uint3 block_index() { return machine.block; }
dim3 block_size() { return machine.block_size; }
dim3 grid_size() { return machine.grid_size; }
unsigned lane() { return machine.current->index % warp_threads; }
void* dynamic_shared() { return machine.shared(); }
int block_barrier(const Place& place, bool predicate) { return machine.barrier(place, predicate); }
std::uint64_t collective(const Place& place, Collective what, unsigned mask, std::uint64_t value,
                         unsigned source) {
  return machine.collective(place, what, mask, value, source);
}
void fence() {
  if (accesses_are_checked) machine.model.fence(machine.current->index);
}

void begin_copy(const Copy& copy) { machine.begin_copy(copy); }
void commit_copies() { machine.current->copies.emplace_back(); }
void wait_for_copies(std::size_t left) { machine.wait_for_copies(left); }

void before_atomic(const void* address, std::size_t bytes, bool write, bool blind,
                   const void* return_address) {
  Machine& self = machine;
  if (!self.current) return;
  self.count_atomic(return_address);
  if (!accesses_are_checked) return;
  const bool allowed = self.model.access(
      {self.current->index, Space::global, write, true, static_cast<std::uint32_t>(bytes),
       reinterpret_cast<std::uintptr_t>(address), site_of_address(return_address), nullptr, blind});
  if (!allowed) self.give_up(cudaErrorIllegalAddress);
}

int run_grid(const Launch& launch) { return machine.run(launch); }
void set_schedule(Schedule schedule, std::uint64_t seed) {
  machine.schedule = schedule;
  machine.seed = seed;
}
MemoryModel& memory_model() { return machine.model; }
const RunningThread* running_thread() { return machine.current; }
void give_up(int error) {
  if (machine.current) machine.give_up(error);
}

}  // namespace gpu_ladder
