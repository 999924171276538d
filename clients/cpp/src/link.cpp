#include "link.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

namespace eldr::internal {
namespace {

grpc::ChannelArguments arguments(bool has_replicas) {
  grpc::ChannelArguments all;
  // A router that came back is found again within a quarter of a second or so.
  all.SetInt("grpc.initial_reconnect_backoff_ms", 100);
  all.SetInt("grpc.max_reconnect_backoff_ms", 250);
  // In truth the least time for one attempt to connect. gRPC's 20 s would hold a channel back that
  // long after a host which swallows packets has returned.
  all.SetInt("grpc.min_reconnect_backoff_ms", 1'000);
  all.SetInt("grpc.enable_retries", 0);  // the client's own tries have one deadline together
  // A peer that vanished is noticed by unacknowledged bytes and, under calls, by pings. Of
  // replicas, one that is frozen or cut off is to be left soon.
  all.SetInt("grpc.keepalive_time_ms", has_replicas ? 2'000 : 30'000);
  all.SetInt("grpc.keepalive_timeout_ms", has_replicas ? 2'000 : 5'000);
  if (!has_replicas) return all;
  all.SetInt("grpc.http2.ping_timeout_ms", 2'000);
  all.SetInt("grpc.http2.max_pings_without_data", 0);
  // The least time between two resolutions of a name; they are due when a connection is lost.
  all.SetInt("grpc.dns_min_time_between_resolutions_ms", 1'000);
  // Calls take turns among the replicas; one that says NOT_SERVING (it drains) gets no new ones.
  all.SetServiceConfigJSON(
      R"({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})");
  return all;
}

std::shared_ptr<grpc::ChannelCredentials> credentials(const std::optional<Tls>& tls) {
  if (!tls) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({tls->root_certificates, tls->private_key, tls->certificate});
}

}  // namespace

Link::Link(const Addresses& addresses, const Options& options)
    : stub_(v1::RouterService::NewStub(grpc::CreateCustomChannel(
          addresses.target, credentials(options.tls), arguments(addresses.several)))),
      has_replicas_(addresses.several),
      authorization_(options.token.empty() ? "" : "Bearer " + options.token) {}

void Link::prepare(grpc::ClientContext& context) const {
  if (!authorization_.empty()) context.AddMetadata("authorization", authorization_);
}

}  // namespace eldr::internal
