package eldr.client;

import eldr.v1.StreamSignaturesRequest;
import eldr.v1.StreamSignaturesResponse;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/**
 * Sends a message and waits for its answer, as a unary call does, on a call that stays open. It opens
 * on first use, and again after it has broken. Messages take turns.
 */
final class SignatureStream {
  private final Link link;
  private final Deque<Exchange> waiting = new ArrayDeque<>();
  private Exchange current;
  private ClientCall<StreamSignaturesRequest, StreamSignaturesResponse> open;

  private static final class Exchange extends CompletableFuture<StreamSignaturesResponse> {
    final StreamSignaturesRequest request;

    Exchange(StreamSignaturesRequest request) {
      this.request = request;
    }
  }

  SignatureStream(Link link) {
    this.link = link;
  }

  /** The answer to the request, or what the stream ended with. Cancelling it gives up. */
  CompletableFuture<StreamSignaturesResponse> exchange(
      StreamSignaturesRequest request, Deadline until) {
    Exchange mine = new Exchange(request);
    Duration left = Duration.ofNanos(until.timeRemaining(TimeUnit.NANOSECONDS));
    Future<?> alarm = link.after(left, () -> fail(mine, Status.DEADLINE_EXCEEDED));
    mine.whenComplete(
        (answer, failure) -> {
          alarm.cancel(false);
          end(mine, failure != null);
        });
    synchronized (this) {
      waiting.add(mine);
      sendNext();
    }
    return mine;
  }

  private synchronized void end(Exchange ended, boolean failed) {
    if (ended != current) {
      waiting.remove(ended);
      return;
    }
    current = null;
    if (failed && open != null) { // a late answer would be taken for that of the next message
      open.cancel("its answer is no longer awaited", null);
      open = null;
    }
    sendNext();
  }

  private synchronized void sendNext() {
    if (current != null || waiting.isEmpty()) {
      return;
    }
    current = waiting.remove();
    if (open == null) {
      // The stream outlives the call that opens it, and so the context of that.
      Context.ROOT.run(this::begin);
    }
    open.sendMessage(current.request);
    open.request(1);
  }

  private void begin() {
    open = link.calls.newCall(Methods.STREAM_SIGNATURES, CallOptions.DEFAULT);
    open.start(new Answers(open), new Metadata());
  }

  private static void fail(Exchange exchange, Status status) {
    exchange.completeExceptionally(status.asRuntimeException());
  }

  private final class Answers extends ClientCall.Listener<StreamSignaturesResponse> {
    private final ClientCall<?, ?> call;

    Answers(ClientCall<?, ?> call) {
      this.call = call;
    }

    @Override
    public void onMessage(StreamSignaturesResponse answer) {
      Exchange answered;
      synchronized (SignatureStream.this) {
        answered = call == open ? current : null;
      }
      if (answered != null) {
        answered.complete(answer);
      }
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      Exchange broken;
      synchronized (SignatureStream.this) {
        if (call != open) {
          return;
        }
        open = null;
        broken = current;
      }
      if (broken != null) {
        Status ended = Status.UNAVAILABLE.withDescription("the router ended the stream");
        broken.completeExceptionally((status.isOk() ? ended : status).asRuntimeException(trailers));
      }
    }
  }
}
