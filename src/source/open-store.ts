/** A store by its reference, with everything that reading over a network needs. */
import { DirectoryStore } from "./directory-store.ts";
import { HttpStore } from "./http-store.ts";
import { parseStoreReference } from "./image-reference.ts";
import type { ObjectStore } from "./object-store.ts";
import type { RequestPolicy } from "./request-policy.ts";
import type { S3Options } from "./s3-settings.ts";
import { PolicyStore } from "./store-policy.ts";

export interface OpenStoreOptions {
  /** Make the folder if there is none, to write to it. Other stores have nothing to make. */
  readonly create?: boolean;
  /** A folder that is missing is told by the first request, as other stores do. */
  readonly isUnchecked?: boolean;
  /** Bounds that differ from `defaultPolicy`; of stores behind a network. */
  readonly policy?: Partial<RequestPolicy>;
  /** What is not to be found in the environment or the profile. */
  readonly s3?: S3Options;
}

/**
 * `location` as users write it: image-reference.ts. No request is made yet.
 * @throws FaultlineError `bad-option`; of a folder also `store-failed`, `store-refused`
 */
export async function openStore(
  location: string,
  options: OpenStoreOptions = {},
): Promise<ObjectStore> {
  const reference = parseStoreReference(location);
  switch (reference.kind) {
    // No request policy: a disk answers, or is broken.
    case "directory":
      return DirectoryStore.open(reference.path, options);
    case "http":
      return new PolicyStore(new HttpStore(reference.url, options.s3), options.policy);
    case "s3": {
      // The signer takes longer to load than `serve` to start: only those who use it pay.
      const [{ S3Store }, { CollectableS3Store }] = await Promise.all([
        import("./s3-store.ts"),
        import("./collectable-s3-store.ts"),
      ]);
      const { endpoint, place } = reference;
      const s3 = { ...options.s3, ...(endpoint === null ? {} : { endpoint }) };
      const store = await S3Store.open(location.replace(/\/+$/, ""), place, s3);
      return new CollectableS3Store(store, options.policy);
    }
  }
}
