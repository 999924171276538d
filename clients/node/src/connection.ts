import {
  credentials,
  Metadata,
  type ChannelOptions,
  type ClientDuplexStream,
  type MethodDefinition,
} from "@grpc/grpc-js";

import { parseAddresses } from "./addresses.js";
import { Replicas } from "./replicas.js";

/** TLS as `node:tls` has it, in PEM. */
export interface TlsOptions {
  /** Who signs the router's certificate; the system's authorities by default. */
  ca?: Buffer | undefined;
  /** The client's own certificate and key, where the router asks for them. */
  cert?: Buffer | undefined;
  key?: Buffer | undefined;
  /** The name in the router's certificate, where it is not that of the target. */
  servername?: string | undefined;
}

/** Until when a call has time, in milliseconds since the epoch, and what ends it sooner. */
export interface Limits {
  until: number;
  signal?: AbortSignal | undefined;
}

/** What calls go through: a channel, or one per replica. */
export class Connection {
  /** Several replicas may be behind it. */
  readonly several: boolean;
  readonly #replicas: Replicas;
  readonly #metadata = new Metadata();

  constructor(target: string, token: string | undefined, tls: TlsOptions | undefined) {
    const addresses = parseAddresses(target);
    this.several = "name" in addresses || addresses.targets.length > 1;
    // Without TLS it goes out in the clear, which gRPC's own call credentials do not do.
    if (token) this.#metadata.set("authorization", `Bearer ${token}`);
    const secured = tls
      ? credentials.createSsl(tls.ca ?? null, tls.key ?? null, tls.cert ?? null)
      : credentials.createInsecure();
    const name = tls?.servername ?? ("name" in addresses ? addresses.name : undefined);
    this.#replicas = new Replicas(addresses, this.several, {
      credentials: secured,
      options: {
        ...CHANNEL_OPTIONS,
        ...(tls && name && { "grpc.ssl_target_name_override": name }),
      },
      metadata: this.#metadata,
    });
  }

  /** One try of a call. What it is rejected with is gRPC's error, or the signal's reason. */
  async unary<Q, A>(method: MethodDefinition<Q, A>, request: Buffer, limits: Limits): Promise<A> {
    const client = await this.#replicas.pick(limits);
    limits.signal?.throwIfAborted();
    return await new Promise<A>((resolve, reject) => {
      const { signal, until } = limits;
      const cancel = () => call.cancel();
      const call = client.makeUnaryRequest<Buffer, A>(
        method.path,
        (bytes) => bytes,
        method.responseDeserialize,
        request,
        this.#metadata,
        { deadline: until },
        (error, answer) => {
          signal?.removeEventListener("abort", cancel);
          if (signal?.aborted) reject(signal.reason);
          else if (error) reject(error);
          else resolve(answer!);
        },
      );
      signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  /** Opens a stream of calls, which has no deadline. */
  async stream<Q, A>(
    method: MethodDefinition<Q, A>,
    limits: Limits,
  ): Promise<ClientDuplexStream<Buffer, A>> {
    const client = await this.#replicas.pick(limits);
    return client.makeBidiStreamRequest<Buffer, A>(
      method.path,
      (bytes) => bytes,
      method.responseDeserialize,
      this.#metadata,
    );
  }

  close(): void {
    this.#replicas.close();
  }
}

const CHANNEL_OPTIONS: ChannelOptions = {
  // A router that came back is found again within a quarter of a second or so.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 250,
  "grpc.dns_min_time_between_resolutions_ms": 1000,
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 5000,
  "grpc.enable_retries": 0, // the client's own tries have one deadline together
  "grpc.use_local_subchannel_pool": 1, // another client's backoff is not this one's
};
