// How a value of the judgements is distributed; a drag over it filters by it.
//
// For the eye and the pointer only: the fields beside it say and set the same.

import { useRef, useState } from "preact/hooks";
import { call } from "../api/connect";
import { summarizeRun, type RunImageFilter } from "../api/messages";
import { useLoad } from "../ui/parts";

const WIDTH = 200;
const HEIGHT = 32;
/** Images of a run whose judgements are counted before anybody asks: it takes the server time. */
const FEW = 20_000;
/** A shorter drag is a click, which takes the filter away. */
const SLACK = 0.02;

/** The values that have a histogram, and the limits of a filter that go with them. */
export const MEASURES = {
  probability: ["minProbability", "maxProbability"],
  uncertainty: ["minUncertainty", "maxUncertainty"],
  area: ["minArea", "maxArea"],
} as const satisfies Record<string, readonly [keyof RunImageFilter, keyof RunImageFilter]>;
export type Measure = keyof typeof MEASURES;

interface Props {
  run: string;
  measure: Measure;
  /** Of the run. */
  images: number;
  filter: RunImageFilter;
  onChange: (changed: RunImageFilter) => void;
}

/** Heights of the bars, [0, 1]; logarithms, so that a few are seen beside very many. */
function heights(counts: readonly string[]): number[] {
  const logs = counts.map((one) => Math.log1p(Number(one)));
  const most = Math.max(...logs, 1);
  return logs.map((one) => one / most);
}

export function Brush({ run, measure, images, filter, onChange }: Props) {
  const [least, most] = MEASURES[measure];
  const [entered, setEntered] = useState(false);
  const wanted = images > 0 && (images <= FEW || entered);
  const { [least]: from = 0, [most]: to = 1, ...others } = filter;
  const [drag, setDrag] = useState<[number, number] | null>(null);
  const box = useRef<SVGSVGElement>(null);
  const { value } = useLoad(
    async (signal) =>
      wanted
        ? call(summarizeRun, { run, filter: others, histograms: [measure] }, signal)
        : null,
    [run, measure, wanted, JSON.stringify(others)],
  );
  const bars = heights(value?.histograms?.[0]?.matching ?? []);
  const at = (event: PointerEvent) => {
    const around = box.current!.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - around.left) / around.width, 0), 1);
  };
  const begin = (event: PointerEvent) => {
    box.current!.setPointerCapture(event.pointerId);
    setDrag([at(event), at(event)]);
  };
  const end = () => {
    if (!drag) return;
    setDrag(null);
    const [low, high] = [Math.min(...drag), Math.max(...drag)].map((one) => Number(one.toFixed(2)));
    if (Math.abs(drag[0] - drag[1]) < SLACK) {
      onChange({ [least]: undefined, [most]: undefined });
    } else onChange({ [least]: low, [most]: high });
  };
  const [low, high] = drag
    ? [Math.min(...drag), Math.max(...drag)]
    : [from, to];
  const step = WIDTH / Math.max(bars.length, 1);
  return (
    <svg
      class="brush"
      ref={box}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
      onPointerEnter={() => setEntered(true)}
      onPointerDown={begin}
      onPointerMove={(event) => drag && setDrag([drag[0], at(event)])}
      onPointerUp={end}
      onPointerCancel={() => setDrag(null)}
    >
      <rect class="chosen" x={low * WIDTH} width={(high - low) * WIDTH} y={0} height={HEIGHT} />
      {bars.map((height, index) => (
        <rect
          key={index}
          class="bar"
          x={index * step + 0.5}
          width={Math.max(step - 1, 0.5)}
          y={HEIGHT * (1 - height)}
          height={HEIGHT * height}
        />
      ))}
    </svg>
  );
}
