{{/* The names in certificates, as lists. */}}

{{/* Whether the chart's own authority signs the public certificate; other authorities may refuse to sign for localhost. */}}
{{- define "omma.ownAuthority" -}}
{{- if or (eq .Values.tls.source "generated") (and (eq .Values.tls.source "certManager") (not .Values.tls.certManager.issuer)) -}}true{{- end -}}
{{- end -}}

{{- define "omma.publicNames" -}}
{{- $name := include "omma.fullname" . -}}
{{- $space := .Release.Namespace -}}
{{- $names := list $name (printf "%s.%s" $name $space) (include "omma.serviceName" .) (printf "%s.cluster.local" (include "omma.serviceName" .)) -}}
{{- if include "omma.ownAuthority" . -}}{{- $names = append $names "localhost" -}}{{- end -}}
{{- toYaml (concat $names .Values.tls.extraNames | uniq) -}}
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
