// The list of everything the machine can do. Control instructions have no handler: the scheduler
// knows them by their kind.
#include "machine.h"
#include "program.h"

namespace gpu_ladder::ptx {
namespace {

void stop(Warp& warp, const Instruction& instruction, std::uint32_t) {
  warp.machine->trap(instruction);
}

}  // namespace

void add_control_operations(Operations& list) {
  list.push_back({"bra", nullptr, Kind::branch});
  list.push_back({"brx.idx", nullptr, Kind::branch_indexed});
  list.push_back({"call", nullptr, Kind::call});
  list.push_back({"ret", nullptr, Kind::function_return});
  list.push_back({"exit", nullptr, Kind::leave});
  list.push_back({"bar.warp.sync", nullptr, Kind::warp_barrier});
  list.push_back({"barrier", nullptr, Kind::block_barrier});
  list.push_back({"nanosleep", nullptr, Kind::pause});
  list.push_back({"trap", stop, Kind::plain});
}

const std::vector<Operation>& operations() {
  static const Operations list = [] {
    Operations all;
    add_integer_operations(all);
    add_bit_operations(all);
    add_float_operations(all);
    add_half_operations(all);
    add_conversion_operations(all);
    add_comparison_operations(all);
    add_move_operations(all);
    add_load_operations(all);
    add_atomic_operations(all);
    add_copy_operations(all);
    add_collective_operations(all);
    add_matrix_operations(all);
    add_control_operations(all);
    return all;
  }();
  return list;
}

}  // namespace gpu_ladder::ptx
