package eldr.client;

import java.util.regex.Pattern;

/**
 * The router's address as gRPC takes it.
 *
 * @param several replicas may be behind it
 */
record Addresses(String target, boolean several) {
  private static final Pattern RESOLVED = Pattern.compile("(dns|xds):.*[^\\d].*");
  private static final Pattern HOST_PORT = Pattern.compile("(\\[[^\\]]+\\]|[^:\\[\\]/]+):(\\d{1,5})");

  static Addresses parse(String text) {
    if (RESOLVED.matcher(text).matches()) {
      return new Addresses(text, true);
    }
    String[] all = text.split(",", -1);
    for (int i = 0; i < all.length; i++) {
      all[i] = all[i].strip();
      if (!isHostPort(all[i])) {
        throw new IllegalArgumentException(
            "expected HOST:PORT with a port from 1 to 65535, several of them with commas between "
                + "them, or dns:///NAME:PORT, found \"%s\" in \"%s\"".formatted(all[i], text));
      }
    }
    return new Addresses(AddressList.target(all), all.length > 1);
  }

  private static boolean isHostPort(String text) {
    var found = HOST_PORT.matcher(text);
    if (!found.matches()) {
      return false;
    }
    int port = Integer.parseInt(found.group(2));
    return port > 0 && port <= 65535;
  }
}
