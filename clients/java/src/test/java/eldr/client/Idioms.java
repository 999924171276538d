package eldr.client;

import eldr.v1.RouteRequest;
import io.grpc.ChannelCredentials;
import io.grpc.Context;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;

/**
 * Leaves placements in every way that Java has; tests/conformance/test_java_idioms.py looks at the
 * releases. Its arguments are the router's address and the certificate of its authority; the router
 * never answers requests whose id begins with "hangs".
 */
final class Idioms {
  private Idioms() {}

  public static void main(String[] arguments) throws Exception {
    ChannelCredentials tls =
        TlsChannelCredentials.newBuilder().trustManager(new File(arguments[1])).build();
    try (RouterClient client =
        RouterClient.builder(arguments[0])
            .credentials(tls)
            .token("secret")
            .timeout(Duration.ofSeconds(30))
            .build()) {
      leaveBlocks(client);
      leaveLambda(client);
      giveUp(client);
    }
    awaitThreads();
    System.out.println("done");
  }

  private static void leaveBlocks(RouterClient client) {
    try (Held held = client.place(request("completed"))) {
      held.outputTokens(7).completed();
    }
    try (Held held = client.place(request("thrown"))) {
      throw new IOException("the decode failed at " + held.url());
    } catch (IOException expected) {
      expect(expected.getMessage().contains("http"), "the url of a worker");
    }
    try (Held held = client.place(request("interrupted"))) {
      expect(!held.isFallback(), "a booked placement");
      Thread.currentThread().interrupt();
    }
    expect(Thread.interrupted(), "the interrupt to stay set");
  }

  private static void leaveLambda(RouterClient client) {
    try {
      client.place(
          request("interrupted in a lambda"),
          held -> {
            throw new InterruptedException();
          });
    } catch (InterruptedException expected) {
      expect(!Thread.interrupted(), "an InterruptedException that cleared the flag");
    }
    expect(client.place(request("returned"), Held::isFallback) == false, "a booked placement");
  }

  private static void giveUp(RouterClient client) throws InterruptedException {
    CompletableFuture<Held> placed = client.placeAsync(request("hangs, its future is cancelled"));
    placed.cancel(true);

    Context.CancellableContext context = Context.current().withCancellation();
    CompletableFuture<?>[] routed = new CompletableFuture<?>[1];
    context.run(() -> routed[0] = client.routeAsync(request("hangs, its context is cancelled")));
    context.cancel(null);
    try {
      routed[0].join();
      throw new AssertionError("expected a cancellation, found an answer");
    } catch (CancellationException expected) {
      expect(routed[0].isCancelled(), "a cancelled future");
    }
    CompletableFuture<Held> async = client.placeAsync(request("future"));
    async.thenCompose(held -> held.done(null)).join();
  }

  private static void awaitThreads() throws InterruptedException {
    long until = System.nanoTime() + Duration.ofSeconds(30).toNanos();
    while (Thread.getAllStackTraces().keySet().stream()
        .anyMatch(thread -> thread.getName().startsWith("eldr-"))) {
      expect(System.nanoTime() < until, "the client's threads to end with it");
      Thread.sleep(50);
    }
  }

  private static RouteRequest request(String id) {
    return RouteRequest.newBuilder().setModel("m").setRequestId(id).build();
  }

  private static void expect(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError("expected " + what);
    }
  }
}
