// The memory model alone, as functions of C: tests say what the threads of a grid do.
#include <cstdint>
#include <string>

#include "memory_model.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

using gpu_ladder::MemoryModel;
using gpu_ladder::Space;

std::string text;

}  // namespace

EXPORTED MemoryModel* model_new() { return new MemoryModel; }
EXPORTED void model_delete(MemoryModel* model) { delete model; }
EXPORTED void model_add_buffer(MemoryModel* model, const char* name, std::uint64_t address,
                               std::uint64_t bytes, int initialised) {
  model->add_buffer(name, address, bytes, initialised != 0);
}
EXPORTED void model_begin_grid(MemoryModel* model, unsigned blocks, unsigned threads,
                               std::uint64_t shared, std::uint64_t shared_bytes) {
  model->begin_grid({blocks, 1, 1}, {threads, 1, 1}, shared, shared_bytes);
}
EXPORTED void model_begin_block(MemoryModel* model, unsigned block) { model->begin_block(block); }
EXPORTED void model_end_block(MemoryModel* model) { model->end_block(); }
EXPORTED void model_end_grid(MemoryModel* model) { model->end_grid(); }

// `what`: of the letters r(ead), w(rite), a(tomic), s(hared), b(lind).
EXPORTED int model_access(MemoryModel* model, const char* what, unsigned thread,
                          std::uint64_t address, unsigned bytes, unsigned site, const void* value) {
  const std::string letters = what;
  const auto has = [&](char letter) { return letters.find(letter) != std::string::npos; };
  return model->access({thread, has('s') ? Space::shared : Space::global, has('w'), has('a'), bytes,
                        address, site, value, has('b')});
}
EXPORTED unsigned model_access_warp(MemoryModel* model, const char* what, unsigned warp,
                                    unsigned mask, const std::uint64_t* addresses, unsigned bytes,
                                    unsigned site, const void* const* values) {
  const std::string letters = what;
  const auto has = [&](char letter) { return letters.find(letter) != std::string::npos; };
  return model->access_warp({warp, mask, has('s') ? Space::shared : Space::global, has('w'),
                             has('a'), bytes, site, addresses, values, has('b')});
}
EXPORTED void model_begin_request(MemoryModel* model) { model->begin_request(); }
EXPORTED void model_end_request(MemoryModel* model) { model->end_request(); }
EXPORTED void model_block_barrier(MemoryModel* model) { model->block_barrier(); }
EXPORTED void model_warp_sync(MemoryModel* model, unsigned warp, unsigned mask) {
  model->warp_sync(warp, mask);
}
EXPORTED void model_fence(MemoryModel* model, unsigned thread) { model->fence(thread); }

// "kind message\n", one for each.
EXPORTED const char* model_findings(MemoryModel* model) {
  text.clear();
  for (const auto& finding : model->findings())
    text += std::string(name_of(finding.kind)) + " " + finding.message + "\n";
  return text.c_str();
}
EXPORTED void model_clear_findings(MemoryModel* model) { model->clear_findings(); }

// requests, bytes, sectors, ideal sectors, wavefronts, ideal wavefronts of one site; 0: none.
EXPORTED int model_traffic(MemoryModel* model, unsigned site, std::uint64_t* out) {
  const auto found = model->traffic().find(site);
  if (found == model->traffic().end()) return 0;
  const gpu_ladder::Traffic& traffic = found->second;
  const std::uint64_t values[] = {traffic.requests,   traffic.bytes,
                                  traffic.sectors,    traffic.ideal_sectors,
                                  traffic.wavefronts, traffic.ideal_wavefronts};
  for (int k = 0; k < 6; ++k) out[k] = values[k];
  return 1;
}
