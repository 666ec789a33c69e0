// The jobs of the server: how each stands, live, and what failed.

import { useEffect, useState } from "preact/hooks";
import { call, CallError, follow } from "../api/connect";
import {
  cancelJob,
  listFailures,
  listJobs,
  retryJob,
  watchJob,
  type Job,
  type WatchJobResponse,
} from "../api/messages";
import { texts } from "../texts";
import { Failure, useLoad } from "../ui/parts";

const words = texts.runs;
const ACTIVE = new Set(["JOB_STATE_LISTING", "JOB_STATE_RUNNING"]);
/** A watched job keeps a connection, of which a browser has few. */
const MOST_WATCHED = 3;
const AGAIN_MS = 2000;
const FAILURES = 50;

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
    <div class="page">
      <h1>{words.title}</h1>
      <Failure message={error} again={again} />
      {value && !jobs.length && <p>{words.none}</p>}
      <ul class="jobs">
        {jobs.map((job) => (
          <JobCard key={job.name} first={job} watched={watched.has(job)} />
        ))}
      </ul>
    </div>
  );
}

/** News of a job, as long as it goes on. After a broken line it is watched anew. */
function useNews(first: Job, watched: boolean, turn: number): WatchJobResponse {
  const [news, setNews] = useState<WatchJobResponse>({ job: first });
  useEffect(() => {
    if (!watched && !turn) return;
    const controller = new AbortController();
    const watch = async () => {
      const request = { job: first.name ?? "" };
      while (!controller.signal.aborted) {
        try {
          for await (const one of follow(watchJob, request, controller.signal)) setNews(one);
          return;
        } catch (error) {
          if (!(error instanceof CallError) || !error.transient) return;
          await new Promise((done) => setTimeout(done, AGAIN_MS));
        }
      }
    };
    void watch();
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
      .catch((error: unknown) => setFailure(error instanceof Error ? error.message : String(error)))
      .finally(() => setTurn((was) => was + 1));
  };
  return (
    <li class="card">
      <div class="row">
        <strong>{name}</strong>
        <span class="quiet">{words.states[job.state ?? "JOB_STATE_UNSPECIFIED"]}</span>
        <span class="grow" />
        <a href={`#/browse/${encodeURIComponent(name)}`}>{words.browse}</a>
        {isActive(job) && (
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
        {isActive(job) && imagesPerSecond > 0 && <span>{words.rate(imagesPerSecond)}</span>}
        {isActive(job) && secondsLeft !== undefined && <span>{words.left(secondsLeft)}</span>}
        {failed > 0 && <span class="outcome rejected">{words.failed(failed)}</span>}
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

/** What failed, by its reason. */
function Failures(props: { job: string; failed: number; onRetry: (reasons: string[]) => void }) {
  const [open, setOpen] = useState(false);
  const { value, error } = useLoad(
    async (signal) =>
      open ? call(listFailures, { job: props.job, pageSize: FAILURES }, signal) : null,
    [open, props.job, props.failed],
  );
  const failures = value?.failures ?? [];
  const reasons = [...new Set(failures.map((one) => one.reason ?? ""))];
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{words.failures}</summary>
      <Failure message={error} />
      <div class="row">
        <button type="button" onClick={() => props.onRetry([])}>
          {words.retry}
        </button>
        {reasons.length > 1 &&
          reasons.map((reason) => (
            <button type="button" key={reason} onClick={() => props.onRetry([reason])}>
              {words.retryOnly(reason)}
            </button>
          ))}
      </div>
      <ul class="plain-list">
        {failures.map((one) => (
          <li key={one.key}>
            <strong>{one.name}</strong> <span class="quiet">{one.message}</span>
          </li>
        ))}
      </ul>
    </details>
  );
}
