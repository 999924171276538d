package eldr.client;

import io.grpc.Status;

/** No router answered, and for a placement no worker is known to fall back on. */
public final class RouterUnavailableException extends RouterException {
  private static final long serialVersionUID = 1L;

  RouterUnavailableException(Details details, Throwable cause) {
    super(details, cause);
  }

  RouterUnavailableException(String message, Throwable cause) {
    this(new Details(Status.Code.UNAVAILABLE, message), cause);
  }
}
