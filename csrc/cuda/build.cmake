# The module _C_cuda, for every architecture in one file; the CUDA runtime is linked into it.
#
# nvcc is looked for in CMAKE_CUDA_COMPILER and CUDACXX, then among the packages of the Python that
# builds (requirements/cuda.txt), then on the PATH.
macro(adak_leave_cuda_out why)
  if(ADAK_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ADAK_CUDA=ON, but ${why}")
  endif()
  message(STATUS "CUDA kernels: left out, since ${why}")
  return()
endmacro()

set(nvcc "${CMAKE_CUDA_COMPILER}")
if(NOT nvcc)
  set(nvcc "$ENV{CUDACXX}")
endif()
if(NOT nvcc)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import nvidia; print(*nvidia.__path__, sep=';')"
    OUTPUT_VARIABLE nvidia_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  foreach(folder IN LISTS nvidia_packages)
    file(GLOB packaged_nvcc "${folder}/cu*/bin/nvcc")
    if(packaged_nvcc)
      list(GET packaged_nvcc -1 nvcc)
    endif()
  endforeach()
endif()
if(NOT nvcc)
  find_program(nvcc_on_path nvcc PATHS /usr/local/cuda/bin)
  if(nvcc_on_path)
    set(nvcc "${nvcc_on_path}")
  endif()
endif()
if(NOT nvcc)
  adak_leave_cuda_out("no CUDA compiler was found; set CUDACXX to nvcc, or install requirements/cuda.txt and build with pip install --no-build-isolation")
endif()
if(nvcc MATCHES "site-packages/nvidia/")
  # The packages keep their libraries in lib, where nvcc looks in lib64.
  cmake_path(GET nvcc PARENT_PATH packaged_bin)
  set(ENV{NVCC_PREPEND_FLAGS} "$ENV{NVCC_PREPEND_FLAGS} -L${packaged_bin}/../lib")
  set(CUDAToolkit_ROOT "${packaged_bin}/..")
endif()

# Machine code for each generation; a later minor version runs it too (8.6 that of 80, 12.1 that of
# 120). The intermediate code of 100 beside it is for what comes between and after: 11.0, and 13. An
# older compiler makes what it knows of these, and intermediate code of the newest.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
  set(architectures)
  foreach(architecture 80 90 100 120)
    if("${known}\n" MATCHES "compute_${architecture}\n")
      list(APPEND architectures ${architecture}-real)
    endif()
  endforeach()
  if("100-real" IN_LIST architectures)
    list(TRANSFORM architectures REPLACE "^100-real$" "100")
  elseif(architectures)
    list(POP_BACK architectures newest)
    string(REPLACE "-real" "" newest "${newest}")
    list(APPEND architectures ${newest})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${architectures})
endif()

# Before CMake takes the compiler, which is final: whether it works.
set(probe "${CMAKE_CURRENT_BINARY_DIR}/cuda_probe")
file(WRITE "${probe}.cu" "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\nint main() {}\n")
execute_process(
  COMMAND "${nvcc}" -std=c++20 -c -o "${probe}.o" "${probe}.cu"
  RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(failed OR NOT CMAKE_CUDA_ARCHITECTURES)
  adak_leave_cuda_out("${nvcc} does not compile C++20 for compute capability 8.0 or newer: ${said}")
endif()

set(CMAKE_CUDA_COMPILER "${nvcc}")
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_VERSION VERSION_LESS 3.26)  # which does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")

file(GLOB kernels CONFIGURE_DEPENDS csrc/cuda/*.cu)
file(GLOB bindings CONFIGURE_DEPENDS csrc/bindings/cuda/*.cpp)
pybind11_add_module(_C_cuda ${kernels} ${bindings})
target_include_directories(_C_cuda PRIVATE csrc)
set_target_properties(_C_cuda PROPERTIES CUDA_VISIBILITY_PRESET hidden
  UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
set_source_files_properties(${kernels} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
# Products and sums are fused where the source says fmaf, and nowhere else: every architecture, and
# the execution on a CPU, give the same bits.
target_compile_options(_C_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wshadow>)
if(ADAK_WERROR)
  target_compile_options(_C_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>
    $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
install(TARGETS _C_cuda LIBRARY DESTINATION . COMPONENT python)
