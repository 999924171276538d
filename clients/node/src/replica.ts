import {
  Client,
  connectivityState as State,
  status as Code,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientReadableStream,
} from "@grpc/grpc-js";

const WATCH = "/grpc.health.v1.Health/Watch";
const SERVING = 1;
const WATCH_AGAIN_MS = 250;

/** One address of the router, connected to as long as it is there; one that drains says so. */
export class Replica {
  readonly client: Client;
  #state = State.IDLE;
  /** What its health says; undefined before it has said anything. */
  #serving: boolean | undefined;
  #watch: ClientReadableStream<number> | undefined;
  #closed = false;

  constructor(
    readonly target: string,
    credentials: ChannelCredentials,
    options: ChannelOptions,
    private readonly changed: (replica: Replica) => void,
  ) {
    this.client = new Client(target, credentials, options);
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
    );
    this.#watch = watch;
    const say = (serving: boolean | undefined) => {
      if (this.#watch !== watch || this.#closed) return;
      this.#serving = serving;
      this.changed(this);
    };
    watch.on("data", (status: number) => say(status === SERVING));
    watch.on("error", (error: { code?: number }) => {
      if (error.code === Code.UNIMPLEMENTED) return say(true);
      say(undefined);
      setTimeout(() => {
        const isSame = this.#watch === watch && this.#state === State.READY;
        if (isSame && !this.#closed) this.#watchHealth();
      }, WATCH_AGAIN_MS).unref();
    });
  }
}
