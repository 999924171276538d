#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "eldr/v1/router.pb.h"

namespace eldr {

namespace internal {
class Core;
}

/// How a decode ended.
enum class Outcome { completed, failed, cancelled };

/// A placement whose lease is kept alive until it is done. Set what is known of the decode before
/// that.
///
/// Destroyed before it is done, it is released as failed where an exception is on its way, else as
/// cancelled; as cancelled too where the stop token of its call was used. Releasing throws nothing:
/// what cannot be said within a second is said when the router is back. The client must outlive it.
class Held {
 public:
  Held(Held&& other) noexcept;
  Held& operator=(Held&& other) noexcept;
  ~Held();

  const v1::Placement& placement() const { return placement_; }
  const v1::Placement* operator->() const { return &placement_; }

  /// Ends the booking. Only the first call counts.
  void done(Outcome outcome = Outcome::completed) noexcept;

  /// Tokens generated, all sequences.
  std::uint32_t output_tokens = 0;
  /// From the first to the last token.
  std::optional<std::chrono::nanoseconds> decode_duration;
  /// The experts that the decode really used.
  std::optional<v1::ActivationCounts> decode_counts;

 private:
  friend class Client;
  Held(std::shared_ptr<internal::Core> core, const v1::RouteRequest& request,
       v1::Placement placement, std::stop_token stop);

  std::shared_ptr<internal::Core> core_;  // none once it is done
  v1::Placement placement_;
  std::string model_, request_id_;
  std::uint32_t attempt_ = 0;
  std::uint64_t renewal_ = 0;
  std::stop_token stop_;
  int exceptions_ = 0;  // that were on their way when it was made
};

}  // namespace eldr
