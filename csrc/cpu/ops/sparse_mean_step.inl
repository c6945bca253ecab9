// AdaBatch's aggregate of sparse gradients, and the step along it (Defossez and Bach 2017): with
// D_j the n_j samples that touch coordinate j,
//     d_j = (sum_{i in D_j} g_ij + n_j (offset_j + ridge / p_j w_j)) / divisor,   w_j -= lr d_j,
// where divisor is n_j (AdaBatch), the number of samples (mean) or 1 (sum).
//
// Every gradient is read once, from where it lies; of touched coordinates alone param is read and
// written, and likewise what else the rule needs. A coordinate's sum runs in double, in the order
// of the samples: rows with zeros and stored entries give the same bits.
#pragma once

namespace {

// One element in the type of its sums; vectors would read beyond it.
template <class T>
inline typename VecOf<T>::Lane get(const void* from, std::int64_t at) {
  using Lane = typename VecOf<T>::Lane;
  const T* element = static_cast<const T*>(from) + at;
  if constexpr (sizeof(T) == sizeof(Lane)) {
    return *element;
  } else {
    alignas(64) Lane lanes[VecOf<T>::width];
    VecOf<T>::load(element, 1).store(lanes);
    return lanes[0];
  }
}
template <class T>
inline void put(typename VecOf<T>::Lane value, void* into, std::int64_t at) {
  T* element = static_cast<T*>(into) + at;
  if constexpr (sizeof(T) == sizeof(value)) {
    *element = value;
  } else {
    VecOf<T>::fill(value).store(element, 1);
  }
}

// The step of one coordinate; returns d^2.
template <class T>
inline double sparse_mean_update(const SparseMeanRule& rule, std::int64_t j,
                                 typename VecOf<T>::Lane sum, typename VecOf<T>::Lane count) {
  using Lane = typename VecOf<T>::Lane;
  const Lane value = get<T>(rule.param, j);
  if (rule.offset) sum += count * get<Lane>(rule.offset, j);
  if (rule.probabilities)
    sum += count * (static_cast<Lane>(rule.ridge) / get<Lane>(rule.probabilities, j) * value);
  const Lane d = sum / (rule.divisor > 0 ? static_cast<Lane>(rule.divisor) : count);
  Lane step = static_cast<Lane>(rule.lr) * d;
  if (rule.state_sum) {
    const Lane total = get<T>(rule.state_sum, j) + d * d;
    put<T>(total, rule.state_sum, j);
    step /= static_cast<Lane>(__builtin_sqrt(total)) + static_cast<Lane>(rule.eps);
  }
  put<T>(value - step, rule.param, j);
  return static_cast<double>(d) * static_cast<double>(d);
}

// A column that occurs: its sum so far, of how many samples, and the last of them.
struct ColumnSlot {
  std::uint32_t column;
  std::uint32_t last_row;
  std::uint32_t count;
  double sum;
};
static_assert(sizeof(ColumnSlot) <= sparse_slot_bytes);

// Finds slots by column: open addressing in a table of their numbers. Where the table is as large
// as the columns' range, a column's place is its own.
struct ColumnSlots {
  static constexpr std::uint32_t none = 0xffffffffu;
  ColumnSlot* slots;
  std::uint32_t* table;
  std::uint32_t used = 0;
  int bits = 1;
  bool own_places;

  explicit ColumnSlots(const SparseMeanEntries& entries)
      : slots(static_cast<ColumnSlot*>(entries.slots)), table(entries.table) {
    while (bits < entries.column_bits && (std::int64_t{1} << bits) < 2 * entries.count) ++bits;
    own_places = bits >= entries.column_bits;
    for (std::int64_t place = 0; place < std::int64_t{1} << bits; ++place) table[place] = none;
  }
  ColumnSlot& operator[](std::uint32_t column) {
    const std::uint32_t mask = (1u << bits) - 1;
    // Multiplying by the golden ratio brings all bits of the column into the upper ones.
    std::uint32_t place = own_places ? column & mask : (column * 0x9e3779b9u) >> (32 - bits);
    while (table[place] != none && slots[table[place]].column != column) place = (place + 1) & mask;
    if (table[place] == none) {
      table[place] = used;
      slots[used++] = {column, none, 0, 0};
    }
    return slots[table[place]];
  }
};

template <class T>
double sparse_mean_entries(const SparseMeanEntries& entries) {
  using Lane = typename VecOf<T>::Lane;
  constexpr std::uint32_t ahead = 16;
  const SparseMeanRule& rule = entries.rule;
  ColumnSlots columns(entries);
  for (std::int64_t k = 0; k < entries.count; ++k) {
    const auto entry = static_cast<std::uint32_t>(entries.keys[k]);
    const std::uint32_t row = entries.rows[entry];
    ColumnSlot& slot = columns[static_cast<std::uint32_t>(entries.keys[k] >> 32)];
    slot.sum += static_cast<double>(get<T>(entries.values, entry));
    slot.count += slot.last_row != row;
    slot.last_row = row;
  }
  double sq_norm = 0;
  for (std::uint32_t k = 0; k < columns.used; ++k) {
    if (k + ahead < columns.used) {
      const std::int64_t next = columns.slots[k + ahead].column;
      __builtin_prefetch(static_cast<const T*>(rule.param) + next, 1, 3);
      if (rule.state_sum) __builtin_prefetch(static_cast<const T*>(rule.state_sum) + next, 1, 3);
    }
    const ColumnSlot& slot = columns.slots[k];
    sq_norm += sparse_mean_update<T>(rule, slot.column, static_cast<Lane>(slot.sum),
                                     static_cast<Lane>(slot.count));
  }
  return sq_norm;
}

// Adds R rows to the columns' sums and counts, which are loaded and stored once for all of them.
// The compiler makes vectors of this loop: columns are independent of each other.
template <int R, class Lane>
inline void add_touched(const Lane* __restrict rows, std::int64_t row_stride, std::int64_t columns,
                        double* __restrict sums, Lane* __restrict counts) {
  for (std::int64_t j = 0; j < columns; ++j) {
    double sum = sums[j];
    Lane count = counts[j];
    for (int k = 0; k < R; ++k) {
      const Lane value = rows[k * row_stride + j];
      sum += static_cast<double>(value);
      count += value != 0 ? Lane{1} : Lane{0};
    }
    sums[j] = sum;
    counts[j] = count;
  }
}
template <int R, class T, class Lane>
inline void add_touched_rows(const T* rows, std::int64_t row_stride, std::int64_t columns,
                             double* sums, Lane* counts) {
  if constexpr (sizeof(T) == sizeof(Lane)) {
    add_touched<R>(rows, row_stride, columns, sums, counts);
  } else {
    using Vec = VecOf<T>;
    alignas(64) Lane wide[R][sparse_columns];
    for (int k = 0; k < R; ++k) {
      for_each_vector<Vec>(columns, [&](std::int64_t j, auto... lanes) {
        Vec::load(rows + k * row_stride + j, lanes...).store(wide[k] + j, lanes...);
      });
    }
    add_touched<R, Lane>(wide[0], sparse_columns, columns, sums, counts);
  }
}

template <class T>
double sparse_mean_columns(const SparseMeanColumns& piece) {
  using Lane = typename VecOf<T>::Lane;
  alignas(64) double sums[sparse_columns] = {};
  alignas(64) Lane counts[sparse_columns] = {};
  const auto [grads, stride, rows, columns] = piece.block;
  const T* row = static_cast<const T*>(grads);
  constexpr int R = 8;
  std::int64_t i = 0;
  for (; i + R <= rows; i += R)
    add_touched_rows<R>(row + i * stride, stride, columns, sums, counts);
  for (; i < rows; ++i) add_touched_rows<1>(row + i * stride, stride, columns, sums, counts);
  double sq_norm = 0;
  for (std::int64_t j = 0; j < columns; ++j)
    if (counts[j] > 0)
      sq_norm +=
          sparse_mean_update<T>(piece.rule, piece.first + j, static_cast<Lane>(sums[j]), counts[j]);
  return sq_norm;
}

}  // namespace

constexpr SparseMeanLoops sparse_mean_loops = {
    .columns = {sparse_mean_columns<float>, sparse_mean_columns<BFloat16>,
                sparse_mean_columns<Float16>, sparse_mean_columns<double>},
    .entries = {sparse_mean_entries<float>, sparse_mean_entries<BFloat16>,
                sparse_mean_entries<Float16>, sparse_mean_entries<double>},
};
