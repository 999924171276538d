package eldr.client;

import eldr.v1.Placement;
import eldr.v1.PlacementReason;
import eldr.v1.RegisterSignatureRequest;
import eldr.v1.RegisterSignatureResponse;
import eldr.v1.ReleaseRequest;
import eldr.v1.ReleaseResult;
import eldr.v1.RenewLeasesRequest;
import eldr.v1.RenewLeasesResponse;
import eldr.v1.RouteRequest;
import eldr.v1.StreamSignaturesRequest;
import eldr.v1.WorkerTarget;
import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;

/**
 * A connection to the router, for any number of threads. It connects on first use and reconnects by
 * itself.
 *
 * <p>No placement fails because the router is away: it is then a worker of the client's own choice
 * ({@link #isFallback}), and releases are kept until the router is back. Calls throw a {@link
 * RouterException} for what the router refused, a {@link RouterUnavailableException} where no router
 * answered, and a {@link java.util.concurrent.CancellationException} where the thread was
 * interrupted, which stays set; the futures of the {@code …Async} forms fail with the same.
 * Interrupting, cancelling a future and cancelling the gRPC context end the call, and what it may
 * have booked. The deadline of a gRPC context counts too.
 */
public final class RouterClient implements AutoCloseable {
  private final Session session;
  private final Duration own;

  private RouterClient(Session session, Duration own) {
    this.session = session;
    this.own = own;
  }

  /**
   * Options of a client.
   *
   * @param target HOST:PORT, several of them with commas between them for replicas, or
   *     dns:///NAME:PORT for all addresses of a name
   */
  public static Builder builder(String target) {
    return new Builder(target);
  }

  /** The same client, whose calls have this deadline, all tries and waits together. */
  public RouterClient within(Duration timeout) {
    return new RouterClient(session, timeout);
  }

  /**
   * Connects and loads what a first call needs, so that no request pays for it.
   *
   * @return whether a router has answered within the timeout
   */
  public boolean warmUp(Duration timeout) {
    return Futures.await(session.warmUp(timeout));
  }

  /**
   * Picks a worker and books it. Release it when the decode has ended; or use {@link #place}. When
   * the router does not answer in time, the placement is the client's own and books nothing.
   */
  public Placement route(RouteRequest request) {
    return Futures.await(routeAsync(request));
  }

  /** {@link #route} as a future. */
  public CompletableFuture<Placement> routeAsync(RouteRequest request) {
    return session.route(request, own);
  }

  /** {@link #route} whose booking is kept alive in the background until it is released. */
  public Held place(RouteRequest request) {
    return Futures.await(placeAsync(request));
  }

  /** {@link #place(RouteRequest)} as a future. */
  public CompletableFuture<Held> placeAsync(RouteRequest request) {
    return Futures.following(
        routeAsync(request),
        (placement, failure) -> {
          if (failure != null) {
            throw Futures.rethrown(failure);
          }
          return new Held(new RouterClient(session, null), session.link, request, placement);
        },
        held -> held.release(eldr.v1.ReleaseOutcome.RELEASE_OUTCOME_CANCELLED));
  }

  /**
   * Has the body done with a placement and releases it with how that ended: COMPLETED when it
   * returns, CANCELLED for an interruption or cancellation that it throws, FAILED for anything else.
   */
  public <T, E extends Exception> T place(RouteRequest request, Held.Body<T, E> body) throws E {
    Held held = place(request);
    Throwable thrown = null;
    try {
      return body.apply(held);
    } catch (Throwable failure) {
      thrown = failure;
      throw failure;
    } finally {
      held.done(thrown).join();
    }
  }

  /**
   * Ends a booking; twice is fine. The result is UNSPECIFIED where the router does not answer: the
   * release is kept and sent once it does.
   */
  public ReleaseResult release(ReleaseRequest request) {
    return Futures.await(releaseAsync(request));
  }

  /** {@link #release} as a future. */
  public CompletableFuture<ReleaseResult> releaseAsync(ReleaseRequest request) {
    return session.release(request, own);
  }

  /** Keeps bookings alive; the answer names those that are not. */
  public RenewLeasesResponse renewLeases(RenewLeasesRequest request) {
    return Futures.await(renewLeasesAsync(request));
  }

  /** {@link #renewLeases} as a future. */
  public CompletableFuture<RenewLeasesResponse> renewLeasesAsync(RenewLeasesRequest request) {
    return session.unary(Methods.RENEW_LEASES, request, request.getModel(), own);
  }

  /** Adds one chunk of a request's counts to what the router holds of it. */
  public RegisterSignatureResponse registerSignature(RegisterSignatureRequest request) {
    return Futures.await(registerSignatureAsync(request));
  }

  /** {@link #registerSignature} as a future. */
  public CompletableFuture<RegisterSignatureResponse> registerSignatureAsync(
      RegisterSignatureRequest request) {
    return session.unary(Methods.REGISTER_SIGNATURE, request, request.getModel(), own);
  }

  /**
   * {@link #registerSignature} by a stream that stays open. With {@code route} in the request, it is
   * placed once the chunk is added, and that is the placement; it is never a fallback.
   */
  public Optional<Placement> streamSignature(StreamSignaturesRequest request) {
    return Futures.await(streamSignatureAsync(request));
  }

  /** {@link #streamSignature} as a future. */
  public CompletableFuture<Optional<Placement>> streamSignatureAsync(
      StreamSignaturesRequest request) {
    return session.streamSignature(request, own);
  }

  CompletableFuture<Void> say(ReleaseRequest request) {
    return session.say(request, own);
  }

  /** The client chose by itself, as the router did not answer. Nothing is booked. */
  public static boolean isFallback(Placement placement) {
    return placement.getReason() == PlacementReason.PLACEMENT_REASON_CLIENT_FALLBACK;
  }

  /** The chosen worker and its alternates, in the order to try them. */
  public static List<WorkerTarget> targets(Placement placement) {
    List<WorkerTarget> targets = new ArrayList<>();
    targets.add(
        WorkerTarget.newBuilder()
            .setWorkerId(placement.getWorkerId())
            .setUrl(placement.getUrl())
            .setDpRank(placement.getDpRank())
            .build());
    targets.addAll(placement.getAlternatesList());
    return targets;
  }

  /**
   * Says what is still unsaid, for a second at most, and disconnects: this client and all that {@link
   * #within} made of it.
   */
  @Override
  public void close() {
    session.close();
  }

  /** Options; those not set are for a daemon on this host. */
  public static final class Builder {
    final String target;
    Duration timeout = Duration.ofMillis(250);
    String token = "";
    ChannelCredentials credentials = InsecureChannelCredentials.create();
    List<Worker> fallbackWorkers = List.of();

    private Builder(String target) {
      this.target = target;
    }

    /** Of a call; what the request itself asks to wait for comes on top. Default 250 ms. */
    public Builder timeout(Duration each) {
      timeout = each;
      return this;
    }

    /** A bearer token. Without TLS it goes out in the clear. */
    public Builder token(String bearer) {
      token = bearer;
      return this;
    }

    /** {@link io.grpc.TlsChannelCredentials}, where the router serves TLS. */
    public Builder credentials(ChannelCredentials given) {
      credentials = given;
      return this;
    }

    /** Workers that are known before the first placement names any. */
    public Builder fallbackWorkers(List<Worker> workers) {
      fallbackWorkers = List.copyOf(workers);
      return this;
    }

    /**
     * The client, not yet connected.
     *
     * @throws IllegalArgumentException says what is wrong with the target
     */
    public RouterClient build() {
      return new RouterClient(new Session(this), null);
    }
  }
}
