// One image of a run with all its judgements, and what the chosen one rests on.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { call } from "../api/connect";
import { explainLabel, getRunImages, type Judgement } from "../api/messages";
import type { Viewer } from "../canvas/viewer";
import { texts } from "../texts";
import { BoxedImage, lookAtJudgement } from "../ui/BoxedImage";
import { Explanation } from "../ui/Explanation";
import { JudgementTable } from "../ui/JudgementTable";
import { useKeys } from "../ui/keys";
import { Failure, Key, useLoad } from "../ui/parts";

const words = texts.browse;
const ZOOM = 1.3;

interface Props {
  run: string;
  cursor: string;
  colours: Map<string, string>;
  /** To the next image of the list, or to the one before; undefined where there is none. */
  onStep: (by: number) => void;
  onBack: () => void;
}

export function ImageView({ run, cursor, colours, onStep, onBack }: Props) {
  const [chosen, setChosen] = useState(-1);
  const [rejected, setRejected] = useState(false);
  const viewer = useRef<Viewer | null>(null);
  const details = useLoad(
    async (signal) => {
      const answer = await call(getRunImages, { run, cursors: [cursor] }, signal);
      return answer.images?.[0] ?? null;
    },
    [run, cursor],
  );
  const current = details.value?.cursor === cursor ? details.value : null;
  const labelled = current?.labelled;
  const all = labelled?.judgements ?? [];
  const shown = useMemo(
    () =>
      [...all.entries()].filter(
        ([, one]) => !one.wholeImage && (rejected || one.outcome !== "OUTCOME_REJECT"),
      ),
    [labelled, rejected],
  );
  useEffect(() => setChosen(-1), [cursor]);
  const labelId = chosen >= 0 ? `${cursor}.${chosen}` : "";
  const more = useLoad(
    async (signal) => (labelId ? await call(explainLabel, { labelId }, signal) : null),
    [labelId],
  );
  const one: Judgement | undefined = all[chosen];

  const step = (by: number) => {
    const at = shown.findIndex(([index]) => index === chosen);
    const next = at < 0 && by < 0 ? shown.length - 1 : (at + by + shown.length) % shown.length;
    setChosen(shown[next]?.[0] ?? -1);
  };
  const commands: Record<string, () => void> = {
    ArrowRight: () => onStep(1),
    ArrowLeft: () => onStep(-1),
    J: () => step(1),
    K: () => step(-1),
    R: () => setRejected(!rejected),
    F: () => viewer.current?.fit(),
    B: () => lookAtJudgement(viewer.current, one),
    Escape: onBack,
    "+": () => viewer.current?.zoom(ZOOM),
    "=": () => viewer.current?.zoom(ZOOM),
    "-": () => viewer.current?.zoom(1 / ZOOM),
  };
  useKeys((key) => {
    commands[key]?.();
    return key in commands;
  });

  return (
    <div class="image-view">
      <div class="toolbar">
        <button type="button" onClick={onBack}>
          {words.back} <Key>Esc</Key>
        </button>
        <button type="button" onClick={() => onStep(-1)}>
          {words.previous} <Key>←</Key>
        </button>
        <button type="button" onClick={() => onStep(1)}>
          {words.next} <Key>→</Key>
        </button>
        <h1 class="name">{labelled?.name ?? ""}</h1>
        <span class="grow" />
        <label class="check">
          <input
            type="checkbox"
            checked={rejected}
            onChange={(event) => setRejected(event.currentTarget.checked)}
          />
          {words.rejected} <Key>R</Key>
        </label>
      </div>
      <Failure message={details.error} again={details.again} />
      <div class="split">
        {labelled ? (
          <BoxedImage
            source={labelled.sha256 ?? ""}
            name={labelled.name ?? ""}
            width={labelled.width ?? 1}
            height={labelled.height ?? 1}
            judgements={shown}
            colours={colours}
            chosen={chosen}
            onChoose={setChosen}
            hold={(made) => (viewer.current = made)}
          />
        ) : (
          <div class="stage" />
        )}
        <aside class="panel" aria-label={words.boxes}>
          <h2>{words.boxes}</h2>
          <JudgementTable
            judgements={shown}
            colours={colours}
            chosen={chosen}
            onChoose={setChosen}
          />
          {one ? (
            <Explanation
              one={one}
              labelId={labelId}
              more={more.value?.sha256 === labelled?.sha256 ? more.value : null}
              colours={colours}
            />
          ) : (
            shown.length > 0 && <p class="quiet">{words.pickBox}</p>
          )}
        </aside>
      </div>
    </div>
  );
}
