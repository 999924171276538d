package eldr.client;

import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.function.BiFunction;
import java.util.function.Consumer;

/** Futures whose cancellation reaches what they wait for, and the blocking form of them. */
final class Futures {
  private Futures() {}

  static void ifCancelled(CompletableFuture<?> future, Runnable then) {
    future.whenComplete(
        (value, failure) -> {
          if (future.isCancelled()) {
            then.run();
          }
        });
  }

  /**
   * What {@code next} makes of the outcome of {@code first}. A result that comes too late, as the
   * future was cancelled, goes to {@code lost}.
   */
  static <A, B> CompletableFuture<B> following(
      CompletableFuture<A> first, BiFunction<A, Throwable, B> next, Consumer<B> lost) {
    CompletableFuture<B> then = new CompletableFuture<>();
    first.whenComplete(
        (value, failure) -> {
          try {
            B result = next.apply(value, failure);
            if (!then.complete(result)) {
              lost.accept(result);
            }
          } catch (RuntimeException | Error thrown) {
            then.completeExceptionally(thrown);
          }
        });
    ifCancelled(then, () -> first.cancel(true));
    return then;
  }

  /** The value, or the failure as it was thrown. Interruption cancels, and stays set. */
  static <A> A await(CompletableFuture<A> future) {
    try {
      return future.get();
    } catch (InterruptedException interrupted) {
      boolean cancelled = future.cancel(true);
      Thread.currentThread().interrupt();
      if (cancelled) {
        throw new CancellationException("the thread was interrupted");
      }
      return future.join();
    } catch (ExecutionException failed) {
      throw rethrown(failed.getCause());
    }
  }

  static RuntimeException rethrown(Throwable failure) {
    if (failure instanceof Error error) {
      throw error;
    }
    return failure instanceof RuntimeException known ? known : new IllegalStateException(failure);
  }
}
