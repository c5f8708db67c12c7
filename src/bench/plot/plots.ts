/** Which pictures a run gives, and what is in them. PURE. */
import { type ScenarioReport, touchShares } from "../report.ts";
import { backendNames, backendTitles, pageTitle, vmTitle } from "../restore/cases.ts";
import { plotCurves } from "./curves.ts";
import { plotTimes } from "./times.ts";

export interface Plot {
  /** Of the file, in the folder that the user names. */
  readonly name: string;
  readonly svg: string;
}

type RestoreReport = ScenarioReport & Required<Pick<ScenarioReport, "restore">>;

/** Of `restore`: times by trace, page size and VMs; what touches took, of each case. */
export function plotsOf(reports: readonly ScenarioReport[]): Plot[] {
  const restores = reports.filter((each): each is RestoreReport => each.restore !== undefined);
  return [...new Set(restores.map(fileStem))].flatMap((stem) => {
    const group = restores.filter((each) => fileStem(each) === stem);
    const touches = group.map((each) => ({
      name: `${stem}-touches-${each.restore.backend}.svg`,
      svg: touchesOf(each),
    }));
    return [{ name: `${stem}-times.svg`, svg: timesOf(group) }, ...touches];
  });
}

function timesOf(reports: readonly RestoreReport[]): string {
  const { restore } = reports[0]!;
  const groups = backendNames.flatMap((backend) => {
    const report = reports.find((each) => each.restore.backend === backend);
    if (report === undefined) return [];
    const rows = report.contenders.map(({ name, title, figures }) => {
      const { median, min, max } = figures.working_set_ms!;
      return { name, title, median, min, max };
    });
    return [{ title: backendTitles[backend], rows }];
  });
  const which = `trace “${restore.trace}”, ${pageTitle(restore.pageSizeBytes)} pages`;
  const done = restore.doWrite ? "read and written" : "read";
  return plotTimes(
    `Time to working set: ${which}, ${vmTitle(restore.vms)}`,
    `from the handshake until the last page was ${done}; median, and range of rounds`,
    groups,
  );
}

function touchesOf({ restore, contenders }: RestoreReport): string {
  const backend = backendNames.find((name) => name === restore.backend)!;
  const which = `${backendTitles[backend]}, trace “${restore.trace}”`;
  const size = `${pageTitle(restore.pageSizeBytes)} pages, ${vmTitle(restore.vms)}`;
  return plotCurves(
    `What a touch of a page takes: ${which}`,
    `${size}; share of all ${restore.doWrite ? "reads and writes" : "reads"} that took no longer`,
    touchShares,
    contenders.map(({ name, title, touchQuantilesUs }) => ({
      name,
      title,
      quantilesUs: touchQuantilesUs!,
    })),
  );
}

/** `restore-linux-4k-1vm`; of a trace's path the last word. */
function fileStem({ restore }: RestoreReport): string {
  const word = restore.trace
    .split("/")
    .at(-1)!
    .replaceAll(/[^\w-]/g, "-");
  const size = pageTitle(restore.pageSizeBytes).replace(" MiB", "m").replace(" KiB", "k");
  return `restore-${word}-${size}-${restore.vms}vm${restore.doWrite ? "-writing" : ""}`;
}
