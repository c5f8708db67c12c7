/**
 * Colours of cells, as tables that the map looks bytes up in. States have the colours of Okabe
 * and Ito, which people with any kind of colour blindness tell apart; ages have a ramp whose
 * lightness only grows. Nothing is told by colour alone: legend and tooltip say it in words. PURE.
 */
import { type CellKind, cellKinds, FULL_SHARE } from "../src/daemon/dashboard/protocol.ts";

export type Theme = "light" | "dark";
export type Colour = readonly [red: number, green: number, blue: number];

interface ThemeColours {
  /** Cells that nobody has touched. */
  readonly ground: Colour;
  /** Outside of the VM. */
  readonly none: Colour;
  /** What cells that have just changed are mixed with. */
  readonly glow: Colour;
  readonly kinds: Readonly<Record<CellKind, Colour>>;
}

const dark: ThemeColours = {
  ground: [34, 40, 50],
  none: [16, 19, 25],
  glow: [255, 255, 255],
  kinds: {
    untouched: [34, 40, 50],
    pending: [240, 228, 66],
    present: [86, 180, 233],
    zero: [128, 138, 152],
    prefaulted: [0, 158, 115],
    removed: [204, 121, 167],
    dirty: [230, 159, 0],
    none: [16, 19, 25],
  },
};

const light: ThemeColours = {
  ground: [225, 229, 235],
  none: [250, 251, 252],
  glow: [20, 24, 32],
  kinds: {
    untouched: [225, 229, 235],
    pending: [213, 94, 0],
    present: [0, 114, 178],
    zero: [150, 158, 170],
    prefaulted: [0, 158, 115],
    removed: [204, 121, 167],
    dirty: [230, 159, 0],
    none: [250, 251, 252],
  },
};

/** Of layers, lowest first; beyond the eighth they begin anew, a little darker. */
const layerColours: readonly Colour[] = [
  [86, 180, 233],
  [230, 159, 0],
  [0, 158, 115],
  [204, 121, 167],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [150, 158, 170],
];

/** Points of viridis: dark is old, bright is new. */
const ageRamp: readonly Colour[] = [
  [68, 1, 84],
  [70, 50, 127],
  [54, 92, 141],
  [39, 127, 142],
  [31, 161, 135],
  [74, 194, 109],
  [159, 218, 58],
  [253, 231, 37],
];

/** A touched cell is never fainter than this, however little of it is. */
const LEAST_STRENGTH = 0.45;

export function coloursOf(theme: Theme): ThemeColours {
  return theme === "dark" ? dark : light;
}

export function layerColour(layer: number): Colour {
  const colour = layerColours[layer % layerColours.length]!;
  return layer < layerColours.length ? colour : mix(colour, [0, 0, 0], 0.3);
}

/** `share`, 0 to 1: how new. */
export function ageColour(share: number): Colour {
  const place = Math.max(0, Math.min(1, share)) * (ageRamp.length - 1);
  const below = Math.min(ageRamp.length - 2, Math.floor(place));
  return mix(ageRamp[below]!, ageRamp[below + 1]!, place - below);
}

/** For each byte of a state its pixel. */
export function stateTable(theme: Theme): Uint32Array {
  const { kinds, ground, none } = coloursOf(theme);
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    const kind = cellKinds[byte & 15] ?? "none";
    if (kind === "untouched" || kind === "none") return pixel(kind === "none" ? none : ground);
    return pixel(mix(ground, kinds[kind], strength(byte >> 4)));
  });
}

/** For each layer its pixel: first those of cells that are there, then of untouched ones. */
export function layerTable(theme: Theme): Uint32Array {
  const { kinds, ground } = coloursOf(theme);
  return Uint32Array.from({ length: 512 }, (_, index) => {
    const layer = index & 255;
    const colour = layer === 255 ? kinds.zero : layerColour(layer);
    return pixel(index < 256 ? colour : mix(ground, colour, 0.28));
  });
}

/** For each step of an age its pixel. */
export function ageTable(): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, step) => pixel(ageColour(step / 255)));
}

/** The same colours, mixed with the glow by 0 to `steps - 1` steps, one table after the other. */
export function glowing(table: Uint32Array, theme: Theme, steps: number): Uint32Array {
  const { glow } = coloursOf(theme);
  const all = new Uint32Array(table.length * steps);
  for (let step = 0; step < steps; step++) {
    for (const [index, value] of table.entries()) {
      const mixed = mix(coloursOfPixel(value), glow, (0.75 * step) / Math.max(1, steps - 1));
      all[step * table.length + index] = pixel(mixed);
    }
  }
  return all;
}

export function cssColour([red, green, blue]: Colour): string {
  return `rgb(${red} ${green} ${blue})`;
}

/** As canvases have it in memory on all machines that we know: little-endian RGBA. */
export function pixel([red, green, blue]: Colour): number {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function coloursOfPixel(value: number): Colour {
  return [value & 255, (value >>> 8) & 255, (value >>> 16) & 255];
}

function strength(share: number): number {
  return LEAST_STRENGTH + (1 - LEAST_STRENGTH) * (share / FULL_SHARE);
}

function mix(from: Colour, to: Colour, share: number): Colour {
  const part = (index: 0 | 1 | 2): number =>
    Math.round(from[index] + (to[index] - from[index]) * share);
  return [part(0), part(1), part(2)];
}
