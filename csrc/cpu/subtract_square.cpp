// Cuts a tensor into chunks; the arithmetic is in ops/subtract_square.inl.
#include "contracts/subtract_square.h"

#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {

void subtract_square(const SubtractSquareArgs& args) {
  constexpr std::int64_t chunk = 1 << 15;  // elements
  const SubtractSquare& all = args.values;
  const std::int64_t bytes = element_bytes(args.type);
  const auto run = subtract_square_loops().run[static_cast<int>(args.type)];
  parallel_for(ceil_div(all.size, chunk), args.threads, [&](std::int64_t task) {
    const std::int64_t first = task * chunk;
    run({static_cast<const char*>(all.grad) + first * bytes,
         static_cast<char*>(all.squares) + first * bytes, least(chunk, all.size - first),
         all.scale});
  });
}

}  // namespace adak::cpu
