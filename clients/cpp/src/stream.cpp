#include "stream.h"

#include <grpcpp/support/client_callback.h>

#include <condition_variable>
#include <utility>

namespace eldr::internal {
namespace {

const grpc::Status late(grpc::StatusCode::DEADLINE_EXCEEDED, "no answer came in time");
const grpc::Status given_up(grpc::StatusCode::CANCELLED, "the caller gave up");

}  // namespace

/// One call. It keeps itself until gRPC is done with it.
class OpenStream final
    : public grpc::ClientBidiReactor<v1::StreamSignaturesRequest, v1::StreamSignaturesResponse> {
 public:
  static std::shared_ptr<OpenStream> begin(Link& link) {
    auto stream = std::make_shared<OpenStream>();
    stream->self_ = stream;
    link.prepare(stream->context_);
    link.stub().async()->StreamSignatures(&stream->context_, stream.get());
    stream->StartRead(&stream->incoming_);
    stream->AddHold();  // for writes; until the last read
    stream->StartCall();
    return stream;
  }

  bool has_ended() {
    const std::lock_guard lock(mutex_);
    return has_read_last_;
  }

  void cancel() { context_.TryCancel(); }

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
    const auto self = std::move(self_);
    const std::lock_guard lock(mutex_);
    status_ = status;
    is_done_ = true;
    changed_.notify_all();
  }

 private:
  grpc::ClientContext context_;
  std::shared_ptr<OpenStream> self_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  v1::StreamSignaturesRequest outgoing_;
  v1::StreamSignaturesResponse incoming_, answer_;
  bool is_written_ = true, is_answered_ = false, has_read_last_ = false, is_done_ = false;
  grpc::Status status_;
};

SignatureStream::~SignatureStream() {
  if (open_) open_->cancel();
}

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
  if (!open_ || open_->has_ended()) open_ = OpenStream::begin(link_);
  auto status = open_->exchange(request, answer, until, stop);
  if (!status.ok()) {
    open_->cancel();  // a late answer would be taken for that of the next message
    open_.reset();
  }
  {
    const std::lock_guard lock(mutex_);
    is_taken_ = false;
  }
  turn_.notify_one();
  return status;
}

}  // namespace eldr::internal
