// An image of the server, or a dropped one, with judged boxes to choose from.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { imageBlob, messageOf } from "../api/connect";
import type { Judgement } from "../api/messages";
import { rectOf } from "../canvas/geometry";
import { paintedMask } from "../canvas/mask";
import { Viewer } from "../canvas/viewer";
import { texts } from "../texts";
import { Failure, shownBox } from "./parts";

const PLAIN = "#888888";

interface Props {
  /** An image of the server by its hash, or the bytes of another. */
  source: string | Blob;
  name: string;
  width: number;
  height: number;
  judgements: [number, Judgement][];
  colours: Map<string, string>;
  chosen: number;
  onChoose: (index: number) => void;
  /** Places of those that are marked with a sign. */
  marked?: ReadonlySet<number>;
  hold?: (viewer: Viewer | null) => void;
}

export function BoxedImage(props: Props) {
  const { source, judgements, colours, chosen, marked } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const viewer = useRef<Viewer | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const [bitmap, setBitmap] = useState<ImageBitmap | null>(null);
  const [failure, setFailure] = useState("");

  useLayoutEffect(() => {
    const onPick = (place: number) => {
      const found = latest.current.judgements[place];
      latest.current.onChoose(found ? found[0] : -1);
    };
    const made = new Viewer(canvas.current!, { onPick });
    viewer.current = made;
    latest.current.hold?.(made);
    return () => {
      latest.current.hold?.(null);
      made.close();
    };
  }, []);
  useEffect(() => {
    const controller = new AbortController();
    const load = async () => {
      const blob = typeof source === "string" ? await imageBlob(source, controller.signal) : source;
      const made = await createImageBitmap(blob);
      if (controller.signal.aborted) return made.close();
      setFailure("");
      setBitmap(made);
    };
    load().catch((error: unknown) => {
      if (controller.signal.aborted) return;
      setBitmap(null);
      setFailure(messageOf(error));
    });
    return () => controller.abort();
  }, [source]);
  useEffect(() => () => bitmap?.close(), [bitmap]);
  useLayoutEffect(() => {
    // A dropped image's size is told by the server only with its labels.
    const width = props.width || (bitmap?.width ?? 1);
    viewer.current?.show(bitmap, width, props.height || (bitmap?.height ?? 1));
  }, [bitmap, props.width, props.height]);
  useLayoutEffect(() => {
    const boxes = judgements.map(([index, one]) => {
      const box = shownBox(one, colours);
      return marked?.has(index) ? { ...box, tag: `≠ ${box.tag}` } : box;
    });
    viewer.current?.setBoxes(
      boxes,
      judgements.findIndex(([index]) => index === chosen),
    );
  }, [judgements, colours, chosen, marked]);
  const one = judgements.find(([index]) => index === chosen)?.[1];
  const mask = one?.segmentation?.mask;
  const colour = colours.get(one?.className ?? "") ?? PLAIN;
  useLayoutEffect(() => {
    viewer.current?.setMask(mask ? paintedMask(mask, colour) : null, []);
  }, [bitmap, mask, colour]);
  return (
    <div class="stage">
      <canvas class="viewer" ref={canvas} role="img" aria-label={texts.review.image(props.name)} />
      <Failure message={failure && `${texts.errors.imageFailed} ${failure}`} />
    </div>
  );
}

/** Look closely at the box of a judgement. */
export function lookAtJudgement(viewer: Viewer | null, one: Judgement | undefined): void {
  if (one) viewer?.lookAt(rectOf(one.box));
}
