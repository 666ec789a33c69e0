// Written by clients/web/generate.py from protos/; not by hand.
//
// Messages as Connect's JSON form has them: a field of its default value may be absent, 64-bit
// numbers are strings, bytes are base64, enums are names.

import { stream, unary } from "./method";


export type Role =
  | "ROLE_UNSPECIFIED"
  | "ROLE_VIEWER"
  | "ROLE_LABELER"
  | "ROLE_REVIEWER"
  | "ROLE_TRAINER"
  | "ROLE_DEVICE"
  | "ROLE_ADMIN";

export type RunImageOrder =
  | "RUN_IMAGE_ORDER_UNSPECIFIED"
  | "RUN_IMAGE_ORDER_DECIDED"
  | "RUN_IMAGE_ORDER_NAME"
  | "RUN_IMAGE_ORDER_UNCERTAINTY"
  | "RUN_IMAGE_ORDER_PROBABILITY"
  | "RUN_IMAGE_ORDER_COUNT";

export type LabelChange =
  | "LABEL_CHANGE_UNSPECIFIED"
  | "LABEL_CHANGE_NONE"
  | "LABEL_CHANGE_MOVED"
  | "LABEL_CHANGE_CLASS"
  | "LABEL_CHANGE_LOST"
  | "LABEL_CHANGE_GAINED";

export interface Run {
  name?: string;
  kind?: string;
  classes?: string[];
  images?: string;
  createdAt?: number;
  proposer?: string;
  verifier?: string;
  parent?: string;
  guarantee?: string;
  createdBy?: string;
}

export interface RunImageFilter {
  classes?: string[];
  outcomes?: Outcome[];
  minProbability?: number;
  maxProbability?: number;
  minUncertainty?: number;
  maxUncertainty?: number;
  minArea?: number;
  maxArea?: number;
  text?: string;
  paths?: LabelPath[];
  minDecidedAt?: number;
  maxDecidedAt?: number;
  reviewed?: boolean;
  empty?: boolean;
  minScore?: number;
  maxScore?: number;
  minPYes?: number;
  maxPYes?: number;
  reason?: string;
  guaranteed?: boolean;
}

export interface RunImage {
  cursor?: string;
  sha256?: string;
  name?: string;
  width?: number;
  height?: number;
  accepted?: number;
  rejected?: number;
  unsure?: number;
  path?: LabelPath;
  decidedAt?: number;
  reviewed?: boolean;
  uncertainty?: number;
  probability?: number;
  boxes?: RunBoxes;
}

export interface RunBoxes {
  index?: number[];
  classIndex?: number[];
  outcome?: Outcome[];
  probability?: number[];
  xyxy?: number[];
}

export interface ListRunsRequest {
  pageSize?: number;
  pageToken?: string;
  text?: string;
}

export interface ListRunsResponse {
  runs?: Run[];
  nextPageToken?: string;
}

export interface GetRunRequest {
  run?: string;
}

export interface GetRunResponse {
  run?: Run;
  ontology?: Ontology;
  settingsJson?: string;
  uncertaintyMethods?: string[];
}

export interface ListRunImagesRequest {
  run?: string;
  filter?: RunImageFilter;
  order?: RunImageOrder;
  reverse?: boolean;
  offset?: string;
  pageSize?: number;
  boxes?: Outcome[];
}

export interface ListRunImagesResponse {
  images?: RunImage[];
  total?: string;
  imagesOfRun?: string;
}

export interface SummarizeRunRequest {
  run?: string;
  filter?: RunImageFilter;
  histograms?: string[];
}

export interface SummarizeRunResponse {
  images?: string;
  matchingImages?: string;
  classes?: RunClassCounts[];
  histograms?: Histogram[];
}

export interface RunClassCounts {
  className?: string;
  accepted?: string;
  rejected?: string;
  unsure?: string;
}

export interface Histogram {
  name?: string;
  low?: number;
  high?: number;
  counts?: string[];
  matching?: string[];
}

export interface GetRunImagesRequest {
  run?: string;
  cursors?: string[];
  sha256?: string[];
}

export interface GetRunImagesResponse {
  images?: RunImageDetails[];
}

export interface RunImageDetails {
  cursor?: string;
  labelled?: Labelled;
  reviewed?: number[];
  uncertainties?: JudgementUncertainties[];
  reviews?: Review[];
  decidedAt?: number;
  complete?: boolean;
}

export interface JudgementUncertainties {
  index?: number;
  methods?: LabelUncertainty[];
}

export interface ExplainLabelRequest {
  labelId?: string;
}

export interface ExplainLabelResponse {
  run?: string;
  evidenceRun?: string;
  imageName?: string;
  sha256?: string;
  judgement?: Judgement;
  decided?: Judgement;
  classes?: ClassEvidence[];
  calibrator?: string;
  contributions?: LabelContribution[];
  uncertainties?: LabelUncertainty[];
  reviews?: Review[];
  proposer?: string;
  verifier?: string;
  path?: LabelPath;
}

export interface ClassEvidence {
  spec?: ClassSpec;
  score?: number;
  verdict?: Verdict;
  judgement?: Judgement;
  sameGroup?: boolean;
}

export interface LabelContribution {
  feature?: string;
  words?: string;
  value?: string;
  logOdds?: number;
}

export interface ClassThresholds {
  className?: string;
  threshold?: number;
  accept?: number;
  reject?: number;
}

export interface PreviewDecisionsRequest {
  run?: string;
  cursors?: string[];
  classes?: ClassThresholds[];
  nmsIou?: number;
  duplicateIou?: number;
  withoutCalibrator?: boolean;
  count?: boolean;
}

export interface PreviewDecisionsResponse {
  images?: PreviewedImage[];
  classes?: PreviewedCounts[];
  changedImages?: string;
  imagesCounted?: string;
}

export interface PreviewedImage {
  cursor?: string;
  judgements?: Judgement[];
}

export interface PreviewedCounts {
  className?: string;
  acceptedBefore?: string;
  rejectedBefore?: string;
  unsureBefore?: string;
  accepted?: string;
  rejected?: string;
  unsure?: string;
}

export interface Guarantee {
  name?: string;
  run?: string;
  state?: string;
  precision?: number;
  confidence?: number;
  queue?: string;
  checksQueue?: string;
  checks?: string;
  createdAt?: number;
  updatedAt?: number;
}

export interface GuaranteedClass {
  className?: string;
  threshold?: number;
  bound?: number;
  accepted?: string;
  coverage?: number;
  answers?: string;
  wrong?: string;
  reason?: string;
}

export interface GuaranteeEvent {
  kind?: string;
  reason?: string;
  at?: number;
}

export interface ListGuaranteesRequest {
  pageSize?: number;
}

export interface ListGuaranteesResponse {
  guarantees?: Guarantee[];
}

export interface GetGuaranteeRequest {
  name?: string;
}

export interface GetGuaranteeResponse {
  guarantee?: Guarantee;
  asked?: string;
  answered?: string;
  classes?: GuaranteedClass[];
  notGuaranteed?: string[];
  history?: GuaranteeEvent[];
}

export interface CapturedStream {
  name?: string;
  frames?: string;
  labelled?: string;
  failed?: string;
  lastName?: string;
  lastSha256?: string;
  lastAt?: number;
  guarantee?: string;
  createdAt?: number;
  createdBy?: string;
  deviceModel?: string;
}

export interface ListStreamsRequest {
  pageSize?: number;
  pageToken?: string;
}

export interface ListStreamsResponse {
  streams?: CapturedStream[];
  nextPageToken?: string;
}

export interface CompareRunsRequest {
  before?: string;
  after?: string;
  cursor?: string;
  pageSize?: number;
}

export interface CompareRunsResponse {
  images?: ComparedImage[];
  compared?: string;
  onlyBefore?: string;
  classes?: ComparedClass[];
  nextCursor?: string;
}

export interface ComparedImage {
  sha256?: string;
  name?: string;
  width?: number;
  height?: number;
  beforeCursor?: string;
  afterCursor?: string;
  labels?: ComparedLabel[];
}

export interface ComparedLabel {
  change?: LabelChange;
  before?: Judgement;
  after?: Judgement;
}

export interface ComparedClass {
  className?: string;
  same?: string;
  moved?: string;
  classChanged?: string;
  lost?: string;
  gained?: string;
}

export const listRuns = /* @__PURE__ */ unary<ListRunsRequest, ListRunsResponse>(
  "secondlook.v1.BrowseService/ListRuns",
  ["ROLE_VIEWER"],
);

export const getRun = /* @__PURE__ */ unary<GetRunRequest, GetRunResponse>(
  "secondlook.v1.BrowseService/GetRun",
  ["ROLE_VIEWER"],
);

export const listRunImages = /* @__PURE__ */ unary<ListRunImagesRequest, ListRunImagesResponse>(
  "secondlook.v1.BrowseService/ListRunImages",
  ["ROLE_VIEWER"],
);

export const summarizeRun = /* @__PURE__ */ unary<SummarizeRunRequest, SummarizeRunResponse>(
  "secondlook.v1.BrowseService/SummarizeRun",
  ["ROLE_VIEWER"],
);

export const getRunImages = /* @__PURE__ */ unary<GetRunImagesRequest, GetRunImagesResponse>(
  "secondlook.v1.BrowseService/GetRunImages",
  ["ROLE_VIEWER"],
);

export const explainLabel = /* @__PURE__ */ unary<ExplainLabelRequest, ExplainLabelResponse>(
  "secondlook.v1.BrowseService/ExplainLabel",
  ["ROLE_VIEWER"],
);

export const compareRuns = /* @__PURE__ */ unary<CompareRunsRequest, CompareRunsResponse>(
  "secondlook.v1.BrowseService/CompareRuns",
  ["ROLE_VIEWER"],
);

export const previewDecisions = /* @__PURE__ */ unary<PreviewDecisionsRequest, PreviewDecisionsResponse>(
  "secondlook.v1.BrowseService/PreviewDecisions",
  ["ROLE_VIEWER"],
);

export const listGuarantees = /* @__PURE__ */ unary<ListGuaranteesRequest, ListGuaranteesResponse>(
  "secondlook.v1.BrowseService/ListGuarantees",
  ["ROLE_VIEWER"],
);

export const getGuarantee = /* @__PURE__ */ unary<GetGuaranteeRequest, GetGuaranteeResponse>(
  "secondlook.v1.BrowseService/GetGuarantee",
  ["ROLE_VIEWER"],
);

export const listStreams = /* @__PURE__ */ unary<ListStreamsRequest, ListStreamsResponse>(
  "secondlook.v1.BrowseService/ListStreams",
  ["ROLE_VIEWER"],
);

export type BoxKind =
  | "BOX_KIND_UNSPECIFIED"
  | "BOX_KIND_LABEL"
  | "BOX_KIND_IGNORE"
  | "BOX_KIND_HARD_NEGATIVE";

export type GroupBy =
  | "GROUP_BY_UNSPECIFIED"
  | "GROUP_BY_AUTO"
  | "GROUP_BY_FOLDER"
  | "GROUP_BY_SIMILARITY"
  | "GROUP_BY_TIME";

export interface SplitShare {
  name?: string;
  weight?: number;
}

export interface SnapshotQuery {
  runs?: string[];
  ontology?: string;
  classes?: string[];
  since?: number;
  until?: number;
  minProbability?: number;
  withoutEmpties?: boolean;
  withoutIgnore?: boolean;
  hardNegatives?: boolean;
  split?: SplitShare[];
  groupBy?: GroupBy;
  empty?: EmptyReason[];
  guarantee?: string;
}

export interface Snapshot {
  name?: string;
  manifest?: string;
  classes?: string[];
  splits?: Record<string, string>;
  statisticsJson?: string;
  query?: SnapshotQuery;
  createdAt?: number;
  createdBy?: string;
}

export interface SnapshotBox {
  classIndex?: number;
  x1?: number;
  y1?: number;
  x2?: number;
  y2?: number;
  kind?: BoxKind;
  probability?: number;
  score?: number;
  pYes?: number;
  reason?: string;
  segmentation?: Segmentation;
  track?: number;
}

export interface SnapshotImage {
  sha256?: string;
  name?: string;
  format?: string;
  width?: number;
  height?: number;
  split?: string;
  group?: string;
  boxes?: SnapshotBox[];
  content?: string;
  cursor?: string;
  empty?: EmptyReason;
}

export interface CreateSnapshotRequest {
  name?: string;
  query?: SnapshotQuery;
}

export interface CreateSnapshotResponse {
  snapshot?: Snapshot;
}

export interface GetSnapshotRequest {
  name?: string;
}

export interface GetSnapshotResponse {
  snapshot?: Snapshot;
}

export interface ListSnapshotsRequest {
  pageSize?: number;
  pageToken?: string;
}

export interface ListSnapshotsResponse {
  snapshots?: Snapshot[];
  nextPageToken?: string;
}

export interface PullRequest {
  snapshot?: string;
  split?: string;
  shard?: number;
  shards?: number;
  cursor?: string;
  images?: boolean;
}

export interface PullResponse {
  images?: SnapshotImage[];
}

export interface FetchImagesRequest {
  snapshot?: string;
  sha256?: string[];
}

export interface FetchImagesResponse {
  sha256?: string;
  content?: string;
}

export const createSnapshot = /* @__PURE__ */ unary<CreateSnapshotRequest, CreateSnapshotResponse>(
  "secondlook.v1.DatasetService/CreateSnapshot",
  ["ROLE_TRAINER"],
);

export const getSnapshot = /* @__PURE__ */ unary<GetSnapshotRequest, GetSnapshotResponse>(
  "secondlook.v1.DatasetService/GetSnapshot",
  ["ROLE_VIEWER"],
);

export const listSnapshots = /* @__PURE__ */ unary<ListSnapshotsRequest, ListSnapshotsResponse>(
  "secondlook.v1.DatasetService/ListSnapshots",
  ["ROLE_VIEWER"],
);

export const pull = /* @__PURE__ */ stream<PullRequest, PullResponse>(
  "secondlook.v1.DatasetService/Pull",
  ["ROLE_VIEWER"],
);

export const fetchImages = /* @__PURE__ */ stream<FetchImagesRequest, FetchImagesResponse>(
  "secondlook.v1.DatasetService/FetchImages",
  ["ROLE_VIEWER"],
);

export type JobKind =
  | "JOB_KIND_UNSPECIFIED"
  | "JOB_KIND_FOLDER"
  | "JOB_KIND_UPLOAD"
  | "JOB_KIND_CAPTURE";

export type JobState =
  | "JOB_STATE_UNSPECIFIED"
  | "JOB_STATE_LISTING"
  | "JOB_STATE_RUNNING"
  | "JOB_STATE_DONE"
  | "JOB_STATE_CANCELLED"
  | "JOB_STATE_FAILED"
  | "JOB_STATE_PAUSED";

export interface Job {
  name?: string;
  kind?: JobKind;
  state?: JobState;
  folder?: string;
  total?: string;
  done?: string;
  failed?: string;
  message?: string;
  open?: boolean;
  createdAt?: number;
  updatedAt?: number;
  ontology?: Ontology;
  paths?: PathCounts[];
  guarantee?: string;
  guaranteeState?: string;
  createdBy?: string;
  deviceModel?: string;
}

export interface PathCounts {
  begin?: number;
  end?: number;
  teachers?: string;
  student?: string;
  audit?: string;
}

export interface FolderSource {
  path?: string;
}

export interface UploadSource {
}

export interface CreateJobRequest {
  name?: string;
  ontology?: Ontology;
  folder?: FolderSource;
  upload?: UploadSource;
  reuse?: boolean;
  guarantee?: string;
}

export interface CreateJobResponse {
  job?: Job;
}

export interface OfferImagesRequest {
  job?: string;
  keys?: string[];
}

export interface OfferImagesResponse {
  wanted?: string[];
}

export interface UploadImageRequest {
  job?: string;
  image?: string;
  name?: string;
  key?: string;
}

export interface UploadImageResponse {
  key?: string;
  already?: boolean;
}

export interface FinishUploadRequest {
  job?: string;
}

export interface FinishUploadResponse {
  job?: Job;
}

export interface GetJobRequest {
  job?: string;
  paths?: boolean;
}

export interface GetJobResponse {
  job?: Job;
}

export interface ListJobsRequest {
  pageSize?: number;
  pageToken?: string;
}

export interface ListJobsResponse {
  jobs?: Job[];
  nextPageToken?: string;
}

export interface WatchJobRequest {
  job?: string;
}

export interface WatchJobResponse {
  job?: Job;
  imagesPerSecond?: number;
  secondsLeft?: number;
}

export interface CancelJobRequest {
  job?: string;
}

export interface CancelJobResponse {
  job?: Job;
}

export interface PauseJobRequest {
  job?: string;
}

export interface PauseJobResponse {
  job?: Job;
}

export interface ResumeJobRequest {
  job?: string;
}

export interface ResumeJobResponse {
  job?: Job;
}

export interface RetryJobRequest {
  job?: string;
  reasons?: string[];
}

export interface RetryJobResponse {
  job?: Job;
  retried?: string;
}

export interface ListResultsRequest {
  job?: string;
  after?: string;
  detail?: Detail;
  follow?: boolean;
}

export interface JobResult {
  cursor?: string;
  key?: string;
  labelled?: Labelled;
  decidedAt?: number;
  perceptualHash?: string;
}

export interface ListResultsResponse {
  results?: JobResult[];
}

export interface ListFailuresRequest {
  job?: string;
  after?: string;
  pageSize?: number;
}

export interface JobFailure {
  key?: string;
  name?: string;
  reason?: string;
  message?: string;
  attempts?: number;
}

export interface ListFailuresResponse {
  failures?: JobFailure[];
  nextAfter?: string;
}

export interface ListFoldersRequest {
  path?: string;
}

export interface ListFoldersResponse {
  folders?: string[];
  images?: number;
  more?: boolean;
}

export const createJob = /* @__PURE__ */ unary<CreateJobRequest, CreateJobResponse>(
  "secondlook.v1.JobService/CreateJob",
  ["ROLE_LABELER"],
);

export const offerImages = /* @__PURE__ */ unary<OfferImagesRequest, OfferImagesResponse>(
  "secondlook.v1.JobService/OfferImages",
  ["ROLE_LABELER"],
);

export const uploadImage = /* @__PURE__ */ unary<UploadImageRequest, UploadImageResponse>(
  "secondlook.v1.JobService/UploadImage",
  ["ROLE_LABELER"],
);

export const finishUpload = /* @__PURE__ */ unary<FinishUploadRequest, FinishUploadResponse>(
  "secondlook.v1.JobService/FinishUpload",
  ["ROLE_LABELER"],
);

export const getJob = /* @__PURE__ */ unary<GetJobRequest, GetJobResponse>(
  "secondlook.v1.JobService/GetJob",
  ["ROLE_VIEWER"],
);

export const listJobs = /* @__PURE__ */ unary<ListJobsRequest, ListJobsResponse>(
  "secondlook.v1.JobService/ListJobs",
  ["ROLE_VIEWER"],
);

export const watchJob = /* @__PURE__ */ stream<WatchJobRequest, WatchJobResponse>(
  "secondlook.v1.JobService/WatchJob",
  ["ROLE_VIEWER"],
);

export const cancelJob = /* @__PURE__ */ unary<CancelJobRequest, CancelJobResponse>(
  "secondlook.v1.JobService/CancelJob",
  ["ROLE_LABELER"],
);

export const pauseJob = /* @__PURE__ */ unary<PauseJobRequest, PauseJobResponse>(
  "secondlook.v1.JobService/PauseJob",
  ["ROLE_LABELER"],
);

export const resumeJob = /* @__PURE__ */ unary<ResumeJobRequest, ResumeJobResponse>(
  "secondlook.v1.JobService/ResumeJob",
  ["ROLE_LABELER"],
);

export const retryJob = /* @__PURE__ */ unary<RetryJobRequest, RetryJobResponse>(
  "secondlook.v1.JobService/RetryJob",
  ["ROLE_LABELER"],
);

export const listResults = /* @__PURE__ */ stream<ListResultsRequest, ListResultsResponse>(
  "secondlook.v1.JobService/ListResults",
  ["ROLE_VIEWER"],
);

export const listFailures = /* @__PURE__ */ unary<ListFailuresRequest, ListFailuresResponse>(
  "secondlook.v1.JobService/ListFailures",
  ["ROLE_VIEWER"],
);

export const listFolders = /* @__PURE__ */ unary<ListFoldersRequest, ListFoldersResponse>(
  "secondlook.v1.JobService/ListFolders",
  ["ROLE_LABELER"],
);

export type Detail =
  | "DETAIL_UNSPECIFIED"
  | "DETAIL_LABELS"
  | "DETAIL_ALL";

export type View =
  | "VIEW_UNSPECIFIED"
  | "VIEW_CROP"
  | "VIEW_CONTEXT"
  | "VIEW_IMAGE"
  | "VIEW_MASK";

export type BoxSource =
  | "BOX_SOURCE_UNSPECIFIED"
  | "BOX_SOURCE_PROPOSER"
  | "BOX_SOURCE_MASK";

export type Outcome =
  | "OUTCOME_UNSPECIFIED"
  | "OUTCOME_ACCEPT"
  | "OUTCOME_REJECT"
  | "OUTCOME_UNSURE";

export type EmptyReason =
  | "EMPTY_REASON_UNSPECIFIED"
  | "EMPTY_REASON_NOTHING_PROPOSED"
  | "EMPTY_REASON_ALL_REJECTED"
  | "EMPTY_REASON_VERIFIED_EMPTY";

export type LabelPath =
  | "LABEL_PATH_UNSPECIFIED"
  | "LABEL_PATH_TEACHERS"
  | "LABEL_PATH_STUDENT"
  | "LABEL_PATH_AUDIT";

export type StreamMode =
  | "STREAM_MODE_UNSPECIFIED"
  | "STREAM_MODE_LIVE"
  | "STREAM_MODE_CAPTURE";

export type DropReason =
  | "DROP_REASON_UNSPECIFIED"
  | "DROP_REASON_SUPERSEDED"
  | "DROP_REASON_SERVER_BUSY"
  | "DROP_REASON_SHUTTING_DOWN";

export interface ClassSpec {
  name?: string;
  phrases?: string[];
  question?: string;
  view?: View;
  group?: string;
  threshold?: number;
  accept?: number;
  reject?: number;
  presenceQuestion?: string;
  mask?: boolean;
  box?: BoxSource;
}

export interface Ontology {
  classes?: ClassSpec[];
}

export interface Box {
  x1?: number;
  y1?: number;
  x2?: number;
  y2?: number;
}

export interface Verdict {
  question?: string;
  view?: View;
  pYes?: number;
  rawAnswer?: string;
  error?: string;
  exact?: boolean;
  model?: string;
  ms?: number;
  cached?: boolean;
}

export interface Mask {
  width?: number;
  height?: number;
  counts?: string;
}

export interface Segmentation {
  mask?: Mask;
  quality?: number;
  stability?: number;
  model?: string;
}

export interface Judgement {
  className?: string;
  box?: Box;
  score?: number;
  verdict?: Verdict;
  outcome?: Outcome;
  probability?: number;
  reason?: string;
  wholeImage?: boolean;
  segmentation?: Segmentation;
  track?: number;
}

export interface Labelled {
  name?: string;
  sha256?: string;
  width?: number;
  height?: number;
  proposals?: number;
  judgements?: Judgement[];
  proposer?: string;
  verifier?: string;
  timingsMs?: Record<string, number>;
  path?: LabelPath;
  imageVerdicts?: Verdict[];
  empty?: EmptyReason;
}

export interface LabelRequest {
  image?: string;
  name?: string;
  ontology?: Ontology;
  detail?: Detail;
  keep?: string;
}

export interface LabelResponse {
  labelled?: Labelled;
}

export interface StreamOpening {
  streamId?: string;
  mode?: StreamMode;
  ontology?: Ontology;
  detail?: Detail;
  maxPending?: number;
  guarantee?: string;
  deviceModel?: string;
}

export interface StreamFrame {
  sequence?: string;
  image?: string;
  name?: string;
}

export interface LabelStreamRequest {
  opening?: StreamOpening;
  frame?: StreamFrame;
}

export interface StreamOpened {
  maxPending?: number;
  resumeAfter?: string;
}

export interface FrameFailure {
  reason?: string;
  message?: string;
}

export interface FrameDropped {
  reason?: DropReason;
}

export interface FrameStored {
  already?: boolean;
}

export interface FrameAnswer {
  sequence?: string;
  labelled?: Labelled;
  failure?: FrameFailure;
  dropped?: FrameDropped;
  stored?: FrameStored;
}

export interface LabelStreamResponse {
  opened?: StreamOpened;
  answer?: FrameAnswer;
}

export interface GetServerInfoRequest {
}

export interface GetServerInfoResponse {
  version?: string;
  proposer?: string;
  verifier?: string;
  defaultOntology?: Ontology;
  maxMessageBytes?: string;
  maxImages?: number;
  student?: string;
  segmenter?: string;
  caller?: Caller;
}

export interface Caller {
  name?: string;
  roles?: Role[];
}

export const label = /* @__PURE__ */ unary<LabelRequest, LabelResponse>(
  "secondlook.v1.LabelingService/Label",
  ["ROLE_LABELER"],
);

export const getServerInfo = /* @__PURE__ */ unary<GetServerInfoRequest, GetServerInfoResponse>(
  "secondlook.v1.LabelingService/GetServerInfo",
  ["ROLE_VIEWER", "ROLE_DEVICE"],
);

export type TrainingState =
  | "TRAINING_STATE_UNSPECIFIED"
  | "TRAINING_STATE_QUEUED"
  | "TRAINING_STATE_RUNNING"
  | "TRAINING_STATE_DONE"
  | "TRAINING_STATE_FAILED"
  | "TRAINING_STATE_CANCELLED";

export interface ModelFile {
  sha256?: string;
  size?: string;
}

export interface ModelVersion {
  name?: string;
  version?: number;
  digest?: string;
  manifestJson?: string;
  reportJson?: string;
  createdAt?: number;
  current?: boolean;
  files?: Record<string, ModelFile>;
  promotion?: string;
  createdBy?: string;
  signature?: string;
}

export interface ModelComparison {
  snapshot?: string;
  split?: string;
  images?: number;
  currentVersion?: number;
  currentMap50?: number;
  candidateMap50?: number;
}

export interface Training {
  id?: string;
  model?: string;
  snapshot?: string;
  split?: string;
  size?: string;
  state?: TrainingState;
  step?: number;
  of?: number;
  loss?: number;
  map50?: number;
  phase?: string;
  message?: string;
  version?: number;
  createdAt?: number;
  updatedAt?: number;
  createdBy?: string;
}

export interface AddVersionRequest {
  header?: AddVersionHeader;
  chunk?: ModelChunk;
}

export interface AddVersionHeader {
  name?: string;
  manifestJson?: string;
  reportJson?: string;
}

export interface ModelChunk {
  file?: string;
  data?: string;
}

export interface AddVersionResponse {
  model?: ModelVersion;
  already?: boolean;
}

export interface GetModelRequest {
  name?: string;
  version?: number;
  report?: boolean;
}

export interface GetModelResponse {
  model?: ModelVersion;
}

export interface ListModelsRequest {
  name?: string;
  pageSize?: number;
  pageToken?: string;
}

export interface ListModelsResponse {
  models?: ModelVersion[];
  nextPageToken?: string;
}

export interface PromoteModelRequest {
  name?: string;
  version?: number;
  force?: boolean;
  onSnapshot?: string;
}

export interface PromoteModelResponse {
  model?: ModelVersion;
  comparison?: ModelComparison;
}

export interface RollbackModelRequest {
  name?: string;
  fromVersion?: number;
}

export interface RollbackModelResponse {
  model?: ModelVersion;
}

export interface DownloadModelRequest {
  name?: string;
  version?: number;
  file?: string;
  offset?: string;
}

export interface DownloadModelResponse {
  file?: ModelFile;
  data?: string;
}

export interface TrainModelRequest {
  model?: string;
  snapshot?: string;
  split?: string;
  size?: string;
  steps?: number;
  seed?: number;
}

export interface TrainModelResponse {
  training?: Training;
}

export interface GetTrainingRequest {
  id?: string;
  curve?: boolean;
}

export interface GetTrainingResponse {
  training?: Training;
  curve?: TrainingPoint[];
}

export interface TrainingPoint {
  step?: number;
  loss?: number;
  map50?: number;
}

export interface WatchTrainingRequest {
  id?: string;
}

export interface WatchTrainingResponse {
  training?: Training;
}

export interface CancelTrainingRequest {
  id?: string;
}

export interface CancelTrainingResponse {
  training?: Training;
}

export interface ListTrainingsRequest {
  pageSize?: number;
  pageToken?: string;
}

export interface ListTrainingsResponse {
  trainings?: Training[];
  nextPageToken?: string;
}

export const getModel = /* @__PURE__ */ unary<GetModelRequest, GetModelResponse>(
  "secondlook.v1.ModelService/GetModel",
  ["ROLE_VIEWER", "ROLE_DEVICE"],
);

export const listModels = /* @__PURE__ */ unary<ListModelsRequest, ListModelsResponse>(
  "secondlook.v1.ModelService/ListModels",
  ["ROLE_VIEWER", "ROLE_DEVICE"],
);

export const promoteModel = /* @__PURE__ */ unary<PromoteModelRequest, PromoteModelResponse>(
  "secondlook.v1.ModelService/PromoteModel",
  ["ROLE_TRAINER"],
);

export const rollbackModel = /* @__PURE__ */ unary<RollbackModelRequest, RollbackModelResponse>(
  "secondlook.v1.ModelService/RollbackModel",
  ["ROLE_TRAINER"],
);

export const downloadModel = /* @__PURE__ */ stream<DownloadModelRequest, DownloadModelResponse>(
  "secondlook.v1.ModelService/DownloadModel",
  ["ROLE_VIEWER", "ROLE_DEVICE"],
);

export const trainModel = /* @__PURE__ */ unary<TrainModelRequest, TrainModelResponse>(
  "secondlook.v1.ModelService/TrainModel",
  ["ROLE_TRAINER"],
);

export const getTraining = /* @__PURE__ */ unary<GetTrainingRequest, GetTrainingResponse>(
  "secondlook.v1.ModelService/GetTraining",
  ["ROLE_VIEWER"],
);

export const watchTraining = /* @__PURE__ */ stream<WatchTrainingRequest, WatchTrainingResponse>(
  "secondlook.v1.ModelService/WatchTraining",
  ["ROLE_VIEWER"],
);

export const cancelTraining = /* @__PURE__ */ unary<CancelTrainingRequest, CancelTrainingResponse>(
  "secondlook.v1.ModelService/CancelTraining",
  ["ROLE_TRAINER"],
);

export const listTrainings = /* @__PURE__ */ unary<ListTrainingsRequest, ListTrainingsResponse>(
  "secondlook.v1.ModelService/ListTrainings",
  ["ROLE_VIEWER"],
);

export type ReviewAnswer =
  | "REVIEW_ANSWER_UNSPECIFIED"
  | "REVIEW_ANSWER_RIGHT"
  | "REVIEW_ANSWER_WRONG"
  | "REVIEW_ANSWER_UNSURE"
  | "REVIEW_ANSWER_MISSING"
  | "REVIEW_ANSWER_COMPLETE";

export type WrongReason =
  | "WRONG_REASON_UNSPECIFIED"
  | "WRONG_REASON_CLASS"
  | "WRONG_REASON_OUTLINE"
  | "WRONG_REASON_DUPLICATE"
  | "WRONG_REASON_NOTHING_THERE";

export type ReviewOrder =
  | "REVIEW_ORDER_UNSPECIFIED"
  | "REVIEW_ORDER_RANDOM"
  | "REVIEW_ORDER_VALUE"
  | "REVIEW_ORDER_UNCERTAINTY"
  | "REVIEW_ORDER_MONTE_CARLO"
  | "REVIEW_ORDER_COMMITTEE"
  | "REVIEW_ORDER_DISTRIBUTION"
  | "REVIEW_ORDER_MIXED"
  | "REVIEW_ORDER_DIVERSITY"
  | "REVIEW_ORDER_DENSITY"
  | "REVIEW_ORDER_BALANCE"
  | "REVIEW_ORDER_KEYFRAMES";

export type GuaranteePromise =
  | "GUARANTEE_PROMISE_UNSPECIFIED"
  | "GUARANTEE_PROMISE_SCENES"
  | "GUARANTEE_PROMISE_RUN";

export interface Review {
  id?: string;
  image?: string;
  className?: string;
  box?: Box;
  answer?: ReviewAnswer;
  reason?: WrongReason;
  newClass?: string;
  newBox?: Box;
  person?: string;
  note?: string;
  createdAt?: number;
  undoneBy?: string;
  undoes?: string;
  mask?: Mask;
  seconds?: number;
}

export interface NewReview {
  image?: string;
  className?: string;
  box?: Box;
  answer?: ReviewAnswer;
  reason?: WrongReason;
  newClass?: string;
  newBox?: Box;
  person?: string;
  note?: string;
  createdAt?: number;
  mask?: Mask;
  seconds?: number;
}

export interface ReviewQueue {
  name?: string;
  run?: string;
  order?: string;
  total?: string;
  answered?: string;
  leased?: string;
  createdAt?: number;
}

export interface ReviewItem {
  id?: string;
  queue?: string;
  position?: string;
  labelId?: string;
  image?: string;
  imageName?: string;
  width?: number;
  height?: number;
  className?: string;
  box?: Box;
  probability?: number;
  outcome?: Outcome;
  stratum?: string;
  inclusion?: number;
  leasedTo?: string;
  leaseUntil?: number;
  reviewId?: string;
  judgements?: Judgement[];
  uncertainties?: LabelUncertainty[];
}

export interface LabelUncertainty {
  method?: string;
  value?: number;
  confidence?: number;
  reason?: string;
  figures?: UncertaintyFigure[];
}

export interface UncertaintyFigure {
  name?: string;
  values?: number[];
}

export interface CreateReviewQueueRequest {
  name?: string;
  run?: string;
  order?: ReviewOrder;
  classes?: string[];
  count?: string;
  seed?: string;
  reuse?: boolean;
}

export interface CreateReviewQueueResponse {
  queue?: ReviewQueue;
}

export interface GetReviewQueueRequest {
  name?: string;
}

export interface GetReviewQueueResponse {
  queue?: ReviewQueue;
}

export interface ListReviewQueuesRequest {
  pageSize?: number;
  pageToken?: string;
}

export interface ListReviewQueuesResponse {
  queues?: ReviewQueue[];
  nextPageToken?: string;
}

export interface DeleteReviewQueueRequest {
  name?: string;
}

export interface DeleteReviewQueueResponse {
}

export interface NextReviewItemsRequest {
  queue?: string;
  person?: string;
  count?: number;
  leaseS?: number;
}

export interface NextReviewItemsResponse {
  items?: ReviewItem[];
}

export interface GetReviewImageRequest {
  item?: string;
}

export interface GetReviewImageResponse {
  content?: string;
}

export interface AnswerReviewItemRequest {
  item?: string;
  person?: string;
  answer?: ReviewAnswer;
  reason?: WrongReason;
  newClass?: string;
  newBox?: Box;
  note?: string;
  mask?: Mask;
  seconds?: number;
}

export interface AnswerReviewItemResponse {
  review?: Review;
}

export interface ReleaseReviewItemsRequest {
  person?: string;
  items?: string[];
}

export interface ReleaseReviewItemsResponse {
}

export interface AddReviewsRequest {
  reviews?: NewReview[];
}

export interface AddReviewsResponse {
  reviews?: Review[];
}

export interface ImportReviewsRequest {
  reviews?: Review[];
}

export interface ImportReviewsResponse {
  added?: string;
  known?: string;
}

export interface UndoReviewRequest {
  id?: string;
  person?: string;
}

export interface UndoReviewResponse {
  review?: Review;
}

export interface ListReviewsRequest {
  run?: string;
  image?: string;
  pageSize?: number;
  pageToken?: string;
}

export interface ListReviewsResponse {
  reviews?: Review[];
  nextPageToken?: string;
}

export interface CreateGuaranteeRequest {
  name?: string;
  run?: string;
  precision?: number;
  confidence?: number;
  classes?: string[];
  promise?: GuaranteePromise;
  budget?: number;
}

export interface CreateGuaranteeResponse {
  guarantee?: GuaranteeProgress;
}

export interface CertifyGuaranteeRequest {
  name?: string;
}

export interface CertifyGuaranteeResponse {
  guarantee?: GuaranteeProgress;
}

export interface GuaranteeProgress {
  name?: string;
  state?: string;
  queue?: string;
  asked?: string;
  answered?: string;
}

export interface GetImageNamesRequest {
  sha256?: string[];
}

export interface GetImageNamesResponse {
  images?: ImageName[];
}

export interface ImageName {
  sha256?: string;
  name?: string;
  width?: number;
  height?: number;
}

export const createReviewQueue = /* @__PURE__ */ unary<CreateReviewQueueRequest, CreateReviewQueueResponse>(
  "secondlook.v1.ReviewService/CreateReviewQueue",
  ["ROLE_REVIEWER"],
);

export const getReviewQueue = /* @__PURE__ */ unary<GetReviewQueueRequest, GetReviewQueueResponse>(
  "secondlook.v1.ReviewService/GetReviewQueue",
  ["ROLE_VIEWER"],
);

export const listReviewQueues = /* @__PURE__ */ unary<ListReviewQueuesRequest, ListReviewQueuesResponse>(
  "secondlook.v1.ReviewService/ListReviewQueues",
  ["ROLE_VIEWER"],
);

export const deleteReviewQueue = /* @__PURE__ */ unary<DeleteReviewQueueRequest, DeleteReviewQueueResponse>(
  "secondlook.v1.ReviewService/DeleteReviewQueue",
  ["ROLE_REVIEWER"],
);

export const nextReviewItems = /* @__PURE__ */ unary<NextReviewItemsRequest, NextReviewItemsResponse>(
  "secondlook.v1.ReviewService/NextReviewItems",
  ["ROLE_REVIEWER"],
);

export const getReviewImage = /* @__PURE__ */ unary<GetReviewImageRequest, GetReviewImageResponse>(
  "secondlook.v1.ReviewService/GetReviewImage",
  ["ROLE_VIEWER"],
);

export const answerReviewItem = /* @__PURE__ */ unary<AnswerReviewItemRequest, AnswerReviewItemResponse>(
  "secondlook.v1.ReviewService/AnswerReviewItem",
  ["ROLE_REVIEWER"],
);

export const releaseReviewItems = /* @__PURE__ */ unary<ReleaseReviewItemsRequest, ReleaseReviewItemsResponse>(
  "secondlook.v1.ReviewService/ReleaseReviewItems",
  ["ROLE_REVIEWER"],
);

export const addReviews = /* @__PURE__ */ unary<AddReviewsRequest, AddReviewsResponse>(
  "secondlook.v1.ReviewService/AddReviews",
  ["ROLE_REVIEWER"],
);

export const importReviews = /* @__PURE__ */ unary<ImportReviewsRequest, ImportReviewsResponse>(
  "secondlook.v1.ReviewService/ImportReviews",
  ["ROLE_REVIEWER"],
);

export const undoReview = /* @__PURE__ */ unary<UndoReviewRequest, UndoReviewResponse>(
  "secondlook.v1.ReviewService/UndoReview",
  ["ROLE_REVIEWER"],
);

export const listReviews = /* @__PURE__ */ unary<ListReviewsRequest, ListReviewsResponse>(
  "secondlook.v1.ReviewService/ListReviews",
  ["ROLE_VIEWER"],
);

export const createGuarantee = /* @__PURE__ */ unary<CreateGuaranteeRequest, CreateGuaranteeResponse>(
  "secondlook.v1.ReviewService/CreateGuarantee",
  ["ROLE_REVIEWER"],
);

export const certifyGuarantee = /* @__PURE__ */ unary<CertifyGuaranteeRequest, CertifyGuaranteeResponse>(
  "secondlook.v1.ReviewService/CertifyGuarantee",
  ["ROLE_REVIEWER"],
);

export const getImageNames = /* @__PURE__ */ unary<GetImageNamesRequest, GetImageNamesResponse>(
  "secondlook.v1.ReviewService/GetImageNames",
  ["ROLE_VIEWER"],
);

export interface OpenImageRequest {
  image?: string;
  sha256?: string;
}

export interface OpenImageResponse {
  sha256?: string;
  width?: number;
  height?: number;
  segmenter?: string;
}

export interface Click {
  x?: number;
  y?: number;
  inside?: boolean;
}

export interface SegmentRequest {
  sha256?: string;
  box?: Box;
  clicks?: Click[];
  previous?: Mask;
}

export interface SegmentCandidate {
  mask?: Mask;
  quality?: number;
  stability?: number;
}

export interface SegmentResponse {
  candidates?: SegmentCandidate[];
  segmenter?: string;
}

export const openImage = /* @__PURE__ */ unary<OpenImageRequest, OpenImageResponse>(
  "secondlook.v1.SegmentationService/OpenImage",
  ["ROLE_LABELER", "ROLE_REVIEWER"],
);

export const segment = /* @__PURE__ */ unary<SegmentRequest, SegmentResponse>(
  "secondlook.v1.SegmentationService/Segment",
  ["ROLE_LABELER", "ROLE_REVIEWER"],
);
