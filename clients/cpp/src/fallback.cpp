#include "fallback.h"

#include <algorithm>
#include <random>
#include <utility>

namespace eldr {

bool is_fallback(const v1::Placement& placement) {
  return placement.reason() == v1::PLACEMENT_REASON_CLIENT_FALLBACK;
}

std::vector<v1::WorkerTarget> targets(const v1::Placement& placement) {
  std::vector<v1::WorkerTarget> all(1);
  all[0].set_worker_id(placement.worker_id());
  all[0].set_url(placement.url());
  all[0].set_dp_rank(placement.dp_rank());
  all.insert(all.end(), placement.alternates().begin(), placement.alternates().end());
  return all;
}

namespace internal {
namespace {

using namespace std::chrono_literals;

// A worker that no placement has named for so long, while others were named, is taken as gone.
constexpr auto forget_after = 10min;

bool allows(const v1::RouteRequest& request, const std::string& id) {
  const auto has = [&](const auto& ids) { return std::ranges::find(ids, id) != ids.end(); };
  if (has(request.exclude_workers())) return false;
  if (!request.pinned_worker().empty()) return id == request.pinned_worker();
  return request.candidate_workers().empty() || has(request.candidate_workers());
}

}  // namespace

Fallback::Fallback(std::vector<Worker> given)
    : given_(std::move(given)),
      turn_(std::random_device()()) {}  // many clients do not fall on one worker together

void Fallback::learn(const std::string& model, const v1::Placement& placement) {
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  auto& known = models_[model];
  known.answered = now;
  for (auto& target : targets(placement)) {
    auto& seen = known.workers[target.worker_id()];
    seen = {std::move(target), now};
  }
}

std::optional<v1::Placement> Fallback::place(const v1::RouteRequest& request) {
  const std::lock_guard lock(mutex_);
  std::map<std::string, v1::WorkerTarget> allowed;
  for (const auto& worker : given_) {
    if (!worker.model.empty() && worker.model != request.model()) continue;
    if (!allows(request, worker.id)) continue;
    auto& target = allowed[worker.id];
    target.set_worker_id(worker.id);
    target.set_url(worker.url);
    target.set_dp_rank(worker.dp_rank);
  }
  if (const auto found = models_.find(request.model()); found != models_.end()) {
    for (const auto& [id, seen] : found->second.workers) {
      if (seen.at < found->second.answered - forget_after || !allows(request, id)) continue;
      allowed[id] = seen.target;
    }
  }
  if (allowed.empty()) return {};
  std::vector<v1::WorkerTarget> order;
  for (auto& [_, target] : allowed) order.push_back(std::move(target));
  std::ranges::rotate(order, order.begin() + turn_++ % order.size());
  v1::Placement placement;
  placement.set_worker_id(order[0].worker_id());
  placement.set_url(order[0].url());
  placement.set_dp_rank(order[0].dp_rank());
  placement.mutable_alternates()->Add(order.begin() + 1, order.end());
  placement.set_reason(v1::PLACEMENT_REASON_CLIENT_FALLBACK);
  return placement;
}

}  // namespace internal
}  // namespace eldr
