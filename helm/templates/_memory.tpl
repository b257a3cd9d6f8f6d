{{/* How a shard pod's memory is shared out. */}}

{{/* What --memory-limit-mib is to be: half of the pod's limit, as graphs and tails come on top; empty without a limit, or
     where the user says it. The downward API could only tell the whole of it. */}}
{{- define "omma.shardMemoryMib" -}}
{{- $shard := .Values.shard -}}
{{- $limit := dig "limits" "memory" "" ($shard.resources | default dict) -}}
{{- if and $limit (not (include "omma.sets" (dict "values" $shard "env" "OMMA_MEMORY_LIMIT_MIB" "flag" "--memory-limit-mib"))) -}}
{{- $mib := include "omma.mebibytes" $limit | int64 -}}
{{- if lt $mib 1024 -}}
{{- fail (printf "shard.resources.limits.memory (%v) is below 1Gi: half of it is for pictures, caches and the process, which needs 512Mi at least, and half for the index. Raise it, or say otherwise with --memory-limit-mib in shard.extraArgs." $limit) -}}
{{- end -}}
{{- /* Pictures that are decoded or wait have five eighths of the half, the process what is left. */ -}}
{{- $cache := int64 $shard.cacheMib -}}
{{- if gt (mul $cache 32) (mul $mib 3) -}}
{{- fail (printf "shard.cacheMib (%d, for each of two stores) leaves too little of shard.resources.limits.memory (%v) for pictures and the index: at most %d, or 0." $cache $limit (div (mul $mib 3) 32)) -}}
{{- end -}}
{{- div $mib 2 -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes, in MiB, rounded down. */}}
{{- define "omma.mebibytes" -}}
{{- $text := . -}}
{{- if not (kindIs "string" .) -}}{{- $text = printf "%.0f" (float64 .) -}}{{- end -}}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)?([KMGTP]i|[kMGTP])?$" $text) -}}
{{- fail (printf "%v is no amount of memory that this chart understands: a number and Mi, Gi, M, G and the like." .) -}}
{{- end -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexFind "[a-zA-Z]+$" $text -}}
{{- $bytes := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- divf (mulf $number (get $bytes $unit)) 1048576.0 | floor | int64 -}}
{{- end -}}
