// What has been found, once for each kind and site: part of memory_model.cpp.
//
// Sites are named only when somebody reads the findings, since finding the name of an instruction
// may take as long as running the kernel. Until then a message has marks in their place.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "memory_model.h"

namespace gpu_ladder::detail {

class Findings {
 public:
  static std::string mark(std::uint32_t site) {
    return std::string(1, opening) + std::to_string(site) + closing;
  }
  // True where it is new, and a message is wanted.
  bool count(Finding::Kind kind, std::uint32_t site, std::uint32_t other = 0) {
    const auto [found, inserted] = index_.try_emplace({kind, site, other}, findings_.size());
    if (inserted)
      findings_.push_back({kind, {}, site, 1});
    else
      ++findings_[found->second].count;
    return inserted;
  }
  // For the one that was counted last.
  void describe(std::string message) {
    findings_.back().message = std::move(message);
    named_ = false;
  }
  const std::vector<Finding>& all(const std::function<std::string(std::uint32_t)>& name) {
    if (named_) return findings_;
    for (Finding& finding : findings_) finding.message = with_names(finding.message, name);
    named_ = true;
    return findings_;
  }
  void clear() {
    findings_.clear();
    index_.clear();
    named_ = true;
  }

 private:
  static constexpr char opening = '\1';
  static constexpr char closing = '\2';

  static std::string with_names(const std::string& message,
                                const std::function<std::string(std::uint32_t)>& name) {
    std::string out;
    for (std::size_t at = 0; at < message.size();) {
      const std::size_t open = message.find(opening, at);
      out += message.substr(at, open - at);
      if (open == std::string::npos) break;
      const std::size_t close = message.find(closing, open);
      const auto site = static_cast<std::uint32_t>(std::stoul(message.substr(open + 1)));
      out += name ? name(site) : "site " + std::to_string(site);
      at = close + 1;
    }
    return out;
  }

  std::vector<Finding> findings_;
  std::map<std::tuple<Finding::Kind, std::uint32_t, std::uint32_t>, std::size_t> index_;
  bool named_ = true;
};

}  // namespace gpu_ladder::detail
