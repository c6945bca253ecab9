// Arrays in local memory, addressed by a runtime index; a function call; generic addresses.
__device__ __noinline__ int scramble(int value, int times) {
  for (int step = 0; step < times; ++step) value = value * 1103515245 + 12345;
  return value;
}
extern "C" __global__ void local_array(const int* indices, int* out, int count) {
  int scratch[16];
  for (int step = 0; step < 16; ++step) scratch[step] = step * step + static_cast<int>(threadIdx.x);
  for (int step = 0; step < count; ++step) scratch[indices[step] & 15] += step;
  int sum = 0;
  for (int step = 0; step < 16; ++step) sum = sum * 3 + scratch[step ^ (indices[0] & 15)];
  out[threadIdx.x] = scramble(sum, static_cast<int>(threadIdx.x) % 5);
}
__constant__ int weights[4] = {3, 1, 4, 1};
__device__ int table[3] = {10, 20, 30};
extern "C" __global__ void tables(int* out) {
  out[threadIdx.x] = weights[threadIdx.x & 3] * 100 + table[threadIdx.x % 3];
}
struct Settings {
  int scale;
  double shift;
  short bias[3];
};
extern "C" __global__ void by_value(const __grid_constant__ Settings settings, double* out) {
  out[threadIdx.x] = settings.scale * static_cast<double>(threadIdx.x) + settings.shift +
                     settings.bias[threadIdx.x % 3];
}
extern "C" __global__ void switch_cases(const int* in, int* out) {
  switch (in[threadIdx.x]) {
    case 0:
      out[threadIdx.x] = 5;
      break;
    case 1:
      out[threadIdx.x] = 17 + in[0];
      break;
    case 2:
      out[threadIdx.x] = in[1] * 3;
      break;
    case 3:
      out[threadIdx.x] = 99 / (in[2] + 1);
      break;
    case 4:
      out[threadIdx.x] = 1;
      break;
    case 5:
      out[threadIdx.x] = in[3] % 7;
      break;
    case 6:
      __syncwarp(__activemask());
      out[threadIdx.x] = 0;
      break;
    default:
      out[threadIdx.x] = -1;
  }
}
