package eldr.client;

import eldr.v1.ActivationCounts;
import eldr.v1.LeaseReference;
import eldr.v1.Placement;
import eldr.v1.ReleaseOutcome;
import eldr.v1.ReleaseRequest;
import eldr.v1.RenewLeasesRequest;
import eldr.v1.RouteRequest;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Future;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * A placement whose lease is kept alive until it is released, once.
 *
 * <p>Say what is known of the decode, and {@link #completed()}, before that. A block that is left
 * without it releases as FAILED, or as CANCELLED where its thread is interrupted.
 */
public final class Held implements AutoCloseable {
  /** What is done with a placement. */
  @FunctionalInterface
  public interface Body<T, E extends Exception> {
    /** The result of the decode. */
    T apply(Held held) throws E;
  }

  private static final System.Logger LOG = System.getLogger("eldr.client");
  private static final Duration LEAST_PAUSE = Duration.ofMillis(100);
  private static final Duration RELEASE_TIMEOUT = Duration.ofSeconds(1);

  private final RouterClient client;
  private final RouteRequest request;
  private final Placement placement;
  private final AtomicBoolean isReleased = new AtomicBoolean();
  private final Future<?> renewals;
  private volatile boolean isCompleted;
  private volatile int outputTokens;
  private volatile Duration decodeDuration = Duration.ZERO;
  private volatile ActivationCounts decodeCounts;

  Held(RouterClient client, Link link, RouteRequest request, Placement placement) {
    this.client = client;
    this.request = request;
    this.placement = placement;
    renewals = isBooked() ? renewing(link) : null;
  }

  private Future<?> renewing(Link link) {
    Duration third = Waits.duration(placement.getLeaseRemaining()).dividedBy(3);
    try {
      return link.every(third.compareTo(LEAST_PAUSE) > 0 ? third : LEAST_PAUSE, this::renew);
    } catch (RejectedExecutionException closed) {
      throw new IllegalStateException("the client is closed", closed);
    }
  }

  /** The router's answer. */
  public Placement placement() {
    return placement;
  }

  /** Where the chosen worker serves. */
  public String url() {
    return placement.getUrl();
  }

  /** The data-parallel rank at that url. */
  public int dpRank() {
    return placement.getDpRank();
  }

  /** The client chose by itself, as the router did not answer. Nothing is booked. */
  public boolean isFallback() {
    return RouterClient.isFallback(placement);
  }

  /** Tokens generated, all sequences. */
  public Held outputTokens(int tokens) {
    outputTokens = tokens;
    return this;
  }

  /** From the first to the last token. */
  public Held decodeDuration(Duration duration) {
    decodeDuration = duration;
    return this;
  }

  /** The experts that the decode really used. */
  public Held decodeCounts(ActivationCounts counts) {
    decodeCounts = counts;
    return this;
  }

  /** The answer is complete: {@link #close()} will say so. */
  public void completed() {
    isCompleted = true;
  }

  /**
   * Ends the booking with how the decode ended. Only the first call counts. It never fails: what
   * cannot be said now is said when the router is back.
   *
   * @return done when the router has heard it, or the release is kept
   */
  public CompletableFuture<Void> release(ReleaseOutcome outcome) {
    if (!isReleased.compareAndSet(false, true) || !isBooked()) {
      return CompletableFuture.completedFuture(null);
    }
    renewals.cancel(false);
    ReleaseRequest.Builder release =
        ReleaseRequest.newBuilder()
            .setModel(request.getModel())
            .setRequestId(request.getRequestId())
            .setAttempt(request.getAttempt())
            .setLeaseId(placement.getLeaseId())
            .setOutcome(outcome)
            .setOutputTokens(outputTokens);
    if (!decodeDuration.isZero()) {
      release.setDecodeDuration(Waits.proto(decodeDuration));
    }
    if (decodeCounts != null) {
      release.setDecodeCounts(decodeCounts);
    }
    return client.within(RELEASE_TIMEOUT).say(release.build());
  }

  /**
   * Releases with the outcome that the failure tells: COMPLETED for null, CANCELLED for a
   * cancellation or interruption, FAILED for any other. Fits {@link
   * CompletableFuture#whenComplete}.
   */
  public CompletableFuture<Void> done(Throwable failure) {
    if (failure == null) {
      return release(ReleaseOutcome.RELEASE_OUTCOME_COMPLETED);
    }
    Throwable cause = failure instanceof CompletionException ? failure.getCause() : failure;
    boolean isGivenUp =
        cause instanceof CancellationException || cause instanceof InterruptedException;
    return release(
        isGivenUp
            ? ReleaseOutcome.RELEASE_OUTCOME_CANCELLED
            : ReleaseOutcome.RELEASE_OUTCOME_FAILED);
  }

  /** Releases, unless that was done, and waits until the router has heard it: a second at most. */
  @Override
  public void close() {
    ReleaseOutcome left =
        Thread.currentThread().isInterrupted()
            ? ReleaseOutcome.RELEASE_OUTCOME_CANCELLED
            : ReleaseOutcome.RELEASE_OUTCOME_FAILED;
    release(isCompleted ? ReleaseOutcome.RELEASE_OUTCOME_COMPLETED : left).join();
  }

  /** A fallback was disowned already, if the router was asked at all; a dry run has no lease. */
  private boolean isBooked() {
    return !placement.getLeaseId().isEmpty();
  }

  private void renew() {
    RenewLeasesRequest renewal =
        RenewLeasesRequest.newBuilder()
            .setModel(request.getModel())
            .addLeases(
                LeaseReference.newBuilder()
                    .setRequestId(request.getRequestId())
                    .setAttempt(request.getAttempt())
                    .setLeaseId(placement.getLeaseId()))
            .build();
    client
        .renewLeasesAsync(renewal)
        .whenComplete(
            (answer, failure) -> {
              if (failure == null && answer.getUnknownCount() > 0 && !isReleased.get()) {
                LOG.log(
                    System.Logger.Level.WARNING,
                    "the booking of {0} has ended",
                    request.getRequestId());
                renewals.cancel(false);
              }
            });
  }
}
