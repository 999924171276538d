#include "renewals.h"

#include <algorithm>

namespace eldr::internal {
namespace {

using namespace std::chrono_literals;

constexpr auto least_pause = 100ms;
// What is due within so long is renewed together.
constexpr auto together = 50ms;
// As many as a daemon decodes in a moment.
constexpr std::size_t most_at_once = 1'000;

}  // namespace

Renewals::Renewals(Renew renew, std::function<void(std::string_view)> log)
    : renew_(std::move(renew)),
      log_(std::move(log)),
      thread_([this](std::stop_token stop) { run(std::move(stop)); }) {}

std::uint64_t Renewals::add(std::string model, v1::LeaseReference reference,
                            std::chrono::nanoseconds every) {
  const std::lock_guard lock(mutex_);
  every = std::max<std::chrono::nanoseconds>(every, least_pause);
  const auto due = Clock::now() + every;
  leases_[++last_id_] = {std::move(model), std::move(reference), every, due};
  due_.emplace(due, last_id_);
  changed_.notify_all();
  return last_id_;
}

void Renewals::remove(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  forget(id);
}

bool Renewals::forget(std::uint64_t id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return false;
  due_.erase({found->second.due, id});
  leases_.erase(found);
  return true;
}

void Renewals::stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

void Renewals::run(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (due_.empty()) {
      changed_.wait(lock, stop, [&] { return !due_.empty(); });
      continue;
    }
    const auto first = due_.begin()->first;
    const auto comes_earlier = [&] { return due_.empty() || due_.begin()->first < first; };
    if (changed_.wait_until(lock, stop, first, comes_earlier) || stop.stop_requested()) continue;
    std::map<std::string, std::vector<std::uint64_t>> batches;
    for (const auto now = Clock::now(); !due_.empty() && due_.begin()->first <= now + together;) {
      const auto id = due_.begin()->second;
      auto& lease = leases_.at(id);
      due_.erase(due_.begin());
      lease.due = now + lease.every;
      due_.emplace(lease.due, id);
      batches[lease.model].push_back(id);
    }
    for (const auto& [model, ids] : batches) send(model, ids, stop, lock);
  }
}

void Renewals::send(const std::string& model, const std::vector<std::uint64_t>& ids,
                    const std::stop_token& stop, std::unique_lock<std::mutex>& lock) {
  for (std::size_t begin = 0; begin < ids.size(); begin += most_at_once) {
    v1::RenewLeasesRequest request;
    request.set_model(model);
    std::map<std::pair<std::string, std::uint32_t>, std::uint64_t> sent;
    for (std::size_t i = begin; i < std::min(begin + most_at_once, ids.size()); ++i) {
      const auto found = leases_.find(ids[i]);
      if (found == leases_.end()) continue;  // removed meanwhile
      const auto& lease = *request.add_leases() = found->second.reference;
      sent[{lease.request_id(), lease.attempt()}] = ids[i];
    }
    if (request.leases().empty()) continue;
    lock.unlock();
    const auto answer = renew_(request, stop);
    lock.lock();
    for (const auto& dead : answer.unknown()) {
      const auto found = sent.find({dead.request_id(), dead.attempt()});
      if (found != sent.end() && forget(found->second)) {
        log_("the booking of " + dead.request_id() + " has ended");
      }
    }
  }
}

}  // namespace eldr::internal
