import { runWorld } from "./planner-world.ts";

const t = performance.now();
let checks = 0;
const seen = new Map<string, number>();
const errs = new Map<string, number[]>();
const n = Number(process.argv[2] ?? 2000),
  from = Number(process.argv[3] ?? 0);
for (let seed = from; seed < from + n; seed++) {
  try {
    const s = runWorld({ seed, steps: 200 });
    checks += s.checks;
    for (const x of s.seen) seen.set(x, (seen.get(x) ?? 0) + 1);
  } catch (e: any) {
    const k = e.name + ": " + e.message.replace(/\d+/g, "N");
    errs.set(k, [...(errs.get(k) ?? []), seed]);
  }
}
console.log(performance.now() - t, "ms", checks, seen);
for (const [k, v] of errs) console.log(k, v.length, v.slice(0, 5));
