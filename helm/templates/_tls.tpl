{{/* The names in certificates, as lists. */}}

{{- define "omma.publicNames" -}}
{{- $name := include "omma.fullname" . -}}
{{- $space := .Release.Namespace -}}
{{- $names := list $name (printf "%s.%s" $name $space) (printf "%s.%s.svc" $name $space) (printf "%s.%s.svc.cluster.local" $name $space) "localhost" -}}
{{- toYaml (concat $names .Values.tls.extraNames) -}}
{{- end -}}

{{- define "omma.coordinatorNames" -}}
- {{ include "omma.coordinator" . }}
{{- end -}}

{{- define "omma.shardNames" -}}
- {{ printf "*.%s.%s.svc" (include "omma.peers" .) .Release.Namespace | quote }}
- {{ include "omma.shard" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Whether the hook has secrets to make. */}}
{{- define "omma.generates" -}}
{{- $tls := and .Values.tls.enabled (eq .Values.tls.source "generated") -}}
{{- $keys := and .Values.auth.enabled (not .Values.auth.existingSecret) -}}
{{- if or $tls $keys }}true{{ end -}}
{{- end -}}
