// Of one index v that n of b samples looked up, with c_i the sum of sample i's rows:
//     grad_v = sum_i c_i,   s_i += |c_i|^2,   p_i += <c_i, grad_v>,
//     variance_v = (sum_i (c_i - m)^2 + m^2 n (b - n) / b) / (b - 1),   m = grad_v / n:
// the squared deviations of the samples that touched it, pooled with b - n zeros.
//
// The rows are read twice where variance or inner products are asked, the second time from cache;
// grad and variance are written once. Sums over samples run in the sum type over at most
// `run_segment` of them, whose sums are added up afterwards; norms and products of a row in
// vectors, then in double.

inline constexpr std::int64_t run_segment = 64;

// One sample's contribution: its row where it looked the index up once, else the sum of its rows.
template <class T>
struct Contribution {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  const EmbeddingRun& run;
  Lane* sums;
  Lane* part;

  const T* grads(std::int64_t k) const {
    return static_cast<const T*>(run.grad_outputs) + run.offsets[k];
  }
  void fetch(std::int64_t k) const {
    if (k >= run.positions) return;
    const char* row = reinterpret_cast<const char*>(grads(k));
    const std::int64_t bytes = run.columns * static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte, 0, 3);
  }
  std::int64_t end(std::int64_t k) const {
    std::int64_t last = k + 1;
    while (last < run.positions && run.samples[last] == run.samples[k]) ++last;
    return last;
  }
  // The rows [from, to), in segments that are added up afterwards.
  void add_up(std::int64_t from, std::int64_t to) const {
    for (std::int64_t start = from; start < to; start += run_segment) {
      Lane* into = start == from ? sums : part;
      const std::int64_t stop = to - start < run_segment ? to : start + run_segment;
      for (std::int64_t k = start; k < stop; ++k) {
        const T* row = grads(k);
        for_each_vector<Vec>(run.columns, [&](std::int64_t j, auto... lanes) {
          const Vec value = Vec::load(row + j, lanes...);
          (k == start ? value : value + Vec::load(into + j, lanes...)).store(into + j, lanes...);
        });
      }
      if (start > from) add_rows<Vec>(sums, part, run.columns);
    }
  }
  // Calls body(sample, row) for each sample, where row is of T or of Lane.
  template <class Body>
  std::int64_t each(Body&& body) const {
    std::int64_t count = 0;
    for (std::int64_t k = 0; k < run.positions; ++count) {
      const std::int64_t next = end(k);
      fetch(next);
      if (next - k == 1) {
        body(count, run.samples[k], grads(k));
      } else {
        add_up(k, next);
        body(count, run.samples[k], static_cast<const Lane*>(sums));
      }
      k = next;
    }
    return count;
  }
};

template <class T>
void embedding_run(const EmbeddingRun& run) {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  alignas(64) Lane sums[embedding_columns];
  alignas(64) Lane scratch[embedding_columns];
  alignas(64) Lane part[embedding_columns];
  const Contribution<T> contributions{run, sums, part};
  Lane* grad = static_cast<Lane*>(run.grad);
  const std::int64_t columns = run.columns;

  const std::int64_t touched =
      contributions.each([&](std::int64_t i, std::int64_t sample, const auto* row) {
        const bool begins = i % run_segment == 0;
        if (begins && i > run_segment) add_rows<Vec>(grad, scratch, columns);
        Lane* into = i < run_segment ? grad : scratch;
        run.sq_norms[sample] += add_up<Vec>(columns, [&](std::int64_t j, Vec norm, auto... lanes) {
          const Vec value = Vec::load(row + j, lanes...);
          (begins ? value : value + Vec::load(into + j, lanes...)).store(into + j, lanes...);
          return fma(value, value, norm);
        });
      });
  if (touched > run_segment) add_rows<Vec>(grad, scratch, columns);

  Lane* variance = static_cast<Lane*>(run.variance);
  const double n = static_cast<double>(touched);
  const double b = static_cast<double>(run.batch);
  const Vec count = Vec::fill(n);
  if (variance) {
    contributions.each([&](std::int64_t i, std::int64_t sample, const auto* row) {
      const double product = add_up<Vec>(columns, [&](std::int64_t j, Vec sum, auto... lanes) {
        const Vec value = Vec::load(row + j, lanes...);
        const Vec total = Vec::load(grad + j, lanes...);
        const Vec deviation = value - total / count;
        const Vec squares = i == 0 ? Vec::fill(0) : Vec::load(variance + j, lanes...);
        fma(deviation, deviation, squares).store(variance + j, lanes...);
        return fma(value, total, sum);
      });
      if (run.inner_products) run.inner_products[sample] += product;
    });
    const Vec zeros = Vec::fill(n * (b - n) / b);
    const Vec degrees = Vec::fill(b - 1);
    for_each_vector<Vec>(columns, [&](std::int64_t j, auto... lanes) {
      const Vec mean = Vec::load(grad + j, lanes...) / count;
      (fma(mean * mean, zeros, Vec::load(variance + j, lanes...)) / degrees)
          .store(variance + j, lanes...);
    });
  } else if (run.inner_products) {
    contributions.each([&](std::int64_t, std::int64_t sample, const auto* row) {
      run.inner_products[sample] +=
          add_up<Vec>(columns, [&](std::int64_t j, Vec sum, auto... lanes) {
            return fma(Vec::load(row + j, lanes...), Vec::load(grad + j, lanes...), sum);
          });
    });
  }
}
