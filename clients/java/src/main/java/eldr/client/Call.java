package eldr.client;

import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * One RPC, sent again (it is idempotent) while no answer comes and time is left.
 *
 * <p>The waits are added to the timeout. Where there are replicas, a try takes its waits and at most
 * half of the rest, so that a frozen one leaves time to ask another. Cancelling the answer, or the
 * {@link Context} of the caller, gives up.
 */
final class Call<A> {
  /** One try, {@code passed} after the call began. */
  interface Try<A> {
    CompletableFuture<A> send(Duration passed, Deadline until);
  }

  /**
   * Before the second and third try. The second helps when a connection broke under the call, the
   * third when the router is back.
   */
  private static final Duration[] PAUSES = {Duration.ofMillis(25), Duration.ofMillis(100)};

  final CompletableFuture<A> answer = new CompletableFuture<>();
  private final Link link;
  private final Chores chores;
  private final String model;
  private final long waits;
  private final Try<A> trying;
  private final Context context = Context.current();
  private final long began = System.nanoTime();
  private final long deadline;
  private int tries;
  private volatile Future<?> underWay;

  Call(Link link, Chores chores, String model, Duration waits, Duration whole, Try<A> trying) {
    this.link = link;
    this.chores = chores;
    this.model = model;
    this.waits = waits.toNanos();
    this.trying = trying;
    long allowed = whole.toNanos();
    if (context.getDeadline() != null) {
      allowed = Math.min(allowed, context.getDeadline().timeRemaining(TimeUnit.NANOSECONDS));
    }
    deadline = began + allowed;
    Futures.ifCancelled(answer, () -> giveUp(underWay));
    send();
  }

  private void send() {
    if (link.isClosed() || chores.isSilent()) {
      String why = link.isClosed() ? "the client is closed" : "it was silent a moment ago";
      answer.completeExceptionally(new RouterUnavailableException(why, null));
      return;
    }
    long now = System.nanoTime();
    long left = deadline - now;
    boolean isLast = tries >= PAUSES.length;
    long pause = isLast ? 0 : pause();
    if (link.several && !isLast && pause < left) {
      long patience = Math.max(waits - (now - began), 0);
      left = patience + Math.max(left - patience, 0) / 2;
    }
    Deadline until = Deadline.after(left, TimeUnit.NANOSECONDS);
    Context before = context.attach();
    CompletableFuture<A> current;
    try {
      current = trying.send(Duration.ofNanos(tries == 0 ? 0 : now - began), until);
    } catch (RejectedExecutionException closed) {
      answer.completeExceptionally(new RouterUnavailableException("the client is closed", closed));
      return;
    } finally {
      context.detach(before);
    }
    proceed(current);
    current.whenComplete((value, failure) -> judge(value, failure, pause, isLast));
  }

  private long pause() {
    double jitter = 1 + ThreadLocalRandom.current().nextDouble() / 4;
    return (long) (PAUSES[tries].toNanos() * jitter);
  }

  private void judge(A value, Throwable failure, long pause, boolean isLast) {
    if (failure == null) {
      answer.complete(value);
      return;
    }
    if (answer.isDone()) {
      return;
    }
    if (context.isCancelled() && !(context.cancellationCause() instanceof TimeoutException)) {
      answer.cancel(true);
      return;
    }
    RouterException known = Details.exception(failure);
    if (!(known instanceof RouterUnavailableException)) {
      answer.completeExceptionally(known);
      return;
    }
    boolean isLate = isLast || System.nanoTime() + pause > deadline;
    if (isLate || known.code() == Status.Code.DEADLINE_EXCEEDED && !link.several) {
      chores.trip(model, known);
      answer.completeExceptionally(known);
      return;
    }
    tries++;
    link.reconnect();
    try {
      proceed(link.after(Duration.ofNanos(pause), this::send));
    } catch (RejectedExecutionException closed) {
      answer.completeExceptionally(known);
    }
  }

  private void proceed(Future<?> next) {
    underWay = next;
    if (answer.isDone()) { // given up meanwhile
      giveUp(next);
    }
  }

  private static void giveUp(Future<?> work) {
    if (work != null) {
      work.cancel(true);
    }
  }
}
