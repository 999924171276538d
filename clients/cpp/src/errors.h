#pragma once

#include <grpcpp/support/status.h>

#include "eldr/error.h"
#include "google/rpc/status.pb.h"

namespace eldr::internal {

enum class Kind { refused, unavailable, fault };

/// What a call ended with instead of an answer.
struct Failure {
  explicit Failure(const grpc::Status& status);
  explicit Failure(const google::rpc::Status& status);

  /// Throws the class of errors that stands for `kind`.
  [[noreturn]] void raise() const;

  Kind kind = Kind::refused;
  Error error;
};

/// Whether what the router has made of the call is not known.
bool is_lost(const Error& error);

}  // namespace eldr::internal
