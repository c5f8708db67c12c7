/** Every scenario, in the order in which they are played and listed. */
import { FaultlineError } from "../../base/errors.ts";
import { groups, type Scenario } from "../scenario.ts";
import { userfaultScenarios } from "../userfault/scenarios.ts";
import { failureScenarios } from "./failure.ts";
import { handshakeScenarios } from "./handshake.ts";
import { hotplugScenarios } from "./hotplug.ts";
import { hugePageScenarios } from "./huge-pages.ts";
import { lifeScenarios } from "./life.ts";
import { removeScenarios } from "./remove.ts";
import { servingScenarios } from "./serving.ts";

export const scenarios: readonly Scenario[] = [
  ...handshakeScenarios,
  ...servingScenarios,
  ...removeScenarios,
  ...hotplugScenarios,
  ...hugePageScenarios,
  ...lifeScenarios,
  ...failureScenarios,
];

/**
 * Those with these names, or of these groups; for none, all of the protocol that every handler
 * speaks. Throws `bad-option`.
 */
export function selectScenarios(names: readonly string[]): Scenario[] {
  const all = [...scenarios, ...userfaultScenarios];
  const known = new Set<string>([...groups, ...all.map(({ name }) => name)]);
  const unknown = names.filter((name) => !known.has(name));
  if (unknown.length > 0) {
    throw new FaultlineError(
      "bad-option",
      `There is no scenario or group ${unknown.join(", ")}. The groups are ${groups.join(", ")}; ` +
        "`faultline conformance --list` lists the scenarios.",
    );
  }
  if (names.length === 0) return [...scenarios];
  return all.filter(({ name, group }) => names.includes(name) || names.includes(group));
}
