/** What the host can spare: what decides how much is installed ahead of a guest. */
import { readFileSync } from "node:fs";
import { KIB } from "../base/units.ts";

export interface HostState {
  /** Memory that one restore may take without being asked for it. */
  readonly spareBytes: number;
  /** Threads wait for a CPU most of the time. */
  readonly areCpusBusy: boolean;
}

/** Others need memory too, and the next VM is already on its way. */
const SPARE_SHARE = 0.5;
/** Of `some avg10`, in percent: tasks that could run and had no CPU. */
const BUSY_PRESSURE = 80;

/** See proc(5): /proc/meminfo, and /proc/pressure/cpu, which not all kernels have. */
export function hostState(): HostState {
  const available = /^MemAvailable: +(\d+) kB/m.exec(read("/proc/meminfo"));
  const pressure = /^some avg10=([\d.]+)/m.exec(read("/proc/pressure/cpu"));
  return {
    spareBytes: available === null ? 0 : Number(available[1]) * KIB * SPARE_SHARE,
    areCpusBusy: pressure !== null && Number(pressure[1]) > BUSY_PRESSURE,
  };
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
