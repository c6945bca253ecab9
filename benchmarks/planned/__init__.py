"""What ``adadagrad-kernels plan`` forecasts beside what runs then take."""
