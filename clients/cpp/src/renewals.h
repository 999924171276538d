#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "eldr/v1/router.pb.h"

namespace eldr::internal {

/// Keeps leases alive; those of a model that are due together go in one message.
class Renewals {
 public:
  using Renew =
      std::function<v1::RenewLeasesResponse(const v1::RenewLeasesRequest&, std::stop_token)>;

  /// `renew` answers with the leases that are not alive; none where the router did not answer.
  /// `log` is told of those.
  Renewals(Renew renew, std::function<void(std::string_view)> log);

  /// Renews a lease every so long, until it is removed or found dead.
  std::uint64_t add(std::string model, v1::LeaseReference lease, std::chrono::nanoseconds every);
  void remove(std::uint64_t id);
  void stop();

 private:
  using Clock = std::chrono::steady_clock;
  struct Lease {
    std::string model;
    v1::LeaseReference reference;
    std::chrono::nanoseconds every;
    Clock::time_point due;
  };

  void run(std::stop_token stop);
  void send(const std::string& model, const std::vector<std::uint64_t>& ids,
            const std::stop_token& stop, std::unique_lock<std::mutex>& lock);
  bool forget(std::uint64_t id);

  const Renew renew_;
  const std::function<void(std::string_view)> log_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::uint64_t last_id_ = 0;
  std::map<std::uint64_t, Lease> leases_;
  std::set<std::pair<Clock::time_point, std::uint64_t>> due_;
  std::jthread thread_;
};

}  // namespace eldr::internal
