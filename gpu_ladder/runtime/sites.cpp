#include "sites.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdio>
#include <map>
#include <sstream>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "elf_symbols.h"

namespace gpu_ladder {
namespace {

struct Site {
  std::string name;  // empty: not looked up yet
  std::uintptr_t address = 0;
};

std::vector<Site>& sites() {
  static std::vector<Site> all;
  return all;
}

// A table from addresses to sites that is fast enough to be asked at every access.
class AddressTable {
 public:
  std::uint32_t& operator[](std::uintptr_t address) {
    if (used_ * 2 >= entries_.size()) grow();
    Entry& entry = find(address);
    if (entry.address == 0) {
      entry.address = address;
      ++used_;
    }
    return entry.site;
  }
  static constexpr std::uint32_t none = ~0u;

 private:
  struct Entry {
    std::uintptr_t address = 0;
    std::uint32_t site = none;
  };

  Entry& find(std::uintptr_t address) {
    std::size_t at = (address * 0x9e3779b97f4a7c15u >> 32) & (entries_.size() - 1);
    while (entries_[at].address != 0 && entries_[at].address != address)
      at = (at + 1) & (entries_.size() - 1);
    return entries_[at];
  }
  void grow() {
    std::vector<Entry> old(entries_.empty() ? 1024 : entries_.size() * 2);
    old.swap(entries_);
    for (const Entry& entry : old)
      if (entry.address != 0) find(entry.address) = entry;
  }

  std::vector<Entry> entries_;
  std::size_t used_ = 0;
};

AddressTable& addresses() {
  static AddressTable table;
  return table;
}

#ifdef GPU_LADDER_ROOT
constexpr std::string_view root = GPU_LADDER_ROOT;
#else
constexpr std::string_view root = "";
#endif

bool is_of_the_model(const std::string& place) {
  return place.find("runtime/include/") != std::string::npos;
}

// Asks addr2line for all addresses that have no name yet, since it takes long to start.
void look_up_addresses() {
  const Module module = this_module();
  std::string command = "addr2line -i -a -e '" + module.path + "'";
  std::map<std::uintptr_t, std::vector<Site*>> wanted;
  for (Site& site : sites()) {
    if (!site.name.empty()) continue;
    // The address is that of the next instruction.
    const std::uintptr_t offset = site.address - 1 - module.base;
    wanted[offset].push_back(&site);
    char text[32];
    std::snprintf(text, sizeof(text), "0x%lx", static_cast<unsigned long>(offset));
    site.name = text;
  }
  for (const auto& [offset, of_offset] : wanted) command += " " + of_offset.front()->name;
  std::FILE* const pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return;
  std::string output;
  char buffer[4096];
  while (const std::size_t count = std::fread(buffer, 1, sizeof(buffer), pipe))
    output.append(buffer, count);
  pclose(pipe);
  std::istringstream lines(output);
  std::vector<Site*>* current = nullptr;
  bool settled = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("0x")) {
      const auto found = wanted.find(std::stoull(line, nullptr, 16));
      current = found == wanted.end() ? nullptr : &found->second;
      settled = false;
      continue;
    }
    if (!current || settled || line.starts_with("??")) continue;
    line = line.substr(0, line.find(' '));  // what follows is about branches of one line
    if (line.starts_with(root)) line = line.substr(root.size());
    for (Site* const site : *current) site->name = line;
    settled = !is_of_the_model(line);
  }
}

}  // namespace

std::uint32_t site_of_line(const char* file, int line) {
  static std::map<std::pair<std::string, int>, std::uint32_t> known;
  const auto [found, inserted] =
      known.try_emplace({file, line}, static_cast<std::uint32_t>(sites().size()));
  if (inserted) sites().push_back({std::string(file) + ":" + std::to_string(line)});
  return found->second;
}

std::uint32_t site_of_address(const void* return_address) {
  const auto address = reinterpret_cast<std::uintptr_t>(return_address);
  std::uint32_t& site = addresses()[address];
  if (site == AddressTable::none) {
    site = static_cast<std::uint32_t>(sites().size());
    sites().push_back({"", address});
  }
  return site;
}

std::string site_name(std::uint32_t site) {
  if (site >= sites().size()) return "site " + std::to_string(site);
  if (sites()[site].name.empty()) look_up_addresses();
  return sites()[site].name;
}

std::string symbol_of(const void* function) {
  static std::unordered_map<const void*, std::string> known;
  const auto [found, inserted] = known.try_emplace(function);
  if (!inserted) return found->second;
  Dl_info info = {};
  if (dladdr(function, &info) != 0 && info.dli_sname && info.dli_saddr == function)
    return found->second = info.dli_sname;
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(function) - this_module().base;
  for (const Symbol& symbol : module_symbols(STT_FUNC))
    if (symbol.offset == offset) return found->second = symbol.name;
  return {};
}

}  // namespace gpu_ladder
