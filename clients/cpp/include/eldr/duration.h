#pragma once

#include <google/protobuf/duration.pb.h>

#include <chrono>

namespace eldr {

/// For fields of messages: `*request.mutable_max_wait() = eldr::duration(2s)`.
google::protobuf::Duration duration(std::chrono::nanoseconds value);

/// The other way; what is beyond 30 years is taken as 30 years.
std::chrono::nanoseconds duration(const google::protobuf::Duration& value);

}  // namespace eldr
