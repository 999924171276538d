import {
  Client,
  connectivityState as State,
  status as Code,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientReadableStream,
  type Metadata,
} from "@grpc/grpc-js";

const WATCH = "/grpc.health.v1.Health/Watch";
const SERVING = 1;
const WATCH_AGAIN_MS = 250;

/** How the router is spoken to. */
export interface Terms {
  credentials: ChannelCredentials;
  options: ChannelOptions;
  /** What every call brings. */
  metadata: Metadata;
}

/** One address of the router, connected to as long as it is there; one that drains says so. */
export class Replica {
  readonly client: Client;
  #state = State.IDLE;
  /** What its health says; undefined before it has said anything. */
  #serving: boolean | undefined;
  #watch: ClientReadableStream<number> | undefined;
  #closed = false;

  constructor(
    target: string,
    private readonly terms: Terms,
    private readonly changed: (replica: Replica) => void,
  ) {
    this.client = new Client(target, terms.credentials, terms.options);
    this.#follow();
  }

  /** Calls may be sent here. */
  get isReady(): boolean {
    return this.#state === State.READY && this.#serving === true;
  }

  /** Whether it is ready will be known soon. */
  get isComing(): boolean {
    return this.#state === State.READY
      ? this.#serving === undefined
      : this.#state !== State.TRANSIENT_FAILURE;
  }

  /** Its connection could not be made. */
  get isLost(): boolean {
    return this.#state === State.TRANSIENT_FAILURE;
  }

  close(): void {
    this.#closed = true;
    this.#watch?.cancel();
    this.client.close();
  }

  #follow(): void {
    if (this.#closed) return;
    const channel = this.client.getChannel();
    const state = channel.getConnectivityState(true);
    if (state === State.READY && this.#state !== State.READY) this.#watchHealth();
    this.#state = state;
    this.changed(this);
    channel.watchConnectivityState(state, Infinity, () => this.#follow());
  }

  #watchHealth(): void {
    this.#serving = undefined;
    // HealthCheckRequest with no service; HealthCheckResponse has its status in field 1.
    const watch = this.client.makeServerStreamRequest<null, number>(
      WATCH,
      () => Buffer.alloc(0),
      (bytes) => (bytes[0] === 8 ? (bytes[1] ?? 0) : 0),
      null,
      this.terms.metadata,
    );
    this.#watch = watch;
    const say = (serving: boolean | undefined) => {
      if (this.#watch !== watch || this.#closed) return;
      this.#serving = serving;
      this.changed(this);
    };
    const again = () => {
      const isSame = this.#watch === watch && this.#state === State.READY;
      if (isSame && !this.#closed) this.#watchHealth();
    };
    watch.on("data", (status: number) => say(status === SERVING));
    watch.on("error", (error: { code?: number }) => {
      say(error.code === Code.UNIMPLEMENTED ? true : undefined);
      if (error.code !== Code.UNIMPLEMENTED) setTimeout(again, WATCH_AGAIN_MS).unref();
    });
  }
}
