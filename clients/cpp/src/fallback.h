#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "eldr/client.h"

namespace eldr::internal {

/// The workers that are known; they take turns.
class Fallback {
 public:
  explicit Fallback(std::vector<Worker> given);

  /// Of the workers that the router names.
  void learn(const std::string& model, const v1::Placement& placement);

  /// On the next worker that the request allows; none where none is known. Labels and groups are
  /// not known here, so every worker passes a selector.
  std::optional<v1::Placement> place(const v1::RouteRequest& request);

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Seen {
    v1::WorkerTarget target;
    Time at;
  };
  struct Model {
    std::map<std::string, Seen> workers;
    Time answered;
  };

  std::mutex mutex_;
  const std::vector<Worker> given_;
  std::map<std::string, Model> models_;
  std::uint32_t turn_;
};

}  // namespace eldr::internal
