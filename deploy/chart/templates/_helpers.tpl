{{- define "eldr.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "eldr.labels" -}}
app.kubernetes.io/name: eldr
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "eldr.metadata" -}}
labels:
  {{- include "eldr.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "eldr.selector" -}}
{{ include "eldr.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "eldr.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The URL of what replicas share; empty for SQLite. */ -}}
{{- define "eldr.state" -}}
{{- if .Values.state.valkey.enabled }}redis://{{ include "eldr.name" . }}-valkey:6379/0{{ else }}{{ .Values.state.url }}{{ end }}
{{- end }}

{{- /* Where clients find every replica. */ -}}
{{- define "eldr.address" -}}
dns:///{{ include "eldr.name" . }}-replicas.{{ .Release.Namespace }}.svc:50051
{{- end }}

{{- define "eldr.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "eldr.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "eldr.checks" -}}
{{- $shared := include "eldr.state" . }}
{{- if and .Values.state.url .Values.state.valkey.enabled }}
{{- fail "state.url and state.valkey.enabled: expected one of them, found both" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (not $shared) }}
{{- fail (printf "replicas: expected 1 without state.url or state.valkey.enabled, found %d: replicas share a Redis or Valkey" (int .Values.replicas)) }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not $shared) }}
{{- fail "autoscaling.enabled: expected state.url or state.valkey.enabled beside it: replicas share a Redis or Valkey" }}
{{- end }}
{{- if and .Values.tls.clientCASecret (not .Values.tls.secret) }}
{{- fail "tls.clientCASecret: expected tls.secret beside it" }}
{{- end }}
{{- end }}
