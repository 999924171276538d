package eldr.conformance;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import eldr.client.Counts;
import eldr.client.RouterClient;
import eldr.client.RouterException;
import eldr.client.RouterFaultException;
import eldr.client.RouterUnavailableException;
import eldr.v1.ActivationCounts;
import eldr.v1.Placement;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CancellationException;

/** The protocol's objects from and to the client's. */
final class Json {
  private static final Gson GSON = new Gson();
  private static final List<String> DURATIONS =
      List.of("wait_for_signature", "max_wait", "lease_ttl", "decode_duration");
  private static final List<String> COUNTS = List.of("counts", "decode_counts");

  private Json() {}

  static JsonObject object(String name, Object value) {
    JsonObject object = new JsonObject();
    object.add(name, value instanceof JsonElement tree ? tree : GSON.toJsonTree(value));
    return object;
  }

  static JsonArray array(Object... values) {
    return GSON.toJsonTree(values).getAsJsonArray();
  }

  static Duration duration(JsonElement seconds) {
    return Duration.ofNanos(Math.round(seconds.getAsDouble() * 1e9));
  }

  /** The message with the command's fields of the same names. */
  @SuppressWarnings("unchecked") // a builder's build() is of its message
  static <M extends Message> M fill(Message.Builder builder, JsonObject command)
      throws IOException {
    JsonObject fields = written(command);
    if (!fields.has("last")) {
      fields.addProperty("last", true); // the protocol's default
    }
    String outcome =
        command.has("outcome") ? command.get("outcome").getAsString() : "COMPLETED";
    fields.addProperty("outcome", "RELEASE_OUTCOME_" + outcome);
    if (command.has("route")) {
      fields.add("route", written(command.getAsJsonObject("route")));
    }
    JsonFormat.parser().ignoringUnknownFields().merge(fields.toString(), builder);
    for (String name : COUNTS) {
      if (command.has(name)) {
        FieldDescriptor field = builder.getDescriptorForType().findFieldByName(name);
        builder.setField(field, counts(command.get(name)));
      }
    }
    return (M) builder.build();
  }

  /** A copy whose seconds are the text that a Duration has in JSON, without counts. */
  private static JsonObject written(JsonObject given) {
    JsonObject fields = given.deepCopy();
    COUNTS.forEach(fields::remove);
    for (String name : DURATIONS) {
      if (fields.has(name)) {
        fields.addProperty(name, "%.9fs".formatted(fields.get(name).getAsDouble()));
      }
    }
    return fields;
  }

  static ActivationCounts counts(JsonElement given) {
    JsonObject counts = given.getAsJsonObject();
    int[][] rows = GSON.fromJson(counts.get("array"), int[][].class);
    return Counts.of(rows, counts.get("top_k").getAsInt())
        .unknownTokens(number(counts, "unknown_tokens"))
        .layerOffset(number(counts, "layer_offset"))
        .numLayers(number(counts, "num_layers"))
        .build();
  }

  private static int number(JsonObject object, String name) {
    return object.has(name) ? object.get(name).getAsInt() : 0;
  }

  static JsonObject placement(Placement placement) {
    JsonArray alternates = new JsonArray();
    placement
        .getAlternatesList()
        .forEach(each -> alternates.add(array(each.getWorkerId(), each.getUrl(), each.getDpRank())));
    JsonObject said = object("worker_id", placement.getWorkerId());
    said.addProperty("url", placement.getUrl());
    said.addProperty("dp_rank", placement.getDpRank());
    said.add("alternates", alternates);
    said.addProperty("reason", placement.getReason().name().substring("PLACEMENT_REASON_".length()));
    said.addProperty("is_fallback", RouterClient.isFallback(placement));
    said.addProperty("repeated", placement.getRepeated());
    said.addProperty("stale", placement.getStale());
    said.addProperty("policy", placement.getPolicy());
    said.addProperty("partition_version", placement.getPartitionVersion());
    said.addProperty("lease_id", placement.getLeaseId());
    said.addProperty("similarity", placement.hasSimilarity() ? placement.getSimilarity() : null);
    said.addProperty("coverage", placement.getCoverage());
    said.addProperty("early", placement.getEarly());
    return said;
  }

  static JsonObject error(Exception failure) {
    if (failure instanceof CancellationException || failure instanceof InterruptedException) {
      return object("kind", "CANCELLED");
    }
    if (failure instanceof RouterUnavailableException) {
      return object("kind", "ROUTER_UNAVAILABLE");
    }
    if (failure instanceof RouterFaultException) {
      return object("kind", "ROUTER_FAULT");
    }
    if (failure instanceof RouterException refused) {
      JsonObject said = object("kind", refused.code().name());
      said.addProperty("reason", refused.reason());
      said.addProperty("field", refused.field());
      said.addProperty("expected", refused.expected());
      said.addProperty("found", refused.found());
      refused.retryAfter().ifPresent(wait -> said.addProperty("retry_after", wait.toNanos() / 1e9));
      return said;
    }
    if (failure instanceof IllegalArgumentException) {
      return object("kind", "INVALID_VALUE");
    }
    JsonObject broken = object("kind", "BROKEN");
    broken.addProperty("message", failure.toString());
    return broken;
  }
}
