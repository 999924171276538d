#include "chores.h"

#include <algorithm>
#include <utility>

namespace eldr::internal {
namespace {

using namespace std::chrono_literals;

constexpr auto first_probe = 100ms, last_probe = 250ms;
// Releases that wait for the router to return; the oldest are left to the expiry of their leases.
constexpr std::size_t most_unsaid = 10'000;

}  // namespace

Chores::Chores(std::function<bool(const std::string&, std::stop_token)> probe,
               std::function<void(v1::ReleaseRequest, std::stop_token)> say)
    : probe_(std::move(probe)),
      say_(std::move(say)),
      thread_([this](std::stop_token stop) { run(std::move(stop)); }) {}

bool Chores::is_silent() const {
  const std::lock_guard lock(mutex_);
  return is_silent_;
}

bool Chores::silence(const std::string& model) {
  const std::lock_guard lock(mutex_);
  model_ = model;
  changed_.notify_all();
  return !std::exchange(is_silent_, true);
}

void Chores::keep(v1::ReleaseRequest request) {
  const std::lock_guard lock(mutex_);
  if (unsaid_.size() == most_unsaid) unsaid_.pop_front();
  unsaid_.push_back(std::move(request));
  changed_.notify_all();
}

std::size_t Chores::stop(std::chrono::steady_clock::time_point until) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, until,
                        [&] { return is_silent_ || (unsaid_.empty() && !is_saying_); });
  }
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
  return unsaid_.size();
}

void Chores::run(std::stop_token stop) {
  auto pause = first_probe;
  std::unique_lock lock(mutex_);
  const auto unlocked = [&](auto act) {
    lock.unlock();
    act();
    lock.lock();
  };
  while (!stop.stop_requested()) {
    if (is_silent_) {
      changed_.wait_for(lock, stop, pause, [] { return false; });
      if (stop.stop_requested()) return;
      pause = std::min(2 * pause, last_probe);
      bool is_answered = false;
      unlocked([&, model = model_] { is_answered = probe_(model, stop); });
      if (is_answered) is_silent_ = false;
    } else if (!unsaid_.empty()) {
      pause = first_probe;
      is_saying_ = true;
      auto request = std::move(unsaid_.front());
      unsaid_.pop_front();
      unlocked([&] { say_(std::move(request), stop); });
      is_saying_ = false;
    } else {
      pause = first_probe;
      changed_.notify_all();
      changed_.wait(lock, stop, [&] { return is_silent_ || !unsaid_.empty(); });
    }
  }
}

}  // namespace eldr::internal
