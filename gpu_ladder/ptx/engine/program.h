// What the parser hands to the machine: decoded instructions over register slots.
//
// A register is 32 lanes side by side (a predicate is one 32-bit mask), so that one instruction of
// a warp is one loop over consecutive memory. Immediates and special registers are slots like any
// other, filled before the kernel runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gpu_ladder::ptx {

constexpr std::uint32_t kLanes = 32;
constexpr std::uint32_t kAllLanes = 0xffffffffu;
constexpr std::uint32_t kNone = 0xffffffffu;

class Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&, std::uint32_t mask);

// What the scheduler must know before it lets a group of lanes execute an instruction.
enum class Kind : std::uint8_t {
  plain,          // lanes are independent of one another
  collective,     // waits for the lanes named by its last operand, the member mask
  converged,      // waits for every lane of the warp (mma, ldmatrix, ...)
  warp_barrier,   // bar.warp.sync: like collective, but any such instruction will do
  block_barrier,  // bar.sync and its relatives
  branch,
  branch_indexed,
  call,
  function_return,
  leave,
  pause,  // a hint that others should run
};

struct Instruction {
  Handler handler;
  const std::uint32_t* operands;  // byte offsets into the warp's register file
  std::uint64_t immediate;
  std::uint32_t operand_count;
  std::uint32_t attributes;  // modifiers, see attributes.h
  std::uint32_t guard;       // slot of the predicate, or kNone
  std::uint32_t guard_flip;  // xor-ed with the predicate: all ones for @!p
  std::uint32_t target;
  std::uint32_t line;
  Kind kind;
};

// One instruction as the parser writes it; fixed layout, also known to encode.py.
struct EncodedInstruction {
  std::uint64_t immediate;
  std::uint32_t operation;
  std::uint32_t attributes;
  std::uint32_t guard;
  std::uint32_t guard_flip;
  std::uint32_t target;
  std::uint32_t line;
  std::uint32_t first_operand;
  std::uint32_t operand_count;
};
static_assert(sizeof(EncodedInstruction) == 40);

enum class Source : std::uint32_t { literal, special, parameter, variable };

// A slot that holds one value in every lane, or a special register.
struct EncodedConstant {
  std::uint64_t value;  // a literal, a SpecialRegister, an offset into parameters or variables
  std::uint32_t slot;
  std::uint32_t bytes;
  Source source;
  std::uint32_t reserved;
};
static_assert(sizeof(EncodedConstant) == 24);

struct Program {
  std::vector<Instruction> code;
  std::vector<std::uint32_t> operands;
  std::vector<std::uint32_t> branch_tables;
  std::vector<EncodedConstant> constants;
  std::vector<std::string> names;  // of instructions, for messages
  std::uint64_t register_bytes = 0;
  std::uint64_t local_bytes = 0;  // for each thread
};

// The operations the machine knows, by name ("add.f32"); the parser asks for their numbers.
struct Operation {
  std::string name;
  Handler handler;
  Kind kind;
};
const std::vector<Operation>& operations();

// Each family of operations adds its own to the list.
using Operations = std::vector<Operation>;
void add_integer_operations(Operations& list);
void add_bit_operations(Operations& list);
void add_float_operations(Operations& list);
void add_half_operations(Operations& list);
void add_conversion_operations(Operations& list);
void add_comparison_operations(Operations& list);
void add_move_operations(Operations& list);
void add_load_operations(Operations& list);
void add_atomic_operations(Operations& list);
void add_copy_operations(Operations& list);
void add_collective_operations(Operations& list);
void add_matrix_operations(Operations& list);
void add_control_operations(Operations& list);

}  // namespace gpu_ladder::ptx
