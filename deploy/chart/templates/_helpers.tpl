{{- define "secondlook.labels" -}}
app.kubernetes.io/name: secondlook
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "secondlook.selector" -}}
app.kubernetes.io/name: secondlook
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "secondlook.image" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "secondlook.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* Of each container: where the store is, and the secrets that open it. */ -}}
{{- define "secondlook.storeEnv" -}}
- {name: SECONDLOOK_DATABASE_URL, value: {{ .Values.database.url | quote }}}
- {name: SECONDLOOK_BLOB_URL, value: {{ .Values.blobs.url | quote }}}
{{- with .Values.database.passwordSecret.name }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.Values.database.passwordSecret.key }}}
{{- end }}
{{- with .Values.blobs.credentialsSecret }}
{{- range tuple "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef: {name: {{ $.Values.blobs.credentialsSecret }}, key: {{ . }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "secondlook.serveEnv" -}}
{{- if .Values.workers.autoscaling.enabled }}
- {name: SECONDLOOK_MAX_JOBS, value: {{ .Values.workers.autoscaling.jobs | quote }}}
{{- end }}
- {name: SECONDLOOK_METRICS_PORT, value: "9090"}
- {name: SECONDLOOK_METRICS_HOST, value: 0.0.0.0}
- {name: SECONDLOOK_GRACE_S, value: {{ .Values.graceSeconds | quote }}}
{{- if .Values.insecure }}
- {name: SECONDLOOK_INSECURE, value: "1"}
{{- else }}
- {name: SECONDLOOK_TLS_CERT, value: /etc/secondlook/tls/tls.crt}
- {name: SECONDLOOK_TLS_KEY, value: /etc/secondlook/tls/tls.key}
{{- if .Values.tls.clientCaSecretName }}
- {name: SECONDLOOK_TLS_CLIENT_CA, value: /etc/secondlook/client-ca/ca.crt}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: SECONDLOOK_{{ $name | upper }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A Deployment of `secondlook serve`; takes (dict "root" $ "name" … "values" …). */ -}}
{{- define "secondlook.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $root.Release.Name }}-{{ .name }}
  labels:
    {{- include "secondlook.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "secondlook.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .name }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels:
        {{- include "secondlook.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
    spec:
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.serviceAccountName }}
      serviceAccountName: {{ . }}
      {{- end }}
      automountServiceAccountToken: {{ ne $root.Values.serviceAccountName "" }}
      # Variables of services, such as SECONDLOOK_SERVERS_PORT, would be read as settings.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add $root.Values.graceSeconds 15 }}
      securityContext:
        {{- include "secondlook.podSecurity" $root | nindent 8 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "secondlook.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ .name }}
      {{- if not $root.Values.insecure }}
      initContainers:
        # A server opens to the network only once there is a token; NOTES.txt says how to make the
        # first one in here, where its secret gets into no log.
        - name: first-token
          {{- include "secondlook.image" $root | nindent 10 }}
          command:
            - /bin/sh
            - -c
            - until secondlook token list --json | grep -q '"valid":\s*true'; do sleep 10; done
          env:
            {{- include "secondlook.storeEnv" $root | nindent 12 }}
          resources:
            requests: {cpu: 10m, memory: 128Mi}
            limits: {memory: 512Mi}
          volumeMounts:
            - {name: scratch, mountPath: /var/lib/secondlook}
            - {name: tmp, mountPath: /tmp}
      {{- end }}
      containers:
        - name: secondlook
          {{- include "secondlook.image" $root | nindent 10 }}
          args: [serve]
          env:
            {{- include "secondlook.storeEnv" $root | nindent 12 }}
            {{- include "secondlook.serveEnv" $root | nindent 12 }}
          ports:
            - {name: grpc, containerPort: 50051}
            - {name: metrics, containerPort: 9090}
          # gRPC probes of Kubernetes speak no TLS; these ask by the server's private socket.
          startupProbe:
            exec: {command: [secondlook, health, --live]}
            periodSeconds: 5
            timeoutSeconds: 10
            failureThreshold: 120
          livenessProbe:
            exec: {command: [secondlook, health, --live]}
            periodSeconds: 20
            timeoutSeconds: 10
          readinessProbe:
            exec: {command: [secondlook, health]}
            periodSeconds: 10
            timeoutSeconds: 10
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            - {name: scratch, mountPath: /var/lib/secondlook}
            - {name: tmp, mountPath: /tmp}
            {{- if not $root.Values.insecure }}
            - {name: tls, mountPath: /etc/secondlook/tls, readOnly: true}
            {{- if $root.Values.tls.clientCaSecretName }}
            - {name: client-ca, mountPath: /etc/secondlook/client-ca, readOnly: true}
            {{- end }}
            {{- end }}
      volumes:
        - name: scratch
          emptyDir: {sizeLimit: {{ $root.Values.scratch.sizeLimit }}}
        - name: tmp
          emptyDir: {}
        {{- if not $root.Values.insecure }}
        - name: tls
          secret: {secretName: {{ required "tls.secretName is needed, unless insecure is true" $root.Values.tls.secretName }}}
        {{- with $root.Values.tls.clientCaSecretName }}
        - name: client-ca
          secret: {secretName: {{ . }}}
        {{- end }}
        {{- end }}
      {{- with .values.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity: {{ toYaml . | nindent 8 }}
      {{- end }}
{{- end }}

{{- /* Scaling of such a Deployment: by the jobs that there are, where it has a number of them for
       each pod; else by the images that each pod has in flight. */ -}}
{{- define "secondlook.autoscaler" -}}
{{- if .values.autoscaling.enabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .root.Release.Name }}-{{ .name }}
  labels:
    {{- include "secondlook.labels" .root | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ .root.Release.Name }}-{{ .name }}
  minReplicas: {{ .values.autoscaling.minReplicas }}
  maxReplicas: {{ .values.autoscaling.maxReplicas }}
  metrics:
    {{- if .values.autoscaling.jobs }}
    - type: External
      external:
        metric: {name: secondlook_jobs}
        target:
          type: AverageValue
          averageValue: {{ .values.autoscaling.jobs | quote }}
    {{- else }}
    - type: Pods
      pods:
        metric: {name: secondlook_images_in_flight}
        target:
          type: AverageValue
          averageValue: {{ .values.autoscaling.imagesInFlight | quote }}
    {{- end }}
  behavior:
    # A new server has to load its models first; one that goes finishes what it accepted.
    scaleDown: {stabilizationWindowSeconds: 300}
{{- end }}
{{- end }}
