#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "eldr/v1/router.pb.h"

namespace eldr::internal {

/// What goes on in the background: the router is found again, then hears what is unsaid.
///
/// From the first call without an answer until a probe is answered, the router is taken as silent.
/// One failure is enough, as it costs little: a router that is well answers the first probe.
class Chores {
 public:
  /// `probe` asks for a model whether the router answers. `say` sends a release, or keeps it again.
  Chores(std::function<bool(const std::string& model, std::stop_token)> probe,
         std::function<void(v1::ReleaseRequest, std::stop_token)> say);

  bool is_silent() const;

  /// A call for `model` had no answer. True where that is news.
  bool silence(const std::string& model);

  /// Keeps a release that the router has not heard.
  void keep(v1::ReleaseRequest request);

  /// Says what it can until `until`, and stops. How many releases are left.
  std::size_t stop(std::chrono::steady_clock::time_point until);

 private:
  void run(std::stop_token stop);

  const std::function<bool(const std::string&, std::stop_token)> probe_;
  const std::function<void(v1::ReleaseRequest, std::stop_token)> say_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  bool is_silent_ = false, is_saying_ = false;
  std::string model_;  // of the call that had no answer
  std::deque<v1::ReleaseRequest> unsaid_;
  std::jthread thread_;
};

}  // namespace eldr::internal
