package eldr.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Map;
import java.util.Set;

/** What a status says: the contract's details of it, and which kind of failure it is. */
final class Details {
  private static final String DOMAIN = "eldr";

  /** Without the router's ErrorInfo, gRPC gave these by itself, as no server answered. */
  private static final Set<Status.Code> SILENCE =
      EnumSet.of(Status.Code.UNAVAILABLE, Status.Code.DEADLINE_EXCEEDED, Status.Code.CANCELLED);

  private static final Set<Status.Code> CONTRACT =
      EnumSet.of(
          Status.Code.INVALID_ARGUMENT,
          Status.Code.NOT_FOUND,
          Status.Code.FAILED_PRECONDITION,
          Status.Code.RESOURCE_EXHAUSTED,
          Status.Code.UNAUTHENTICATED,
          Status.Code.PERMISSION_DENIED,
          Status.Code.UNAVAILABLE);

  final Status.Code code;
  final String message;
  String reason = "";
  String field = "";
  String expected = "";
  String found = "";
  Duration retryAfter;
  private boolean isOurs;

  Details(Status.Code code, String message) {
    this.code = code;
    this.message = message;
  }

  static RouterException exception(Throwable failure) {
    Status plain = Status.fromThrowable(failure);
    String message = String.valueOf(plain.getDescription());
    if (plain.getCode() == Status.Code.INTERNAL && message.contains("HTTP/2 error code: ")) {
      // So grpc-java tells that the connection ended under a call; no router said it.
      return new RouterUnavailableException(
          new Details(Status.Code.UNAVAILABLE, message), failure);
    }
    com.google.rpc.Status status = null;
    try {
      status = StatusProto.fromThrowable(failure);
    } catch (IllegalArgumentException contradiction) {
      failure.addSuppressed(contradiction); // details of another code than the answer's
    }
    if (status != null) {
      return exception(status, failure);
    }
    return new Details(plain.getCode(), message).ofKind(failure);
  }

  static RouterException exception(com.google.rpc.Status status, Throwable cause) {
    Details details =
        new Details(Status.fromCodeValue(status.getCode()).getCode(), status.getMessage());
    try {
      for (Any each : status.getDetailsList()) {
        details.take(each);
      }
    } catch (InvalidProtocolBufferException broken) {
      return new RouterFaultException(details, broken);
    }
    return details.ofKind(cause);
  }

  private RouterException ofKind(Throwable cause) {
    if (SILENCE.contains(code) && !isOurs) {
      return new RouterUnavailableException(this, cause);
    }
    return CONTRACT.contains(code)
        ? new RouterException(this, cause)
        : new RouterFaultException(this, cause);
  }

  private void take(Any detail) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      ErrorInfo info = detail.unpack(ErrorInfo.class);
      isOurs = info.getDomain().equals(DOMAIN);
      reason = info.getReason();
      Map<String, String> values = info.getMetadataMap();
      if (values.containsKey("field")) { // without the ambiguity of a sentence, so it wins
        field = values.get("field");
        expected = values.getOrDefault("expected", "");
        found = values.getOrDefault("found", "");
      }
    } else if (detail.is(RetryInfo.class)) {
      retryAfter = Waits.duration(detail.unpack(RetryInfo.class).getRetryDelay());
    } else if (detail.is(BadRequest.class) && field.isEmpty()) {
      BadRequest request = detail.unpack(BadRequest.class);
      if (request.getFieldViolationsCount() > 0) {
        violation(request.getFieldViolations(0));
      }
    }
  }

  private void violation(BadRequest.FieldViolation first) {
    field = first.getField();
    String[] parts = first.getDescription().replaceFirst("^expected ", "").split(", found ", 2);
    expected = parts[0];
    found = parts.length > 1 ? parts[1] : "";
  }
}
