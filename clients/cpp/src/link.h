#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <memory>
#include <stop_token>
#include <string>

#include "addresses.h"
#include "eldr/client.h"
#include "eldr/v1/router.grpc.pb.h"

namespace eldr::internal {

using Clock = std::chrono::steady_clock;

/// The channel to the router, and what goes with every call.
class Link {
 public:
  Link(const Addresses& addresses, const Options& options);

  v1::RouterService::Stub& stub() { return *stub_; }
  bool has_replicas() const { return has_replicas_; }

  /// Adds the credentials to a call.
  void prepare(grpc::ClientContext& context) const;

  /// One unary call, which ends by `until`, or when `stop` is used.
  template <typename Method, typename Request, typename Response>
  grpc::Status send(Method method, const Request& request, Response& response, Clock::time_point until,
                    const std::stop_token& stop) {
    grpc::ClientContext context;
    prepare(context);
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::ceil<std::chrono::system_clock::duration>(until - Clock::now()));
    const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
    return (stub_.get()->*method)(&context, request, &response);
  }

 private:
  std::unique_ptr<v1::RouterService::Stub> stub_;
  const bool has_replicas_;
  const std::string authorization_;
};

}  // namespace eldr::internal
