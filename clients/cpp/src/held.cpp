#include "eldr/held.h"

#include <exception>
#include <memory>
#include <utility>

#include "core.h"

namespace eldr {
namespace {

constexpr auto release_timeout = std::chrono::seconds(1);

v1::ReleaseOutcome of_the_contract(Outcome outcome) {
  switch (outcome) {
    case Outcome::failed:
      return v1::RELEASE_OUTCOME_FAILED;
    case Outcome::cancelled:
      return v1::RELEASE_OUTCOME_CANCELLED;
    default:
      return v1::RELEASE_OUTCOME_COMPLETED;
  }
}

}  // namespace

Held::Held(std::shared_ptr<internal::Core> core, const v1::RouteRequest& request,
           v1::Placement placement, std::stop_token stop)
    : core_(std::move(core)),
      placement_(std::move(placement)),
      model_(request.model()),
      request_id_(request.request_id()),
      attempt_(request.attempt()),
      stop_(std::move(stop)),
      exceptions_(std::uncaught_exceptions()) {
  // A fallback was disowned already, if the router was asked at all; a dry run has no lease.
  if (placement_.lease_id().empty()) {
    core_.reset();
    return;
  }
  v1::LeaseReference lease;
  lease.set_request_id(request_id_);
  lease.set_attempt(attempt_);
  lease.set_lease_id(placement_.lease_id());
  renewal_ =
      core_->renewals().add(model_, std::move(lease), duration(placement_.lease_remaining()) / 3);
}

Held::Held(Held&& other) noexcept = default;

Held& Held::operator=(Held&& other) noexcept {
  if (this != &other) {
    std::destroy_at(this);  // as at the end of its scope
    std::construct_at(this, std::move(other));
  }
  return *this;
}

Held::~Held() {
  const bool has_failed = std::uncaught_exceptions() > exceptions_ && !stop_.stop_requested();
  done(has_failed ? Outcome::failed : Outcome::cancelled);
}

void Held::done(Outcome outcome) noexcept {
  const auto core = std::move(core_);
  if (!core) return;
  core->renewals().remove(renewal_);
  v1::ReleaseRequest release;
  release.set_model(model_);
  release.set_request_id(request_id_);
  release.set_attempt(attempt_);
  release.set_lease_id(placement_.lease_id());
  release.set_outcome(of_the_contract(outcome));
  release.set_output_tokens(output_tokens);
  if (decode_duration) *release.mutable_decode_duration() = duration(*decode_duration);
  if (decode_counts) *release.mutable_decode_counts() = *std::move(decode_counts);
  core->say(release, {.timeout = release_timeout});
}

}  // namespace eldr
