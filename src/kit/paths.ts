/** Where things lie: tests run from dist/test/…, and read sources from the repository. */
import { join, resolve } from "node:path";

/** The folder that holds package.json. */
export const repositoryRoot = resolve(import.meta.dirname, "../../..");
/** What tsc built: `dist/src/x.js` is `src/x.ts`. */
export const builtRoot = join(repositoryRoot, "dist");
