package eldr.client;

import eldr.v1.RouteRequest;
import java.time.Duration;

/** What a request asks to wait for: first for its signature, then for a place. */
record Waits(Duration signature, Duration place) {
  static final Waits NONE = new Waits(Duration.ZERO, Duration.ZERO);

  static Waits of(RouteRequest request) {
    return new Waits(duration(request.getWaitForSignature()), duration(request.getMaxWait()));
  }

  Duration total() {
    return signature.plus(place);
  }

  /** The request, asking for what is left of the waits. */
  RouteRequest rest(RouteRequest request, Duration passed) {
    if (passed.isZero() || total().isZero()) {
      return request;
    }
    RouteRequest.Builder rest = request.toBuilder();
    if (!signature.isZero()) {
      rest.setWaitForSignature(proto(positive(signature.minus(passed))));
    }
    if (!place.isZero()) {
      rest.setMaxWait(proto(positive(place.minus(positive(passed.minus(signature))))));
    }
    return rest.build();
  }

  static Duration positive(Duration duration) {
    return duration.isNegative() ? Duration.ZERO : duration;
  }

  static Duration duration(com.google.protobuf.Duration proto) {
    return Duration.ofSeconds(proto.getSeconds(), proto.getNanos());
  }

  static com.google.protobuf.Duration proto(Duration duration) {
    return com.google.protobuf.Duration.newBuilder()
        .setSeconds(duration.getSeconds())
        .setNanos(duration.getNano())
        .build();
  }
}
