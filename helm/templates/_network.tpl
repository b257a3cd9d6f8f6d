{{/* Rules that NetworkPolicies share. */}}

{{/* (dict "root" . "port" 7710) */}}
{{- define "omma.metricsIngress" -}}
{{- /* To Kubernetes an empty list of peers means everybody. */ -}}
{{- if .root.Values.networkPolicy.metrics -}}
- ports: [{protocol: TCP, port: {{ .port }}}]
  from:
    {{- toYaml .root.Values.networkPolicy.metrics | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* DNS, and the pods of a component: (dict "root" . "component" "shard" "port" 7701). */}}
{{- define "omma.egressTo" -}}
- ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
- ports: [{protocol: TCP, port: {{ .port }}}]
  to:
    - podSelector:
        matchLabels:
          {{- include "omma.selector" . | nindent 10 }}
{{- end -}}

{{/* DNS, shard nodes, the collector of traces. */}}
{{- define "omma.egress" -}}
{{ include "omma.egressTo" (dict "root" . "component" "shard" "port" 7701) }}
{{- with .Values.telemetry.otlpEndpoint }}
- ports: [{protocol: TCP, port: {{ regexFind "[0-9]+$" . }}}]
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
