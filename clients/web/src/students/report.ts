// The report of a student, which comes from whoever trained it: nothing in it is believed.

import type { Point } from "./Curve";

/** A class on the held-out images, at its threshold. */
export interface ClassFigures {
  name: string;
  map50: number | null;
  precision: number | null;
  recall: number | null;
  missed: number;
  wrong: number;
}

/** A box that the student missed, or saw where none is. */
export interface WrongBox {
  name: string;
  box: readonly [number, number, number, number];
  missed: boolean;
}

export interface WrongImage {
  name: string;
  sha256: string;
  width: number;
  height: number;
  mistakes: number;
  boxes: WrongBox[];
}

export interface StudentReport {
  classes: ClassFigures[];
  loss: Point[];
  map50: Point[];
  worst: WrongImage[];
}

type Plain = Record<string, unknown>;

function object(value: unknown): Plain {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Plain)
    : {};
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? (value as unknown[]) : [];
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function points(value: unknown): Point[] {
  return list(value).flatMap((one) => {
    const [step, height] = list(one).map(number);
    return step === null || height === null || step === undefined || height === undefined
      ? []
      : [[step, height] as const];
  });
}

function share(part: number, others: number): number | null {
  return part + others ? part / (part + others) : null;
}

function figures(report: Plain): ClassFigures[] {
  const at = object(report.at_thresholds);
  return list(report.classes).map((one) => {
    const name = text(one);
    const counts = object(at[name]);
    const [right, wrong, missed] = ["right", "wrong", "missed"].map(
      (key) => number(counts[key]) ?? 0,
    ) as [number, number, number];
    return {
      name,
      map50: number(object(report.map50_per_class)[name]),
      precision: share(right, wrong),
      recall: share(right, missed),
      missed,
      wrong,
    };
  });
}

function wrongBox(value: unknown): WrongBox[] {
  const plain = object(value);
  const corners = list(plain.box).map(number);
  const [x1, y1, x2, y2] = corners;
  if (corners.length !== 4 || corners.includes(null)) return [];
  const box = [x1, y1, x2, y2] as [number, number, number, number];
  return [{ name: text(plain.class), box, missed: plain.kind === "missed" }];
}

function wrongImage(value: unknown): WrongImage {
  const plain = object(value);
  return {
    name: text(plain.name),
    sha256: /^[0-9a-f]{64}$/.test(text(plain.sha256)) ? text(plain.sha256) : "",
    width: number(plain.width) ?? 1,
    height: number(plain.height) ?? 1,
    mistakes: number(plain.mistakes) ?? 0,
    boxes: list(plain.boxes).flatMap(wrongBox),
  };
}

/** What is shown of a report; null where there is none that can be read. */
export function readReport(json: string): StudentReport | null {
  let report: Plain;
  try {
    report = object(JSON.parse(json));
  } catch {
    return null;
  }
  const training = object(report.training);
  return {
    classes: figures(report).sort((a, b) => (a.map50 ?? 1) - (b.map50 ?? 1)),
    loss: points(training.loss),
    map50: points(training.map50),
    worst: list(report.worst_images).map(wrongImage),
  };
}

/** A figure of a version's manifest, e.g. `map50`; null where it has none. */
export function metricOf(manifest: string, name: string): number | null {
  try {
    return number(object(object(JSON.parse(manifest)).metrics)[name]);
  } catch {
    return null;
  }
}
