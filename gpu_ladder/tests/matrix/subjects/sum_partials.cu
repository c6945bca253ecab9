// Sums of partial sums.
#include "subject.h"

using namespace subject;

// arrays: partials [parts, numbers], sums
// sizes: parts, numbers
int subject_run(void* const* arrays, const long long* sizes) {
  Launches launches;
  launches(sum_partials_kernel, dim3(static_cast<unsigned>((sizes[1] + 31) / 32)), sum_threads, 0,
           static_cast<const double*>(array<double>(arrays, 0)), std::int64_t{sizes[0]},
           std::int64_t{sizes[1]}, array<double>(arrays, 1));
  return launches.error();
}
