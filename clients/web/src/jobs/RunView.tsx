// What runs: jobs, snapshots, students, guarantees, and devices with what they sent.

import { DevicesView } from "../devices/DevicesView";
import { GuaranteesView } from "../guarantees/GuaranteesView";
import { SnapshotsView } from "../snapshots/SnapshotsView";
import { StudentsView } from "../students/StudentsView";
import { texts } from "../texts";
import { JobsView } from "./JobsView";
import { NewJobView } from "./NewJobView";

const words = texts.runs;
const PARTS = ["", "snapshots", "students", "guarantees", "devices"] as const;

export function RunView({ rest }: { rest: string[] }) {
  const [part = "", name = ""] = rest;
  const shown = PARTS.find((one) => one === part) ?? "";
  return (
    <div class="page run">
      <nav class="parts" aria-label={words.partsLabel}>
        {PARTS.map((one) => (
          <a
            key={one}
            href={one ? `#/jobs/${one}` : "#/jobs"}
            aria-current={one === shown ? "page" : undefined}
          >
            {words.parts[one]}
          </a>
        ))}
      </nav>
      {part === "snapshots" && <SnapshotsView />}
      {part === "students" && <StudentsView />}
      {part === "guarantees" && <GuaranteesView name={name} />}
      {part === "devices" && <DevicesView />}
      {part === "new" && <NewJobView />}
      {shown === "" && part !== "new" && <JobsView />}
    </div>
  );
}
