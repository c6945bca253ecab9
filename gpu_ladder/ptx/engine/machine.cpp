// The machine's memory: where addresses lead, what may be touched, and how a launch is set up.
#include "machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace gpu_ladder::ptx {
namespace {

constexpr std::uint64_t kAlignment = 1024;
constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << 30;

}  // namespace

std::string lane_list(std::uint32_t lanes) {
  std::string text;
  for (std::uint32_t lane = 0; lane < kLanes;) {
    std::uint32_t end = lane;
    while (end < kLanes && ((lanes >> end) & 1u) != 0) ++end;
    if (end > lane) {
      if (!text.empty()) text += ",";
      text += std::to_string(lane);
      if (end - lane > 1) text.append("-").append(std::to_string(end - 1));
    }
    lane = end + 1;
  }
  return text;
}

Machine::Machine() {
  // Generic addresses of local memory: a range that nothing else can have. Each thread has its own
  // memory behind the same addresses.
  void* window =
      mmap(nullptr, kWindowBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  local_window_ = reinterpret_cast<std::uint64_t>(window);
}
Machine::~Machine() { munmap(reinterpret_cast<void*>(local_window_), kWindowBytes); }

std::uint32_t Machine::site(const Instruction& instruction, std::uint32_t part) const {
  return 2 * static_cast<std::uint32_t>(&instruction - program_->code.data()) + part;
}

void Machine::fence(const Warp& warp, std::uint32_t mask) {
  if (!checks_) return;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    if (((mask >> lane) & 1u) != 0) model_.fence(warp.index * kLanes + lane);
}
void Machine::trap(const Instruction& instruction) {
  model_.report(Finding::Kind::deadlock, "trap: the kernel stopped itself", site(instruction));
  outcome_ = Outcome::trapped;
}
void Machine::report(Finding::Kind kind, const std::string& message,
                     const Instruction& instruction) {
  model_.report(kind, message, site(instruction));
}

std::array<std::uint8_t, kLanes> Machine::lane_order() {
  std::array<std::uint8_t, kLanes> order;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    order[lane] = static_cast<std::uint8_t>(schedule_ == Schedule::reverse ? 31 - lane : lane);
  if (schedule_ == Schedule::random) std::shuffle(order.begin(), order.end(), random_);
  return order;
}

StateSpace Machine::space_of(std::uint64_t generic) const {
  const auto shared = reinterpret_cast<std::uint64_t>(shared_);
  if (generic - shared < std::max<std::uint64_t>(launch_.shared_bytes, 1))
    return StateSpace::shared;
  if (generic - local_window_ < kWindowBytes) return StateSpace::local;
  return StateSpace::global;
}

void Machine::addresses(Warp& warp, const Instruction& instruction, std::uint32_t operand,
                        std::uint64_t* out) const {
  const std::uint64_t offset = instruction.immediate;
  if ((instruction.attributes & kAddress32) != 0) {
    const std::uint32_t* base = warp.operand<std::uint32_t>(instruction, operand);
    const auto offset32 = static_cast<std::uint32_t>(offset);
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) out[lane] = base[lane] + offset32;
  } else {
    const std::uint64_t* base = warp.operand<std::uint64_t>(instruction, operand);
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) out[lane] = base[lane] + offset;
  }
}

std::uint32_t Machine::resolve(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                               const std::uint64_t* addresses, const Request& request,
                               std::uint8_t** pointers) {
  if (request.space == StateSpace::generic) {
    std::uint32_t shared = 0;
    std::uint32_t local = 0;
    std::uint64_t offsets[kLanes] = {};
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      if (((mask >> lane) & 1u) == 0) continue;
      const StateSpace space = space_of(addresses[lane]);
      if (space == StateSpace::shared) {
        shared |= 1u << lane;
        offsets[lane] = addresses[lane] - reinterpret_cast<std::uint64_t>(shared_);
      } else if (space == StateSpace::local) {
        local |= 1u << lane;
        offsets[lane] = addresses[lane] - local_window_;
      }
    }
    std::uint32_t allowed = 0;
    const auto part = [&](std::uint32_t lanes, StateSpace space, const std::uint64_t* where) {
      if (lanes == 0) return;
      Request narrowed = request;
      narrowed.space = space;
      allowed |= resolve(warp, instruction, lanes, where, narrowed, pointers);
    };
    part(mask & ~shared & ~local, StateSpace::global, addresses);
    part(shared, StateSpace::shared, offsets);
    part(local, StateSpace::local, offsets);
    return allowed;
  }
  if (request.space == StateSpace::local) {
    const std::uint64_t size = program_->local_bytes;
    std::uint32_t allowed = 0;
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      if (((mask >> lane) & 1u) == 0) continue;
      pointers[lane] = warp.local + lane * size + addresses[lane];
      if (addresses[lane] <= size && request.bytes <= size - addresses[lane]) allowed |= 1u << lane;
    }
    if ((mask & ~allowed) != 0)
      report(Finding::Kind::out_of_bounds,
             "local memory: an access of " + std::to_string(request.bytes) +
                 " bytes leaves the thread's " + std::to_string(size) + " bytes",
             instruction);
    return mask & allowed;
  }
  if (request.space == StateSpace::constant || request.space == StateSpace::parameter) {
    const bool constant = request.space == StateSpace::constant;
    const auto begin = constant ? reinterpret_cast<std::uint64_t>(launch_.variables)
                                : reinterpret_cast<std::uint64_t>(launch_.parameters);
    const std::uint64_t size = constant ? launch_.variable_bytes : launch_.parameter_bytes;
    // In a 32-bit register is an address's lower half: these spaces are smaller than that.
    const std::uint64_t known =
        (instruction.attributes & kAddress32) != 0 ? 0xffffffffu : ~std::uint64_t{0};
    std::uint32_t allowed = 0;
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      if (((mask >> lane) & 1u) == 0) continue;
      const std::uint64_t offset = (addresses[lane] - begin) & known;
      pointers[lane] = reinterpret_cast<std::uint8_t*>(begin + offset);
      if (offset <= size && request.bytes <= size - offset) allowed |= 1u << lane;
    }
    if ((mask & ~allowed) != 0)
      report(Finding::Kind::out_of_bounds,
             std::string(constant ? "constant" : "parameter") + " memory: an access of " +
                 std::to_string(request.bytes) + " bytes leaves its " + std::to_string(size) +
                 " bytes",
             instruction);
    return mask & allowed;
  }
  std::uint64_t absolute[kLanes];
  const std::uint64_t base =
      request.space == StateSpace::shared ? reinterpret_cast<std::uint64_t>(shared_) : 0;
  // Only the lanes of the mask: of a generic access other lanes may be in another space.
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    absolute[lane] = base + addresses[lane];
    if (((mask >> lane) & 1u) != 0)
      pointers[lane] = reinterpret_cast<std::uint8_t*>(absolute[lane]);
  }
  if (!checks_) return mask;
  return model_.access_warp(
      {.warp = warp.index,
       .mask = mask,
       .space = request.space == StateSpace::shared ? Space::shared : Space::global,
       .write = request.write,
       .atomic = request.atomic,
       .bytes = request.bytes,
       .site = site(instruction, request.part),
       .addresses = absolute,
       .values = request.values,
       .blind = request.blind});
}

void Machine::begin_writes(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                           const std::uint64_t* targets, std::uint32_t bytes) {
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    std::uint8_t* const target = shared_ + targets[lane];
    const bool allowed =
        checks_ ? model_.begin_write({.thread = warp.index * kLanes + lane,
                                      .space = Space::shared,
                                      .write = true,
                                      .atomic = false,
                                      .bytes = bytes,
                                      .address = reinterpret_cast<std::uint64_t>(target),
                                      .site = site(instruction, 1)})
                : targets[lane] + bytes <= shared_size();
    if (allowed) std::memset(target, 0xff, bytes);
  }
}

namespace {

std::uint64_t special_value(SpecialRegister which, const Launch& launch, std::uint32_t warp,
                            std::uint32_t lane, const std::uint32_t (&block)[3],
                            std::uint32_t warps, std::uint64_t grid_number) {
  const std::uint32_t thread = warp * kLanes + lane;
  switch (which) {
    case SpecialRegister::thread_x:
      return thread % launch.block[0];
    case SpecialRegister::thread_y:
      return thread / launch.block[0] % launch.block[1];
    case SpecialRegister::thread_z:
      return thread / launch.block[0] / launch.block[1];
    case SpecialRegister::block_threads_x:
      return launch.block[0];
    case SpecialRegister::block_threads_y:
      return launch.block[1];
    case SpecialRegister::block_threads_z:
      return launch.block[2];
    case SpecialRegister::block_x:
      return block[0];
    case SpecialRegister::block_y:
      return block[1];
    case SpecialRegister::block_z:
      return block[2];
    case SpecialRegister::grid_blocks_x:
      return launch.grid[0];
    case SpecialRegister::grid_blocks_y:
      return launch.grid[1];
    case SpecialRegister::grid_blocks_z:
      return launch.grid[2];
    case SpecialRegister::lane:
      return lane;
    case SpecialRegister::warp:
      return warp;
    case SpecialRegister::warps:
      return warps;
    case SpecialRegister::lanes_equal:
      return 1u << lane;
    case SpecialRegister::lanes_less_equal:
      return lane == 31 ? kAllLanes : (2u << lane) - 1;
    case SpecialRegister::lanes_less:
      return (1u << lane) - 1;
    case SpecialRegister::lanes_greater_equal:
      return ~((1u << lane) - 1);
    case SpecialRegister::lanes_greater:
      return lane == 31 ? 0u : ~((2u << lane) - 1);
    case SpecialRegister::multiprocessor:
      return 0;
    case SpecialRegister::multiprocessors:
      return 1;
    case SpecialRegister::grid_number:
      return grid_number;
    case SpecialRegister::total_shared:
      return launch.shared_bytes;
    case SpecialRegister::dynamic_shared:
      return launch.dynamic_shared_bytes;
    case SpecialRegister::zero:
      return 0;
    case SpecialRegister::one:
      return 1;
  }
  return 0;
}

bool depends_on_block(const EncodedConstant& constant) {
  if (constant.source != Source::special) return false;
  const auto which = static_cast<SpecialRegister>(constant.value);
  return which == SpecialRegister::block_x || which == SpecialRegister::block_y ||
         which == SpecialRegister::block_z;
}

}  // namespace

void Machine::fill_constants(bool only_block, const std::uint32_t (&block)[3]) {
  for (const EncodedConstant& constant : program_->constants) {
    if (only_block != depends_on_block(constant)) continue;
    for (Warp& warp : warps_) {
      std::uint8_t* slot = warp.registers + constant.slot;
      for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        std::uint64_t value = constant.value;
        if (constant.source == Source::special)
          value = special_value(static_cast<SpecialRegister>(value), launch_, warp.index, lane,
                                block, static_cast<std::uint32_t>(warps_.size()), grid_number_);
        else if (constant.source == Source::parameter)
          value += reinterpret_cast<std::uint64_t>(launch_.parameters);
        else if (constant.source == Source::variable)
          value += reinterpret_cast<std::uint64_t>(launch_.variables);
        if (constant.bytes == 0) {  // a predicate: one mask for all lanes
          const std::uint32_t bits = value != 0 ? kAllLanes : 0u;
          std::memcpy(slot, &bits, sizeof(bits));
          break;
        }
        std::memcpy(slot + lane * constant.bytes, &value, constant.bytes);
      }
    }
  }
}

void Machine::prepare() {
  threads_ = launch_.block[0] * launch_.block[1] * launch_.block[2];
  const std::uint32_t count = (threads_ + kLanes - 1) / kLanes;
  const std::uint64_t stride = (program_->register_bytes + 63) / 64 * 64;
  register_storage_.assign(count * stride + 64, 0);
  local_storage_.assign(count * kLanes * program_->local_bytes, 0);
  shared_storage_.assign(launch_.shared_bytes + 2 * kAlignment, 0);
  const auto aligned = [](std::uint8_t* pointer, std::uint64_t alignment) {
    const auto address = reinterpret_cast<std::uint64_t>(pointer);
    return pointer + ((address + alignment - 1) / alignment * alignment - address);
  };
  shared_ = aligned(shared_storage_.data(), kAlignment);
  std::uint8_t* registers = aligned(register_storage_.data(), 64);
  warps_.assign(count, Warp());
  for (std::uint32_t index = 0; index < count; ++index) {
    Warp& warp = warps_[index];
    warp.machine = this;
    warp.index = index;
    warp.registers = registers + index * stride;
    warp.local = local_storage_.data() + index * kLanes * program_->local_bytes;
    const std::uint32_t lanes = std::min(threads_ - index * kLanes, kLanes);
    warp.born = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
  }
  fill_constants(false, {0, 0, 0});
}

Outcome Machine::run(const Program& program, const Launch& launch) {
  program_ = &program;
  launch_ = launch;
  checks_ = launch.checks != 0;
  schedule_ = static_cast<Schedule>(launch.schedule);
  random_.seed(launch.seed);
  executed_ = 0;
  ++grid_number_;
  outcome_ = Outcome::finished;
  prepare();
  model_.name_sites([this](std::uint32_t where) { return name(program_->code[where / 2]); });
  const auto shared = reinterpret_cast<std::uint64_t>(shared_);
  if (checks_)
    model_.begin_grid({launch.grid[0], launch.grid[1], launch.grid[2]},
                      {launch.block[0], launch.block[1], launch.block[2]}, shared,
                      launch.shared_bytes);
  const std::uint32_t blocks = launch.grid[0] * launch.grid[1] * launch.grid[2];
  std::vector<std::uint32_t> order(blocks);
  for (std::uint32_t index = 0; index < blocks; ++index)
    order[index] = schedule_ == Schedule::reverse ? blocks - 1 - index : index;
  if (schedule_ == Schedule::random) std::shuffle(order.begin(), order.end(), random_);
  for (const std::uint32_t block : order) {
    if (checks_) model_.begin_block(block);
    begin_block(block);
    run_block();
    if (checks_) model_.end_block();
    if (outcome_ != Outcome::finished) break;
  }
  if (checks_) model_.end_grid();
  return outcome_;
}

void Machine::begin_block(std::uint32_t block) {
  fill_constants(true, {block % launch_.grid[0], block / launch_.grid[0] % launch_.grid[1],
                        block / launch_.grid[0] / launch_.grid[1]});
  // What a block finds in shared memory is anybody's guess; a pattern that is a NaN in every
  // format.
  std::memset(shared_, 0xff, launch_.shared_bytes);
  alive_ = threads_;
  barriers_ = {};
  for (Warp& warp : warps_) {
    warp.alive = warp.born;
    warp.carry = 0;
    warp.streak = 0;
    warp.groups.assign(1, Group{.mask = warp.born});
    for (auto& copies : warp.copies) copies.clear();
  }
}

}  // namespace gpu_ladder::ptx
