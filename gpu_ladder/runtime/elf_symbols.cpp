#include "elf_symbols.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <fstream>

namespace gpu_ladder {
namespace {

struct Search {
  std::uintptr_t inside;
  Module module;
  std::uintptr_t begin;
  std::uintptr_t end;
};

int visit(dl_phdr_info* info, std::size_t, void* data) {
  auto& search = *static_cast<Search*>(data);
  std::uintptr_t first = ~std::uintptr_t{0};
  std::uintptr_t last = 0;
  for (int k = 0; k < info->dlpi_phnum; ++k) {
    const auto& header = info->dlpi_phdr[k];
    if (header.p_type != PT_LOAD) continue;
    first = std::min(first, info->dlpi_addr + header.p_vaddr);
    last = std::max(last, info->dlpi_addr + header.p_vaddr + header.p_memsz);
  }
  if (search.inside < first || search.inside >= last) return 0;
  const bool is_program = info->dlpi_name == nullptr || *info->dlpi_name == '\0';
  search.module = {is_program ? "/proc/self/exe" : info->dlpi_name, info->dlpi_addr,
                   reinterpret_cast<std::uintptr_t>(info->dlpi_tls_data)};
  search.begin = first;
  search.end = last;
  return 1;
}

Search search_module() {
  Search search = {reinterpret_cast<std::uintptr_t>(&this_module), {}, 0, 0};
  dl_iterate_phdr(&visit, &search);
  return search;
}

template <class T>
const T* at(const std::string& file, std::uint64_t offset, std::uint64_t count = 1) {
  if (offset > file.size() || count * sizeof(T) > file.size() - offset) return nullptr;
  return reinterpret_cast<const T*>(file.data() + offset);
}

}  // namespace

Module this_module() { return search_module().module; }

std::pair<std::uintptr_t, std::uintptr_t> module_range() {
  const Search search = search_module();
  return {search.begin, search.end};
}

std::vector<Symbol> module_symbols(unsigned char type) {
  std::ifstream stream(this_module().path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(stream), {}};
  const auto* const header = at<ElfW(Ehdr)>(file, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return {};
  const auto* const sections = at<ElfW(Shdr)>(file, header->e_shoff, header->e_shnum);
  std::vector<Symbol> out;
  for (unsigned k = 0; sections && k < header->e_shnum; ++k) {
    const auto& section = sections[k];
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= header->e_shnum) continue;
    const std::uint64_t count = section.sh_size / sizeof(ElfW(Sym));
    const auto* const symbols = at<ElfW(Sym)>(file, section.sh_offset, count);
    const auto& names = sections[section.sh_link];
    for (std::uint64_t i = 0; symbols && i < count; ++i) {
      const auto& symbol = symbols[i];
      if (ELF64_ST_TYPE(symbol.st_info) != type || symbol.st_shndx == SHN_UNDEF) continue;
      const auto* const name = at<char>(file, names.sh_offset + symbol.st_name);
      out.push_back({name ? name : "", symbol.st_value, symbol.st_size});
    }
  }
  return out;
}

}  // namespace gpu_ladder
