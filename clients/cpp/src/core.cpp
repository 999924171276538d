#include "core.h"

#include <algorithm>
#include <utility>

#include "errors.h"

namespace eldr::internal {
namespace {

// On the way out, unsaid releases have so long.
constexpr auto farewell = std::chrono::seconds(1);

Options checked(Options options) {
  options.timeout = std::min(options.timeout, longest_call);
  if (!options.log) options.log = [](std::string_view) {};
  return options;
}

}  // namespace

Core::Core(const std::string& target, Options options)
    : options_(checked(std::move(options))),
      link_(addresses(target), options_),
      fallback_(options_.fallback_workers),
      stream_(link_),
      renewals_(
          [this](const v1::RenewLeasesRequest& request, std::stop_token stop) {
            try {
              return renew(request, {.stop = std::move(stop)});
            } catch (const Error&) {  // the next renewal is another chance
              return v1::RenewLeasesResponse();
            }
          },
          options_.log),
      chores_([this](const std::string& model, std::stop_token stop) { return probe(model, stop); },
              [this](v1::ReleaseRequest request, std::stop_token stop) {
                say(request, {.stop = std::move(stop)});
              }) {}

void Core::stop() {
  renewals_.stop();
  const auto left = chores_.stop(Clock::now() + farewell);
  if (left > 0) options_.log(std::to_string(left) + " releases are left to expire");
}

v1::Placement Core::route(v1::RouteRequest request, const Call& call) {
  const bool was_asked = !chores_.is_silent();
  const auto& model = request.model();
  v1::RouteResponse answer;
  try {
    send(model, &request, call, [&](Clock::time_point until) {
      return link_.send(&Calls::Route, request, answer, until, call.stop);
    });
  } catch (const Cancelled&) {
    if (was_asked) disown(model, request.request_id(), request);
    throw;
  } catch (const Error& error) {
    if (!is_lost(error)) throw;
    if (was_asked) disown(model, request.request_id(), request);
    if (auto placement = fallback_.place(request)) return *std::move(placement);
    throw RouterUnavailable({error.code, std::string(error.what()) + ", and no worker of " + model +
                                             " is known to fall back on"});
  }
  fallback_.learn(model, answer.placement());
  return std::move(*answer.mutable_placement());
}

std::optional<v1::Placement> Core::stream(v1::StreamSignaturesRequest request, const Call& call) {
  const bool was_asked = !chores_.is_silent();
  v1::StreamSignaturesResponse answer;
  try {
    auto* route = request.has_route() ? request.mutable_route() : nullptr;
    send(request.model(), route, call, [&](Clock::time_point until) {
      return stream_.exchange(request, answer, until, call.stop);
    });
  } catch (const Error& error) {
    if (is_lost(error) && was_asked && request.has_route()) {
      disown(request.model(), request.request_id(), request.route());
    }
    throw;
  }
  if (answer.has_status()) Failure(answer.status()).raise();
  if (!answer.has_placement()) return {};
  fallback_.learn(request.model(), answer.placement());
  return std::move(*answer.mutable_placement());
}

std::optional<v1::ReleaseResult> Core::release(const v1::ReleaseRequest& request,
                                               const Call& call) {
  v1::ReleaseResponse answer;
  try {
    send(request.model(), nullptr, call, [&](Clock::time_point until) {
      return link_.send(&Calls::Release, request, answer, until, call.stop);
    });
  } catch (const RouterUnavailable&) {
    chores_.keep(request);
    return {};
  } catch (const Cancelled&) {
    chores_.keep(request);  // the booking must end anyway
    throw;
  }
  return answer.result();
}

v1::RenewLeasesResponse Core::renew(const v1::RenewLeasesRequest& request, const Call& call) {
  v1::RenewLeasesResponse answer;
  send(request.model(), nullptr, call, [&](Clock::time_point until) {
    return link_.send(&Calls::RenewLeases, request, answer, until, call.stop);
  });
  return answer;
}

v1::RegisterSignatureResponse Core::add(const v1::RegisterSignatureRequest& request,
                                        const Call& call) {
  v1::RegisterSignatureResponse answer;
  send(request.model(), nullptr, call, [&](Clock::time_point until) {
    return link_.send(&Calls::RegisterSignature, request, answer, until, call.stop);
  });
  return answer;
}

void Core::say(const v1::ReleaseRequest& request, const Call& call) noexcept {
  try {
    release(request, call);
  } catch (const Cancelled&) {  // it is kept
  } catch (const std::exception& error) {
    options_.log("the release of " + request.request_id() + " was refused: " + error.what());
  }
}

// Asks the very path that calls take, so that whatever hangs there keeps the router silent. Any
// answer will do, an error too; it books nothing.
bool Core::probe(const std::string& model, const std::stop_token& stop) {
  v1::RouteRequest request;
  request.set_model(model);
  request.set_request_id("eldr-client-probe");
  request.set_dry_run(true);
  v1::RouteResponse answer;
  const auto status =
      link_.send(&Calls::Route, request, answer, Clock::now() + options_.timeout, stop);
  if (!status.ok() && Failure(status).kind == Kind::unavailable) return false;
  options_.log("the router answers again");
  return true;
}

// Ends what may be booked without our knowing its lease.
void Core::disown(const std::string& model, const std::string& request_id,
                  const v1::RouteRequest& request) {
  if (request.dry_run()) return;
  v1::ReleaseRequest release;
  release.set_model(model);
  release.set_request_id(request_id);
  release.set_attempt(request.attempt());
  release.set_outcome(v1::RELEASE_OUTCOME_CANCELLED);
  chores_.keep(std::move(release));
}

}  // namespace eldr::internal
