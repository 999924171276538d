package eldr.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.Optional;

/**
 * A call that the router did not serve.
 *
 * <p>{@link RouterUnavailableException} is the kind where no router answered, {@link
 * RouterFaultException} the kind where the answer is none of the contract's; all others are the
 * router's own refusals.
 */
public class RouterException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final Status.Code code;
  private final String reason;
  private final String field;
  private final String expected;
  private final String found;
  private final Duration retryAfter;

  RouterException(Details details, Throwable cause) {
    super(details.code + ": " + details.message, cause);
    code = details.code;
    reason = details.reason;
    field = details.field;
    expected = details.expected;
    found = details.found;
    retryAfter = details.retryAfter;
  }

  /** The status of the answer. */
  public Status.Code code() {
    return code;
  }

  /** The router's own word for the cause ({@code ErrorInfo.reason}); empty where it gave none. */
  public String reason() {
    return reason;
  }

  /** The first field that an INVALID_ARGUMENT is about; empty otherwise. */
  public String field() {
    return field;
  }

  /** What that field should have had. */
  public String expected() {
    return expected;
  }

  /** What it had. */
  public String found() {
    return found;
  }

  /** How long to wait after a RESOURCE_EXHAUSTED, where the router said so. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }
}
