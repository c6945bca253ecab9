// What tests say to an emulated module, and what they ask: functions of C, for ctypes. Answers are
// JSON, valid until the same question is asked again.
#include <cstdint>
#include <cstdio>
#include <string>

#include "fake_runtime.h"
#include "host_model.h"
#include "sites.h"

namespace {

using gpu_ladder::fake_runtime;
using gpu_ladder::memory_model;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < ' ') {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string to_json(const dim3& size) {
  return "[" + std::to_string(size.x) + "," + std::to_string(size.y) + "," +
         std::to_string(size.z) + "]";
}
std::string to_json(std::string_view text) { return quoted(text); }
std::string to_json(bool value) { return value ? "true" : "false"; }
template <class Number>
std::string to_json(Number value) {
  return std::to_string(value);
}

// {"name": value, ...}
class Object {
 public:
  template <class Value>
  Object& add(const char* name, const Value& value) {
    text_ += (text_.empty() ? "" : ",") + quoted(name) + ":" + to_json(value);
    return *this;
  }
  std::string str() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

template <class Range, class Function>
std::string list(const Range& range, Function function) {
  std::string out;
  for (const auto& element : range) out += (out.empty() ? "" : ",") + function(element).str();
  return "[" + out + "]";
}

}  // namespace

#define GPU_LADDER_EXPORTED extern "C" __attribute__((visibility("default"), used))

// Instead of the host model; null: the host model again.
GPU_LADDER_EXPORTED void gpu_ladder_set_launch_hook(gpu_ladder::LaunchHook hook) {
  fake_runtime().hook = hook;
}

// 0: forward, 1: reverse, 2: random.
GPU_LADDER_EXPORTED void gpu_ladder_set_schedule(int schedule, std::uint64_t seed) {
  gpu_ladder::set_schedule(static_cast<gpu_ladder::Schedule>(schedule), seed);
}

GPU_LADDER_EXPORTED int gpu_ladder_checks_accesses() { return gpu_ladder::accesses_are_checked; }

GPU_LADDER_EXPORTED void gpu_ladder_add_buffer(const char* name, std::uint64_t address,
                                               std::uint64_t bytes, int initialised) {
  memory_model().add_buffer(name, address, bytes, initialised != 0);
}
GPU_LADDER_EXPORTED void gpu_ladder_clear_buffers() { memory_model().clear_buffers(); }

GPU_LADDER_EXPORTED const char* gpu_ladder_findings() {
  static std::string answer;
  answer = list(memory_model().findings(), [](const gpu_ladder::Finding& finding) {
    return Object()
        .add("kind", gpu_ladder::name_of(finding.kind))
        .add("message", std::string_view(finding.message))
        .add("site", std::string_view(gpu_ladder::site_name(finding.site)))
        .add("count", finding.count);
  });
  return answer.c_str();
}
GPU_LADDER_EXPORTED void gpu_ladder_clear_findings() { memory_model().clear_findings(); }

GPU_LADDER_EXPORTED void gpu_ladder_count_traffic(int enabled) {
  memory_model().count_traffic(enabled != 0);
}
GPU_LADDER_EXPORTED const char* gpu_ladder_traffic() {
  static std::string answer;
  answer = list(memory_model().traffic(), [](const auto& entry) {
    const gpu_ladder::Traffic& traffic = entry.second;
    return Object()
        .add("site", std::string_view(gpu_ladder::site_name(entry.first)))
        .add("shared", traffic.space == gpu_ladder::Space::shared)
        .add("write", traffic.write)
        .add("atomic", traffic.atomic)
        .add("access_bytes", traffic.access_bytes)
        .add("requests", traffic.requests)
        .add("bytes", traffic.bytes)
        .add("sectors", traffic.sectors)
        .add("ideal_sectors", traffic.ideal_sectors)
        .add("wavefronts", traffic.wavefronts)
        .add("ideal_wavefronts", traffic.ideal_wavefronts);
  });
  return answer.c_str();
}
GPU_LADDER_EXPORTED const char* gpu_ladder_buffer_traffic() {
  static std::string answer;
  answer = list(memory_model().buffer_traffic(), [](const gpu_ladder::BufferTraffic& buffer) {
    return Object()
        .add("name", std::string_view(buffer.name))
        .add("bytes", buffer.bytes)
        .add("sectors_read", buffer.sectors_read)
        .add("sectors_written", buffer.sectors_written);
  });
  return answer.c_str();
}
GPU_LADDER_EXPORTED void gpu_ladder_clear_traffic() { memory_model().clear_traffic(); }

GPU_LADDER_EXPORTED const char* gpu_ladder_launches() {
  static std::string answer;
  answer = list(fake_runtime().launches, [](const gpu_ladder::LaunchRecord& launch) {
    return Object()
        .add("function", std::string_view(launch.function))
        .add("grid", launch.grid)
        .add("block", launch.block)
        .add("shared_bytes", launch.shared_bytes)
        .add("stream", launch.stream)
        .add("device", launch.device);
  });
  return answer.c_str();
}
GPU_LADDER_EXPORTED void gpu_ladder_clear_launches() { fake_runtime().launches.clear(); }

// The devices 0 to count - 1, all with the default attributes.
GPU_LADDER_EXPORTED void gpu_ladder_set_device_count(int count) {
  fake_runtime().devices.assign(static_cast<std::size_t>(count), {});
  fake_runtime().current_device = 0;
}
// `attribute`: a number of cudaDeviceAttr.
GPU_LADDER_EXPORTED void gpu_ladder_set_device_attribute(int device, int attribute, int value) {
  fake_runtime().devices.at(static_cast<std::size_t>(device))[attribute] = value;
}
// As cudaDriverGetVersion gives it; 0: there is no driver.
GPU_LADDER_EXPORTED void gpu_ladder_set_driver_version(int version) {
  fake_runtime().driver_version = version;
}
// The next call of that name that has not been told yet fails with that cudaError_t; 0: does not.
GPU_LADDER_EXPORTED void gpu_ladder_fail_next(const char* api, int error) {
  fake_runtime().failures[api].push_back(static_cast<cudaError_t>(error));
}
GPU_LADDER_EXPORTED void gpu_ladder_add_stream(std::uint64_t handle, int device, int capturing) {
  fake_runtime().streams[handle] = device;
  if (capturing != 0) fake_runtime().capturing[handle] = true;
}
// The runtime as it was at first, but for the launch hook.
GPU_LADDER_EXPORTED void gpu_ladder_reset_runtime() {
  const auto hook = fake_runtime().hook;
  fake_runtime() = gpu_ladder::FakeRuntime();
  fake_runtime().hook = hook;
}
