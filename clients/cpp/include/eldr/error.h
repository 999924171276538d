#pragma once

#include <grpcpp/support/status_code_enum.h>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace eldr {

/// A call was not served. Of the classes below where the router did not refuse it by itself.
///
/// What a client refuses to send is a std::invalid_argument instead.
class Error : public std::runtime_error {
 public:
  Error(grpc::StatusCode status, const std::string& what)
      : std::runtime_error(what), code(status) {}

  grpc::StatusCode code;
  /// The router's own word for the cause (ErrorInfo.reason).
  std::string reason;
  /// The first violation of an INVALID_ARGUMENT.
  std::string field, expected, found;
  /// How long to wait after a RESOURCE_EXHAUSTED, where the router said so.
  std::optional<std::chrono::nanoseconds> retry_after;
};

/// No router answered.
class RouterUnavailable : public Error {
 public:
  explicit RouterUnavailable(Error error) : Error(std::move(error)) {}
};

/// What answered was outside the contract: a fault of the router, or of something before it.
class RouterFault : public Error {
 public:
  explicit RouterFault(Error error) : Error(std::move(error)) {}
};

/// The caller's stop token ended the call.
class Cancelled : public Error {
 public:
  explicit Cancelled(Error error) : Error(std::move(error)) {}
};

}  // namespace eldr
