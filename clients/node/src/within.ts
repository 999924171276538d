import type { Limits } from "./connection.js";
import { RouterUnavailableError } from "./errors.js";

/** What `promise` brings within the limits; else a deadline's error, or the signal's reason. */
export async function within<T>(promise: Promise<T>, { until, signal }: Limits): Promise<T> {
  signal?.throwIfAborted();
  let end = () => {};
  const limit = new Promise<never>((_, reject) => {
    const timer = setTimeout(
      () => reject(new RouterUnavailableError("DEADLINE_EXCEEDED", "no answer in time")),
      Math.max(until - Date.now(), 0),
    );
    const abort = () => reject(signal!.reason);
    signal?.addEventListener("abort", abort, { once: true });
    end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    end();
  }
}
