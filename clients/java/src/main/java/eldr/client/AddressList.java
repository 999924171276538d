package eldr.client;

import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import io.grpc.StatusOr;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.URI;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;

/** Resolves {@code eldr:///HOST:PORT,HOST:PORT}: each entry is one replica. */
final class AddressList extends NameResolver {
  private static final String SCHEME = "eldr";

  private final String[] entries;
  private final Executor lookups;
  private volatile Listener2 listener;

  private AddressList(String[] entries, Executor lookups) {
    this.entries = entries;
    this.lookups = lookups;
  }

  /** What a channel is built for. */
  static String target(String[] entries) {
    NameResolverRegistry.getDefaultRegistry().register(Provider.INSTANCE);
    String path = String.join(",", entries);
    return SCHEME + ":///" + path.replace("%", "%25").replace("[", "%5B").replace("]", "%5D");
  }

  @Override
  public String getServiceAuthority() {
    return entries[0];
  }

  @Override
  public void start(Listener2 told) {
    listener = told;
    refresh();
  }

  @Override
  public void refresh() {
    lookups.execute(this::lookUp);
  }

  @Override
  public void shutdown() {} // a look-up under way ends by itself

  private void lookUp() {
    List<EquivalentAddressGroup> groups = new ArrayList<>();
    UnknownHostException unknown = null;
    for (String entry : entries) {
      int colon = entry.lastIndexOf(':');
      int port = Integer.parseInt(entry.substring(colon + 1));
      try {
        List<SocketAddress> addresses = new ArrayList<>();
        for (InetAddress each : InetAddress.getAllByName(entry.substring(0, colon))) {
          addresses.add(new InetSocketAddress(each, port));
        }
        // TLS checks the name of the replica itself, not that of the first.
        groups.add(
            new EquivalentAddressGroup(
                addresses,
                Attributes.newBuilder()
                    .set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, entry)
                    .build()));
      } catch (UnknownHostException failure) {
        unknown = failure;
      }
    }
    if (groups.isEmpty()) {
      listener.onError(Status.UNAVAILABLE.withDescription("unknown host").withCause(unknown));
    } else {
      listener.onResult(
          ResolutionResult.newBuilder().setAddressesOrError(StatusOr.fromValue(groups)).build());
    }
  }

  private static final class Provider extends NameResolverProvider {
    static final Provider INSTANCE = new Provider();

    @Override
    protected boolean isAvailable() {
      return true;
    }

    @Override
    protected int priority() {
      return 5; // of no consequence: the scheme is ours alone
    }

    @Override
    public String getDefaultScheme() {
      return SCHEME;
    }

    @Override
    public NameResolver newNameResolver(URI target, Args args) {
      if (!SCHEME.equals(target.getScheme())) {
        return null;
      }
      Executor lookups = args.getOffloadExecutor();
      return new AddressList(target.getPath().substring(1).split(","), lookups);
    }
  }
}
