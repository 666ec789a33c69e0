// A queue, one by one or as a grid, with its progress and the seconds that an answer takes.

import { useEffect, useMemo, useReducer, useState } from "preact/hooks";
import { call } from "../api/connect";
import { getRun } from "../api/messages";
import { classColours } from "../canvas/colours";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";
import { GridReview } from "./GridReview";
import type { Outbox } from "./outbox";
import { PixelCache } from "./pixels";
import { ReviewSession } from "./session";
import { SingleReview } from "./SingleReview";

interface Props {
  queue: string;
  person: string;
  outbox: Outbox;
  announce: (text: string) => void;
}

export function ReviewView({ queue, person, outbox, announce }: Props) {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [grid, setGrid] = useState(false);
  const [refusal, setRefusal] = useState("");
  const session = useMemo(() => new ReviewSession(queue, person, outbox), [queue, person, outbox]);
  const pixels = useMemo(() => new PixelCache(), [session]);
  useEffect(() => {
    session.onChange = () => update(0);
    outbox.onRefused = (deed, error) => {
      const done = session.refused(deed.id);
      const image = done?.item?.imageName ?? "";
      setRefusal(texts.review.refused(image, error.message));
      update(0);
    };
    void session.start();
    return () => {
      session.close();
      pixels.close();
    };
  }, [session]);

  const run = session.queue?.run ?? "";
  const about = useLoad(
    async (signal) => (run ? await call(getRun, { run }, signal) : null),
    [run],
  );
  const specs = about.value?.ontology?.classes ?? [];
  const seen = session.ready.map((one) => one.className ?? "");
  const names = specs.length ? specs.map((one) => one.name ?? "") : [...new Set(seen)];
  const key = names.join("\u0000");
  const colours = useMemo(() => classColours(names), [key]);
  const questions = useMemo(
    () => new Map(specs.flatMap((one) => (one.question ? [[one.name ?? "", one.question]] : []))),
    [about.value],
  );

  const total = Number(session.queue?.total ?? 0);
  const shared = { session, colours, announce };
  return (
    <div class="review-view">
      <header class="status">
        <h1>{queue}</h1>
        <progress
          max={Math.max(total, 1)}
          value={session.answered}
          aria-label={texts.review.progressLabel}
        />
        <span>{texts.review.progress(session.answered, total)}</span>
        {session.seconds !== null && (
          <span title={texts.review.secondsWhy}>{texts.review.seconds(session.seconds)}</span>
        )}
        <span class="grow" />
        <button type="button" aria-keyshortcuts="G" onClick={() => setGrid(!grid)}>
          {grid ? texts.review.single : texts.review.grid} <kbd aria-hidden="true">G</kbd>
        </button>
      </header>
      {session.error && session.current && <Failure message={session.error} />}
      {refusal && (
        <p class="failure" role="alert">
          {refusal}
          <button type="button" onClick={() => setRefusal("")}>
            {texts.close}
          </button>
        </p>
      )}
      {grid && session.current ? (
        <GridReview {...shared} onSingle={() => setGrid(false)} />
      ) : (
        <SingleReview
          {...shared}
          pixels={pixels}
          classes={names}
          questions={questions}
          onGrid={() => setGrid(true)}
        />
      )}
    </div>
  );
}
