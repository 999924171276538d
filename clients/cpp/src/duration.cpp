#include "eldr/duration.h"

#include <algorithm>

namespace eldr {

google::protobuf::Duration duration(std::chrono::nanoseconds value) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(value);
  google::protobuf::Duration message;
  message.set_seconds(seconds.count());
  message.set_nanos(static_cast<std::int32_t>((value - seconds).count()));
  return message;
}

std::chrono::nanoseconds duration(const google::protobuf::Duration& value) {
  constexpr std::int64_t most = 30LL * 365 * 24 * 3600;
  return std::chrono::seconds(std::clamp(value.seconds(), -most, most)) +
         std::chrono::nanoseconds(value.nanos());
}

}  // namespace eldr
