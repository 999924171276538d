#include "stream.h"

#include <grpcpp/support/client_callback.h>

#include <condition_variable>
#include <utility>

namespace eldr::internal {
namespace {

const grpc::Status late(grpc::StatusCode::DEADLINE_EXCEEDED, "no answer came in time");
const grpc::Status given_up(grpc::StatusCode::CANCELLED, "the caller gave up");

}  // namespace

/// One call. Its destructor cancels it and waits until gRPC is done with it, as a channel may not
/// be destroyed by gRPC's own threads.
class OpenStream final
    : public grpc::ClientBidiReactor<v1::StreamSignaturesRequest, v1::StreamSignaturesResponse> {
 public:
  explicit OpenStream(Link& link) {
    link.prepare(context_);
    link.stub().async()->StreamSignatures(&context_, this);
    StartRead(&incoming_);
    AddHold();  // for writes; until the last read
    StartCall();
  }

  ~OpenStream() override {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_done_; });
  }

  bool has_ended() {
    const std::lock_guard lock(mutex_);
    return has_read_last_;
  }

  grpc::Status exchange(const v1::StreamSignaturesRequest& request,
                        v1::StreamSignaturesResponse& answer, Clock::time_point until,
                        const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    is_answered_ = is_written_ = false;
    if (!has_read_last_) {
      outgoing_ = request;
      StartWrite(&outgoing_);
    }
    changed_.wait_until(lock, stop, until,
                        [&] { return is_done_ || (is_answered_ && is_written_); });
    if (is_answered_ && is_written_) {
      answer = std::move(answer_);
      return grpc::Status::OK;
    }
    if (!is_done_) return stop.stop_requested() ? given_up : late;
    return status_.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the router ended the stream")
                        : status_;
  }

  void OnWriteDone(bool) override {
    const std::lock_guard lock(mutex_);
    is_written_ = true;
    changed_.notify_all();
  }

  void OnReadDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      has_read_last_ = !ok;
      if (ok) {
        answer_ = std::exchange(incoming_, {});
        is_answered_ = true;
      }
      changed_.notify_all();
    }
    if (ok) {
      StartRead(&incoming_);
    } else {
      RemoveHold();
    }
  }

  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    is_done_ = true;
    changed_.notify_all();
  }

 private:
  grpc::ClientContext context_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  v1::StreamSignaturesRequest outgoing_;
  v1::StreamSignaturesResponse incoming_, answer_;
  bool is_written_ = true, is_answered_ = false, has_read_last_ = false, is_done_ = false;
  grpc::Status status_;
};

SignatureStream::SignatureStream(Link& link) : link_(link) {}
SignatureStream::~SignatureStream() = default;

grpc::Status SignatureStream::exchange(const v1::StreamSignaturesRequest& request,
                                       v1::StreamSignaturesResponse& answer,
                                       Clock::time_point until, const std::stop_token& stop) {
  {
    std::unique_lock lock(mutex_);
    if (!turn_.wait_until(lock, stop, until, [&] { return !is_taken_; })) {
      return stop.stop_requested() ? given_up : late;
    }
    is_taken_ = true;
  }
  if (!open_ || open_->has_ended()) open_ = std::make_unique<OpenStream>(link_);
  auto status = open_->exchange(request, answer, until, stop);
  if (!status.ok()) open_.reset();  // a late answer would be taken for that of the next message
  {
    const std::lock_guard lock(mutex_);
    is_taken_ = false;
  }
  turn_.notify_one();
  return status;
}

}  // namespace eldr::internal
