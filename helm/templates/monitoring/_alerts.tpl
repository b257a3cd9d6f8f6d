{{/* Alerts that only the chart can make: it knows how many pods there should be, and which labels the ServiceMonitor gives
     to what they say. */}}
{{- define "omma.releaseAlerts" -}}
{{- $of := printf "{namespace=%q,service=%q}" .Release.Namespace (printf "%s-metrics" (include "omma.fullname" .)) -}}
- name: omma-release
  rules:
    - alert: OmmaShardNodesMissing
      expr: (count(omma_node_info{{ $of }} == 1) or vector(0)) < {{ .Values.shard.replicas }}
      for: 10m
      labels: {severity: warning, namespace: {{ .Release.Namespace }}}
      annotations:
        summary: "Of {{ .Values.shard.replicas }} shard nodes of {{ include "omma.fullname" . }} {{ "{{ $value }}" }} are to be seen"
        description: The others are not scheduled, do not run, have not joined the cluster, or are hidden from Prometheus.
        runbook: >-
          kubectl --namespace {{ .Release.Namespace }} get pods, and describe those that are not ready: room, disks, images. Of
          one that runs, the log says what it waits for.
    - alert: OmmaCoordinatorsMissing
      expr: (count(omma_cluster_map_known{{ $of }}) or vector(0)) < {{ include "omma.fewestCoordinators" . }}
      for: 10m
      labels: {severity: warning, namespace: {{ .Release.Namespace }}}
      annotations:
        summary: "Of {{ include "omma.fewestCoordinators" . }} coordinators of {{ include "omma.fullname" . }} {{ "{{ $value }}" }} are to be seen"
        description: The others are not scheduled, do not run, or are hidden from Prometheus.
        runbook: >-
          kubectl --namespace {{ .Release.Namespace }} get pods, and describe those that are not ready.
    - alert: OmmaContainerRestarted
      expr: changes(omma_process_start_time_seconds{{ $of }}[15m]) > 0
      labels: {severity: warning}
      annotations:
        summary: "The container of {{ "{{ $labels.pod }}" }} was started anew"
        description: >-
          Within 15 minutes, in the same pod: upgrades and evictions make new pods. It ended by itself, or was killed.
        runbook: >-
          kubectl --namespace {{ .Release.Namespace }} describe pod says how it ended (OOMKilled: more memory; exit code 1: its
          log, with --previous; a failed liveness probe: a process that hung).
{{- end -}}
