#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>

#include "addresses.h"
#include "eldr/client.h"
#include "eldr/v1/router.grpc.pb.h"

namespace eldr::internal {

using Clock = std::chrono::steady_clock;
using Calls = v1::RouterService::StubInterface::async_interface;
template <typename Request, typename Response>
using Method = void (Calls::*)(grpc::ClientContext*, const Request*, Response*,
                               std::function<void(grpc::Status)>);

/// The channel to the router, and what goes with every call.
class Link {
 public:
  Link(const Addresses& addresses, const Options& options);

  v1::RouterService::Stub& stub() { return *stub_; }
  bool has_replicas() const { return has_replicas_; }

  /// Adds the credentials to a call.
  void prepare(grpc::ClientContext& context) const;

  /// One unary call, which ends by `until`, or when `stop` is used.
  ///
  /// It goes by gRPC's callbacks: a channel that has them is served by threads of gRPC's at all
  /// times. Without, it would see lost connections, draining replicas and answers to its attempts
  /// to connect only while a call waits.
  template <typename Request, typename Response>
  grpc::Status send(Method<Request, Response> method, const Request& request, Response& response,
                    Clock::time_point until, const std::stop_token& stop) {
    grpc::ClientContext context;
    prepare(context);
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::ceil<std::chrono::microseconds>(until - Clock::now()));
    const auto ended = std::make_shared<std::promise<grpc::Status>>();
    (stub_->async()->*method)(&context, &request, &response, [ended](grpc::Status status) {
      ended->set_value(std::move(status));
    });
    const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
    return ended->get_future().get();
  }

 private:
  std::unique_ptr<v1::RouterService::Stub> stub_;
  const bool has_replicas_;
  const std::string authorization_;
};

}  // namespace eldr::internal
