#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <random>

#include "core.h"
#include "errors.h"

namespace eldr::internal {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

// Before the second and third try. The second helps when a connection broke under the call, the
// third when the router is back: gRPC refuses for 100 ms after a failed attempt to connect.
constexpr std::array<nanoseconds, 2> pauses = {25ms, 100ms};

nanoseconds jittered(nanoseconds pause) {
  thread_local std::minstd_rand random(std::random_device{}());
  return pause +
         nanoseconds(std::uniform_int_distribution<nanoseconds::rep>(0, pause.count() / 4)(random));
}

void sleep(nanoseconds pause, const std::stop_token& stop) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any().wait_for(lock, stop, pause, [] { return false; });
}

/// The waits that a request asks for, one after the other.
struct Waits {
  explicit Waits(const v1::RouteRequest* route) {
    if (!route) return;
    if (route->has_wait_for_signature())
      first = std::max(duration(route->wait_for_signature()), 0ns);
    if (route->has_max_wait()) second = std::max(duration(route->max_wait()), 0ns);
  }

  nanoseconds all() const { return first + second; }

  /// Has `route` ask for what is left of them.
  void ask_for_rest(v1::RouteRequest& route, nanoseconds passed) const {
    if (first > 0ns) *route.mutable_wait_for_signature() = duration(std::max(first - passed, 0ns));
    const auto passed_then = std::max(passed - first, 0ns);
    if (second > 0ns) *route.mutable_max_wait() = duration(std::max(second - passed_then, 0ns));
  }

  nanoseconds first{}, second{};
};

}  // namespace

void Core::send(const std::string& model, v1::RouteRequest* route, const Call& call,
                const Try& attempt) {
  const auto began = Clock::now();
  const Waits waits(route);
  const auto deadline =
      began + std::min(call.timeout.value_or(options_.timeout + waits.all()), longest_call);
  for (std::size_t tried = 0;; ++tried) {
    if (chores_.is_silent()) {
      throw RouterUnavailable(
          {grpc::StatusCode::UNAVAILABLE, "the router was silent a moment ago"});
    }
    const bool is_last = tried == pauses.size();
    const auto pause = is_last ? 0ns : jittered(pauses[tried]);
    auto until = deadline;
    const nanoseconds left = deadline - Clock::now();
    if (link_.has_replicas() && !is_last && pause < left) {
      const auto patience = std::max<nanoseconds>(waits.all() - (Clock::now() - began), 0ns);
      until = Clock::now() + patience + std::max(left - patience, 0ns) / 2;
    }
    const auto status = attempt(until);
    if (status.ok()) return;
    if (call.stop.stop_requested()) {
      throw Cancelled({grpc::StatusCode::CANCELLED, "the caller gave up"});
    }
    const Failure failure(status);
    if (failure.kind != Kind::unavailable) failure.raise();
    const bool is_late = is_last || Clock::now() + pause >= deadline;
    const bool hung = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
    if (is_late || (hung && !link_.has_replicas())) {
      if (chores_.silence(model)) {
        options_.log(std::string("the router does not answer; falling back: ") +
                     failure.error.what());
      }
      failure.raise();
    }
    sleep(pause, call.stop);
    if (call.stop.stop_requested()) {
      throw Cancelled({grpc::StatusCode::CANCELLED, "the caller gave up"});
    }
    if (waits.all() > 0ns) waits.ask_for_rest(*route, Clock::now() - began);
  }
}

}  // namespace eldr::internal
