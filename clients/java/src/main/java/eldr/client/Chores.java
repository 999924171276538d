package eldr.client;

import eldr.v1.ReleaseOutcome;
import eldr.v1.ReleaseRequest;
import eldr.v1.RouteRequest;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/** Finds the router again when it is silent, then says the releases that it has not heard. */
final class Chores {
  private static final System.Logger LOG = System.getLogger("eldr.client");
  private static final Duration FIRST_PROBE = Duration.ofMillis(100);
  private static final Duration LAST_PROBE = Duration.ofMillis(250);

  /** The oldest beyond these are left to the expiry of their leases. */
  private static final int MOST_UNSAID = 10_000;

  private final Link link;
  private final Duration timeout;
  private final Function<ReleaseRequest, CompletableFuture<?>> release;
  private final Deque<ReleaseRequest> unsaid = new ArrayDeque<>();
  private CompletableFuture<Void> saying = CompletableFuture.completedFuture(null);

  /**
   * The model of the call that had no answer, until a probe has one; else null. One failure is
   * enough, as it costs little: a router that is well answers the first probe.
   */
  private volatile String silent;

  Chores(Link link, Duration timeout, Function<ReleaseRequest, CompletableFuture<?>> release) {
    this.link = link;
    this.timeout = timeout;
    this.release = release;
  }

  boolean isSilent() {
    return silent != null;
  }

  void trip(String model, RouterException failure) {
    synchronized (this) {
      if (silent != null) {
        return;
      }
      silent = model;
    }
    LOG.log(System.Logger.Level.WARNING, "the router does not answer; falling back: {0}", failure.getMessage());
    probeAfter(FIRST_PROBE);
  }

  /** Ends what may be booked without our knowing its lease. */
  void disown(RouteRequest request) {
    if (!request.getDryRun()) {
      keep(
          ReleaseRequest.newBuilder()
              .setModel(request.getModel())
              .setRequestId(request.getRequestId())
              .setAttempt(request.getAttempt())
              .setOutcome(ReleaseOutcome.RELEASE_OUTCOME_CANCELLED)
              .build());
    }
  }

  /** Says the release as soon as the router answers. */
  void keep(ReleaseRequest request) {
    synchronized (this) {
      if (unsaid.size() == MOST_UNSAID) {
        unsaid.remove();
      }
      unsaid.add(request);
    }
    sayAll();
  }

  /** Says what is unsaid, one after the other; done when nothing is, or the router is silent. */
  synchronized CompletableFuture<Void> sayAll() {
    if (saying.isDone()) {
      CompletableFuture<Void> all = new CompletableFuture<>();
      saying = all;
      sayNext(all);
    }
    return saying;
  }

  synchronized int left() {
    return unsaid.size();
  }

  private void sayNext(CompletableFuture<Void> all) {
    ReleaseRequest request;
    synchronized (this) {
      request = isSilent() || link.isClosed() ? null : unsaid.poll();
      if (request == null) {
        all.complete(null);
        return;
      }
    }
    Context.ROOT.run(
        () ->
            reported(request, release.apply(request))
                .whenComplete((said, failure) -> sayNext(all)));
  }

  /** The same release without its outcome; a refusal is logged. */
  CompletableFuture<Void> reported(ReleaseRequest request, CompletableFuture<?> released) {
    return released.handle(
        (result, failure) -> {
          if (failure != null) {
            LOG.log(
                System.Logger.Level.WARNING,
                "a release of {0} was refused: {1}",
                request.getRequestId(),
                failure.getMessage());
          }
          return null;
        });
  }

  private void probeAfter(Duration pause) {
    try {
      link.after(pause, () -> probe(pause));
    } catch (RejectedExecutionException closed) {
      LOG.log(System.Logger.Level.DEBUG, "closed while the router was silent", closed);
    }
  }

  /**
   * Asks the very path that calls take, so that whatever hangs there keeps it silent. Any answer will
   * do, an error too; it books nothing.
   */
  private void probe(Duration pause) {
    link.reconnect();
    RouteRequest request =
        RouteRequest.newBuilder()
            .setModel(silent)
            .setRequestId("eldr-client-probe")
            .setDryRun(true)
            .build();
    ask(Methods.ROUTE, request, timeout)
        .thenAccept(
            answers -> {
              if (answers) {
                silent = null;
                LOG.log(System.Logger.Level.INFO, "the router answers again");
                sayAll();
              } else {
                Duration twice = pause.multipliedBy(2);
                probeAfter(twice.compareTo(LAST_PROBE) < 0 ? twice : LAST_PROBE);
              }
            });
  }

  /** Whether there is any answer. */
  <Q> CompletableFuture<Boolean> ask(MethodDescriptor<Q, ?> method, Q request, Duration within) {
    Deadline until = Deadline.after(within.toNanos(), TimeUnit.NANOSECONDS);
    return Methods.send(link.calls, method, request, until)
        .handle(
            (answer, failure) ->
                failure == null
                    || !(Details.exception(failure) instanceof RouterUnavailableException));
  }
}
