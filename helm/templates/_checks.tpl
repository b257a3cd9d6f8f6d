{{/* What the schema cannot say. Included once, by the shard nodes' StatefulSet. */}}

{{- define "omma.checks" -}}
{{- $shard := .Values.shard -}}
{{- $replicas := int $shard.replicas -}}
{{- $replication := int .Values.cluster.replication -}}
{{- if lt $replicas $replication -}}
{{- fail (printf "shard.replicas (%d) is below cluster.replication (%d): each replica of a group needs a node of its own. Raise shard.replicas, or lower cluster.replication for a new cluster." $replicas $replication) -}}
{{- end -}}
{{- if and $shard.podDisruptionBudget.enabled (gt $replication 1) (gt (int $shard.podDisruptionBudget.maxUnavailable) (div $replication 2 | int)) -}}
{{- fail (printf "shard.podDisruptionBudget.maxUnavailable (%d) lets a group lose its majority, and then it takes no writes. At most %d of %d replicas may be away." (int $shard.podDisruptionBudget.maxUnavailable) (div $replication 2) $replication) -}}
{{- end -}}
{{- $auto := .Values.coordinator.autoscaling -}}
{{- if and $auto.enabled (gt (int $auto.minReplicas) (int $auto.maxReplicas)) -}}
{{- fail (printf "coordinator.autoscaling.minReplicas (%d) is above maxReplicas (%d)." (int $auto.minReplicas) (int $auto.maxReplicas)) -}}
{{- end -}}
{{- if and .Values.tls.enabled (eq .Values.tls.source "existing") -}}
{{- range $name := list "public" "coordinator" "shard" -}}
{{- if not (index $.Values.tls.existing $name) -}}
{{- fail (printf "tls.source is existing, and tls.existing.%s names no secret. Name one with tls.crt, tls.key and ca.crt, or choose another tls.source." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.auth.enabled (not .Values.tls.enabled) -}}
{{- fail "auth.enabled without tls.enabled would send API keys in plain text. Turn TLS on, or both off." -}}
{{- end -}}
{{- if ne (empty $shard.model.volume) (empty $shard.model.folder) -}}
{{- fail "shard.model needs both volume and folder, or neither for the built-in model." -}}
{{- end -}}
{{- range $component := list "coordinator" "shard" -}}
{{- $values := index $.Values $component -}}
{{- if ge (int $values.preStopSeconds) (sub (int $values.terminationGracePeriodSeconds) 10 | int) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds (%d) must exceed %s.preStopSeconds (%d) by more than 10 seconds: the process needs them to end." $component (int $values.terminationGracePeriodSeconds) $component (int $values.preStopSeconds)) -}}
{{- end -}}
{{- end -}}
{{- if eq $shard.scaleDown "refuse" -}}
{{- $now := int (include "omma.shardReplicasNow" .) -}}
{{- if gt $now $replicas -}}
{{- $last := include "omma.shardAddress" (dict "root" . "ordinal" (sub $now 1)) -}}
{{- fail (printf "shard.replicas would go from %d to %d, and the pods that go hold data. First run `omma cluster drain` for each, the last one first (%s), then upgrade with --set shard.scaleDown=unsafe; or let the chart drain them with shard.scaleDown=drain." $now $replicas $last) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Replicas of the StatefulSet in the Kubernetes cluster; 0 if there is none, or nobody to ask (helm template). */}}
{{- define "omma.shardReplicasNow" -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "omma.shard" .) -}}
{{- if $set -}}{{ $set.spec.replicas }}{{- else -}}0{{- end -}}
{{- end -}}

{{/* Coordinators that there are at least. */}}
{{- define "omma.fewestCoordinators" -}}
{{- $values := .Values.coordinator -}}
{{- ternary (int $values.autoscaling.minReplicas) (int $values.replicas) $values.autoscaling.enabled -}}
{{- end -}}
