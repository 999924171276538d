#pragma once

#include <string>

namespace eldr::internal {

/// What was written as the router's address.
struct Addresses {
  /// What gRPC resolves. Host names in a list are resolved when it is made: gRPC has lists of
  /// addresses only.
  std::string target;
  /// More than one replica may be behind it.
  bool several = false;
};

/// @throws std::invalid_argument names what was expected.
Addresses addresses(const std::string& text);

}  // namespace eldr::internal
