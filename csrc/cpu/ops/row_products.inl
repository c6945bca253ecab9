// <a, b> in one read of both: in vectors of the sum type over a segment, and then in double.
#pragma once

namespace {

template <class T, class Vec = VecOf<T>>
double row_product(const void* one, const void* other, std::int64_t size) {
  const T* const a = static_cast<const T*>(one);
  const T* const b = static_cast<const T*>(other);
  return add_up<Vec>(size, [&](std::int64_t i, Vec partial, auto... lanes) {
    return fma(Vec::load(a + i, lanes...), Vec::load(b + i, lanes...), partial);
  });
}

}  // namespace

constexpr RowProductsLoops row_products_loops = {
    .run = {row_product<float>, row_product<BFloat16>, row_product<Float16>, row_product<double>},
};
