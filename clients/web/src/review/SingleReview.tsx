// One box at a time: its crop, the image beside it, one key an answer.

import { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import type { Judgement, ReviewItem, WrongReason } from "../api/messages";
import { dragged, rectOf, sameRect, type Rect } from "../canvas/geometry";
import type { Viewer } from "../canvas/viewer";
import { texts } from "../texts";
import { step, useKeys } from "../ui/keys";
import { ClassMark, Failure, Key, OutcomeMark, share } from "../ui/parts";
import { paintedMask } from "../canvas/mask";
import { useMaskClicks } from "./clicks";
import { ClassChooser } from "./ClassChooser";
import { CropPane } from "./CropPane";
import { ImagePane } from "./ImagePane";
import { usePainting } from "./painting";
import { AHEAD, PixelCache } from "./pixels";
import type { ReviewSession, Said } from "./session";

interface Props {
  session: ReviewSession;
  pixels: PixelCache;
  classes: string[];
  colours: Map<string, string>;
  questions: Map<string, string>;
  onGrid: () => void;
  announce: (text: string) => void;
}

/** What the keys mean now. */
type Mode = "ask" | "class" | "outline" | "draw" | "class of new" | "first of two" | "second of two";
const DRAWING: readonly Mode[] = ["outline", "draw", "first of two", "second of two"];
const MASK_COLOUR = "#39d98a";

const RIGHT: Said = { answer: "REVIEW_ANSWER_RIGHT" };
const UNSURE: Said = { answer: "REVIEW_ANSWER_UNSURE" };
const wrong = (reason: WrongReason): Said => ({ answer: "REVIEW_ANSWER_WRONG", reason });
const PLAIN: Record<string, [string, Said]> = {
  Y: [texts.review.right, RIGHT],
  N: [texts.review.nothing, wrong("WRONG_REASON_NOTHING_THERE")],
  D: [texts.review.duplicate, wrong("WRONG_REASON_DUPLICATE")],
  U: [texts.review.unsure, UNSURE],
};
/** Keys that are of use before the crop is there. */
const ALWAYS = new Set(["S", "Z"]);
const FAR = 10;
const ZOOM = 1.3;

/** Arrow keys move a box; with Alt only its lower right corner. A box begins in the middle. */
function nudged(rect: Rect | null, key: string, event: KeyboardEvent, item: ReviewItem) {
  const way = step(key);
  if (!way) return null;
  const [width, height] = [item.width ?? 1, item.height ?? 1];
  if (!rect) {
    return { x1: width * 0.4, y1: height * 0.4, x2: width * 0.6, y2: height * 0.6 };
  }
  const by = event.shiftKey ? FAR : 1;
  const handle = event.altKey ? "se" : "all";
  return dragged(rect, handle, way[0] * by, way[1] * by, width, height);
}

/** The halves of a box across its longer side: where two objects in it may be. */
function halves({ x1, y1, x2, y2 }: Rect): [Rect, Rect] {
  const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
  if (x2 - x1 > y2 - y1) return [{ x1, y1, x2: x, y2 }, { x1: x, y1, x2, y2 }];
  return [{ x1, y1, x2, y2: y }, { x1, y1: y, x2, y2 }];
}

export function SingleReview(props: Props) {
  const { session, pixels, colours, announce } = props;
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [mode, setMode] = useState<Mode>("ask");
  const [edited, setEdited] = useState<Rect | null>(null);
  const viewer = useRef<Viewer | null>(null);
  const hold = useCallback((made: Viewer | null) => (viewer.current = made), []);
  const item = session.current;
  // Nobody says anything of a box that is not on the screen yet; of one that never will be, they may.
  const seen = Boolean(pixels.get(item) || pixels.error(item));

  useEffect(() => {
    pixels.onReady = (id) => {
      if (id !== session.current?.id) return;
      session.shown();
      update(0);
    };
  }, [session, pixels]);
  const recent = session.history.slice(-3).flatMap((one) => (one.item ? [one.item] : []));
  useEffect(() => pixels.want(session.ready.slice(0, AHEAD), recent));

  const own = item?.judgements?.[Number(item.labelId?.split(".")[1] ?? -1)];
  const drawing = DRAWING.includes(mode);
  const active = drawing || mode === "class of new";
  const clicks = useMaskClicks(item?.image ?? "", active, setEdited);
  const painting = usePainting(setEdited);
  /** The first of two outlines in one box. */
  const first = useRef<Pick<Said, "newBox" | "mask">>({});
  /** An outline that was drawn by hand has no mask. */
  const edit = (rect: Rect) => {
    clicks.clear();
    painting.clear();
    setEdited(rect);
  };
  const click = (x: number, y: number, inside: boolean) => {
    painting.clear();
    clicks.click(x, y, inside);
  };
  const mask = painting.mask ?? clicks.mask;
  const masked = () => (mask ? { mask } : {});
  const painted = useMemo(
    () => (painting.mask && !painting.brush ? paintedMask(painting.mask, MASK_COLOUR) : null),
    [painting.mask, painting.brush],
  );

  const added = useMemo(() => addedOn(session, item), [item, session.history.length]);
  const reset = () => {
    setMode("ask");
    setEdited(null);
    painting.clear();
  };
  const answer = (what: string, said: Said) => {
    reset();
    session.answer(said);
    announce(texts.review.answered(what, session.current?.className ?? texts.review.done));
  };
  const undo = () => {
    if (!session.history.length) return announce(texts.review.nothingToUndo);
    reset();
    session.undo();
    announce(texts.review.undone(session.current?.className ?? ""));
  };
  const skip = () => {
    reset();
    session.skip();
  };
  const begin = (next: Mode) => {
    if (!item) return;
    const box = rectOf(item.box);
    setMode(next);
    painting.clear();
    setEdited(next === "outline" ? box : next === "first of two" ? halves(box)[0] : null);
    if (next !== "class" && next !== "draw") viewer.current?.lookAt(box);
  };
  const saveHalf = () => {
    if (!item || !edited) return;
    const outlined = { newBox: edited, ...masked() };
    if (mode === "first of two") {
      first.current = outlined;
      setMode("second of two");
      clicks.clear();
      painting.clear();
      return setEdited(halves(rectOf(item.box))[1]);
    }
    const { image, className } = item;
    const missing = "REVIEW_ANSWER_MISSING" as const;
    const second = { image, className, box: edited, answer: missing, ...masked() };
    session.split({ ...wrong("WRONG_REASON_OUTLINE"), ...first.current }, second);
    reset();
    announce(
      texts.review.answered(texts.review.split, session.current?.className ?? texts.review.done),
    );
  };
  const paint = () => {
    if (!item) return;
    const begin = mask ?? (mode === "outline" ? (own?.segmentation?.mask ?? null) : null);
    painting.toggle(begin, edited, item.width ?? 1, item.height ?? 1);
  };
  /** Enter: what is outlined is as it shall be. */
  const save = () => {
    if (mode === "outline") saveOutline();
    else if (mode !== "draw") saveHalf();
    else if (edited) setMode("class of new");
  };
  const saveOutline = () => {
    const said = wrong("WRONG_REASON_OUTLINE");
    const mended = edited && (mask !== null || !sameRect(edited, rectOf(item?.box)));
    answer(texts.review.outline, mended ? { ...said, newBox: edited, ...masked() } : said);
  };
  const addMissing = (className: string) => {
    if (item && edited) {
      const box = { ...edited };
      const answer = "REVIEW_ANSWER_MISSING";
      session.add([{ image: item.image, className, box, answer, ...masked() }]);
      announce(texts.review.added(className));
    }
    reset();
  };
  const complete = () => {
    if (!item) return;
    session.add([{ image: item.image, answer: "REVIEW_ANSWER_COMPLETE" }]);
    announce(texts.review.marked);
  };
  const lookAtBox = () => item && viewer.current?.lookAt(rectOf(item.box));
  const commands: Record<string, () => void> = {
    C: () => begin("class"),
    O: () => begin("outline"),
    T: () => begin("first of two"),
    A: () => begin("draw"),
    M: complete,
    S: skip,
    F: () => viewer.current?.fit(),
    B: lookAtBox,
  };

  const editKey = (key: string, event: KeyboardEvent): boolean => {
    if (!item) return false;
    if (key === "Escape") reset();
    else if (key === "Enter") save();
    else if (key === "P") paint();
    else if (painting.brush && (key === "[" || key === "]")) painting.resize(key === "]");
    else {
      const moved = nudged(edited, key, event, item);
      if (!moved) return false;
      edit(moved);
    }
    return true;
  };
  useKeys((key, event) => {
    if (key === "+" || key === "=") return zoom(viewer.current, ZOOM);
    if (key === "-") return zoom(viewer.current, 1 / ZOOM);
    if (drawing) return editKey(key, event);
    if (mode !== "ask" || event.altKey) return false;
    if (key === "Z" || key === "Backspace") undo();
    else if (key === "G") props.onGrid();
    else if (seen && PLAIN[key]) answer(...PLAIN[key]);
    else if (commands[key] && (seen || ALWAYS.has(key))) commands[key]();
    else return false;
    return true;
  });

  if (!item) return <Ended session={session} onUndo={undo} />;
  const name = item.className ?? "";
  const button = (key: string, word: string, act: () => void, kind = "") => (
    <button
      type="button"
      class={kind}
      onClick={act}
      aria-keyshortcuts={key}
      disabled={!seen && !ALWAYS.has(key)}
    >
      {word} <Key>{key}</Key>
    </button>
  );
  const plain = (key: string, kind = "") => {
    const [word, said] = PLAIN[key]!;
    return button(key, word, () => answer(word, said), kind);
  };
  return (
    <div class="review">
      <section class="ask" aria-label={texts.review.answers}>
        <h2 class="question">
          {props.questions.get(name) ?? texts.review.question(name)}
          <ClassMark name={name} colours={colours} />
        </h2>
        <div class="stage">
          <CropPane item={item} pixels={pixels.get(item)} colour={colours.get(name) ?? "#888888"} />
          {!pixels.get(item) && <Waiting error={pixels.error(item)} />}
          {(mode === "class" || mode === "class of new") && (
            <ClassChooser
              title={mode === "class" ? texts.review.whichClass : texts.review.whichMissing}
              classes={props.classes.filter((one) => mode !== "class" || one !== name)}
              colours={colours}
              unsaid={mode === "class"}
              onCancel={reset}
              onChoose={(chosen) => {
                if (mode === "class of new") return addMissing(chosen);
                const said = wrong("WRONG_REASON_CLASS");
                answer(texts.review.wrongClass, chosen ? { ...said, newClass: chosen } : said);
              }}
            />
          )}
        </div>
        <div class="answers" role="group" aria-label={texts.review.answers}>
          {plain("Y", "yes")}
          {plain("N", "no")}
          {button("C", texts.review.wrongClass, () => begin("class"), "no")}
          {button("O", texts.review.outline, () => begin("outline"), "no")}
          {plain("D", "no")}
          {button("T", texts.review.split, () => begin("first of two"), "no")}
          {plain("U")}
          {button("S", texts.review.skip, skip)}
          {button("Z", texts.review.undo, undo)}
        </div>
      </section>
      <section class="beside" aria-label={texts.review.facts.image}>
        {drawing ? (
          <div class="editor" role="group" aria-label={texts.review.outlineTitle}>
            <strong>{titleOf(mode)}</strong>
            <span>
              {painting.brush ? texts.review.paintWhy : whyOf(mode)}
              {clicks.available && !painting.brush && ` ${texts.review.clicksWhy}`}
            </span>
            <Failure message={clicks.error} />
            <span class="row">
              <button
                type="button"
                class="primary"
                disabled={!edited}
                onClick={save}
              >
                {saveWord(mode, edited, item, mask !== null)} <Key>Enter</Key>
              </button>
              <button type="button" aria-pressed={painting.brush !== null} onClick={paint}>
                {texts.review.paint} <Key>P</Key>
              </button>
              <button type="button" onClick={reset}>
                {texts.cancel} <Key>Esc</Key>
              </button>
            </span>
          </div>
        ) : (
          <div class="toolbar" role="group" aria-label={texts.review.tools}>
            {button("A", texts.review.missing, () => begin("draw"))}
            {button("M", texts.review.complete, complete)}
            <span class="grow" />
            {button("F", texts.review.fit, () => viewer.current?.fit())}
            {button("B", texts.review.zoomBox, () => lookAtBox())}
          </div>
        )}
        <div class="stage">
          <ImagePane
            item={item}
            pixels={pixels.get(item)}
            colours={colours}
            added={added}
            edited={edited}
            drawing={drawing}
            overlay={painted ?? clicks.overlay}
            points={clicks.clicks}
            brush={painting.brush}
            onEdit={edit}
            onStroke={painting.stroked}
            onClick={click}
            hold={hold}
          />
        </div>
        <Facts item={item} own={own} />
      </section>
    </div>
  );
}

function titleOf(mode: Mode): string {
  if (mode === "outline") return texts.review.outlineTitle;
  if (mode === "draw") return texts.review.drawTitle;
  return texts.review.splitTitle(mode === "first of two" ? 1 : 2);
}

function whyOf(mode: Mode): string {
  if (mode === "outline") return texts.review.outlineWhy;
  if (mode === "draw") return texts.review.drawWhy;
  return `${texts.review.splitWhy} ${texts.review.outlineWhy}`;
}

function saveWord(mode: Mode, edited: Rect | null, item: ReviewItem, masked: boolean): string {
  if (mode === "draw" || mode === "first of two") {
    return mode === "draw" ? texts.review.next : texts.review.nextObject;
  }
  const same = !masked && (!edited || sameRect(edited, rectOf(item.box)));
  return same ? texts.review.asIs : texts.review.saveOutline;
}

function zoom(viewer: Viewer | null, factor: number): boolean {
  viewer?.zoom(factor);
  return true;
}

/** What was added on the image of `item` in this session. */
function addedOn(session: ReviewSession, item: ReviewItem | undefined) {
  const all = session.history.flatMap((one) => one.added);
  return all
    .filter((one) => one.image === item?.image && one.box)
    .map((one) => ({ className: one.className ?? "", rect: rectOf(one.box) }));
}

function Waiting({ error }: { error: string }) {
  if (error) return <Failure message={`${texts.errors.imageFailed} ${error}`} />;
  return <p class="waiting">{texts.loading}</p>;
}

function Facts({ item, own }: { item: ReviewItem; own: Judgement | undefined }) {
  const facts = texts.review.facts;
  return (
    <dl class="facts">
      <div>
        <dt>{facts.decided}</dt>
        <dd>
          <OutcomeMark outcome={item.outcome} />
        </dd>
      </div>
      <div>
        <dt>{facts.score}</dt>
        <dd>{share(own?.score)}</dd>
      </div>
      <div>
        <dt>{facts.yes}</dt>
        <dd>{share(own?.verdict?.pYes)}</dd>
      </div>
      <div>
        <dt>{facts.probability}</dt>
        <dd>{share(item.probability ?? 0)}</dd>
      </div>
      <div class="wide">
        <dt>{facts.image}</dt>
        <dd title={item.imageName}>{item.imageName}</dd>
      </div>
    </dl>
  );
}

/** Nothing is asked now: because all is answered, or because items cannot be had. */
function Ended({ session, onUndo }: { session: ReviewSession; onUndo: () => void }) {
  if (session.error) return <Failure message={session.error} />;
  if (!session.ended) return <p class="waiting">{texts.loading}</p>;
  return (
    <div class="ended">
      <h2>{texts.review.done}</h2>
      <p>{texts.review.doneWhy}</p>
      <div class="row">
        <button type="button" class="primary" onClick={() => void session.start()}>
          {texts.review.again}
        </button>
        <button type="button" onClick={onUndo} disabled={!session.history.length}>
          {texts.review.undo} <Key>Z</Key>
        </button>
        <a class="button" href="#/review">
          {texts.review.back}
        </a>
      </div>
    </div>
  );
}
