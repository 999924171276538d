package eldr.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import eldr.client.Held;
import eldr.client.RouterClient;
import eldr.v1.LeaseReference;
import eldr.v1.RegisterSignatureRequest;
import eldr.v1.RegisterSignatureResponse;
import eldr.v1.ReleaseRequest;
import eldr.v1.ReleaseResult;
import eldr.v1.RenewLeasesRequest;
import eldr.v1.RouteRequest;
import eldr.v1.StreamSignaturesRequest;
import java.io.IOException;
import java.util.HexFormat;

/** The commands, by the client's calls. */
final class Calls {
  private Calls() {}

  /** The decode that a case wants to fail. */
  private static final class DecodeException extends RuntimeException {
    private static final long serialVersionUID = 1L;
  }

  static JsonElement call(RouterClient client, JsonObject command)
      throws IOException, InterruptedException {
    return switch (command.get("call").getAsString()) {
      case "counts" ->
          Json.object(
              "bytes",
              HexFormat.of().formatHex(Json.counts(command.get("counts")).toByteArray()));
      case "route" -> Json.placement(client.route(Json.fill(RouteRequest.newBuilder(), command)));
      case "place" -> place(client, command);
      case "release" -> {
        ReleaseRequest request = Json.fill(ReleaseRequest.newBuilder(), command);
        yield Json.object("result", name(client.release(request)));
      }
      case "renew" -> renew(client, command);
      case "register_signature" -> {
        RegisterSignatureResponse answer =
            client.registerSignature(Json.fill(RegisterSignatureRequest.newBuilder(), command));
        JsonObject held = Json.object("tokens_held", answer.getTokensHeld());
        held.addProperty("complete", answer.getComplete());
        yield held;
      }
      case "stream_signature" ->
          client
              .streamSignature(Json.fill(StreamSignaturesRequest.newBuilder(), command))
              .map(placement -> Json.object("placement", Json.placement(placement)))
              .orElseGet(() -> Json.object("placement", JsonNull.INSTANCE));
      default -> throw new IllegalArgumentException("no call of the protocol: " + command);
    };
  }

  private static Object name(ReleaseResult result) {
    return result == ReleaseResult.RELEASE_RESULT_UNSPECIFIED
        ? JsonNull.INSTANCE
        : result.name().substring("RELEASE_RESULT_".length());
  }

  private static JsonElement place(RouterClient client, JsonObject command)
      throws IOException, InterruptedException {
    RouteRequest request = Json.fill(RouteRequest.newBuilder(), command);
    JsonElement[] placement = new JsonElement[1];
    try {
      client.place(
          request,
          held -> {
            placement[0] = Json.placement(held.placement());
            return decode(held, command.getAsJsonObject("body"));
          });
    } catch (DecodeException asked) {
      return placement[0];
    }
    return placement[0];
  }

  private static Void decode(Held held, JsonObject body) throws InterruptedException {
    if (body.has("output_tokens")) {
      held.outputTokens(body.get("output_tokens").getAsInt());
    }
    if (body.has("seconds")) {
      Thread.sleep(Json.duration(body.get("seconds")).toMillis());
    }
    if (body.has("ends")) {
      throw new DecodeException();
    }
    return null;
  }

  private static JsonElement renew(RouterClient client, JsonObject command) {
    RenewLeasesRequest.Builder request = RenewLeasesRequest.newBuilder();
    request.setModel(command.get("model").getAsString());
    for (JsonElement each : command.getAsJsonArray("leases")) {
      JsonArray lease = each.getAsJsonArray();
      request.addLeases(
          LeaseReference.newBuilder()
              .setRequestId(lease.get(0).getAsString())
              .setAttempt(lease.get(1).getAsInt())
              .setLeaseId(lease.get(2).getAsString()));
    }
    JsonArray unknown = new JsonArray();
    for (LeaseReference each : client.renewLeases(request.build()).getUnknownList()) {
      unknown.add(Json.array(each.getRequestId(), each.getAttempt()));
    }
    return Json.object("unknown", unknown);
  }
}
