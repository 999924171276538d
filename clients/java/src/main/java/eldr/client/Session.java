package eldr.client;

import eldr.v1.Placement;
import eldr.v1.ReleaseRequest;
import eldr.v1.ReleaseResponse;
import eldr.v1.ReleaseResult;
import eldr.v1.RouteRequest;
import eldr.v1.RouteResponse;
import eldr.v1.StreamSignaturesRequest;
import eldr.v1.StreamSignaturesResponse;
import io.grpc.Context;
import io.grpc.MethodDescriptor;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/** What the calls of a client share. {@code own} is the caller's own deadline, or null. */
final class Session implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger("eldr.client");
  private static final long FAREWELL_SECONDS = 1;

  final Link link;
  private final Duration timeout;
  private final Fallback fallback;
  private final Chores chores;
  private final SignatureStream stream;
  private final AtomicBoolean isClosed = new AtomicBoolean();

  Session(RouterClient.Builder options) {
    link = new Link(options);
    timeout = options.timeout;
    fallback = new Fallback(options.fallbackWorkers);
    chores = new Chores(link, timeout, request -> release(request, null));
    stream = new SignatureStream(link);
  }

  <Q, A> CompletableFuture<A> unary(
      MethodDescriptor<Q, A> method, Q request, String model, Duration own) {
    return call(
        model, Waits.NONE, own, (passed, until) -> Methods.send(link.calls, method, request, until));
  }

  private <A> CompletableFuture<A> call(
      String model, Waits waits, Duration own, Call.Try<A> trying) {
    Duration whole = own != null ? own : timeout.plus(waits.total());
    return new Call<>(link, chores, model, waits.total(), whole, trying).answer;
  }

  CompletableFuture<Placement> route(RouteRequest request, Duration own) {
    boolean wasAsked = !chores.isSilent();
    Waits waits = Waits.of(request);
    CompletableFuture<RouteResponse> answer =
        call(
            request.getModel(),
            waits,
            own,
            (passed, until) ->
                Methods.send(link.calls, Methods.ROUTE, waits.rest(request, passed), until));
    return Futures.following(
        answer,
        (response, failure) -> placement(request, response, failure, wasAsked),
        lost -> chores.disown(request));
  }

  private Placement placement(
      RouteRequest request, RouteResponse response, Throwable failure, boolean wasAsked) {
    if (failure == null) {
      fallback.learn(request.getModel(), response.getPlacement());
      return response.getPlacement();
    }
    if (wasAsked && isWithoutAnswer(failure)) {
      chores.disown(request);
    }
    if (failure instanceof CancellationException || !isWithoutAnswer(failure)) {
      throw Futures.rethrown(failure);
    }
    return fallback
        .place(request)
        .orElseThrow(
            () ->
                new RouterUnavailableException(
                    "the router does not answer, and no worker of %s is known"
                        .formatted(request.getModel()),
                    failure));
  }

  /** Whether something may be booked that the caller does not know of. */
  private static boolean isWithoutAnswer(Throwable failure) {
    return failure instanceof RouterUnavailableException
        || failure instanceof RouterFaultException
        || failure instanceof CancellationException;
  }

  CompletableFuture<Optional<Placement>> streamSignature(
      StreamSignaturesRequest request, Duration own) {
    boolean wasAsked = !chores.isSilent();
    Waits waits = Waits.of(request.getRoute());
    RouteRequest named =
        request.getRoute().toBuilder()
            .setModel(request.getModel())
            .setRequestId(request.getRequestId())
            .build();
    CompletableFuture<StreamSignaturesResponse> answer =
        call(
            request.getModel(),
            waits,
            own,
            (passed, until) -> stream.exchange(rest(request, waits, passed), until));
    return Futures.following(
        answer,
        (response, failure) -> {
          if (failure != null) {
            if (request.hasRoute() && wasAsked && isWithoutAnswer(failure)) {
              chores.disown(named);
            }
            throw Futures.rethrown(failure);
          }
          if (response.hasStatus()) {
            throw Details.exception(response.getStatus(), null);
          }
          if (!response.hasPlacement()) {
            return Optional.empty();
          }
          fallback.learn(request.getModel(), response.getPlacement());
          return Optional.of(response.getPlacement());
        },
        lost -> {
          if (request.hasRoute()) {
            chores.disown(named);
          }
        });
  }

  private static StreamSignaturesRequest rest(
      StreamSignaturesRequest request, Waits waits, Duration passed) {
    return request.hasRoute()
        ? request.toBuilder().setRoute(waits.rest(request.getRoute(), passed)).build()
        : request;
  }

  CompletableFuture<ReleaseResult> release(ReleaseRequest request, Duration own) {
    CompletableFuture<ReleaseResponse> answer =
        unary(Methods.RELEASE, request, request.getModel(), own);
    return Futures.following(
        answer,
        (response, failure) -> {
          if (failure == null) {
            return response.getResult();
          }
          boolean isSilence = failure instanceof RouterUnavailableException;
          if (isSilence || failure instanceof CancellationException) {
            chores.keep(request); // the booking must end anyway
          }
          if (!isSilence) {
            throw Futures.rethrown(failure);
          }
          return ReleaseResult.RELEASE_RESULT_UNSPECIFIED;
        },
        lost -> {});
  }

  /** A release that must go out whatever became of the caller's context; it never fails. */
  CompletableFuture<Void> say(ReleaseRequest request, Duration own) {
    Context before = Context.ROOT.attach();
    try {
      return chores.reported(request, release(request, own));
    } finally {
      Context.ROOT.detach(before);
    }
  }

  CompletableFuture<Boolean> warmUp(Duration within) {
    return chores.ask(
        HealthGrpc.getCheckMethod(), HealthCheckRequest.getDefaultInstance(), within);
  }

  @Override
  public void close() {
    if (!isClosed.compareAndSet(false, true)) {
      return;
    }
    // An interrupt does not keep releases from being said.
    chores.sayAll().copy().completeOnTimeout(null, FAREWELL_SECONDS, TimeUnit.SECONDS).join();
    if (chores.left() > 0) {
      LOG.log(System.Logger.Level.WARNING, "{0} releases are left to expire", chores.left());
    }
    link.close();
  }
}
