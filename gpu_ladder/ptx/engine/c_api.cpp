// The machine as engine.py sees it: plain C functions on opaque pointers.
#include <cstring>
#include <exception>
#include <string>

#include "machine.h"

using gpu_ladder::BufferTraffic;
using gpu_ladder::Finding;
using gpu_ladder::Traffic;
using gpu_ladder::ptx::EncodedConstant;
using gpu_ladder::ptx::EncodedInstruction;
using gpu_ladder::ptx::Launch;
using gpu_ladder::ptx::Machine;
using gpu_ladder::ptx::Program;

namespace {

struct ProgramText {
  const EncodedInstruction* code;
  const std::uint32_t* operands;
  const std::uint32_t* branch_tables;
  const EncodedConstant* constants;
  const char* names;  // one for each instruction, each ends in a newline
  std::uint64_t code_count;
  std::uint64_t operand_count;
  std::uint64_t branch_table_count;
  std::uint64_t constant_count;
  std::uint64_t register_bytes;
  std::uint64_t local_bytes;
};

struct FoundText {
  const char* kind;
  const char* message;
  std::uint32_t site;
  std::uint32_t reserved;
  std::uint64_t count;
};

struct TrafficRow {
  std::uint32_t site;
  std::uint32_t shared;
  std::uint32_t write;
  std::uint32_t atomic;
  std::uint64_t access_bytes;
  std::uint64_t requests;
  std::uint64_t bytes;
  std::uint64_t sectors;
  std::uint64_t ideal_sectors;
  std::uint64_t wavefronts;
  std::uint64_t ideal_wavefronts;
};

}  // namespace

extern "C" {

const char* gpu_ladder_ptx_operation(std::uint32_t index) {
  const auto& list = gpu_ladder::ptx::operations();
  return index < list.size() ? list[index].name.c_str() : nullptr;
}

Program* gpu_ladder_ptx_program(const ProgramText* text) {
  auto* program = new Program;
  program->operands.assign(text->operands, text->operands + text->operand_count);
  program->branch_tables.assign(text->branch_tables,
                                text->branch_tables + text->branch_table_count);
  program->constants.assign(text->constants, text->constants + text->constant_count);
  program->register_bytes = text->register_bytes;
  program->local_bytes = text->local_bytes;
  const char* name = text->names;
  for (std::uint64_t index = 0; index < text->code_count; ++index) {
    const EncodedInstruction& from = text->code[index];
    const auto& operation = gpu_ladder::ptx::operations()[from.operation];
    program->code.push_back({.handler = operation.handler,
                             .operands = program->operands.data() + from.first_operand,
                             .immediate = from.immediate,
                             .operand_count = from.operand_count,
                             .attributes = from.attributes,
                             .guard = from.guard,
                             .guard_flip = from.guard_flip,
                             .target = from.target,
                             .line = from.line,
                             .kind = operation.kind});
    const char* end = std::strchr(name, '\n');
    program->names.emplace_back(name, end);
    name = end + 1;
  }
  return program;
}
void gpu_ladder_ptx_forget_program(Program* program) { delete program; }

Machine* gpu_ladder_ptx_machine() { return new Machine; }
void gpu_ladder_ptx_forget_machine(Machine* machine) { delete machine; }

void gpu_ladder_ptx_add_buffer(Machine* machine, const char* name, std::uint64_t address,
                               std::uint64_t bytes, int initialised) {
  machine->model().add_buffer(name, address, bytes, initialised != 0);
}

// Returns how the grid ended, or -1 with the reason in `error` (of 256 bytes).
int gpu_ladder_ptx_run(Machine* machine, const Program* program, const Launch* launch,
                       char* error) {
  try {
    return static_cast<int>(machine->run(*program, *launch));
  } catch (const std::exception& exception) {
    std::strncpy(error, exception.what(), 255);
    error[255] = '\0';
    return -1;
  }
}

// Warp instructions of the last grid.
std::uint64_t gpu_ladder_ptx_executed(Machine* machine) { return machine->executed(); }

std::uint64_t gpu_ladder_ptx_finding_count(Machine* machine) {
  return machine->model().findings().size();
}
// The texts live until the next finding.
void gpu_ladder_ptx_finding(Machine* machine, std::uint64_t index, FoundText* out) {
  const Finding& finding = machine->model().findings()[index];
  *out = {gpu_ladder::name_of(finding.kind).data(), finding.message.c_str(), finding.site, 0,
          finding.count};
}

std::uint64_t gpu_ladder_ptx_traffic(Machine* machine, TrafficRow* rows, std::uint64_t capacity) {
  std::uint64_t index = 0;
  for (const auto& [site, traffic] : machine->model().traffic()) {
    if (index < capacity)
      rows[index] = {site,
                     traffic.space == gpu_ladder::Space::shared,
                     traffic.write,
                     traffic.atomic,
                     traffic.access_bytes,
                     traffic.requests,
                     traffic.bytes,
                     traffic.sectors,
                     traffic.ideal_sectors,
                     traffic.wavefronts,
                     traffic.ideal_wavefronts};
    ++index;
  }
  return index;
}

// Distinct sectors of the index-th buffer; returns whether there is one. The name is cut at 255
// bytes.
int gpu_ladder_ptx_buffer_traffic(Machine* machine, std::uint64_t index, char* name,
                                  std::uint64_t* numbers) {
  const std::vector<BufferTraffic> buffers = machine->model().buffer_traffic();
  if (index >= buffers.size()) return 0;
  std::strncpy(name, buffers[index].name.c_str(), 255);
  name[255] = '\0';
  numbers[0] = buffers[index].bytes;
  numbers[1] = buffers[index].sectors_read;
  numbers[2] = buffers[index].sectors_written;
  return 1;
}

}  // extern "C"
