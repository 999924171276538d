package eldr.client;

import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** The connection to the router, and the daemon threads behind it. */
final class Link implements AutoCloseable {
  /** A replica that came back is found again within so long. */
  private static final long RECONNECT_SECONDS = 1;

  private static final int CONNECT_MILLIS = 1000;

  final boolean several;
  final Channel calls;
  private final ManagedChannel channel;
  private final ThreadPoolExecutor threads;
  private final ScheduledThreadPoolExecutor clock;

  Link(RouterClient.Builder options) {
    Addresses addresses = Addresses.parse(options.target);
    several = addresses.several();
    // Threads end a second after their last work, so calls that a close ends are still told.
    threads =
        new ThreadPoolExecutor(
            0, Integer.MAX_VALUE, 1, TimeUnit.SECONDS, new SynchronousQueue<>(), named("eldr-call-"));
    clock = new ScheduledThreadPoolExecutor(1, named("eldr-clock-"));
    clock.setRemoveOnCancelPolicy(true);
    NettyChannelBuilder builder =
        NettyChannelBuilder.forTarget(addresses.target(), options.credentials)
            .executor(threads)
            .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_MILLIS)
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS)
            .disableRetry(); // the client's own tries have one deadline together
    if (several) {
      builder
          .defaultLoadBalancingPolicy("round_robin")
          .defaultServiceConfig(Map.of("healthCheckConfig", Map.of("serviceName", "")));
    }
    channel = builder.build();
    calls = options.token.isEmpty() ? channel : withToken(channel, options.token);
    if (several) { // gRPC alone would wait ever longer, up to two minutes
      clock.scheduleWithFixedDelay(
          this::reconnect, RECONNECT_SECONDS, RECONNECT_SECONDS, TimeUnit.SECONDS);
    }
  }

  private static Channel withToken(Channel channel, String token) {
    Metadata headers = new Metadata();
    headers.put(
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    return ClientInterceptors.intercept(
        channel, MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /** Addresses that refused a connection are tried again now. */
  void reconnect() {
    channel.resetConnectBackoff();
  }

  /**
   * Has the task done by a thread of its own, after the pause.
   *
   * @throws RejectedExecutionException the client is closed
   */
  ScheduledFuture<?> after(Duration pause, Runnable task) {
    return clock.schedule(() -> threads.execute(task), pause.toNanos(), TimeUnit.NANOSECONDS);
  }

  /** The same again and again, until it is cancelled. */
  ScheduledFuture<?> every(Duration pause, Runnable task) {
    long nanos = pause.toNanos();
    return clock.scheduleWithFixedDelay(
        () -> threads.execute(task), nanos, nanos, TimeUnit.NANOSECONDS);
  }

  boolean isClosed() {
    return clock.isShutdown();
  }

  @Override
  public void close() {
    clock.shutdownNow();
    channel.shutdownNow();
    try {
      channel.awaitTermination(1, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private static ThreadFactory named(String prefix) {
    AtomicInteger number = new AtomicInteger();
    return task -> {
      Thread thread = new Thread(task, prefix + number.incrementAndGet());
      thread.setDaemon(true);
      return thread;
    };
  }
}
