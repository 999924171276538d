#include "errors.h"

#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>

#include "eldr/client/details.pb.h"
#include "eldr/duration.h"

namespace eldr::internal {
namespace {

using grpc::StatusCode;

constexpr std::string_view domain = "eldr";

const char* name(StatusCode code) {
  switch (code) {
    case StatusCode::CANCELLED:
      return "CANCELLED";
    case StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    default:
      return "an answer outside the contract";
  }
}

bool is_of_the_contract(StatusCode code) {
  switch (code) {
    case StatusCode::INVALID_ARGUMENT:
    case StatusCode::NOT_FOUND:
    case StatusCode::FAILED_PRECONDITION:
    case StatusCode::RESOURCE_EXHAUSTED:
    case StatusCode::UNAUTHENTICATED:
    case StatusCode::PERMISSION_DENIED:
    case StatusCode::UNAVAILABLE:
      return true;
    default:
      return false;
  }
}

// Only the router adds its ErrorInfo; without it, gRPC itself gave these, as no server answered. A
// router that stops cancels what is under way.
bool is_silence(StatusCode code) {
  return code == StatusCode::UNAVAILABLE || code == StatusCode::DEADLINE_EXCEEDED ||
         code == StatusCode::CANCELLED;
}

template <typename Message>
bool unpack(const google::protobuf::Any& any, std::string_view type, Message& message) {
  return std::string_view(any.type_url()).ends_with(type) && message.ParseFromString(any.value());
}

google::rpc::Status detailed(const grpc::Status& status) {
  google::rpc::Status whole;
  whole.ParseFromString(status.error_details());  // none, or not readable: no details
  whole.set_code(status.error_code());
  whole.set_message(status.error_message());
  return whole;
}

void read_violation(const details::BadRequest& request, Error& error) {
  if (request.field_violations().empty()) return;
  const auto& first = request.field_violations(0);
  std::string_view text = first.description(), separator = ", found ";
  if (text.starts_with("expected ")) text.remove_prefix(9);
  const auto cut = text.find(separator);
  error.field = first.field();
  error.expected = text.substr(0, cut);
  error.found = cut == text.npos ? "" : text.substr(cut + separator.size());
}

}  // namespace

Failure::Failure(const grpc::Status& status) : Failure(detailed(status)) {}

Failure::Failure(const google::rpc::Status& status)
    : error(static_cast<StatusCode>(status.code()),
            name(static_cast<StatusCode>(status.code())) + (": " + status.message())) {
  bool is_ours = false;
  details::BadRequest bad_request;
  for (const auto& any : status.details()) {
    details::ErrorInfo info;
    details::RetryInfo retry;
    if (unpack(any, "/google.rpc.ErrorInfo", info)) {
      is_ours = info.domain() == domain;
      error.reason = info.reason();
      auto& values = *info.mutable_metadata();
      error.field = std::move(values["field"]);
      error.expected = std::move(values["expected"]);
      error.found = std::move(values["found"]);
    } else if (unpack(any, "/google.rpc.RetryInfo", retry)) {
      error.retry_after = duration(retry.retry_delay());
    } else {
      unpack(any, "/google.rpc.BadRequest", bad_request);
    }
  }
  // The metadata of ErrorInfo says the same without the ambiguity of a sentence, so it comes first.
  if (error.field.empty()) read_violation(bad_request, error);
  if (!is_of_the_contract(error.code)) kind = Kind::fault;
  if (is_silence(error.code) && !is_ours) kind = Kind::unavailable;
}

bool is_lost(const Error& error) { return typeid(error) != typeid(Error); }

void Failure::raise() const {
  switch (kind) {
    case Kind::unavailable:
      throw RouterUnavailable(error);
    case Kind::fault:
      throw RouterFault(error);
    default:
      throw error;
  }
}

}  // namespace eldr::internal
