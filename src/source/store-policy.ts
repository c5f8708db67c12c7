/**
 * Puts a store under the request policy: every call ends, with a result or with an error, before
 * its deadline; failures that may pass are tried again; slow reads are asked for twice; and no more
 * requests run at once than the store should bear.
 *
 * What a store refuses is not tried again, nor what the caller aborted. Whether bytes are the right
 * ones is not known here: digests are checked above, and `refetch` asks again.
 */
import { FaultlineError } from "../base/errors.ts";
import { isChunkName, MAX_CHUNK_OBJECT_BYTES } from "./object-name.ts";
import type {
  ListDepth,
  ListPage,
  ObjectStore,
  PagedObjectStore,
  StoredObject,
  Urgency,
} from "./object-store.ts";
import { defaultPolicy, type RequestPolicy } from "./request-policy.ts";
import { type Call, RequestRunner } from "./request-runner.ts";
import type { StoreStats } from "./store-stats.ts";
import { realTiming } from "./timing.ts";

export class PolicyStore implements ObjectStore {
  readonly location: string;
  readonly policy: RequestPolicy;
  readonly #inner: ObjectStore;
  readonly #runner: RequestRunner;

  constructor(inner: ObjectStore, policy: Partial<RequestPolicy> = {}, timing = realTiming) {
    this.location = inner.location;
    this.policy = { ...defaultPolicy, ...policy };
    this.#inner = inner;
    this.#runner = new RequestRunner(this.policy, timing);
  }

  async read(
    name: string,
    signal: AbortSignal,
    urgency: Urgency = "demand",
  ): Promise<Uint8Array | null> {
    return await this.#read(name, signal, urgency, (inner) =>
      this.#inner.read(name, inner, urgency),
    );
  }

  async refetch(
    name: string,
    signal: AbortSignal,
    urgency: Urgency = "demand",
  ): Promise<Uint8Array | null> {
    return await this.#read(name, signal, urgency, (inner) =>
      this.#inner.refetch === undefined
        ? this.#inner.read(name, inner, urgency)
        : this.#inner.refetch(name, inner, urgency),
    );
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    this.#runner.counters.others++;
    const call = this.#call("look for", name, (inner) => this.#inner.exists(name, inner));
    return await this.#runner.run(call, signal);
  }

  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    this.#runner.counters.writes++;
    const { small, bulk } = this.policy;
    const budget = bytes.length <= MAX_CHUNK_OBJECT_BYTES ? small : bulk;
    const call = this.#call("write", name, (inner) => this.#inner.write(name, bytes, inner));
    await this.#runner.run({ ...call, budget }, signal);
    this.#runner.counters.bytesWritten += bytes.length;
  }

  async *list(
    prefix: string,
    signal: AbortSignal,
    depth: ListDepth = "all",
  ): AsyncGenerator<StoredObject> {
    const inner = this.#inner;
    // A store that gives all at once has no request that could be repeated by itself.
    if (!isPaged(inner)) return yield* inner.list(prefix, signal, depth);
    let cursor: string | null = null;
    do {
      this.#runner.counters.others++;
      const from: string | null = cursor;
      const call = this.#call("list", prefix, (scope) =>
        inner.listPage(prefix, from, scope, depth),
      );
      const budget = this.policy.bulk;
      const page: ListPage = await this.#runner.run({ ...call, budget }, signal);
      yield* page.objects;
      cursor = page.cursor;
    } while (cursor !== null);
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    this.#runner.counters.others++;
    const call = this.#call("remove", name, (inner) => this.#inner.remove(name, inner));
    await this.#runner.run(call, signal);
  }

  /** Any other request about one object, as of `verb`, under the policy. */
  protected async ask<T>(
    verb: string,
    name: string,
    attempt: Call<T>["attempt"],
    signal: AbortSignal,
  ): Promise<T> {
    this.#runner.counters.others++;
    return await this.#runner.run(this.#call(verb, name, attempt), signal);
  }

  async close(): Promise<void> {
    const text = `The store ${this.location} was closed.`;
    this.#runner.close(new FaultlineError("store-failed", text));
    await this.#inner.close();
  }

  hurry(name: string): void {
    this.#runner.queue.hurry(name);
    this.#inner.hurry?.(name);
  }

  stats(): StoreStats {
    return this.#runner.stats();
  }

  async #read(
    name: string,
    signal: AbortSignal,
    urgency: Urgency,
    attempt: Call<Uint8Array | null>["attempt"],
  ): Promise<Uint8Array | null> {
    this.#runner.counters.reads++;
    const { small, bulk } = this.policy;
    const budget = isChunkName(name) ? small : bulk;
    const call = { ...this.#call("read", name, attempt), urgency, budget, isRead: true };
    const bytes = await this.#runner.run(call, signal);
    this.#runner.counters.bytesRead += bytes?.length ?? 0;
    return bytes;
  }

  #call<T>(verb: string, name: string, attempt: Call<T>["attempt"]): Call<T> {
    const subject = `Cannot ${verb} ${name === "" ? "all" : name} in ${this.location}`;
    const budget = this.policy.small;
    return { subject, name, urgency: "demand", budget, isRead: false, attempt };
  }
}

function isPaged(store: ObjectStore): store is PagedObjectStore {
  return "listPage" in store;
}
