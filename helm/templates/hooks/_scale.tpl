{{/* A job that drains or undrains shard pods: (dict "root" . "name" "drain" "on" HOOK "from" ORDINAL "below" ORDINAL). The one
     that undrains begins where the note says. */}}
{{- define "omma.scaleJob" -}}
{{- $name := printf "%s-%s" (include "omma.fullname" .root) .name -}}
{{- $id := dict "root" .root "component" "cli" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
    {{- include "omma.labels" $id | nindent 4 }}
  annotations:
    {{- include "omma.hook" (dict "on" .on "weight" -5) | nindent 4 }}
data:
  scale.sh: |
    {{- .root.Files.Get "files/hooks/scale.sh" | nindent 4 }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  labels:
    {{- include "omma.labels" $id | nindent 4 }}
  annotations:
    {{- include "omma.hook" (dict "on" .on "weight" 0) | nindent 4 }}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ .root.Values.shard.drainSeconds }}
  template:
    metadata:
      labels:
        {{- include "omma.selector" $id | nindent 8 }}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        {{- include "omma.podSecurity" .root | nindent 8 }}
      {{- with include "omma.pullSecrets" .root }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "omma.image" (dict "root" .root "name" "cli") }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [sh, /scripts/scale.sh]
          env:
            {{- include "omma.cliEnv" .root | nindent 12 }}
            - {name: ACTION, value: {{ .name }}}
            - {name: PODS, value: {{ include "omma.shard" .root | quote }}}
            {{- if eq .name "drain" }}
            - {name: FROM, value: {{ .from | quote }}}
            {{- else }}
            - {name: NOTE, value: /drained/from}
            {{- end }}
            - {name: BELOW, value: {{ .below | quote }}}
          resources:
            {{- include "omma.cliResources" .root | nindent 12 }}
          securityContext:
            {{- include "omma.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: scripts, mountPath: /scripts, readOnly: true}
            {{- if eq .name "undrain" }}
            - {name: drained, mountPath: /drained, readOnly: true}
            {{- end }}
            {{- include "omma.cliMounts" .root | nindent 12 }}
      volumes:
        - name: scripts
          configMap: {name: {{ $name }}}
        {{- if eq .name "undrain" }}
        - name: drained
          configMap: {name: {{ include "omma.drained" .root }}, optional: true}
        {{- end }}
        {{- include "omma.cliVolumes" .root | nindent 8 }}
{{- end -}}

{{- define "omma.drained" -}}{{ include "omma.fullname" . }}-drained{{- end -}}

{{/* Notes from which ordinal on shard pods have been drained by hooks: (dict "root" . "on" HOOK "weight" 0 "from" ORDINAL).
     It stays until the next one. */}}
{{- define "omma.drainedNote" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "omma.drained" .root }}
  labels:
    {{- include "omma.labels" (dict "root" .root "component" "cli") | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .on }}
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation
data:
  from: {{ .from | quote }}
{{- end -}}

{{/* Shard pods that are in use: those that there are, or fewer where an upgrade or rollback that began to drain has not come
     to its end. As omma.shardReplicasNow where Helm cannot look. */}}
{{- define "omma.shardsInUse" -}}
{{- $now := int (include "omma.shardReplicasNow" .) -}}
{{- if gt $now 0 -}}
{{- $note := lookup "v1" "ConfigMap" .Release.Namespace (include "omma.drained" .) -}}
{{- min $now (dig "data" "from" $now $note | int) -}}
{{- else -}}{{ $now }}{{- end -}}
{{- end -}}
