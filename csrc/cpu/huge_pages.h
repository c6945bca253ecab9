// Asks the kernel to back fresh memory by huge pages: the first touch of an ordinary page costs up
// to a microsecond for every 4 KiB of output, which for few rows is more than the op itself.
#pragma once

#include <sys/mman.h>

#include <cstdint>

namespace adak::cpu {

inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t page = 2u << 20;
  const auto start = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t begin = (start + page - 1) / page * page;
  const std::uintptr_t end = (start + static_cast<std::uintptr_t>(bytes)) / page * page;
  // A hint: where it is refused nothing changes.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace adak::cpu
