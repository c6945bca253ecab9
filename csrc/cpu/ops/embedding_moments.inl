// Of one index v that n of b samples looked up, with c_i the sum of sample i's rows:
//     grad_v = sum_i c_i,   s_i += |c_i|^2,   p_i += <c_i, grad_v>,
//     variance_v = (sum_i (c_i - m)^2 + m^2 n (b - n) / b) / (b - 1),   m = grad_v / n:
// the squared deviations of the samples that touched it, pooled with b - n zeros.
//
// The rows are read twice where variance or inner products are asked, the second time from cache.
// Sums over rows run in the sum type over at most `run_segment` of them, then in double; norms and
// products of a row in vectors, then in double.
#pragma once

#include "cpu/ops/batch_moments.inl"

namespace {

inline constexpr std::int64_t run_segment = 32;

// A sum of rows: what has been added up of this segment, and in double of those before.
template <class Lane>
struct Segments {
  Lane* sums;
  std::int64_t columns;
  double totals[embedding_columns];

  // Whether row i begins a segment, in place of the last one's sums.
  bool begins(std::int64_t i) {
    if (i % run_segment != 0) return false;
    for (std::int64_t j = 0; i > 0 && j < columns; ++j) {
      const double before = i > run_segment ? totals[j] : 0;
      totals[j] = before + static_cast<double>(sums[j]);
    }
    return true;
  }
  // After `rows` rows: the sums of all.
  void end(std::int64_t rows) const {
    for (std::int64_t j = 0; rows > run_segment && j < columns; ++j)
      sums[j] = static_cast<Lane>(totals[j] + static_cast<double>(sums[j]));
  }
};

// One sample's contribution: its row where it looked the index up once, else the sum of its rows.
template <class T>
struct Contribution {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  const EmbeddingRun& run;
  Segments<Lane>& sum;

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
  const Lane* add_up(std::int64_t from, std::int64_t to) const {
    for (std::int64_t k = from; k < to; ++k) {
      const bool begins = sum.begins(k - from);
      const T* row = grads(k);
      for_each_vector<Vec>(run.columns, [&](std::int64_t j, auto... lanes) {
        Vec value = Vec::load(row + j, lanes...);
        if (!begins) value = value + Vec::load(sum.sums + j, lanes...);
        value.store(sum.sums + j, lanes...);
      });
    }
    sum.end(to - from);
    return sum.sums;
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
        body(count, run.samples[k], add_up(k, next));
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
  Lane* const grad = static_cast<Lane*>(run.grad);
  Lane* const variance = static_cast<Lane*>(run.variance);
  const std::int64_t columns = run.columns;
  alignas(64) Lane contribution[embedding_columns];
  Segments<Lane> of_contribution;
  of_contribution.sums = contribution;
  of_contribution.columns = columns;
  const Contribution<T> contributions{run, of_contribution};
  Segments<Lane> over_samples;
  over_samples.sums = grad;
  over_samples.columns = columns;

  const std::int64_t touched =
      contributions.each([&](std::int64_t i, std::int64_t sample, const auto* row) {
        const bool begins = over_samples.begins(i);
        run.sq_norms[sample] += add_up<Vec>(columns, [&](std::int64_t j, Vec norm, auto... lanes) {
          const Vec value = Vec::load(row + j, lanes...);
          (begins ? value : value + Vec::load(grad + j, lanes...)).store(grad + j, lanes...);
          return fma(value, value, norm);
        });
      });
  over_samples.end(touched);

  const double n = static_cast<double>(touched);
  const double b = static_cast<double>(run.batch);
  const Vec count = Vec::fill(n);
  if (variance) {
    over_samples.sums = variance;
    contributions.each([&](std::int64_t i, std::int64_t sample, const auto* row) {
      const bool begins = over_samples.begins(i);
      const double product = add_up<Vec>(columns, [&](std::int64_t j, Vec sum, auto... lanes) {
        const Vec value = Vec::load(row + j, lanes...);
        const Vec total = Vec::load(grad + j, lanes...);
        const Vec deviation = value - total / count;
        const Vec squares = begins ? Vec::fill(0) : Vec::load(variance + j, lanes...);
        fma(deviation, deviation, squares).store(variance + j, lanes...);
        return fma(value, total, sum);
      });
      if (run.inner_products) run.inner_products[sample] += product;
    });
    over_samples.end(touched);
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

}  // namespace

constexpr EmbeddingLoops embedding_loops = {
    .run = {embedding_run<float>, embedding_run<BFloat16>, embedding_run<Float16>,
            embedding_run<double>},
};
