// AdaGrad-Norm in two sweeps: the accumulator needs the norm of the whole direction
// d = +-grad / grad_scale + weight_decay * param before the first parameter can move.
//
// squares: 1 element read per element, 2 with weight decay. scaled_step: 2 read, 1 written.

template <class T>
Squares squares(const SquaresChunk& chunk) {
  using Vec = VecOf<T>;
  const T* param = static_cast<const T*>(chunk.param);
  const T* grad = static_cast<const T*>(chunk.grad);
  const double scale = chunk.scalars.grad_scale;
  Vec of_grad = Vec::fill(0);
  Vec of_direction = Vec::fill(0);
  if (chunk.scalars.weight_decay == 0) {
    for_each_vector<Vec>(chunk.size, [&](std::int64_t i, auto... lanes) {
      const Vec g = Vec::load(grad + i, lanes...);
      of_grad = fma(g, g, of_grad);
    });
    const double sq_norm = sum(of_grad) / (scale * scale);
    return {sq_norm, sq_norm};
  }
  const Direction<Vec> direction(chunk.scalars);
  for_each_vector<Vec>(chunk.size, [&](std::int64_t i, auto... lanes) {
    const Vec g = Vec::load(grad + i, lanes...);
    const Vec d = direction(g, Vec::load(param + i, lanes...));
    of_grad = fma(g, g, of_grad);
    of_direction = fma(d, d, of_direction);
  });
  return {sum(of_grad) / (scale * scale), sum(of_direction)};
}

template <class T>
void scaled_step(const ScaledStepChunk& chunk) {
  using Vec = VecOf<T>;
  T* param = static_cast<T*>(chunk.param);
  const T* grad = static_cast<const T*>(chunk.grad);
  const Direction<Vec> direction(chunk.scalars);
  const Vec step = Vec::fill(chunk.step);
  for_each_vector<Vec>(chunk.size, [&](std::int64_t i, auto... lanes) {
    const Vec p = Vec::load(param + i, lanes...);
    (p - step * direction(Vec::load(grad + i, lanes...), p)).store(param + i, lanes...);
  });
}
