// mma.sync, ldmatrix, stmatrix, movmatrix: all lanes of the warp together.
//
// A device adds the products of one mma in an order and width of its own, so its last bits are its
// own too. Here the products are exact and each element of the result is summed in float64 and
// rounded once.
#include <cstring>
#include <string>

#include "machine.h"
#include "numbers.h"

namespace gpu_ladder::ptx {
namespace {

template <class T>
double element(const Warp& warp, const Instruction& instruction, std::uint32_t operand,
               std::uint32_t lane, std::uint32_t part) {
  const std::uint32_t bits = warp.operand<std::uint32_t>(instruction, operand)[lane];
  if constexpr (sizeof(T) == 4)
    return static_cast<double>(widen(T{bits}));
  else
    return static_cast<double>(widen(T{static_cast<std::uint16_t>(bits >> (16 * part))}));
}

// D[16, 8] = A[16, k] B[k, 8] + C[16, 8]. T: the type of A and B; Sum: of C and D.
// Within a register a lane holds `packed` neighbours along k.
template <class T, class Sum, std::uint32_t depth>
void multiply_matrices(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  constexpr std::uint32_t packed = 4 / sizeof(T);
  constexpr std::uint32_t registers = depth / (4 * packed);  // of B; A has twice as many
  constexpr std::uint32_t sums = sizeof(Sum) == 4 ? 4 : 2;
  constexpr std::uint32_t first_a = sums;
  constexpr std::uint32_t first_b = first_a + 2 * registers;
  constexpr std::uint32_t first_c = first_b + registers;
  double a[16][depth];
  double b[depth][8];
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    for (std::uint32_t half = 0; half < registers; ++half)
      for (std::uint32_t part = 0; part < packed; ++part) {
        const std::uint32_t k = half * 4 * packed + (lane % 4) * packed + part;
        // The registers of A run over both halves of the rows first, then over k.
        a[lane / 4][k] = element<T>(warp, instruction, first_a + 2 * half, lane, part);
        a[lane / 4 + 8][k] = element<T>(warp, instruction, first_a + 2 * half + 1, lane, part);
        b[k][lane / 4] = element<T>(warp, instruction, first_b + half, lane, part);
      }
  Sum result[4][kLanes];
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    for (std::uint32_t item = 0; item < 4; ++item) {
      const std::uint32_t row = lane / 4 + (item >= 2 ? 8 : 0);
      const std::uint32_t column = 2 * (lane % 4) + item % 2;
      double sum = 0;
      if constexpr (sizeof(Sum) == 4)
        sum = static_cast<double>(warp.operand<float>(instruction, first_c + item)[lane]);
      else
        sum = static_cast<double>(
            widen(warp.operand<Half>(instruction, first_c + item / 2)[2 * lane + item % 2]));
      for (std::uint32_t k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      if constexpr (sizeof(Sum) == 4)
        result[item][lane] = canonical(static_cast<float>(sum));
      else
        result[item][lane] = nearest_half(odd_float(sum));
    }
  for (std::uint32_t item = 0; item < 4; ++item)
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      if (((mask >> lane) & 1u) == 0) continue;
      if constexpr (sizeof(Sum) == 4)
        warp.operand<Sum>(instruction, item)[lane] = result[item][lane];
      else
        warp.operand<Sum>(instruction, item / 2)[2 * lane + item % 2] = result[item][lane];
    }
}

// The i-th 8 x 8 matrix of 16-bit elements has its rows at the addresses in lanes 8 i to 8 i + 7;
// lane l holds elements 2 (l % 4) and the next of row l / 4, or of that column if transposed.
std::uint32_t matrix_rows(Warp& warp, const Instruction& instruction, std::uint32_t operand,
                          std::uint32_t count, bool write, const void* const* values,
                          std::uint8_t** rows) {
  std::uint64_t addresses[kLanes];
  warp.machine->addresses(warp, instruction, operand, addresses);
  const std::uint32_t used = count == 4 ? kAllLanes : (1u << (8 * count)) - 1;
  return warp.machine->resolve(warp, instruction, used, addresses,
                               {.space = state_space(instruction),
                                .bytes = 16,
                                .write = write,
                                .atomic = false,
                                .blind = false,
                                .values = values},
                               rows);
}

std::uint32_t matrices(const Instruction& instruction) {
  return ((instruction.attributes >> kVectorShift) & kVectorMask) + 1;
}

void load_matrix(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t count = matrices(instruction);
  const bool transposed = (instruction.attributes & kTransposed) != 0;
  std::uint8_t* rows[kLanes];
  const std::uint32_t allowed = matrix_rows(warp, instruction, count, count, false, nullptr, rows);
  std::uint16_t elements[kLanes][8] = {};
  for (std::uint32_t row = 0; row < 8 * count; ++row)
    if (((allowed >> row) & 1u) != 0) std::memcpy(elements[row], rows[row], 16);
  for (std::uint32_t matrix = 0; matrix < count; ++matrix)
    for_lanes(warp.operand<std::uint32_t>(instruction, matrix), mask, [&](std::uint32_t lane) {
      const std::uint32_t major = lane / 4;
      const std::uint32_t minor = 2 * (lane % 4);
      const auto* tile = &elements[8 * matrix];
      const std::uint32_t low = transposed ? tile[minor][major] : tile[major][minor];
      const std::uint32_t high = transposed ? tile[minor + 1][major] : tile[major][minor + 1];
      return (high << 16) | low;
    });
}

void scatter(const std::uint32_t* source, bool transposed, std::uint16_t (*tile)[8]) {
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    for (std::uint32_t part = 0; part < 2; ++part) {
      const std::uint32_t major = lane / 4;
      const std::uint32_t minor = 2 * (lane % 4) + part;
      const auto value = static_cast<std::uint16_t>(source[lane] >> (16 * part));
      (transposed ? tile[minor][major] : tile[major][minor]) = value;
    }
}

void store_matrix(Warp& warp, const Instruction& instruction, std::uint32_t) {
  const std::uint32_t count = matrices(instruction);
  const bool transposed = (instruction.attributes & kTransposed) != 0;
  std::uint16_t elements[kLanes][8] = {};
  const void* values[kLanes];
  for (std::uint32_t matrix = 0; matrix < count; ++matrix)
    scatter(warp.operand<std::uint32_t>(instruction, matrix + 1), transposed,
            &elements[8 * matrix]);
  for (std::uint32_t row = 0; row < kLanes; ++row) values[row] = elements[row];
  std::uint8_t* rows[kLanes];
  const std::uint32_t allowed = matrix_rows(warp, instruction, 0, count, true, values, rows);
  for (std::uint32_t row = 0; row < 8 * count; ++row)
    if (((allowed >> row) & 1u) != 0) std::memcpy(rows[row], elements[row], 16);
}

void transpose_matrix(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  std::uint16_t tile[8][8];
  scatter(warp.operand<std::uint32_t>(instruction, 1), true, tile);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    const std::uint16_t* row = tile[lane / 4];
    return (static_cast<std::uint32_t>(row[2 * (lane % 4) + 1]) << 16) | row[2 * (lane % 4)];
  });
}

}  // namespace

void add_matrix_operations(Operations& list) {
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::converged});
  };
  add("mma.m16n8k16.f32.f16", multiply_matrices<Half, float, 16>);
  add("mma.m16n8k16.f32.bf16", multiply_matrices<Brain, float, 16>);
  add("mma.m16n8k16.f16.f16", multiply_matrices<Half, Half, 16>);
  add("mma.m16n8k8.f32.f16", multiply_matrices<Half, float, 8>);
  add("mma.m16n8k8.f32.bf16", multiply_matrices<Brain, float, 8>);
  add("mma.m16n8k8.f16.f16", multiply_matrices<Half, Half, 8>);
  add("mma.m16n8k8.f32.tf32", multiply_matrices<Tensor32, float, 8>);
  add("mma.m16n8k4.f32.tf32", multiply_matrices<Tensor32, float, 4>);
  add("ldmatrix", load_matrix);
  add("stmatrix", store_matrix);
  add("movmatrix", transpose_matrix);
}

}  // namespace gpu_ladder::ptx
