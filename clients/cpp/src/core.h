#pragma once

#include <functional>
#include <optional>
#include <string>

#include "chores.h"
#include "eldr/client.h"
#include "fallback.h"
#include "link.h"
#include "renewals.h"
#include "stream.h"

namespace eldr::internal {

/// More would not fit a point in time.
constexpr std::chrono::nanoseconds longest_call = std::chrono::hours(24 * 365);

/// What a client and its held placements share.
class Core {
 public:
  Core(const std::string& target, Options options);

  v1::Placement route(v1::RouteRequest request, const Call& call);
  std::optional<v1::ReleaseResult> release(const v1::ReleaseRequest& request, const Call& call);
  v1::RenewLeasesResponse renew(const v1::RenewLeasesRequest& request, const Call& call);
  v1::RegisterSignatureResponse add(const v1::RegisterSignatureRequest& request, const Call& call);
  std::optional<v1::Placement> stream(v1::StreamSignaturesRequest request, const Call& call);

  /// Sends a release that has no caller to tell what became of it.
  void say(const v1::ReleaseRequest& request, const Call& call) noexcept;

  Renewals& renewals() { return renewals_; }

  /// Says what is unsaid, for a second at most; nothing goes on in the background after it.
  void stop();

 private:
  using Try = std::function<grpc::Status(Clock::time_point until)>;

  /// One RPC for `model`, sent again (it is idempotent) while no answer comes and time is left. The
  /// waits of `route`, if any, are added to the client's timeout; a later try asks for what is left
  /// of them. Where there are replicas, a try takes its waits and at most half of the rest, so that
  /// a frozen one leaves time to ask another.
  void send(const std::string& model, v1::RouteRequest* route, const Call& call,
            const Try& attempt);

  bool probe(const std::string& model, const std::stop_token& stop);
  void disown(const std::string& model, const std::string& request_id,
              const v1::RouteRequest& request);

  const Options options_;
  Link link_;
  Fallback fallback_;
  SignatureStream stream_;
  Renewals renewals_;
  Chores chores_;
};

}  // namespace eldr::internal
