#include "addresses.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace eldr::internal {
namespace {

struct Address {
  std::string host, port;
  std::string written() const {
    // gRPC reads targets as URIs, in which a bracket is escaped.
    const bool is_v6 = host.find(':') != std::string::npos;
    return (is_v6 ? "%5B" + host + "%5D" : host) + ":" + port;
  }
};

bool is_port(std::string_view text) {
  unsigned port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && port > 0 && port < 65'536;
}

// gRPC's own names of how to resolve what follows; a host may be called so too.
std::string_view scheme_of(std::string_view text) {
  for (const std::string_view each : {"dns", "unix", "unix-abstract", "ipv4", "ipv6", "xds"}) {
    if (!text.starts_with(each) || text.substr(each.size(), 1) != ":") continue;
    const auto rest = text.substr(each.size() + 1);
    if (!is_port(rest.substr(0, rest.find(',')))) return each;
  }
  return {};
}

std::optional<Address> address_of(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == text.npos || !is_port(text.substr(colon + 1))) return {};
  auto host = text.substr(0, colon);
  const bool is_bracketed = host.starts_with('[') && host.ends_with(']');
  if (is_bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || host.find_first_of("[]/ \t") != host.npos) return {};
  if (!is_bracketed && host.find(':') != host.npos) return {};
  return Address{std::string(host), std::string(text.substr(colon + 1))};
}

std::vector<Address> listed(const std::string& text) {
  std::vector<Address> all;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    std::string_view each = std::string_view(text).substr(begin, end - begin);
    while (each.starts_with(' ')) each.remove_prefix(1);
    while (each.ends_with(' ')) each.remove_suffix(1);
    const auto found = address_of(each);
    if (!found) {
      throw std::invalid_argument(
          "expected HOST:PORT with a port from 1 to 65535, several of them with commas between "
          "them, or dns:///NAME:PORT, found \"" +
          std::string(each) + "\" in \"" + text + "\"");
    }
    all.push_back(*found);
    begin = end + 1;
  }
  return all;
}

std::vector<Address> resolved(const Address& address) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> all(found, freeaddrinfo);
  std::vector<Address> addresses;
  for (const auto* each = found; each; each = each->ai_next) {
    char host[NI_MAXHOST];
    if (getnameinfo(each->ai_addr, each->ai_addrlen, host, sizeof host, nullptr, 0,
                    NI_NUMERICHOST) == 0) {
      addresses.push_back({host, address.port});
    }
  }
  return addresses;
}

}  // namespace

Addresses addresses(const std::string& text) {
  if (const auto scheme = scheme_of(text); !scheme.empty()) {
    const bool is_list = scheme.starts_with("ipv") && text.find(',') != text.npos;
    return {text, is_list || scheme == "dns" || scheme == "xds"};
  }
  const auto all = listed(text);
  if (all.size() == 1) return {"dns:///" + all[0].written(), false};
  std::set<std::string> v4, v6;
  for (const auto& each : all) {
    for (auto& found : resolved(each)) {
      const bool is_v6 = found.host.find(':') != std::string::npos;
      if (!is_v6) v4.insert(found.written());
      if (!is_v6) found.host = "::ffff:" + found.host;
      v6.insert(found.written());
    }
  }
  // A name that does not resolve is left out; if none does, gRPC tries the first again and again.
  if (v6.empty()) return {"dns:///" + all[0].written(), true};
  const bool are_v4 = v4.size() == v6.size();
  std::string target = are_v4 ? "ipv4:" : "ipv6:";
  for (const auto& each : are_v4 ? v4 : v6) target += (target.ends_with(':') ? "" : ",") + each;
  return {target, true};
}

}  // namespace eldr::internal
