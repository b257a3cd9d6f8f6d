{{/* Names and labels. */}}

{{- define "omma.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "omma.coordinator" -}}{{ include "omma.fullname" . }}-coordinator{{- end -}}
{{- define "omma.shard" -}}{{ include "omma.fullname" . }}-shard{{- end -}}
{{/* The headless service that gives each shard pod its name, ready or not. */}}
{{- define "omma.peers" -}}{{ include "omma.fullname" . }}-shard-peers{{- end -}}

{{/* What selects the pods of a component: (dict "root" . "component" "shard"). Never changes. */}}
{{- define "omma.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "omma.labels" -}}
{{ include "omma.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image: (dict "root" . "name" "coordinator"). */}}
{{- define "omma.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ index $image .name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* Where a shard pod is reached, by ordinal: (dict "root" . "ordinal" 0). */}}
{{- define "omma.shardAddress" -}}
{{ include "omma.shard" .root }}-{{ .ordinal }}.{{ include "omma.peers" .root }}.{{ .root.Release.Namespace }}.svc:7701
{{- end -}}

{{/* The secrets with certificates: public, coordinator or shard: (dict "root" . "name" "public"). */}}
{{- define "omma.tlsSecret" -}}
{{- if eq .root.Values.tls.source "existing" -}}
{{- index .root.Values.tls.existing .name -}}
{{- else -}}
{{- printf "%s-tls-%s" (include "omma.fullname" .root) .name -}}
{{- end -}}
{{- end -}}

{{- define "omma.keysSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-api-keys" (include "omma.fullname" .)) -}}
{{- end -}}

{{/* The public API, as the release's own pods reach it. */}}
{{- define "omma.serviceName" -}}{{ include "omma.fullname" . }}.{{ .Release.Namespace }}.svc{{- end -}}
{{- define "omma.endpoint" -}}
{{- $scheme := ternary "https" "http" .Values.tls.enabled -}}
{{- printf "%s://%s:%d" $scheme (include "omma.serviceName" .) (int .Values.coordinator.service.port) -}}
{{- end -}}

{{/* The label that Kubernetes copies from a node to its pods, if it is one of those; else empty. */}}
{{- define "omma.zoneLabel" -}}
{{- $key := .Values.zoneSpread.topologyKey -}}
{{- if has $key (list "topology.kubernetes.io/zone" "topology.kubernetes.io/region") -}}{{ $key }}{{- end -}}
{{- end -}}
