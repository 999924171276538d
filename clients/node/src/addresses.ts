/** What was written as the router's address. */
export type Addresses =
  /** Each is an address of gRPC's; several are replicas. */
  | { targets: readonly string[] }
  /** All addresses of a name are replicas. */
  | { name: string; port: number };

const EXPECTED =
  "expected HOST:PORT with a port from 1 to 65535, several of them with commas between them, " +
  "dns:///NAME:PORT or unix:PATH";
const HOST_AND_PORT = /^(\[[0-9a-fA-F:.%]+\]|[^\s:/[\]]+):([0-9]+)$/;

/** RangeError: the text is no address. */
export function parseAddresses(text: string): Addresses {
  if (/^unix:./.test(text) && !hostAndPort(text)) return { targets: [text] };
  const scheme = /^dns:(\/\/\/)?/.exec(text)?.[0];
  if (scheme && !hostAndPort(text)) {
    const found = hostAndPort(text.slice(scheme.length));
    if (found) return found;
  }
  const targets = text.split(",").map((each) => {
    const found = hostAndPort(each.trim());
    if (!found)
      throw new RangeError(
        `${EXPECTED}; found ${JSON.stringify(each.trim())} in ${JSON.stringify(text)}`,
      );
    return `dns:${each.trim()}`;
  });
  return { targets };
}

function hostAndPort(text: string): { name: string; port: number } | undefined {
  const [, name, digits] = HOST_AND_PORT.exec(text) ?? [];
  const port = Number(digits);
  return name && port > 0 && port < 65536 ? { name, port } : undefined;
}
