#include "messages.h"

#include <google/protobuf/util/json_util.h>

#include <stdexcept>
#include <string>

namespace {

namespace v1 = eldr::v1;

// Seconds as the text that a Duration has in JSON.
void write_durations(json& fields) {
  for (const auto* name : {"wait_for_signature", "max_wait", "lease_ttl", "decode_duration"}) {
    if (const auto found = fields.find(name); found != fields.end()) {
      *found = std::to_string(found->get<double>()) + "s";
    }
  }
}

json target(const v1::WorkerTarget& worker) {
  return {worker.worker_id(), worker.url(), worker.dp_rank()};
}

const char* kind(const eldr::Error& error) {
  if (dynamic_cast<const eldr::RouterUnavailable*>(&error)) return "ROUTER_UNAVAILABLE";
  if (dynamic_cast<const eldr::RouterFault*>(&error)) return "ROUTER_FAULT";
  if (dynamic_cast<const eldr::Cancelled*>(&error)) return "CANCELLED";
  switch (error.code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    default:
      return "UNAVAILABLE";
  }
}

}  // namespace

std::optional<v1::ActivationCounts> counts(const json& command, const char* name) {
  const auto found = command.find(name);
  if (found == command.end()) return {};
  std::vector<std::uint32_t> values;
  for (const auto& row : found->at("array")) {
    for (const auto& value : row) {
      if (!value.is_number_unsigned()) throw std::invalid_argument("counts: expected none below 0");
      values.push_back(value.get<std::uint32_t>());
    }
  }
  return eldr::Counts{
      .counts = values,
      .experts = found->at("array").at(0).size(),
      .top_k = found->at("top_k").get<std::uint32_t>(),
      .unknown_tokens = value_or(*found, "unknown_tokens", 0u),
      .layer_offset = value_or(*found, "layer_offset", 0u),
      .num_layers = value_or(*found, "num_layers", 0u),
  }
      .encoded();
}

void fill(const json& command, google::protobuf::Message& request) {
  json fields = command;
  for (const auto* name : {"counts", "decode_counts", "leases", "body", "timeout"}) {
    fields.erase(name);
  }
  write_durations(fields);
  if (fields.contains("route")) write_durations(fields["route"]);
  if (!fields.contains("last")) fields["last"] = true;  // the protocol's default
  if (dynamic_cast<v1::ReleaseRequest*>(&request)) {
    fields["outcome"] = "RELEASE_OUTCOME_" + value_or<std::string>(fields, "outcome", "COMPLETED");
  }
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto status = google::protobuf::util::JsonStringToMessage(fields.dump(), &request, options);
  if (!status.ok()) throw std::invalid_argument(status.ToString());
}

std::vector<eldr::Worker> workers(const json& command) {
  std::vector<eldr::Worker> all;
  const auto given = command.value("fallback_workers", json::array());
  const auto add = [&](const std::string& model, const json& list) {
    for (const auto& each : list) all.push_back({each.at(0), each.at(1), each.at(2), model});
  };
  if (given.is_array()) add("", given);
  if (given.is_object()) {
    for (const auto& [model, list] : given.items()) add(model, list);
  }
  return all;
}

json described(const v1::Placement& placement) {
  json alternates = json::array();
  for (const auto& each : placement.alternates()) alternates.push_back(target(each));
  return {
      {"worker_id", placement.worker_id()},
      {"url", placement.url()},
      {"dp_rank", placement.dp_rank()},
      {"alternates", std::move(alternates)},
      {"reason",
       v1::PlacementReason_Name(placement.reason()).substr(sizeof "PLACEMENT_REASON_" - 1)},
      {"is_fallback", eldr::is_fallback(placement)},
      {"repeated", placement.repeated()},
      {"stale", placement.stale()},
      {"policy", placement.policy()},
      {"partition_version", placement.partition_version()},
      {"lease_id", placement.lease_id()},
      {"similarity", placement.has_similarity() ? json(placement.similarity()) : json()},
      {"coverage", placement.coverage()},
      {"early", placement.early()},
  };
}

json described(const eldr::Error& error) {
  json said = {{"kind", kind(error)},  {"message", error.what()},    {"reason", error.reason},
               {"field", error.field}, {"expected", error.expected}, {"found", error.found}};
  if (error.retry_after) {
    said["retry_after"] = std::chrono::duration<double>(*error.retry_after).count();
  }
  return said;
}
