#include "cpu/parallel.h"

#include <dlfcn.h>

#include <atomic>

#include "kernels.h"

namespace adak::cpu {
namespace {

// libgomp's entry point for a parallel region; libomp and libiomp5 offer the same one.
using ParallelRegion = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
std::atomic<ParallelRegion> parallel_region{nullptr};

struct Loop {
  std::atomic<std::int64_t> next;
  std::int64_t count;
  void (*body)(void*, std::int64_t);
  void* context;
};

// Indices are handed out one by one, so that a core that is slowed down takes fewer of them.
void run(void* data) {
  Loop& loop = *static_cast<Loop*>(data);
  for (std::int64_t index;
       (index = loop.next.fetch_add(1, std::memory_order_relaxed)) < loop.count;)
    loop.body(loop.context, index);
}

}  // namespace

bool use_openmp(const char* library) {
  // As the loader binds the library's own calls: what was preloaded comes before what it links.
  void* symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel");
  if (symbol == nullptr) {
    void* loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (loaded != nullptr) symbol = dlsym(loaded, "GOMP_parallel");
  }
  if (symbol == nullptr) return false;
  parallel_region = reinterpret_cast<ParallelRegion>(symbol);
  return true;
}

void parallel_for(std::int64_t count, int threads, void (*body)(void*, std::int64_t),
                  void* context) {
  const ParallelRegion region = parallel_region.load(std::memory_order_relaxed);
  Loop loop{{0}, count, body, context};
  if (region == nullptr || threads <= 1 || count <= 1) {
    run(&loop);
  } else {
    region(&run, &loop, static_cast<unsigned>(threads < count ? threads : count), 0);
  }
}

}  // namespace adak::cpu
