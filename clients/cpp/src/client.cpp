#include "eldr/client.h"

#include <iostream>
#include <syncstream>
#include <utility>

#include "core.h"

namespace eldr {

void log_to_clog(std::string_view line) { std::osyncstream(std::clog) << "eldr: " << line << '\n'; }

Client::Client(const std::string& target, Options options)
    : core_(std::make_shared<internal::Core>(target, std::move(options))) {}

Client::~Client() { core_->stop(); }

v1::Placement Client::route(v1::RouteRequest request, const Call& call) {
  return core_->route(std::move(request), call);
}

Held Client::place(v1::RouteRequest request, const Call& call) {
  auto placement = core_->route(request, call);
  return {core_, request, std::move(placement), call.stop};
}

std::optional<v1::ReleaseResult> Client::release(const v1::ReleaseRequest& request,
                                                 const Call& call) {
  return core_->release(request, call);
}

v1::RenewLeasesResponse Client::renew_leases(const v1::RenewLeasesRequest& request,
                                             const Call& call) {
  return core_->renew(request, call);
}

v1::RegisterSignatureResponse Client::register_signature(
    const v1::RegisterSignatureRequest& request, const Call& call) {
  return core_->add(request, call);
}

std::optional<v1::Placement> Client::stream_signature(v1::StreamSignaturesRequest request,
                                                      const Call& call) {
  return core_->stream(std::move(request), call);
}

}  // namespace eldr
