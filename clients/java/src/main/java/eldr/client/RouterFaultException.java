package eldr.client;

/** An answer outside the contract: a fault of the router, or of something before it. */
public final class RouterFaultException extends RouterException {
  private static final long serialVersionUID = 1L;

  RouterFaultException(Details details, Throwable cause) {
    super(details, cause);
  }
}
