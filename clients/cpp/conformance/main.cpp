// The C++ client's program for eldr-conformance.

#include <condition_variable>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "messages.h"

namespace {

namespace v1 = eldr::v1;

std::chrono::nanoseconds seconds(double value) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(value * 1e9));
}

template <typename Request>
Request request_of(const json& command) {
  Request request;
  fill(command, request);
  if constexpr (requires { request.mutable_counts(); }) {
    if (auto given = counts(command)) *request.mutable_counts() = *std::move(given);
  }
  return request;
}

class Program {
 public:
  void take(const json& command) {
    const int id = command.at("id");
    const std::string call = command.at("call");
    if (call == "open") {
      answer(id, [&] { return open(command); });
    } else if (call == "cancel") {
      calls_.at(command.at("of")).request_stop();
      say({{"id", id}, {"result", json::object()}});
    } else {
      calls_[id] = std::jthread([this, id, command](const std::stop_token& stop) {
        answer(id, [&] { return carry_out(command, stop); });
      });
    }
  }

  void end() {
    for (auto& [_, call] : calls_) call.join();
    client_.reset();
  }

 private:
  json open(const json& command) {
    eldr::Options options;
    if (command.contains("timeout")) options.timeout = seconds(command["timeout"]);
    options.token = value_or<std::string>(command, "token", "");
    options.fallback_workers = workers(command);
    client_ =
        std::make_unique<eldr::Client>(command.at("target").get<std::string>(), std::move(options));
    return {{"lacks", json::array()}};
  }

  json carry_out(const json& command, const std::stop_token& stop) {
    const std::string name = command.at("call");
    eldr::Call call{.stop = stop};
    if (command.contains("timeout")) call.timeout = seconds(command["timeout"]);
    if (name == "counts") return {{"bytes", hexadecimal(counts(command)->SerializeAsString())}};
    if (name == "route") {
      return described(client_->route(request_of<v1::RouteRequest>(command), call));
    }
    if (name == "place") return place(command, call);
    if (name == "release") return release(command, call);
    if (name == "renew") return renew(command, call);
    if (name == "register_signature") {
      const auto answer =
          client_->register_signature(request_of<v1::RegisterSignatureRequest>(command), call);
      return {{"tokens_held", answer.tokens_held()}, {"complete", answer.complete()}};
    }
    if (name == "stream_signature") {
      const auto placement =
          client_->stream_signature(request_of<v1::StreamSignaturesRequest>(command), call);
      return {{"placement", placement ? described(*placement) : json()}};
    }
    throw std::logic_error("no call of the protocol: " + name);
  }

  json place(const json& command, const eldr::Call& call) {
    struct DecodeError {};
    const auto body = command.at("body");
    json result;
    try {
      auto held = client_->place(request_of<v1::RouteRequest>(command), call);
      held.output_tokens = value_or(body, "output_tokens", 0u);
      result = described(held.placement());
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any().wait_for(
          lock, call.stop, seconds(value_or(body, "seconds", 0.0)), [] { return false; });
      if (call.stop.stop_requested()) {
        throw eldr::Cancelled({grpc::StatusCode::CANCELLED, "the decode was given up"});
      }
      if (body.contains("ends")) throw DecodeError();
      held.done();
    } catch (const DecodeError&) {  // the client has released it as failed
    }
    return result;
  }

  json release(const json& command, const eldr::Call& call) {
    auto request = request_of<v1::ReleaseRequest>(command);
    if (auto given = counts(command, "decode_counts")) {
      *request.mutable_decode_counts() = *std::move(given);
    }
    const auto result = client_->release(request, call);
    if (!result) return {{"result", nullptr}};
    return {{"result", v1::ReleaseResult_Name(*result).substr(sizeof "RELEASE_RESULT_" - 1)}};
  }

  json renew(const json& command, const eldr::Call& call) {
    auto request = request_of<v1::RenewLeasesRequest>(command);
    for (const auto& each : command.at("leases")) {
      auto& lease = *request.add_leases();
      lease.set_request_id(each.at(0).get<std::string>());
      lease.set_attempt(each.at(1));
      lease.set_lease_id(each.at(2).get<std::string>());
    }
    const auto answer = client_->renew_leases(request, call);
    json unknown = json::array();
    for (const auto& each : answer.unknown()) {
      unknown.push_back({each.request_id(), each.attempt()});
    }
    return {{"unknown", std::move(unknown)}};
  }

  static std::string hexadecimal(const std::string& bytes) {
    std::string text;
    for (const unsigned char byte : bytes) {
      for (const auto half : {byte >> 4, byte & 15}) text.push_back("0123456789abcdef"[half]);
    }
    return text;
  }

  template <typename Act>
  void answer(int id, const Act& act) {
    json said = {{"id", id}};
    try {
      said["result"] = act();
    } catch (const eldr::Error& error) {
      said["error"] = described(error);
    } catch (const std::invalid_argument& error) {
      said["error"] = {{"kind", "INVALID_VALUE"}, {"message", error.what()}};
    } catch (const std::exception& error) {
      said["error"] = {{"kind", "BROKEN"}, {"message", error.what()}};
    }
    say(said);
  }

  void say(const json& said) {
    const std::lock_guard lock(writing_);
    std::cout << said.dump() << std::endl;
  }

  std::unique_ptr<eldr::Client> client_;
  std::mutex writing_;
  std::map<int, std::jthread> calls_;
};

}  // namespace

int main() {
  Program program;
  for (std::string line; std::getline(std::cin, line);) program.take(json::parse(line));
  program.end();
}
