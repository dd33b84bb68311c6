{{- define "scope-http-statistics.labels" -}}
app.kubernetes.io/name: scope-http-statistics
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "scope-http-statistics.operator.selector" -}}
app.kubernetes.io/name: scope-http-statistics
app.kubernetes.io/component: operator
{{- end }}

{{- define "scope-http-statistics.operator.labels" -}}
{{ include "scope-http-statistics.labels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "scope-http-statistics.agent.labels" -}}
{{ include "scope-http-statistics.labels" . }}
app.kubernetes.io/component: agent
{{- end }}

{{/* REGISTRY/REPOSITORY:TAG or @DIGEST; the dictionary is the root and the image. */}}
{{- define "scope-http-statistics.image" -}}
{{- $name := .image.repository }}
{{- with .root.Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end }}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The HttpStatistics resource of this release. */}}
{{- define "scope-http-statistics.default" -}}
{{- $spec := deepCopy .Values.httpStatistics.spec }}
{{- if not $spec.image }}
{{- $_ := set $spec "image" (include "scope-http-statistics.image" (dict "root" . "image" .Values.agent.image)) }}
{{- end -}}
apiVersion: scope-http-statistics.dev/v1alpha1
kind: HttpStatistics
metadata:
  name: {{ .Values.httpStatistics.name | quote }}
  labels:
    app.kubernetes.io/name: scope-http-statistics
spec:
  {{- toYaml $spec | nindent 2 }}
{{- end }}
