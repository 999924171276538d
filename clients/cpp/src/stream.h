#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>

#include "link.h"

namespace eldr::internal {

class OpenStream;

/// Sends a message and waits for its answer, as a unary call does, on a call that stays open. It
/// opens on first use, and again after it has broken. Messages take turns.
class SignatureStream {
 public:
  explicit SignatureStream(Link& link);
  ~SignatureStream();

  /// The status is what the stream ended with, where there is no answer.
  grpc::Status exchange(const v1::StreamSignaturesRequest& request,
                        v1::StreamSignaturesResponse& answer, Clock::time_point until,
                        const std::stop_token& stop);

 private:
  Link& link_;
  std::mutex mutex_;
  std::condition_variable_any turn_;
  bool is_taken_ = false;
  std::unique_ptr<OpenStream> open_;
};

}  // namespace eldr::internal
