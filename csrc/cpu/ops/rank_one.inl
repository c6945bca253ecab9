// What is left to do element by element where a sample's contribution is one product, x y'.
//
//     row_dots             d_i += sum_j a[i, j] b[i, j]           two reads, double
//     rank_one_variance    v = max(0, q - c grad^2), in place     two reads, one write, sum type

template <class Vec>
void row_dots(const RowDots& r) {
  using Lane = typename Vec::Lane;
  for (std::int64_t row = 0; row < r.rows; ++row) {
    const Lane* a = static_cast<const Lane*>(r.a) + row * r.columns;
    const Lane* b = static_cast<const Lane*>(r.b) + row * r.columns;
    r.dots[row] += add_up<Vec>(r.columns, [&](std::int64_t i, Vec partial, auto... lanes) {
      return fma(Vec::load(a + i, lanes...), Vec::load(b + i, lanes...), partial);
    });
  }
}

template <class Vec>
void rank_one_variance(const RankOneVariance& r) {
  using Lane = typename Vec::Lane;
  const Lane* grad = static_cast<const Lane*>(r.grad);
  Lane* squares = static_cast<Lane*>(r.squares);
  const Vec scale = Vec::fill(-r.scale);
  for_each_vector<Vec>(r.size, [&](std::int64_t i, auto... lanes) {
    const Vec mean = Vec::load(grad + i, lanes...);
    const Vec spread = fma(mean * scale, mean, Vec::load(squares + i, lanes...));
    not_negative(spread).store(squares + i, lanes...);
  });
}
