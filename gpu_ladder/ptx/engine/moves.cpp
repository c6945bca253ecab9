// mov, vectors packed into one register and back, addresses of state spaces.
#include <cstring>

#include "machine.h"

namespace gpu_ladder::ptx {
namespace {

template <class T>
void move(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) { return a[lane]; });
}
void move_predicate(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  store_predicate(warp, instruction.operands[0], mask,
                  *warp.operand<std::uint32_t>(instruction, 1));
}

template <class T, int parts>
struct Parts {
  T values[parts];
};
template <class T, int parts>
void pack(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  using Register = Parts<T, parts>;
  Register* destination = warp.operand<Register>(instruction, 0);
  for_lanes(destination, mask, [&](std::uint32_t lane) {
    Register packed;
    for (std::uint32_t part = 0; part < parts; ++part)
      packed.values[part] = warp.operand<T>(instruction, part + 1)[lane];
    return packed;
  });
}
template <class T, int parts>
void unpack(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  using Register = Parts<T, parts>;
  // A destination may be part of the source's own register only as a whole: read it all first.
  Register source[kLanes];
  std::memcpy(source, warp.operand<Register>(instruction, parts), sizeof(source));
  for (std::uint32_t part = 0; part < parts; ++part)
    for_lanes(warp.operand<T>(instruction, part), mask,
              [&](std::uint32_t lane) { return source[lane].values[part]; });
}

// From a state space's own address to a generic one and back; global and constant addresses are the
// host's, shared ones are offsets.
template <class T, bool to_space>
void convert_address(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const Machine& machine = *warp.machine;
  std::uint64_t base = 0;
  if (state_space(instruction) == StateSpace::shared)
    base = reinterpret_cast<std::uint64_t>(machine.shared());
  else if (state_space(instruction) == StateSpace::local)
    base = machine.local_window();
  const T* a = warp.operand<T>(instruction, 1);
  const T offset = static_cast<T>(to_space ? 0 - base : base);
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return static_cast<T>(a[lane] + offset); });
}
void is_space(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint64_t* a = warp.operand<std::uint64_t>(instruction, 1);
  const StateSpace wanted = state_space(instruction);
  store_predicate(warp, instruction.operands[0], mask, gather_bits([&](std::uint32_t lane) {
                    return warp.machine->space_of(a[lane]) == wanted;
                  }));
}
// Without clusters a block is the only one of its cluster.
template <class T>
void map_to_block(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t* rank = warp.operand<std::uint32_t>(instruction, 2);
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    if (((mask >> lane) & 1u) != 0 && rank[lane] != 0) {
      warp.machine->report(Finding::Kind::out_of_bounds,
                           "mapa asks for block " + std::to_string(rank[lane]) +
                               " of the cluster; without clusters there is block 0 only",
                           instruction);
      break;
    }
  move<T>(warp, instruction, mask);
}
void active_mask(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t) { return mask; });
}

}  // namespace

void add_move_operations(Operations& list) {
  using std::uint16_t, std::uint32_t, std::uint64_t;
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::plain});
  };
  add("mov.pred", move_predicate);
  add("mov.16", move<uint16_t>);
  add("mov.32", move<uint32_t>);
  add("mov.64", move<uint64_t>);
  add("pack.2x16", pack<uint16_t, 2>);
  add("pack.4x16", pack<uint16_t, 4>);
  add("pack.2x32", pack<uint32_t, 2>);
  add("unpack.2x16", unpack<uint16_t, 2>);
  add("unpack.4x16", unpack<uint16_t, 4>);
  add("unpack.2x32", unpack<uint32_t, 2>);
  add("cvta.32", convert_address<uint32_t, false>);
  add("cvta.64", convert_address<uint64_t, false>);
  add("cvta.to.32", convert_address<uint32_t, true>);
  add("cvta.to.64", convert_address<uint64_t, true>);
  add("isspacep", is_space);
  add("mapa.32", map_to_block<uint32_t>);
  add("mapa.64", map_to_block<uint64_t>);
  add("activemask", active_mask);
}

}  // namespace gpu_ladder::ptx
