// The jobs of the server: how each stands, live, and what failed.

import { useEffect, useReducer, useState } from "preact/hooks";
import { call, follow, messageOf, persistently } from "../api/connect";
import {
  cancelJob,
  createJob,
  finishUpload,
  listFailures,
  listJobs,
  pauseJob,
  resumeJob,
  retryJob,
  watchJob,
  type Job,
  type JobFailure,
  type WatchJobResponse,
} from "../api/messages";
import { may } from "../session/session";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";
import { currentUpload, onUploadChange } from "./upload";

const words = texts.runs;
const ACTIVE = new Set(["JOB_STATE_LISTING", "JOB_STATE_RUNNING", "JOB_STATE_PAUSED"]);
/** A watched job keeps a connection, of which a browser has few. */
const MOST_WATCHED = 3;
/** Failures that are counted by their reason, and those of one reason that are listed. */
const FAILURES = 1000;
const LISTED = 20;

function isActive(job: Job): boolean {
  return ACTIVE.has(job.state ?? "");
}

export function JobsView() {
  const { value, error, again } = useLoad(
    (signal) => call(listJobs, { pageSize: 100 }, signal),
    [],
  );
  const jobs = value?.jobs ?? [];
  const watched = new Set(jobs.filter(isActive).slice(0, MOST_WATCHED));
  return (
    <>
      <div class="row">
        <h1>{words.title}</h1>
        <span class="grow" />
        {may(createJob) && (
          <a class="button primary" href="#/jobs/new">
            {words.start}
          </a>
        )}
      </div>
      <Failure message={error} again={again} />
      <UploadNews />
      {value && !jobs.length && <p>{words.none}</p>}
      <ul class="jobs">
        {jobs.map((job) => (
          <JobCard key={job.name} first={job} watched={watched.has(job)} />
        ))}
      </ul>
    </>
  );
}

/** How the upload of this tab goes. */
function UploadNews() {
  const [, update] = useReducer((turn: number) => turn + 1, 0);
  useEffect(() => onUploadChange(() => update(0)), []);
  const upload = currentUpload();
  if (!upload) return null;
  return (
    <section class="card" aria-label={words.upload.title}>
      <div class="row">
        <strong>{upload.running ? words.upload.running(upload.job) : words.upload.done}</strong>
        <span class="grow" />
        {upload.running && (
          <button type="button" onClick={() => upload.stop()}>
            {words.upload.stop}
          </button>
        )}
      </div>
      <progress
        max={upload.total}
        value={upload.sent + upload.refused.length}
        aria-label={words.upload.title}
      />
      <span>{words.upload.sent(upload.sent, upload.total)}</span>
      {upload.waits && <p class="quiet">{upload.waits}</p>}
      {upload.refused.slice(0, LISTED).map(([name, why]) => (
        <p key={name}>
          <strong>{name}</strong> <span class="quiet">{why}</span>
        </p>
      ))}
      <Failure message={upload.failure} />
    </section>
  );
}

/** News of a job, as long as it goes on. After a broken line it is watched anew. */
function useNews(first: Job, watched: boolean, turn: number): WatchJobResponse {
  const [news, setNews] = useState<WatchJobResponse>({ job: first });
  useEffect(() => {
    if (!watched && !turn) return;
    const controller = new AbortController();
    const { signal } = controller;
    void persistently(signal, async () => {
      for await (const one of follow(watchJob, { job: first.name ?? "" }, signal)) setNews(one);
    });
    return () => controller.abort();
  }, [first.name, watched, turn]);
  return news;
}

function JobCard({ first, watched }: { first: Job; watched: boolean }) {
  const [turn, setTurn] = useState(0);
  const [failure, setFailure] = useState("");
  const { job = first, imagesPerSecond = 0, secondsLeft } = useNews(first, watched, turn);
  const name = job.name ?? "";
  const [total, done, failed] = [job.total, job.done, job.failed].map((one) =>
    Number(one ?? 0),
  ) as [number, number, number];
  const act = (made: Promise<unknown>) => {
    made
      .then(() => setFailure(""))
      .catch((error: unknown) => setFailure(messageOf(error)))
      .finally(() => setTurn((was) => was + 1));
  };
  // Images of another tab, or of one that was closed, may still come.
  const waits = job.kind === "JOB_KIND_UPLOAD" && job.open && isActive(job);
  const paused = job.state === "JOB_STATE_PAUSED";
  const goes = isActive(job) && !paused;
  const ours = currentUpload()?.running && currentUpload()?.job === name;
  return (
    <li class="card">
      <div class="row">
        <strong>{name}</strong>
        <span class="quiet">{stateOf(job, total - done - failed)}</span>
        <span class="grow" />
        <a href={`#/browse/${encodeURIComponent(name)}`}>{words.browse}</a>
        {waits && !ours && may(finishUpload) && (
          <button type="button" onClick={() => act(call(finishUpload, { job: name }))}>
            {words.finish}
          </button>
        )}
        {isActive(job) && may(pauseJob) && (
          <button
            type="button"
            onClick={() => act(call(paused ? resumeJob : pauseJob, { job: name }))}
          >
            {paused ? words.resume : words.pause}
          </button>
        )}
        {isActive(job) && may(cancelJob) && (
          <button type="button" onClick={() => act(call(cancelJob, { job: name }))}>
            {words.cancel}
          </button>
        )}
      </div>
      <progress
        max={Math.max(total, 1)}
        value={done + failed}
        aria-label={words.progressLabel(name)}
      />
      <div class="row">
        <span>{words.images(done, total)}</span>
        {goes && imagesPerSecond > 0 && <span>{words.rate(imagesPerSecond)}</span>}
        {goes && secondsLeft !== undefined && <span>{words.left(secondsLeft)}</span>}
        {failed > 0 && <span class="outcome rejected">{words.failed(failed)}</span>}
        <span class="grow" />
        <span class="quiet">{sourceOf(job)}</span>
      </div>
      {job.message && <p class="quiet">{job.message}</p>}
      <Failure message={failure} />
      {failed > 0 && (
        <Failures
          job={name}
          failed={failed}
          onRetry={(reasons) => act(call(retryJob, { job: name, reasons }))}
        />
      )}
    </li>
  );
}

function stateOf(job: Job, left: number): string {
  const idle = job.state === "JOB_STATE_RUNNING" && job.open && !left;
  return idle ? words.waits : words.states[job.state ?? "JOB_STATE_UNSPECIFIED"];
}

function sourceOf(job: Job): string {
  const from = job.folder || words.kinds[job.kind ?? "JOB_KIND_UNSPECIFIED"];
  return job.guarantee ? `${from} · ${words.under(job.guarantee)}` : from;
}

/** What failed, by its reason. */
function Failures(props: { job: string; failed: number; onRetry: (reasons: string[]) => void }) {
  const [open, setOpen] = useState(false);
  const { value, error } = useLoad(
    async (signal) =>
      open ? call(listFailures, { job: props.job, pageSize: FAILURES }, signal) : null,
    [open, props.job, props.failed],
  );
  const kinds = new Map<string, JobFailure[]>();
  for (const one of value?.failures ?? []) {
    const reason = one.reason ?? "";
    kinds.set(reason, [...(kinds.get(reason) ?? []), one]);
  }
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{words.failures}</summary>
      <Failure message={error} />
      {may(retryJob) && (
        <button type="button" onClick={() => props.onRetry([])}>
          {words.retry}
        </button>
      )}
      {[...kinds].map(([reason, failures]) => (
        <section key={reason} class="failed-kind" aria-label={reason}>
          <div class="row">
            <h2>{reason}</h2>
            <span class="quiet">{words.failed(failures.length)}</span>
            {may(retryJob) && kinds.size > 1 && (
              <button type="button" onClick={() => props.onRetry([reason])}>
                {words.retryOnly(reason)}
              </button>
            )}
          </div>
          <ul class="plain-list">
            {failures.slice(0, LISTED).map((one) => (
              <li key={one.key}>
                <strong>{one.name}</strong> <span class="quiet">{one.message}</span>
              </li>
            ))}
          </ul>
          {failures.length > LISTED && (
            <p class="quiet">{words.moreFailures(failures.length - LISTED)}</p>
          )}
        </section>
      ))}
      {value?.nextAfter && value.nextAfter !== "0" && <p class="quiet">{words.notAll}</p>}
    </details>
  );
}
