// ld and st: one to eight elements for each lane, of a type no wider than the registers.
#include <cstring>
#include <string>

#include "machine.h"

namespace gpu_ladder::ptx {
namespace {

bool is_strong(Order order) { return order != Order::weak; }

template <class T, class Register>
void load(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t count = ((instruction.attributes >> kVectorShift) & kVectorMask) + 1;
  const Order order = memory_order(instruction);
  std::uint64_t addresses[kLanes];
  std::uint8_t* pointers[kLanes];
  warp.machine->addresses(warp, instruction, count, addresses);
  const std::uint32_t allowed =
      warp.machine->resolve(warp, instruction, mask, addresses,
                            {.space = state_space(instruction),
                             .bytes = static_cast<std::uint32_t>(sizeof(T)) * count,
                             .write = false,
                             .atomic = is_strong(order),
                             .blind = false},
                            pointers);
  for (std::uint32_t part = 0; part < count; ++part) {
    Register* destination = warp.operand<Register>(instruction, part);
    if (allowed == kAllLanes) {
      for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        T value;
        std::memcpy(&value, pointers[lane] + part * sizeof(T), sizeof(T));
        destination[lane] = static_cast<Register>(value);
      }
      continue;
    }
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      if (((mask >> lane) & 1u) == 0) continue;
      T value = 0;  // what a refused load gives
      if (((allowed >> lane) & 1u) != 0)
        std::memcpy(&value, pointers[lane] + part * sizeof(T), sizeof(T));
      destination[lane] = static_cast<Register>(value);
    }
  }
  if (order == Order::acquire) warp.machine->fence(warp, mask);
}

template <class T, class Register>
void store(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t count = ((instruction.attributes >> kVectorShift) & kVectorMask) + 1;
  const Order order = memory_order(instruction);
  if (order == Order::release) warp.machine->fence(warp, mask);
  std::uint64_t addresses[kLanes];
  std::uint8_t* pointers[kLanes];
  T values[kLanes][8];
  const void* value_pointers[kLanes];
  warp.machine->addresses(warp, instruction, 0, addresses);
  for (std::uint32_t part = 0; part < count; ++part) {
    const Register* source = warp.operand<Register>(instruction, part + 1);
    for (std::uint32_t lane = 0; lane < kLanes; ++lane)
      values[lane][part] = static_cast<T>(source[lane]);
  }
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) value_pointers[lane] = values[lane];
  const std::uint32_t bytes = static_cast<std::uint32_t>(sizeof(T)) * count;
  const std::uint32_t allowed = warp.machine->resolve(warp, instruction, mask, addresses,
                                                      {.space = state_space(instruction),
                                                       .bytes = bytes,
                                                       .write = true,
                                                       .atomic = is_strong(order),
                                                       .blind = is_strong(order),
                                                       .values = value_pointers},
                                                      pointers);
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    if (((allowed >> lane) & 1u) != 0) std::memcpy(pointers[lane], values[lane], bytes);
}

template <class T>
void add_loads(Operations& list, const std::string& type) {
  if constexpr (sizeof(T) <= 2)
    list.push_back({"ld." + type + ".16", load<T, std::uint16_t>, Kind::plain});
  if constexpr (sizeof(T) <= 4)
    list.push_back({"ld." + type + ".32", load<T, std::uint32_t>, Kind::plain});
  list.push_back({"ld." + type + ".64", load<T, std::uint64_t>, Kind::plain});
}
template <class T>
void add_stores(Operations& list, const std::string& bits) {
  if constexpr (sizeof(T) <= 2)
    list.push_back({"st." + bits + ".16", store<T, std::uint16_t>, Kind::plain});
  if constexpr (sizeof(T) <= 4)
    list.push_back({"st." + bits + ".32", store<T, std::uint32_t>, Kind::plain});
  list.push_back({"st." + bits + ".64", store<T, std::uint64_t>, Kind::plain});
}

// A call's arguments: from one place in the thread's local memory to another.
void copy_local(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint64_t target = instruction.immediate & 0xffffffffu;
  const std::uint64_t source = instruction.immediate >> 32;
  const std::uint64_t stride = warp.machine->program().local_bytes;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    if (((mask >> lane) & 1u) != 0)
      std::memmove(warp.local + lane * stride + target, warp.local + lane * stride + source,
                   instruction.target);
}

// prefetch and its like: hints about addresses that need not even be valid.
void ignore(Warp&, const Instruction&, std::uint32_t) {}

}  // namespace

void add_load_operations(Operations& list) {
  add_loads<std::uint8_t>(list, "u8");
  add_loads<std::int8_t>(list, "s8");
  add_loads<std::uint16_t>(list, "u16");
  add_loads<std::int16_t>(list, "s16");
  add_loads<std::uint32_t>(list, "u32");
  add_loads<std::int32_t>(list, "s32");
  add_loads<std::uint64_t>(list, "u64");
  add_stores<std::uint8_t>(list, "8");
  add_stores<std::uint16_t>(list, "16");
  add_stores<std::uint32_t>(list, "32");
  add_stores<std::uint64_t>(list, "64");
  list.push_back({"copy.local", copy_local, Kind::plain});
  list.push_back({"hint", ignore, Kind::plain});
}

}  // namespace gpu_ladder::ptx
