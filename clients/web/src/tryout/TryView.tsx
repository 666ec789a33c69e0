// Drop images, type classes, look at what both stages say, and turn the thresholds.

import { useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { call, messageOf, originalBlob } from "../api/connect";
import { listRunImages, listRuns, type ClassSpec, type Judgement } from "../api/messages";
import { classColours } from "../canvas/colours";
import { texts } from "../texts";
import { BoxedImage } from "../ui/BoxedImage";
import { JudgementFacts } from "../ui/Explanation";
import { JudgementTable } from "../ui/JudgementTable";
import { step, useKeys } from "../ui/keys";
import { dropped, Failure, ImageInput, useLoad } from "../ui/parts";
import { DEFAULTS, parsedClasses, type Thresholds, withQuestion, yamlOf } from "./ontology";
import { differing } from "./sides";
import { Sliders } from "./Sliders";
import { Trial, triedImage, usefulFirst, type TriedImage } from "./trial";
import { UseDialog } from "./UseDialog";

const words = texts.tryout;
const MOST_IMAGES = 24;
const TAKEN = 6;

/** What was typed and dropped stays while another view is looked at. */
const kept = {
  text: "",
  /** Other classes or questions for the same images; null: nothing is compared. */
  second: null as string | null,
  images: [] as TriedImage[],
  trial: null as Trial | null,
  /** With the second classes; its images are copies. */
  other: null as Trial | null,
  thresholds: new Map<string, Thresholds>([["", DEFAULTS]]),
};

/** The judgements of an image that are shown. */
function shownOf(image: TriedImage | undefined, rejected: boolean): [number, Judgement][] {
  return [...(image?.judgements ?? []).entries()].filter(
    ([, one]) => !one.wholeImage && (rejected || one.outcome !== "OUTCOME_REJECT"),
  );
}

const namesOf = (classes: readonly ClassSpec[]) => classes.map((one) => one.name ?? "");

export function TryView() {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [text, setText] = useState(kept.text);
  const [second, setSecond] = useState(kept.second);
  const [images, setImages] = useState(kept.images);
  const [thresholds, setThresholds] = useState(kept.thresholds);
  const [at, setAt] = useState(0);
  /** The side and the place of the judgement that is looked at. */
  const [[side, chosen], setChosen] = useState<[0 | 1, number]>([0, -1]);
  const [rejected, setRejected] = useState(false);
  const dialog = useRef<HTMLDialogElement>(null);
  const { trial, other } = kept;
  Object.assign(kept, { text, second, images, thresholds });
  const typed = useMemo(() => parsedClasses(text), [text]);
  const typedSecond = useMemo(() => parsedClasses(second ?? ""), [second]);
  const error = typed.error || typedSecond.error;
  const firstNames = namesOf(trial?.classes ?? typed.classes);
  const secondNames = namesOf(other?.classes ?? typedSecond.classes);
  const names = [...new Set([...firstNames, ...secondNames])];
  const colours = useMemo(() => classColours(names), [names.join("\u0000")]);

  useEffect(() => setChosen([0, -1]), [at]);
  const add = (files: Iterable<File>) => {
    const fresh = [...files].map((file) => triedImage(file, file.name));
    setImages((was) => [...was, ...fresh].slice(0, MOST_IMAGES));
  };
  const ready = images.length > 0 && typed.classes.length > 0 && !error;
  const running = Boolean(trial?.running || other?.running);
  const stop = () => {
    trial?.stop();
    other?.stop();
  };
  const run = (classes = typed.classes) => {
    if (!ready) return;
    stop();
    const changed = () => update(0);
    const made = (kept.trial = new Trial(images, classes, thresholds, changed));
    const copies = images.map((one) => triedImage(one.bytes, one.name));
    const compared = second !== null && typedSecond.classes.length > 0;
    kept.other = compared ? new Trial(copies, typedSecond.classes, thresholds, changed) : null;
    // One after the other: the server labels as many images at a time as it can.
    void made.start().then(() => (kept.trial === made ? kept.other?.start() : undefined));
    setChosen([0, -1]);
    update(0);
  };
  const place = Math.min(at, images.length - 1);
  const image = images[place];
  const twin = other?.images.find((one) => one.bytes === image?.bytes);
  useEffect(() => {
    trial?.decide(thresholds, image);
    other?.decide(thresholds, twin);
  }, [thresholds]);
  const judgements = useMemo(() => shownOf(image, rejected), [image?.judgements, rejected]);
  const twins = useMemo(() => shownOf(twin, rejected), [twin?.judgements, rejected]);
  const both = image?.state === "done" && twin?.state === "done";
  const marked = useMemo(
    () => [differing(judgements, twins, secondNames), differing(twins, judgements, firstNames)],
    [judgements, twins, names.join("\u0000")],
  );
  const one = (side ? twin : image)?.judgements[chosen];
  /** Ask another question about the class of the box that is looked at. */
  const askAgain = (question: string) => {
    if (!one) return;
    const changed = withQuestion(side ? (second ?? "") : text, one.className ?? "", question);
    if (side) setSecond(changed);
    else setText(changed);
    asked.current = true;
  };
  const asked = useRef(false);
  useEffect(() => {
    if (!asked.current) return;
    asked.current = false;
    run();
  }, [text, second]);
  useKeys((key) => {
    const way = step(key);
    if (way && images.length) setAt(Math.min(Math.max(at + way[0], 0), images.length - 1));
    else if (key === "R") setRejected(!rejected);
    else return false;
    return Boolean(way?.[0]) || key === "R";
  });

  const tried = [...images, ...(other?.images ?? [])];
  const [done, total] = [tried.filter((each) => each.state === "done").length, tried.length];
  const shownClasses = trial?.classes ?? typed.classes;
  const sides = other
    ? ([
        [image, judgements, words.firstSide],
        [twin, twins, words.secondSide],
      ] as const)
    : ([[image, judgements, ""]] as const);
  return (
    <div
      class="tryout"
      {...dropped(add)}
    >
      <section class="panel" aria-label={words.title}>
        <h1 class="unseen">{words.title}</h1>
        <Sources onFiles={add} onTaken={(fresh) => setImages([...images, ...fresh])} />
        <label>
          {words.classes}
          <textarea
            rows={5}
            spellcheck={false}
            placeholder={words.placeholder}
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <p class="quiet small">{words.classesHelp}</p>
        <label class="check">
          <input
            type="checkbox"
            checked={second !== null}
            onChange={(event) => setSecond(event.currentTarget.checked ? text : null)}
          />
          {words.second}
        </label>
        {second !== null && (
          <label>
            {words.secondClasses}
            <textarea
              rows={5}
              spellcheck={false}
              value={second}
              onInput={(event) => setSecond(event.currentTarget.value)}
            />
          </label>
        )}
        <Failure message={error} />
        <div class="row">
          <button type="button" class="primary" onClick={() => run()} disabled={!ready || running}>
            {words.run}
          </button>
          {running && (
            <>
              <button type="button" onClick={stop}>
                {words.stop}
              </button>
              <span role="status">{words.running(done, total)}</span>
            </>
          )}
        </div>
        <Sliders classes={names} thresholds={thresholds} onChange={setThresholds} />
        <button
          type="button"
          onClick={() => dialog.current?.showModal()}
          disabled={!shownClasses.length}
        >
          {words.use}
        </button>
        <UseDialog
          hold={dialog}
          yaml={yamlOf(shownClasses, (name) => thresholds.get(name) ?? thresholds.get("")!)}
        />
      </section>
      <section class="tried" aria-label={words.images}>
        {image ? (
          <>
            <div class="pair">
              {sides.map(([shown, boxes, title], index) => (
                <section class="side" key={index} aria-label={title || undefined}>
                  {title && <strong>{title}</strong>}
                  <BoxedImage
                    source={image.bytes}
                    name={image.name}
                    width={shown?.labelled?.width ?? 0}
                    height={shown?.labelled?.height ?? 0}
                    judgements={boxes}
                    colours={colours}
                    chosen={index === side ? chosen : -1}
                    onChoose={(place) => setChosen([index as 0 | 1, place])}
                    {...(both && { marked: marked[index]! })}
                  />
                </section>
              ))}
            </div>
            <Failure message={image.failure || (twin?.failure ?? "")} />
          </>
        ) : (
          <div class="stage">
            <p class="waiting">{words.noImages}</p>
          </div>
        )}
        <Strip images={images} at={at} onChoose={setAt} onRemove={(index) => remove(index)} />
      </section>
      <aside class="panel" aria-label={texts.browse.boxes}>
        <div class="row">
          <h2>{texts.browse.boxes}</h2>
          <span class="grow" />
          <label class="check">
            <input
              type="checkbox"
              checked={rejected}
              onChange={(event) => setRejected(event.currentTarget.checked)}
            />
            {texts.browse.rejected} <kbd aria-hidden="true">R</kbd>
          </label>
        </div>
        {both && <p class="quiet small">{words.differs}</p>}
        {sides.map(
          ([shown, boxes, title], index) =>
            shown?.state === "done" && (
              <section key={index} aria-label={title ? words.boxesOf(title) : undefined}>
                {title && <h3>{title}</h3>}
                <JudgementTable
                  judgements={boxes}
                  colours={colours}
                  chosen={index === side ? chosen : -1}
                  onChoose={(place) => setChosen([index as 0 | 1, place])}
                  {...(both && { marked: marked[index]! })}
                />
              </section>
            ),
        )}
        {one && <JudgementFacts one={one} />}
        {one?.verdict?.question && (
          <AskAgain key={`${side} ${one.className}`} one={one} busy={running} onAsk={askAgain} />
        )}
      </aside>
    </div>
  );

  function remove(index: number): void {
    setImages(images.filter((_, place) => place !== index));
    setAt(Math.max(Math.min(at, images.length - 2), 0));
  }
}

/** Another wording of the question that was asked about a box. */
function AskAgain(props: { one: Judgement; busy: boolean; onAsk: (question: string) => void }) {
  const field = useRef<HTMLInputElement>(null);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const question = field.current?.value.trim();
    if (question) props.onAsk(question);
  };
  return (
    <form class="ask-again" onSubmit={submit}>
      <label>
        {words.wording(props.one.className ?? "")}
        <input
          ref={field}
          type="text"
          maxLength={500}
          defaultValue={props.one.verdict?.question ?? ""}
        />
      </label>
      <button type="submit" disabled={props.busy}>
        {words.askAgain}
      </button>
    </form>
  );
}

/** Files from this computer, or images of a run. */
function Sources(props: {
  onFiles: (files: Iterable<File>) => void;
  onTaken: (images: TriedImage[]) => void;
}) {
  const [failure, setFailure] = useState("");
  const run = useRef<HTMLSelectElement>(null);
  const runs = useLoad((signal) => call(listRuns, { pageSize: 50 }, signal), []);
  const known = usefulFirst(runs.value?.runs ?? []);
  const take = async () => {
    const found = known.find((one) => one.name === run.current?.value);
    if (!found) return;
    const room = Math.max(Number(found.images ?? 0) - TAKEN, 0);
    const offset = String(Math.floor(Math.random() * (room + 1)));
    try {
      const request = { run: found.name ?? "", offset, pageSize: TAKEN };
      const { images = [] } = await call(listRunImages, request);
      const blobs = await Promise.all(images.map((one) => originalBlob(one.sha256 ?? "")));
      props.onTaken(blobs.map((blob, index) => triedImage(blob, images[index]?.name ?? "")));
      setFailure("");
    } catch (error) {
      setFailure(messageOf(error));
    }
  };
  return (
    <>
      <label class="drop">
        <span>{words.drop}</span>
        <ImageInput onFiles={props.onFiles} />
      </label>
      {known.length > 0 && (
        <div class="take">
          <label>
            {words.fromRun}
            <select ref={run}>
              {known.map((one) => (
                <option key={one.name}>{one.name}</option>
              ))}
            </select>
          </label>
          <button type="button" onClick={() => void take()}>
            {words.take}
          </button>
        </div>
      )}
      <Failure message={failure} />
    </>
  );
}

/** The images that are tried, small. */
function Strip(props: {
  images: TriedImage[];
  at: number;
  onChoose: (index: number) => void;
  onRemove: (index: number) => void;
}) {
  return (
    <ul class="strip">
      {props.images.map((image, index) => (
        <li key={image.id}>
          <button
            type="button"
            class="tile"
            title={image.name}
            aria-label={image.name}
            aria-pressed={index === props.at}
            onClick={() => props.onChoose(index)}
          >
            <Thumbnail bytes={image.bytes} />
          </button>
          <span class="under">
            <span class={image.state === "failed" ? "outcome rejected" : "quiet"}>
              {stateOf(image)}
            </span>
            <button
              type="button"
              class="plain"
              aria-label={words.remove(image.name)}
              onClick={() => props.onRemove(index)}
            >
              ×
            </button>
          </span>
        </li>
      ))}
    </ul>
  );
}

function stateOf(image: TriedImage): string {
  if (image.state !== "done") return words.states[image.state];
  const accepted = image.judgements.filter((one) => one.outcome === "OUTCOME_ACCEPT").length;
  const unsure = image.judgements.filter((one) => one.outcome === "OUTCOME_UNSURE").length;
  return texts.browse.counts(accepted, unsure);
}

function Thumbnail({ bytes }: { bytes: Blob }) {
  const address = useMemo(() => URL.createObjectURL(bytes), [bytes]);
  useEffect(() => () => URL.revokeObjectURL(address), [address]);
  return <img src={address} alt="" draggable={false} />;
}
