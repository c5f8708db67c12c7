/**
 * A store in S3 under the request policy, which can also be collected while somebody packs: old
 * chunks are made young by copying them onto themselves, and removed by age, never both at the same
 * time (s3-lock.ts).
 *
 * On a server without conditional writes nothing can exclude a packer: there garbage cannot be
 * collected, and so nothing needs to be made young.
 */
import { FaultlineError } from "../base/errors.ts";
import type { CollectableStore } from "./collectable-store.ts";
import type { ObjectStore } from "./object-store.ts";
import type { RequestPolicy } from "./request-policy.ts";
import { LOCK_NAME, type LockObject, withS3Lock } from "./s3-lock.ts";
import type { S3Store } from "./s3-store.ts";
import { PolicyStore } from "./store-policy.ts";
import { realTiming } from "./timing.ts";

/**
 * Copying costs ten times as much as looking. Younger objects stay as they are: from here to the
 * least age that gc takes, an hour, is time enough to write an index, with clocks that are off.
 */
const YOUNG_MS = 20 * 60_000;
/** As many as the policy lets run at once. */
const AT_ONCE = 32;

/** What S3 can do besides. */
export type TendedStore = ObjectStore & Pick<S3Store, "readTagged" | "writeIf" | "ageOf" | "touch">;

export class CollectableS3Store extends PolicyStore implements CollectableStore {
  readonly #s3: TendedStore;
  readonly #youngMs: number;

  constructor(inner: TendedStore, policy: Partial<RequestPolicy> = {}, youngMs = YOUNG_MS) {
    super(inner, policy);
    this.#s3 = inner;
    this.#youngMs = youngMs;
  }

  async refresh(names: readonly string[], signal: AbortSignal): Promise<string[]> {
    const isGone = async (name: string, held: AbortSignal): Promise<boolean> => {
      const found = await this.#ageOf(name, held);
      if (found === null || found.ageMs < this.#youngMs) return found === null;
      const touch = (scope: AbortSignal): Promise<boolean> => this.#s3.touch(name, scope);
      return !(await this.ask("refresh", name, touch, held));
    };
    const gone = await this.#eachLocked(names, signal, isGone);
    if (gone !== null) return gone;
    const missing: string[] = [];
    for (let from = 0; from < names.length; from += AT_ONCE) {
      const some = names.slice(from, from + AT_ONCE);
      const found = await Promise.all(some.map((name) => this.exists(name, signal)));
      missing.push(...some.filter((_, index) => !found[index]));
    }
    return missing;
  }

  async removeOlder(
    names: readonly string[],
    thanMs: number,
    signal: AbortSignal,
  ): Promise<string[]> {
    const removed = await this.#eachLocked(names, signal, async (name, held) => {
      const found = await this.#ageOf(name, held);
      if (found === null || found.modifiedMs >= thanMs) return false;
      await this.remove(name, held);
      return true;
    });
    if (removed !== null) return removed;
    throw new FaultlineError(
      "unsupported",
      `The server of ${this.location} does not know conditional writes (If-None-Match), so that ` +
        "nothing can be removed safely beside a pack: copy the images that you want to keep to " +
        "another place (`faultline image push`), and delete this one.",
    );
  }

  /** A PUT leaves the whole object or nothing. */
  async removeLeftovers(): Promise<void> {}

  /** The names for which `action` is true; null if there can be no lock. */
  async #eachLocked(
    names: readonly string[],
    signal: AbortSignal,
    action: (name: string, held: AbortSignal) => Promise<boolean>,
  ): Promise<string[] | null> {
    const chosen: string[] = [];
    let next = 0;
    while (next < names.length) {
      const outcome = await withS3Lock(
        this.location,
        this.#lock,
        signal,
        realTiming,
        async (mayBegin, held) => {
          while (next < names.length && mayBegin()) {
            const some = names.slice(next, next + AT_ONCE);
            next += some.length;
            // All have ended before the lock is let go.
            const results = await Promise.allSettled(some.map((name) => action(name, held)));
            for (const [index, result] of results.entries()) {
              if (result.status === "rejected") throw result.reason;
              if (result.value) chosen.push(some[index]!);
            }
          }
        },
      );
      if (outcome === null) return null;
    }
    return chosen;
  }

  async #ageOf(name: string, signal: AbortSignal): ReturnType<S3Store["ageOf"]> {
    return await this.ask("look for", name, (scope) => this.#s3.ageOf(name, scope), signal);
  }

  get #lock(): LockObject {
    return {
      read: async (signal) =>
        await this.ask("read", LOCK_NAME, (scope) => this.#s3.readTagged(LOCK_NAME, scope), signal),
      writeIf: async (bytes, tag, signal) => {
        const write = (scope: AbortSignal): Promise<boolean | null> =>
          this.#s3.writeIf(LOCK_NAME, bytes, tag, scope);
        return await this.ask("write", LOCK_NAME, write, signal);
      },
    };
  }
}
