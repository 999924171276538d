import type { Duration } from "./proto/google/protobuf/duration.js";

/** The contract's Duration of so many milliseconds, which may have a fraction. */
export function duration(milliseconds: number): Duration {
  if (!(milliseconds >= 0 && milliseconds < Number.MAX_SAFE_INTEGER)) {
    throw new RangeError(`expected a duration of 0 or more milliseconds, found ${milliseconds}`);
  }
  const seconds = Math.floor(milliseconds / 1e3);
  const nanos = Math.min(Math.round((milliseconds - seconds * 1e3) * 1e6), 999_999_999);
  return { seconds: BigInt(seconds), nanos };
}

/** The milliseconds of a Duration; 0 where it is unset. */
export function milliseconds(duration: Partial<Duration> | undefined): number {
  return Number(duration?.seconds ?? 0n) * 1e3 + (duration?.nanos ?? 0) / 1e6;
}
