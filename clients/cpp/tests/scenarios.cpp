// What the conformance cases cannot ask of a C++ client: `eldr-client-scenarios NAME TARGET
// [FILE]`.

#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <thread>
#include <vector>

#include "eldr/client.h"

namespace {

namespace v1 = eldr::v1;
using namespace std::chrono_literals;

v1::RouteRequest request(const std::string& id) {
  v1::RouteRequest made;
  made.set_model("m");
  made.set_request_id(id);
  return made;
}

/// Every way in which a held placement can end.
void ends(eldr::Client& client) {
  client.place(request("done on the spot")).done();
  {
    auto held = client.place(request("done, then destroyed"));
    held.output_tokens = 7;
    held.decode_duration = 1500ms;
    held.done();
    held.done(eldr::Outcome::failed);
  }
  { const auto held = client.place(request("left")); }
  try {
    const auto held = client.place(request("thrown through"));
    throw std::runtime_error("the worker is gone");
  } catch (const std::runtime_error&) {
  }
  try {
    std::stop_source source;
    const auto held = client.place(request("given up"), {.stop = source.get_token()});
    source.request_stop();
    throw std::runtime_error("the caller gave up");
  } catch (const std::runtime_error&) {
  }
  {
    std::vector<eldr::Held> moved;
    moved.push_back(client.place(request("moved")));
    moved.push_back(client.place(request("moved too")));
    for (auto& held : moved) held.done();
  }
  auto overwritten = client.place(request("overwritten"));
  overwritten = client.place(request("overwriting"));
  overwritten.done();
}

/// Many threads on one client, by every call.
void threads(eldr::Client& client) {
  std::vector<std::jthread> all;
  for (int thread = 0; thread < 8; ++thread) {
    all.emplace_back([&client, thread] {
      for (int turn = 0; turn < 20; ++turn) {
        const auto id = std::to_string(thread) + "-" + std::to_string(turn);
        const std::vector<std::uint32_t> counts = {1, 1, 2, 0};
        v1::StreamSignaturesRequest chunk;
        chunk.set_model("m");
        chunk.set_request_id(id);
        chunk.set_last(true);
        *chunk.mutable_counts() =
            eldr::Counts{.counts = counts, .experts = 2, .top_k = 2}.encoded();
        client.stream_signature(chunk);
        auto placed = request(id);
        *placed.mutable_lease_ttl() = eldr::duration(1s);
        auto held = client.place(placed);
        if (turn == 0) std::this_thread::sleep_for(1200ms);  // the lease would have run out
        held.done();
      }
    });
  }
}

/// A call that is given up while it waits, with a stream under way.
void stops(eldr::Client& client) {
  std::stop_source source;
  std::jthread stopping([&source] {
    std::this_thread::sleep_for(200ms);
    source.request_stop();
  });
  v1::StreamSignaturesRequest chunk;
  chunk.set_model("m");
  chunk.set_request_id("r");
  chunk.mutable_route();
  try {
    client.stream_signature(chunk, {.timeout = 20s, .stop = source.get_token()});
  } catch (const eldr::Cancelled&) {
    std::cout << "cancelled\n";
  }
}

void route(eldr::Client& client) {
  const auto placement = client.route(request("r"));
  std::cout << placement.worker_id() << ' ' << eldr::is_fallback(placement) << '\n';
}

const std::map<std::string, std::function<void(eldr::Client&)>> scenarios = {
    {"ends", ends}, {"threads", threads}, {"stops", stops}, {"route", route}};

std::string text_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int count, char** arguments) {
  try {
    eldr::Options options{.timeout = 30s};  // a busy machine takes its time
    if (count > 3) options.tls = eldr::Tls{.root_certificates = text_of(arguments[3])};
    if (count > 4) options.token = arguments[4];
    eldr::Client client(arguments[2], options);
    scenarios.at(arguments[1])(client);
  } catch (const std::exception& error) {
    std::cout << error.what() << '\n';
    return 1;
  }
}
