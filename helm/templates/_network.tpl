{{/* Rules that both NetworkPolicies have. */}}

{{/* (dict "root" . "port" 7710) */}}
{{- define "omma.metricsIngress" -}}
{{- /* To Kubernetes an empty list of peers means everybody. */ -}}
{{- if .root.Values.networkPolicy.metrics -}}
- ports: [{protocol: TCP, port: {{ .port }}}]
  from:
    {{- toYaml .root.Values.networkPolicy.metrics | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* DNS, shard nodes, the collector of traces. */}}
{{- define "omma.egress" -}}
- ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
- ports: [{protocol: TCP, port: 7701}]
  to:
    - podSelector:
        matchLabels:
          {{- include "omma.selector" (dict "root" . "component" "shard") | nindent 10 }}
{{- with .Values.telemetry.otlpEndpoint }}
- ports: [{protocol: TCP, port: {{ regexFind "[0-9]+$" . }}}]
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
