// A curve over the steps of a training.

import { texts } from "../texts";

export type Point = readonly [step: number, value: number];

const WIDTH = 360;
const HEIGHT = 120;
const LEFT = 44;
const BOTTOM = 20;
const TOP = 10;
const words = texts.students;

/** A round number at or above a value: 1, 2 or 5 times a power of ten. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const times = [1, 2, 5, 10].find((one) => one * power >= value * 0.999) ?? 10;
  return times * power;
}

function figure(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(2);
}

interface Props {
  title: string;
  points: readonly Point[];
  /** The whole of the horizontal axis; as far as the points reach without one. */
  steps?: number;
  /** Of the vertical axis: a share ends at 1. */
  share?: boolean;
}

export function Curve({ title, points, steps = 0, share = false }: Props) {
  const last = points.at(-1);
  if (!last) return null;
  const right = Math.max(steps, last[0], 1);
  const most = Math.max(...points.map(([, value]) => value));
  const top = share ? 1 : most > 0 ? roundUp(most) : 1;
  const x = (step: number) => LEFT + (step / right) * (WIDTH - LEFT - 8);
  const y = (value: number) => TOP + (1 - Math.max(value, 0) / top) * (HEIGHT - TOP - BOTTOM);
  const path = points.map(([step, value], at) => {
    return `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
  });
  return (
    <figure class="curve">
      <figcaption>
        {title} <strong>{figure(last[1])}</strong>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={words.curve(title, figure(last[1]), last[0])}
      >
        {[0, 0.5, 1].map((part) => (
          <g key={part}>
            <line class="grid" x1={LEFT} x2={WIDTH - 8} y1={y(part * top)} y2={y(part * top)} />
            <text x={LEFT - 6} y={y(part * top) + 4} text-anchor="end">
              {part ? figure(part * top) : "0"}
            </text>
          </g>
        ))}
        <path d={path.join(" ")} />
        <circle cx={x(last[0])} cy={y(last[1])} r="3" />
        <text x={LEFT} y={HEIGHT - 4}>
          0
        </text>
        <text x={WIDTH - 8} y={HEIGHT - 4} text-anchor="end">
          {words.steps(right)}
        </text>
      </svg>
    </figure>
  );
}
