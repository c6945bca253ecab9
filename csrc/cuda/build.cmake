# The module _C_cuda, for every architecture in one file; the CUDA runtime is linked into it.
#
# nvcc is looked for in CMAKE_CUDA_COMPILER, CUDACXX, the PATH, and among the packages of the Python
# that builds (nvidia-cuda-nvcc and its companions).
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import nvidia; print(*nvidia.__path__, sep=';')"
    OUTPUT_VARIABLE nvidia_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  foreach(folder IN LISTS nvidia_packages)
    file(GLOB packaged_nvcc "${folder}/cu*/bin/nvcc")
    if(packaged_nvcc)
      list(GET packaged_nvcc -1 CMAKE_CUDA_COMPILER)
      cmake_path(GET CMAKE_CUDA_COMPILER PARENT_PATH packaged_bin)
      # The packages keep their libraries in lib, where nvcc looks in lib64.
      set(ENV{NVCC_PREPEND_FLAGS} "$ENV{NVCC_PREPEND_FLAGS} -L${packaged_bin}/../lib")
      set(CUDAToolkit_ROOT "${packaged_bin}/..")
    endif()
  endforeach()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(why "no CUDA compiler was found; set CUDACXX to nvcc, or pip install nvidia-cuda-nvcc")
  if(ADAK_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ADAK_CUDA=ON, but ${why}")
  endif()
  message(STATUS "CUDA kernels: left out, since ${why}")
  return()
endif()

# Machine code for each generation; a later minor version runs it too (8.6 that of 80, 12.1 that of
# 120). The intermediate code of 100 beside it is for what comes between and after: 11.0, and 13.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100 120-real)
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
pybind11_add_module(_C_cuda csrc/bindings/module_cuda.cpp ${cuda_sources})
target_include_directories(_C_cuda PRIVATE csrc)
set_target_properties(_C_cuda PROPERTIES CUDA_VISIBILITY_PRESET hidden)
# Products and sums are fused where the source says fmaf, and nowhere else: every architecture, and
# the execution on a CPU, give the same bits.
target_compile_options(_C_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wshadow>)
if(ADAK_WERROR)
  target_compile_options(_C_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>
    $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
install(TARGETS _C_cuda LIBRARY DESTINATION . COMPONENT python)
