{{- define "fleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for -replica-9 and the hash that a StatefulSet adds. */}}
{{- define "fleet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "fleet.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "fleet.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "fleet.selector" -}}
app.kubernetes.io/name: {{ include "fleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fleet.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "fleet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "fleet.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "fleet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "fleet.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Names of the Secrets to mount, once each, space-separated. */}}
{{- define "fleet.secrets" -}}
{{- $all := .Values.secrets }}
{{- range .Values.externalSecrets }}{{ $all = append $all .name }}{{ end }}
{{- if .Values.gitlab.tokenSecret }}{{ $all = append $all .Values.gitlab.tokenSecret }}{{ end }}
{{- $all | uniq | join " " }}
{{- end }}

{{/* How a pod is scraped: the same for a ServiceMonitor and a PodMonitor. */}}
{{- define "fleet.endpoint" -}}
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
scheme: {{ .scheme }}
{{- with .endpoint }}
{{ toYaml . }}
{{- end }}
relabelings:
  # The pod's name outlives a restart, its address does not.
  - sourceLabels: [__meta_kubernetes_namespace, __meta_kubernetes_pod_name]
    separator: /
    targetLabel: instance
  {{- with .relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "fleet.validate" -}}
{{- if and .Values.gitlab.url .Values.config }}
{{- fail "gitlab.url and config are both set: put that GitLab into config.gitlabs" }}
{{- end }}
{{- if not (or .Values.gitlab.url .Values.config) }}
{{- fail "nothing to monitor: set gitlab.url and gitlab.tokenSecret, or config" }}
{{- end }}
{{- if and .Values.gitlab.url (not .Values.gitlab.tokenSecret) }}
{{- fail "gitlab.url needs gitlab.tokenSecret: the name of a Secret with the token" }}
{{- end }}
{{- range .Values.config.gitlabs }}
{{- if dig "authorization" "credentials" "" . }}
{{- fail (printf "config.gitlabs: %v: a ConfigMap is no place for a token: use authorization.credentials_file and secrets" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.ca.configMap .Values.ca.secret }}
{{- fail "ca.configMap and ca.secret are both set: one holds the certificates" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor and podMonitor are both enabled: each pod would be scraped twice" }}
{{- end }}
{{- if and .Values.prometheusRule.enabled (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled) (not (regexMatch (printf "^(?:%s)$" .Values.rules.job) (include "fleet.name" .))) }}
{{- fail (printf "rules.job does not match the label job of the pods, which is %s: no alert would notice that they are down" (include "fleet.name" .)) }}
{{- end }}
{{- end }}
