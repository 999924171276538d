import { Placement, PlacementReason } from "./proto/eldr/v1/router.js";
import type { RouteRequest, WorkerTarget } from "./proto/eldr/v1/router.js";

/** A worker to fall back on. */
export interface FallbackWorker {
  id: string;
  url: string;
  dpRank?: number | undefined;
  /** The model that it serves; every model by default. */
  model?: string | undefined;
}

/** A worker that no placement has named for so long, while others were named, is taken as gone. */
const FORGET_AFTER_MS = 10 * 60_000;

/** Whether the client chose by itself, as no router answered. Nothing is booked then. */
export function isFallback(placement: Placement): boolean {
  return placement.reason === PlacementReason.CLIENT_FALLBACK;
}

/** The chosen worker and its alternates, in the order to try them. */
export function targets(placement: Placement): WorkerTarget[] {
  const { workerId, url, dpRank, alternates } = placement;
  return [{ workerId, url, dpRank }, ...alternates];
}

/** The workers that are known. It takes turns among them. */
export class FallbackPool {
  readonly #seen = new Map<string, Map<string, { target: WorkerTarget; at: number }>>();
  readonly #answered = new Map<string, number>();
  #turn = Math.floor(Math.random() * 0x10000); // many clients do not fall on one worker together

  constructor(private readonly given: readonly FallbackWorker[]) {}

  learn(model: string, placement: Placement): void {
    const at = performance.now();
    this.#answered.set(model, at);
    let seen = this.#seen.get(model);
    if (!seen) this.#seen.set(model, (seen = new Map()));
    for (const target of targets(placement)) seen.set(target.workerId, { target, at });
  }

  /**
   * The next worker that the request allows; undefined where none is known. Labels and groups are
   * not known here, so every worker passes a selector.
   */
  place(request: RouteRequest): Placement | undefined {
    const known = new Map<string, WorkerTarget>();
    for (const { id, url, dpRank = 0, model } of this.given) {
      if (!model || model === request.model) known.set(id, { workerId: id, url, dpRank });
    }
    const oldest = (this.#answered.get(request.model) ?? 0) - FORGET_AFTER_MS;
    for (const [id, { target, at }] of this.#seen.get(request.model) ?? []) {
      if (at >= oldest) known.set(id, target);
    }
    const allowed = [...known.values()]
      .filter(({ workerId }) => allows(request, workerId))
      .sort((a, b) => (a.workerId < b.workerId ? -1 : 1));
    if (allowed.length === 0) return undefined;
    const first = this.#turn++ % allowed.length;
    const [chosen, ...alternates] = [...allowed.slice(first), ...allowed.slice(0, first)];
    const reason = PlacementReason.CLIENT_FALLBACK;
    return Placement.fromPartial({ ...chosen, alternates, reason });
  }
}

function allows(request: RouteRequest, id: string): boolean {
  const { excludeWorkers, pinnedWorker, candidateWorkers } = request;
  if (excludeWorkers.includes(id)) return false;
  if (pinnedWorker) return id === pinnedWorker;
  return candidateWorkers.length === 0 || candidateWorkers.includes(id);
}
