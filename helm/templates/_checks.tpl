{{/* What the schema cannot say. Included once, by the shard nodes' StatefulSet. */}}

{{- define "omma.checks" -}}
{{- include "omma.checkNames" . -}}
{{- include "omma.checkNodes" . -}}
{{- include "omma.checkBudgets" . -}}
{{- include "omma.checkSecurity" . -}}
{{- include "omma.checkScaleDown" . -}}
{{- include "omma.checkDisks" . -}}
{{- end -}}

{{- define "omma.checkNames" -}}
{{- $name := include "omma.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "Services cannot be called %s: their names are of a-z, 0-9 and hyphens, and begin with a letter. Choose another name for the release, or set fullnameOverride." $name) -}}
{{- end -}}
{{- end -}}

{{- define "omma.checkNodes" -}}
{{- $shard := .Values.shard -}}
{{- $replicas := int $shard.replicas -}}
{{- $replication := int .Values.cluster.replication -}}
{{- if lt $replicas $replication -}}
{{- fail (printf "shard.replicas (%d) is below cluster.replication (%d): each replica of a group needs a node of its own. Raise shard.replicas, or lower cluster.replication for a new cluster." $replicas $replication) -}}
{{- end -}}
{{- if ne (empty $shard.model.volume) (empty $shard.model.folder) -}}
{{- fail "shard.model needs both volume and folder, or neither for the built-in model." -}}
{{- end -}}
{{- $key := .Values.zoneSpread.topologyKey -}}
{{- if and .Values.zoneSpread.enabled (not (include "omma.zoneLabel" .)) (not (include "omma.sets" (dict "values" $shard "env" "OMMA_ZONE"))) -}}
{{- fail (printf "zoneSpread.topologyKey is %s, and Kubernetes tells pods only topology.kubernetes.io/zone and topology.kubernetes.io/region of their nodes: replicas would not be spread by it. Name OMMA_ZONE in shard.extraEnv, from what tells your pods where they are, or use one of those labels." $key) -}}
{{- end -}}
{{- range $component := list "coordinator" "shard" -}}
{{- $values := index $.Values $component -}}
{{- if ge (int $values.preStopSeconds) (sub (int $values.terminationGracePeriodSeconds) 10 | int) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds (%d) must exceed %s.preStopSeconds (%d) by more than 10 seconds: the process needs them to end." $component (int $values.terminationGracePeriodSeconds) $component (int $values.preStopSeconds)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Disruption budgets, and the scaling of coordinators. */}}
{{- define "omma.checkBudgets" -}}
{{- $shard := .Values.shard.podDisruptionBudget -}}
{{- $replicas := int .Values.shard.replicas -}}
{{- $replication := int .Values.cluster.replication -}}
{{- if and $shard.enabled (gt $replication 1) (gt (int $shard.maxUnavailable) (div $replication 2 | int)) -}}
{{- fail (printf "shard.podDisruptionBudget.maxUnavailable (%d) lets a group lose its majority, and then it takes no writes. At most %d of %d replicas may be away." (int $shard.maxUnavailable) (div $replication 2) $replication) -}}
{{- end -}}
{{- if and $shard.enabled (gt $replicas 1) (ge (int $shard.maxUnavailable) $replicas) -}}
{{- fail (printf "shard.podDisruptionBudget.maxUnavailable (%d) lets all %d shard nodes go at once." (int $shard.maxUnavailable) $replicas) -}}
{{- end -}}
{{- $coordinator := .Values.coordinator -}}
{{- $fewest := int (include "omma.fewestCoordinators" .) -}}
{{- $away := int $coordinator.podDisruptionBudget.maxUnavailable -}}
{{- if and $coordinator.podDisruptionBudget.enabled (gt $fewest 1) (ge $away $fewest) -}}
{{- fail (printf "coordinator.podDisruptionBudget.maxUnavailable (%d) lets all %d coordinators go at once, and then nobody answers. At most %d may be away." $away $fewest (sub $fewest 1)) -}}
{{- end -}}
{{- $auto := $coordinator.autoscaling -}}
{{- if and $auto.enabled (gt (int $auto.minReplicas) (int $auto.maxReplicas)) -}}
{{- fail (printf "coordinator.autoscaling.minReplicas (%d) is above maxReplicas (%d)." (int $auto.minReplicas) (int $auto.maxReplicas)) -}}
{{- end -}}
{{- $resources := $coordinator.resources | default dict -}}
{{- if and $auto.enabled (not (or (dig "requests" "cpu" "" $resources) (dig "limits" "cpu" "" $resources))) -}}
{{- fail "coordinator.autoscaling aims at a share of the requested CPU, and coordinator.resources.requests.cpu asks for none: it would never scale." -}}
{{- end -}}
{{- end -}}

{{- define "omma.checkSecurity" -}}
{{- $tls := .Values.tls -}}
{{- if and .Values.auth.enabled (not $tls.enabled) -}}
{{- fail "auth.enabled without tls.enabled would send API keys in plain text. Turn TLS on, or both off." -}}
{{- end -}}
{{- if and $tls.enabled (ne $tls.source "generated") -}}
{{- range $name := list "public" "coordinator" "shard" -}}
{{- if and (eq $tls.source "existing") (not (index $tls.existing $name)) -}}
{{- fail (printf "tls.source is existing, and tls.existing.%s names no secret. Name one with tls.crt, tls.key and ca.crt, or choose another tls.source." $name) -}}
{{- end -}}
{{- include "omma.checkSecret" (dict "root" $ "secret" (include "omma.tlsSecret" (dict "root" $ "name" $name)) "keys" (list "tls.crt" "tls.key" "ca.crt")) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.auth.enabled .Values.auth.existingSecret -}}
{{- include "omma.checkSecret" (dict "root" . "secret" .Values.auth.existingSecret "keys" (list "keys" "admin")) -}}
{{- end -}}
{{- if and $tls.enabled (eq $tls.source "certManager") $tls.certManager.issuer -}}
{{- include "omma.checkIssuer" . -}}
{{- end -}}
{{- end -}}

{{/* That a secret, where helm can see it, has what pods mount: they would wait for it without end. */}}
{{- define "omma.checkSecret" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- range $key := ternary .keys list (not (empty $found)) -}}
{{- if not (index ($found.data | default dict) $key) -}}
{{- fail (printf "The secret %s has no %s, and pods need it. If an authority that everybody believes has signed it, or ACME: neither gives a ca.crt; use a private authority." $.secret $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* An ACME issuer signs no names inside of Kubernetes, which the chart's own hooks and tests use. */}}
{{- define "omma.checkIssuer" -}}
{{- with .Values.tls.certManager -}}
{{- if $.Capabilities.APIVersions.Has "cert-manager.io/v1" -}}
{{- $found := lookup "cert-manager.io/v1" .kind (ternary "" $.Release.Namespace (eq .kind "ClusterIssuer")) .issuer -}}
{{- if dig "spec" "acme" "" $found -}}
{{- fail (printf "tls.certManager.issuer %s speaks ACME. Such authorities sign no names inside of Kubernetes (%s), and give no ca.crt: name the issuer of a private authority, or none. For names outside, end TLS at an ingress or gateway, or give its certificate by tls.source=existing." .issuer (include "omma.serviceName" $)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "omma.checkScaleDown" -}}
{{- $replicas := int .Values.shard.replicas -}}
{{- $now := int (include "omma.shardReplicasNow" .) -}}
{{- if and (eq .Values.shard.scaleDown "refuse") (gt $now $replicas) -}}
{{- $last := include "omma.shardAddress" (dict "root" . "ordinal" (sub $now 1)) -}}
{{- fail (printf "shard.replicas would go from %d to %d, and the pods that go hold data. First run `omma cluster drain` for each, the last one first (%s), then upgrade with --set shard.scaleDown=unsafe; or let the chart drain them with shard.scaleDown=drain." $now $replicas $last) -}}
{{- end -}}
{{- end -}}

{{/* Kubernetes refuses another size of a StatefulSet's disks, and not before hooks have run. */}}
{{- define "omma.checkDisks" -}}
{{- $wanted := .Values.shard.persistence.size -}}
{{- $name := include "omma.shard" . -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace $name -}}
{{- range dig "spec" "volumeClaimTemplates" list $set -}}
{{- $now := .spec.resources.requests.storage -}}
{{- $mib := include "omma.mebibytes" $now | int64 -}}
{{- if lt (include "omma.mebibytes" $wanted | int64) $mib -}}
{{- fail (printf "shard.persistence.size would go from %v to %s, and disks cannot be made smaller. Keep it at %v." $now $wanted $now) -}}
{{- else if gt (include "omma.mebibytes" $wanted | int64) $mib -}}
{{- $patch := printf `{"spec":{"resources":{"requests":{"storage":"%s"}}}}` $wanted -}}
{{- fail (printf "shard.persistence.size would go from %v to %s, and Kubernetes does not let a StatefulSet do so. First enlarge the disk of each pod: `kubectl --namespace %s patch pvc data-%s-0 --patch '%s'`, and so on. Then `kubectl --namespace %s delete statefulset %s --cascade=orphan`, which leaves pods and disks as they are, and upgrade again." $now $wanted $.Release.Namespace $name $patch $.Release.Namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Replicas of the StatefulSet in the Kubernetes cluster; 0 if there is none, -1 if there is nobody to ask (helm template).
     Only a list tells the one from the other. */}}
{{- define "omma.shardReplicasNow" -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "omma.shard" .) -}}
{{- if $set -}}{{ $set.spec.replicas }}
{{- else if .Release.IsInstall -}}0
{{- else if lookup "apps/v1" "StatefulSet" .Release.Namespace "" -}}0
{{- else -}}-1
{{- end -}}
{{- end -}}

{{/* Coordinators that there are at least. */}}
{{- define "omma.fewestCoordinators" -}}
{{- $values := .Values.coordinator -}}
{{- ternary (int $values.autoscaling.minReplicas) (int $values.replicas) $values.autoscaling.enabled -}}
{{- end -}}

{{/* Whether the user's own flags or variables of a server say something: (dict "values" .Values.shard "env" NAME "flag" NAME). */}}
{{- define "omma.sets" -}}
{{- range .values.extraEnv -}}{{- if eq .name $.env -}}true{{- end -}}{{- end -}}
{{- if .flag -}}
{{- range .values.extraArgs -}}{{- if or (eq . $.flag) (hasPrefix (printf "%s=" $.flag) .) -}}true{{- end -}}{{- end -}}
{{- end -}}
{{- end -}}
