// The page: its views, who looks, and how the line to the server stands.

import { render } from "preact";
import {
  useCallback,
  useEffect,
  useLayoutEffect,
  useReducer,
  useRef,
  useState,
} from "preact/hooks";
import { BrowseView, RunList } from "./browse/BrowseView";
import { CompareView } from "./browse/CompareView";
import "./api/insecure";
import { answerReviewItem, label, listRuns, type Caller } from "./api/messages";
import { RunView } from "./jobs/RunView";
import { openOutbox, type Outbox } from "./review/outbox";
import { QueueList } from "./review/QueueList";
import { ReviewView } from "./review/ReviewView";
import { LoginDialog } from "./session/LoginDialog";
import { beginSession, may, useSession } from "./session/session";
import { forgetToken, shownToken } from "./session/token";
import { texts } from "./texts";
import { TryView } from "./tryout/TryView";
import { KeysDialog } from "./ui/KeysDialog";
import { PersonForm } from "./ui/PersonForm";

const PERSON = "secondlook.person";
const VIEWS = ["review", "browse", "try", "jobs"] as const;
type View = (typeof VIEWS)[number];
/** Calls that a view is in vain without. */
const NEEDS = { review: answerReviewItem, browse: listRuns, try: label, jobs: listRuns } as const;

/** "#/view/name": the view, and the name of what it shows. */
function route(): { view: View; rest: string[] } {
  const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  const view = VIEWS.find((one) => one === name);
  return { view: view ?? VIEWS.find((one) => may(NEEDS[one])) ?? "browse", rest };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function App({ outbox }: { outbox: Outbox }) {
  const caller = useSession();
  const [at, setAt] = useState(route);
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  const [person, setPerson] = useState(localStorage.getItem(PERSON) ?? "");
  const [naming, setNaming] = useState(false);
  const said = useRef<HTMLDivElement>(null);
  const keys = useRef<HTMLDialogElement>(null);
  const announce = useCallback((text: string) => {
    if (said.current) said.current.textContent = text;
  }, []);
  useLayoutEffect(() => {
    const moved = () => setAt(route());
    const back = () => outbox.wake();
    window.addEventListener("hashchange", moved);
    window.addEventListener("online", back);
    outbox.onChange = () => update(0);
    return () => {
      window.removeEventListener("hashchange", moved);
      window.removeEventListener("online", back);
    };
  }, []);
  useEffect(() => setAt(route()), [caller]);
  useEffect(() => {
    document.title = `${texts.views[at.view]} · ${texts.name}`;
  }, [at.view]);

  const name = (chosen: string) => {
    localStorage.setItem(PERSON, chosen);
    setPerson(chosen);
    setNaming(false);
  };
  return (
    <>
      <a class="skip" href="#content" onClick={skip}>
        {texts.skipLink}
      </a>
      <header class="top">
        <strong class="brand">{texts.name}</strong>
        <nav aria-label={texts.name}>
          {VIEWS.filter((view) => may(NEEDS[view])).map((view) => (
            <a key={view} href={`#/${view}`} aria-current={view === at.view ? "page" : undefined}>
              {texts.views[view]}
            </a>
          ))}
        </nav>
        <span class="grow" />
        <Line outbox={outbox} />
        {person && may(NEEDS.review) && (
          <button
            type="button"
            class="plain"
            title={texts.person.change}
            onClick={() => setNaming(true)}
          >
            {person}
          </button>
        )}
        <button type="button" class="plain" onClick={() => keys.current?.showModal()}>
          {texts.help}
        </button>
        {caller && shownToken() && <Leave caller={caller} />}
      </header>
      <main id="content" tabIndex={-1}>
        {!may(NEEDS[at.view]) ? (
          <p class="page">{texts.login.notAllowed(rolesOf(caller))}</p>
        ) : at.view === "review" && (!person || naming) ? (
          <PersonForm person={person || (caller?.name ?? "")} onChoose={name} />
        ) : (
          <Shown at={at} person={person} outbox={outbox} announce={announce} />
        )}
      </main>
      <div class="unseen" aria-live="polite" ref={said} />
      <KeysDialog hold={keys} />
      <LoginDialog />
    </>
  );
}

function rolesOf(caller: Caller | null): string {
  return (caller?.roles ?? []).map((one) => texts.login.roles[one]).join(", ");
}

/** Whose token is shown, and the way out. */
function Leave({ caller }: { caller: Caller }) {
  return (
    <button type="button" class="plain" title={rolesOf(caller)} onClick={forgetToken}>
      {texts.login.leave} {caller.name}
    </button>
  );
}

/** The address is the view's, so the link moves the focus by itself. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

interface ShownProps {
  at: { view: View; rest: string[] };
  person: string;
  outbox: Outbox;
  announce: (text: string) => void;
}

function Shown({ at, person, outbox, announce }: ShownProps) {
  const [first = ""] = at.rest;
  if (at.view === "review") {
    if (!first) return <QueueList />;
    return <ReviewView queue={first} person={person} outbox={outbox} announce={announce} />;
  }
  if (at.view === "browse") {
    const [, cursor = "", other = ""] = at.rest;
    if (cursor === "compare" && other) return <CompareView before={first} after={other} />;
    return first ? <BrowseView run={first} cursor={cursor} /> : <RunList />;
  }
  if (at.view === "try") return <TryView />;
  return <RunView rest={at.rest} />;
}

/** Whether the server answers, and how much waits to be sent. */
function Line({ outbox }: { outbox: Outbox }) {
  const { count: waiting, lost } = outbox;
  // An answer is on its way for some milliseconds each time: only what stays is worth a word.
  const words = lost ? `${texts.line.lost} · ${texts.line.waiting(waiting)}` : "";
  return (
    <span class={lost ? "line lost" : "line"} role="status" data-waiting={waiting}>
      {words}
    </span>
  );
}

beginSession();
void openOutbox().then((outbox) => {
  render(<App outbox={outbox} />, document.getElementById("app")!);
});
