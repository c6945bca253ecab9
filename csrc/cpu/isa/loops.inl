// Included once for every instruction set, inside its namespace, after its vector types: whatever
// the loops define exists once per instruction set and nowhere else. They use nothing of the
// standard library, whose inline functions the linker would share between instruction sets; what
// they define, but for the tables that the drivers take, is in a namespace without a name.

namespace {

// Calls body(column) for every full vector of [0, columns) and body(column, lanes) for the rest.
template <class Vec, class Body>
inline void for_each_vector(std::int64_t columns, Body&& body) {
  std::int64_t column = 0;
  for (; column + Vec::width <= columns; column += Vec::width) body(column);
  if (column < columns) body(column, columns - column);
}

// A sum runs in vectors over this many elements and then in double, so that its rounding does not
// grow with the size of the tensor.
template <class Vec>
inline constexpr std::int64_t segment = 64 * Vec::width;

// The sum of what body(index, sum so far) makes of `size` elements.
template <class Vec, class Body>
inline double add_up(std::int64_t size, Body&& body) {
  double total = 0;
  for (std::int64_t start = 0; start < size; start += segment<Vec>) {
    const std::int64_t length = size - start < segment<Vec> ? size - start : segment<Vec>;
    Vec partial = Vec::fill(0);
    for_each_vector<Vec>(length, [&](std::int64_t i, auto... lanes) {
      partial = body(start + i, partial, lanes...);
    });
    total += sum(partial);
  }
  return total;
}

// The vector type in which an element type is summed.
template <class T>
struct SumVec {
  using type = VecFloat;
};
template <>
struct SumVec<double> {
  using type = VecDouble;
};
template <class T>
using VecOf = typename SumVec<T>::type;

}  // namespace

// Every file of cpu/ops, in a list that CMake writes.
#include "every_loop.inl"
