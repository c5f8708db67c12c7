/** Who restores: a C handler, the kernel's own mapping, `serve` in three ways, and `--handler`. */
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import { HandlerCommand } from "../../kit/handler-command.ts";
import type { Contender } from "../contender.ts";
import type { Field } from "../run.ts";
import type { Workspace } from "../workspace.ts";
import type { RestoreCase } from "./cases.ts";

export const restorerNames = [
  "reference",
  "mapping",
  "on-demand",
  "prefault",
  "before-resume",
] as const;
export type RestorerName = (typeof restorerNames)[number];

export const restorerTitles: Readonly<Record<RestorerName, string>> = {
  reference: "C reference",
  mapping: "File mapping",
  "on-demand": "on demand",
  prefault: "prefault",
  "before-resume": "before resume",
};

/** What ratios are taken to: every backend has it. */
export const COMPARED_TO: RestorerName = "on-demand";

export interface Restorer extends Contender {
  /** VMs run only when `serve` says that their pages are there. */
  readonly isHeld: boolean;
  /** The command with a working set of its own; null where none is used. */
  readonly commandWith: ((setPath: string) => HandlerCommand) | null;
}

/** Chunks of the whole memory have a place, so that a cached image stays so. */
const CACHE_ROOM = 2;

const modes: Readonly<Partial<Record<RestorerName, string>>> = {
  prefault: "concurrent",
  "before-resume": "before-resume",
};

/** The contenders that a case has, of those that the user wants. */
export function restorersOf(place: RestoreCase, field: Field, workspace: Workspace): Restorer[] {
  const { backend, pageSizeBytes } = place;
  const isFile = backend === "file";
  const names = restorerNames.filter((name) => {
    // Nobody maps an image, and the kernel maps no file with huge pages.
    if (name === "mapping") return isFile && pageSizeBytes === SMALL_PAGE_BYTES;
    return name !== "reference" || isFile;
  });
  const builtins = names.filter((name) => field.builtins.includes(name));
  const users = isFile ? field.handlers : [];
  return [
    ...builtins.map((name) => builtin(name, place, workspace)),
    ...users.map((command, index): Restorer => {
      const name = `handler ${index + 1}`;
      const { servesMany } = field;
      return { name, title: name, command, servesMany, isHeld: false, commandWith: null };
    }),
  ];
}

function builtin(name: RestorerName, place: RestoreCase, workspace: Workspace): Restorer {
  const title = restorerTitles[name];
  const alone = { name, title, servesMany: false, isHeld: false, commandWith: null };
  if (name === "mapping") return { ...alone, command: null };
  if (name === "reference") return { ...alone, command: workspace.referenceCommand() };
  const mode = modes[name];
  const cache = cacheFlags(place);
  const commandWith = (setPath: string): HandlerCommand =>
    HandlerCommand.ofServe([...cache, "--prefault", mode!, "--working-set", setPath]);
  return {
    name,
    title,
    servesMany: true,
    isHeld: name === "before-resume",
    commandWith: mode === undefined ? null : commandWith,
    command:
      mode === undefined
        ? HandlerCommand.ofServe([...cache, "--prefault", "off", "--working-set", "off"])
        : commandWith("SET"),
  };
}

export function cacheFlags({ backend, trace }: RestoreCase): string[] {
  if (backend === "file") return [];
  const mib = Math.ceil((CACHE_ROOM * trace.trace.sizeBytes) / 2 ** 20);
  return ["--cache-size", String(Math.max(mib, 16))];
}
