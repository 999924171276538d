#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "eldr/counts.h"
#include "eldr/duration.h"
#include "eldr/error.h"
#include "eldr/held.h"
#include "eldr/v1/router.pb.h"

namespace eldr {

/// A worker to fall back on.
struct Worker {
  std::string id, url;
  std::uint32_t dp_rank = 0;
  /// That it serves; empty stands for every model.
  std::string model = {};
};

/// PEM texts. Without roots, those of the system; certificate and key where the router asks for
/// them.
struct Tls {
  std::string root_certificates = {}, certificate = {}, private_key = {};
};

/// Writes a line to std::clog.
void log_to_clog(std::string_view line);

/// The defaults are for a daemon on this host.
struct Options {
  /// Of a call that has none of its own. What the request asks to wait for comes on top.
  std::chrono::nanoseconds timeout = std::chrono::milliseconds(250);
  /// A bearer token. Without TLS it goes out in the clear.
  std::string token = {};
  /// Where the router serves it.
  std::optional<Tls> tls = {};
  /// Known before the first placement names any.
  std::vector<Worker> fallback_workers = {};
  /// Gets what has no caller to tell, from any thread. It does not throw.
  std::function<void(std::string_view line)> log = log_to_clog;
};

/// Of one call.
struct Call {
  /// For all tries together, whatever the request asks to wait for; else the client's.
  std::optional<std::chrono::nanoseconds> timeout = {};
  /// Ends the call, and what it may have booked.
  std::stop_token stop = {};
};

/// The client chose by itself, as the router did not answer. Nothing is booked.
bool is_fallback(const v1::Placement& placement);

/// The chosen worker and its alternates, in the order to try them.
std::vector<v1::WorkerTarget> targets(const v1::Placement& placement);

/// A connection to the router, for any number of threads. It connects on first use and reconnects
/// by itself; the destructor says what is still unsaid, for a second at most.
///
/// Calls throw an Error where the router refuses, RouterUnavailable where none answers, RouterFault
/// where what answers is outside the contract, and Cancelled where the stop token is used.
class Client {
 public:
  /// For the router at `target`: HOST:PORT, several of them with commas between them for replicas,
  /// or dns:///NAME:PORT for all addresses of a name.
  ///
  /// @throws std::invalid_argument says what is wrong with the target.
  explicit Client(const std::string& target, Options options = {});
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Picks a worker and books it. Release it when the decode has ended; or use place().
  ///
  /// When the router does not answer in time, the placement is the client's own (is_fallback);
  /// without a worker that is known, RouterUnavailable is thrown.
  v1::Placement route(v1::RouteRequest request, const Call& call = {});

  /// route() whose booking is kept alive in the background, until what is returned is done.
  Held place(v1::RouteRequest request, const Call& call = {});

  /// Ends a booking; twice is fine. Nothing where the router does not answer: the release is kept,
  /// and sent once it does.
  std::optional<v1::ReleaseResult> release(const v1::ReleaseRequest& request,
                                           const Call& call = {});

  /// Keeps bookings alive; the answer names those that are not.
  v1::RenewLeasesResponse renew_leases(const v1::RenewLeasesRequest& request,
                                       const Call& call = {});

  /// Adds one chunk of a request's counts to what the router holds of it.
  v1::RegisterSignatureResponse register_signature(const v1::RegisterSignatureRequest& request,
                                                   const Call& call = {});

  /// register_signature() by a stream that stays open. With `route` in the request, the request is
  /// placed once the chunk is added, and that is the placement; it is never a fallback.
  std::optional<v1::Placement> stream_signature(v1::StreamSignaturesRequest request,
                                                const Call& call = {});

 private:
  std::shared_ptr<internal::Core> core_;
};

}  // namespace eldr
