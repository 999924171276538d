#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "eldr/client.h"

/// The protocol's JSON as the contract's messages, and back.
using nlohmann::json;

/// What stands at `name` of a command. A value of the wrong kind is a json::exception.
template <typename Value>
Value value_or(const json& command, const char* name, Value otherwise) {
  const auto found = command.find(name);
  return found == command.end() ? otherwise : found->get<Value>();
}

/// @throws std::invalid_argument where the client refuses to encode them.
std::optional<eldr::v1::ActivationCounts> counts(const json& command, const char* name = "counts");

/// `request` with the command's fields of the same names.
void fill(const json& command, google::protobuf::Message& request);

std::vector<eldr::Worker> workers(const json& command);

json described(const eldr::v1::Placement& placement);
json described(const eldr::Error& error);
