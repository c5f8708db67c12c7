/**
 * What the planner asks the engine to do, in columns that are reused from plan to plan. PURE.
 */

export const ActionKind = {
  /** Copy from one layer at the pages' own offset. */
  copy: 0,
  /** Assemble one page from several layers, then copy it. */
  assemble: 1,
  /** Install zeroes. */
  zero: 2,
} as const;
export type ActionKind = (typeof ActionKind)[keyof typeof ActionKind];

/** Actions per plan; what is queued beyond that waits for the next plan of the same turn. */
export const ACTION_CAPACITY = 64;

export class ActionList {
  length = 0;
  readonly kinds = new Uint8Array(ACTION_CAPACITY);
  readonly regions = new Uint16Array(ACTION_CAPACITY);
  readonly firstPages = new Float64Array(ACTION_CAPACITY);
  readonly pageCounts = new Uint32Array(ACTION_CAPACITY);
  /** How many of these, at the end, nobody has asked for yet. */
  readonly aheadPages = new Uint32Array(ACTION_CAPACITY);
  /** The layer to copy from; only for `copy`. */
  readonly owners = new Int32Array(ACTION_CAPACITY);
  /** Where in the queue the action's pages begin; the planner's own. */
  readonly queueStarts = new Uint32Array(ACTION_CAPACITY);
  readonly queueEnds = new Uint32Array(ACTION_CAPACITY);
}
